package supervisor

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// The bounds of what is kept of a plugin's output, in bytes and lines.
const (
	logLineMax  = 4 << 10   // of one line, after escaping
	logRingMax  = 256 << 10 // of all lines in memory
	logLineCost = 64        // what a line costs beside its text
	logFileMax  = 4 << 20   // of the file; one older file is kept beside it
	logRate     = 500       // lines a second, for each plugin
	logBurst    = 2000      // lines at once
	logFollower = 256       // lines that a follower may lag behind
)

// logBook keeps the output of one plugin: the newest lines in memory, more of
// them in a file, all of them bounded. Lines beyond the rate are dropped and
// counted; a plugin never waits for its own log.
type logBook struct {
	mu      sync.Mutex
	clock   Clock
	path    string
	file    *os.File
	size    int64
	lines   []control.LogLine
	bytes   int
	budget  tokens
	dropped int
	follow  map[*follower[control.LogLine]]struct{}
	closed  bool
	// hidden are secrets that the plugin was handed, at most maxHidden, and what
	// takes them out of every line.
	hidden []string
	hiding *strings.Replacer
}

// maxHidden bounds how many secrets one log keeps out; of more, the newest.
const maxHidden = 64

// hide keeps a secret out of every line from now on, also where it is written
// as base64.
func (b *logBook) hide(secret string) {
	if len(secret) < minSecretLen {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.Contains(b.hidden, secret) {
		return
	}
	b.hidden = append(b.hidden, secret)
	b.hidden = b.hidden[max(0, len(b.hidden)-maxHidden):]
	var pairs []string
	for _, s := range b.hidden {
		pairs = append(pairs, s, redacted, violation.Escape(s, logLineMax), redacted, base64.StdEncoding.EncodeToString([]byte(s)), redacted)
	}
	b.hiding = strings.NewReplacer(pairs...)
}

// secrets are what is hidden.
func (b *logBook) secrets() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.hidden)
}

// openLog goes on with the log file at path (mode 0600), made on first use.
// Lines of earlier runs are read back.
func openLog(path string, clock Clock) (*logBook, error) {
	b := &logBook{clock: clock, path: path, budget: newTokens(logRate, logBurst, clock.Now()), follow: map[*follower[control.LogLine]]struct{}{}}
	if err := b.open(); err != nil {
		return nil, fmt.Errorf("cannot open the log %s: %w", path, err)
	}
	return b, nil
}

