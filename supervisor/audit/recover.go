package audit

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/cordonhq/cordon/supervisor/control"
)

// open is Open; on an error nothing is left open.
func (l *Log) open() (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, l.closeFiles())
		}
	}()
	flags := os.O_RDWR | os.O_CREATE | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	if l.file, err = os.OpenFile(l.log, flags, 0o600); err != nil {
		return err
	}
	for _, name := range []string{l.paths.checkpoint, l.key, l.public} {
		_ = os.Remove(name + ".new") // what a crash left of replaceFile
	}
	if l.keys, err = loadKeys(l.paths, rand.Reader); err != nil {
		return err
	}
	unsigned, err := l.openTree()
	if err != nil {
		return err
	}
	torn, err := l.recover()
	if err != nil {
		return err
	}
	if err := l.recordRecovery(torn, unsigned); err != nil {
		return err
	}
	return l.checkpoint()
}

func (l *Log) closeFiles() error {
	var errs []error
	if l.tiles != nil {
		errs = append(errs, l.tiles.close())
	}
	if l.file != nil {
		errs = append(errs, l.file.Close())
	}
	return errors.Join(errs...)
}

// openTree opens the tree as far as the checkpoint signs it; unsigned says that
// there is a key but no checkpoint.
func (l *Log) openTree() (unsigned bool, err error) {
	signed, err := readSmall(l.paths.checkpoint, maxCheckpoint)
	if errors.Is(err, os.ErrNotExist) {
		unsigned, err = true, nil
	} else if err == nil {
		l.signed, err = OpenCheckpoint(signed, l.keys.public)
		l.signedAt = l.now()
	}
	if err != nil {
		return unsigned, err
	}
	if l.tiles, err = openTiles(l.paths.tiles, l.signed.N); err != nil || unsigned {
		return unsigned, err
	}
	tree, err := l.tiles.tree(l.signed.N)
	if err == nil && tree != l.signed {
		err = fmt.Errorf("%w: its tree is not the one that its checkpoint signs", ErrBroken)
	}
	return false, err
}

// recordRecovery writes down what had to be mended.
func (l *Log) recordRecovery(torn []byte, unsigned bool) error {
	if len(torn) > 0 {
		err := l.append(control.Event{
			Kind: "audit-recovered", Actor: "daemon",
			Text: fmt.Sprintf("took off %d bytes of a record that a crash left unfinished", len(torn)),
			Data: map[string]any{"sha256": hashOf(torn)},
		})
		if err != nil {
			return err
		}
	}
	if !unsigned || l.keys.made || l.seq == 0 {
		return nil
	}
	err := l.append(control.Event{
		Kind: "audit-recovered", Actor: "daemon",
		Text: fmt.Sprintf("there was no checkpoint: %d records were taken up as they are", l.seq),
	})
	return err
}

// recover reads the end of the log, sets the counters from it, brings the tree
// up to it, and takes off what follows the last line end, which it returns.
func (l *Log) recover() (torn []byte, err error) {
	from, err := l.startOf()
	if err != nil {
		return nil, err
	}
	torn, err = l.load(from)
	if err != nil {
		return nil, err
	}
	if l.seq < uint64(l.signed.N) {
		return nil, fmt.Errorf("%w: it ends with record %d, but a checkpoint signs %d", ErrBroken, l.seq, l.signed.N)
	}
	if err := l.tiles.flush(); err != nil {
		return nil, err
	}
	if len(torn) > 0 {
		return torn, l.file.Truncate(l.size)
	}
	return nil, nil
}

// source is a file of the log and where to begin in it, the start of a line.
type source struct {
	path string
	from int64
	// anchored says that the first record of all is its first.
	anchored bool
}

// startOf finds the files, oldest first, that have everything after the
// checkpoint and what Recent wants.
func (l *Log) startOf() ([]source, error) {
	st, err := l.file.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	aside, err := asideOf(l.log)
	if err == nil {
		aside, err = halfRotated(st, aside)
	}
	if err != nil {
		return nil, err
	}
	sources := []source{{path: l.log, from: max(0, st.Size()-tail)}}
	for {
		s := &sources[0]
		first, err := s.align()
		if err != nil {
			return nil, err
		}
		switch {
		case first > 0 && first <= uint64(l.signed.N)+1:
			s.anchored = first == 1
			return sources, nil
		case s.from > 0:
			s.from = 0
		case len(aside) > 0:
			last := aside[len(aside)-1].path
			st, err := os.Stat(last)
			if err != nil {
				return nil, err
			}
			sources = append([]source{{path: last, from: max(0, st.Size()-tail)}}, sources...)
			aside = aside[:len(aside)-1]
		default: // what is missing is found out by reading
			s.anchored = first <= 1
			return sources, nil
		}
	}
}