func (b *logBook) open() error {
	f, err := os.OpenFile(b.path, os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	b.file, b.size = f, st.Size()
	b.readBack()
	return nil
}

// readBack loads the newest lines of the file; what is no log line is left out.
func (b *logBook) readBack() {
	from := max(0, b.size-logRingMax)
	data := make([]byte, b.size-from)
	n, err := b.file.ReadAt(data, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return
	}
	for text := range bytes.Lines(data[:n]) {
		var l control.LogLine
		if json.Unmarshal(text, &l) == nil {
			b.remember(l)
		}
	}
	if b.size > 0 && !bytes.HasSuffix(data[:n], []byte("\n")) {
		b.writeFile([]byte("\n")) // a crash tore the last line
	}
}

// logRead is what is read at a time of a plugin that says much.
type logRead [16 << 10]byte

var largeReads = sync.Pool{New: func() any { return new(logRead) }}

// copyFrom reads a plugin's output until it ends, and closes it.
func (b *logBook) copyFrom(stream string, r io.ReadCloser) {
	defer func() { _ = r.Close() }() // only read from
	split := lineSplitter{emit: func(line []byte, cut bool) { b.add(stream, line, cut) }}
	// A plugin that says nothing for days costs little; one that says much has a
	// large buffer for as long as it does.
	small, large := make([]byte, 256), false
	for {
		buf := small
		if large {
			buf = largeReads.Get().(*logRead)[:] //nolint:forcetypeassert // of one pool
		}
		n, err := r.Read(buf)
		split.write(buf[:n])
		if large {
			largeReads.Put((*logRead)(buf))
		}
		large = n == len(buf)
		if err != nil {
			split.flush()
			return
		}
	}
}

// lineSplitter cuts a stream into lines of at most logLineMax bytes; the rest
// of a longer one is thrown away.
type lineSplitter struct {
	emit func(line []byte, cut bool)
	line []byte
	cut  bool
}

func (s *lineSplitter) write(p []byte) {
	for len(p) > 0 {
		at := bytes.IndexByte(p, '\n')
		part := p
		if at >= 0 {
			part = p[:at]
		}
		room := logLineMax - len(s.line)
		s.cut = s.cut || len(part) > room
		s.line = append(s.line, part[:min(room, len(part))]...)
		if at < 0 {
			return
		}
		s.end()
		p = p[at+1:]
	}
}

// flush emits what an ended stream left without a line end.
func (s *lineSplitter) flush() {
	if len(s.line) > 0 {
		s.end()
	}
}

// end emits the line and begins the next.
func (s *lineSplitter) end() {
	s.emit(bytes.TrimSuffix(s.line, []byte("\r")), s.cut)
	s.line, s.cut = s.line[:0], false
}

// add records one line that a plugin printed.
func (b *logBook) add(stream string, line []byte, cut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.budget.take(b.clock.Now()) {
		b.dropped++
		return
	}
	if b.dropped > 0 {
		b.put("cordon", fmt.Sprintf("%d lines were dropped: more than %d a second", b.dropped, logRate))
		b.dropped = 0
	}
	text := string(line)
	if !isPlain(line) {
		text = violation.Escape(text, logLineMax)
	}
	if cut && !bytes.HasSuffix([]byte(text), []byte("...")) {
		text += "..."
	}
	b.put(stream, text)
}

// isPlain says that nothing in line needs to be escaped, which is cheaper to
// find out than to do, and nearly always so.
func isPlain(line []byte) bool {
	for _, c := range line {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// put stores one line everywhere; b.mu is held.
func (b *logBook) put(stream, text string) {
	if b.closed {
		return
	}
	if b.hiding != nil {
		text = b.hiding.Replace(text)
	}
	l := control.LogLine{Time: b.clock.Now().UTC(), Stream: stream, Text: text}
	b.remember(l)
	if data, err := json.Marshal(l); err == nil {
		b.writeFile(append(data, '\n'))
	}
	for f := range b.follow {
		if !f.offer(l) {
			delete(b.follow, f)
		}
	}
}

func (b *logBook) remember(l control.LogLine) {
	b.lines = append(b.lines, l)
	b.bytes += len(l.Text) + logLineCost
	drop := 0
	for b.bytes > logRingMax {
		b.bytes -= len(b.lines[drop].Text) + logLineCost
		drop++
	}
	if drop > 0 {
		b.lines = append(b.lines[:0:0], b.lines[drop:]...)
	}
}

// writeFile appends to the file and rotates it by size. A log that cannot be
// written is not worth stopping a plugin for: the lines in memory stay.
func (b *logBook) writeFile(data []byte) {
	if b.size+int64(len(data)) > logFileMax {
		b.rotate()
	}
	if b.file == nil {
		return
	}
	n, err := b.file.Write(data)
	b.size += int64(n)
	if err != nil && n > 0 { // a full disk: leave no half line
		b.size -= int64(n)
		_ = b.file.Truncate(b.size)
	}
}

func (b *logBook) rotate() {
	if b.file != nil {
		_ = b.file.Close() // appended with write(2): nothing is buffered
		b.file = nil
	}
	if err := os.Rename(b.path, b.path+".1"); err != nil {
		return
	}
	f, err := os.OpenFile(b.path, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	b.file, b.size = f, 0
}

// tail returns the newest n lines, oldest first.
func (b *logBook) tail(n int) []control.LogLine {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tailLocked(n)
}

func (b *logBook) tailLocked(n int) []control.LogLine {
	from := max(0, len(b.lines)-max(0, n))
	return append([]control.LogLine{}, b.lines[from:]...)
}

// tailAndFollow returns the newest n lines and every one after them.
func (b *logBook) tailAndFollow(n int) ([]control.LogLine, *follower[control.LogLine]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := newFollower[control.LogLine](logFollower)
	if b.closed {
		f.Close()
	} else {
		b.follow[f] = struct{}{}
	}
	return b.tailLocked(n), f
}

// close ends the followers and closes the file.
func (b *logBook) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for f := range b.follow {
		f.Close()
		delete(b.follow, f)
	}
	if b.file == nil {
		return nil
	}
	defer func() { b.file = nil }()
	return b.file.Close()
}

// follower is one reader of a stream with a bounded queue. One that does not
// keep up is dropped; nothing waits for it.
type follower[T any] struct {
	mu   sync.Mutex
	c    chan T
	done bool
	lost bool
}

func newFollower[T any](n int) *follower[T] { return &follower[T]{c: make(chan T, n)} }

// C carries the stream; it is closed at the end.
func (f *follower[T]) C() <-chan T { return f.c }

// Lost says whether it was dropped because it was too slow.
func (f *follower[T]) Lost() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}

// Close ends it; more than once does no harm.
func (f *follower[T]) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.done {
		f.done = true
		close(f.c)
	}
}

// offer hands v over and returns false when the follower is no more.
func (f *follower[T]) offer(v T) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return false
	}
	select {
	case f.c <- v:
		return true
	default:
		f.lost, f.done = true, true
		close(f.c)
		return false
	}
}