// align moves from to the start of a line and returns the number of the first
// record after it, 0 if there is none.
func (s *source) align() (first uint64, err error) {
	f, err := os.Open(s.path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // only read from
	if _, err := f.Seek(s.from, io.SeekStart); err != nil {
		return 0, err
	}
	r := bufio.NewReaderSize(f, maxLine+1)
	if s.from > 0 {
		rest, err := r.ReadSlice('\n')
		if err != nil {
			return 0, nil //nolint:nilerr // no line from there on: the caller begins earlier
		}
		s.from += int64(len(rest))
	}
	text, err := r.ReadSlice('\n')
	if errors.Is(err, io.EOF) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %s has no lines: %w", ErrBroken, filepath.Base(s.path), err)
	}
	check := checker{prev: hashOf(nil)}
	ev, err := check.next(text[:len(text)-1])
	return ev.Seq, err
}

// load reads the sources, checks that their lines follow each other and are in
// the tree, adds those that are not yet, and keeps the newest in memory.
func (l *Log) load(sources []source) (torn []byte, err error) {
	check := checker{anchored: sources[0].anchored, prev: hashOf(nil)}
	for _, s := range sources {
		if torn, err = l.loadFile(s, &check); err != nil {
			return nil, err
		}
		if len(torn) > 0 && s.path != l.log {
			return nil, fmt.Errorf("%w: %s ends in the middle of a record", ErrBroken, filepath.Base(s.path))
		}
	}
	l.seq, l.prev = check.seq, check.prev
	return torn, l.findFirst()
}

// findFirst notes the number of the file's first record. Where no file was put
// aside that is 1.
func (l *Log) findFirst() (err error) {
	if l.first, err = (&source{path: l.log}).align(); err != nil {
		return err
	}
	if l.first == 0 {
		l.first = l.seq + 1
	}
	aside, err := asideOf(l.log)
	if err == nil && len(aside) == 0 && l.first > 1 {
		err = fmt.Errorf("%w: records 1 to %d are gone", ErrBroken, l.first-1)
	}
	return err
}

func (l *Log) loadFile(s source, check *checker) (torn []byte, err error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	if _, err := f.Seek(s.from, io.SeekStart); err != nil {
		return nil, err
	}
	l.size = s.from
	return eachLine(f, func(text []byte) error {
		ev, err := check.next(text)
		if err != nil {
			return err
		}
		l.size += int64(len(text)) + 1
		l.remember(ev)
		return l.tiles.take(ev.Seq, tlog.RecordHash(text))
	})
}

// take checks a record that the tree has, or adds it.
func (t *tiles) take(seq uint64, leaf tlog.Hash) error {
	n := int64(seq) - 1
	switch {
	case n > t.size+int64(len(t.pending)):
		return fmt.Errorf("%w: records %d to %d are gone", ErrBroken, t.size+1, n)
	case n >= t.size:
		t.pending = append(t.pending, leaf)
		return nil
	}
	have, err := t.read(0, n, 1)
	if err == nil && have[0] != leaf {
		err = fmt.Errorf("%w: record %d is not the one that the tree has", ErrBroken, seq)
	}
	return err
}

// eachLine calls fn for each line, without its line end, and returns what
// follows the last one. A line longer than maxLine is ErrBroken.
func eachLine(r io.Reader, fn func(text []byte) error) (rest []byte, err error) {
	in := bufio.NewReaderSize(r, maxLine+1)
	for {
		text, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return bytes.Clone(text), nil
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, fmt.Errorf("%w: a line of more than %d bytes", ErrBroken, maxLine)
		case err != nil:
			return nil, err
		}
		if err := fn(text[:len(text)-1]); err != nil {
			return nil, err
		}
	}
}
