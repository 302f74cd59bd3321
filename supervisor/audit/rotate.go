package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cordonhq/cordon/supervisor/control"
)

// aside is a file that was put aside, and the number of its first record.
type aside struct {
	path  string
	first uint64
}

// asideName is audit-00000000000000000001.jsonl for audit.jsonl.
func asideName(log string, first uint64) string {
	return fmt.Sprintf("%s-%020d.jsonl", strings.TrimSuffix(log, ".jsonl"), first)
}

// asideOf lists the files that were put aside, oldest first.
func asideOf(log string) ([]aside, error) {
	entries, err := os.ReadDir(filepath.Dir(log))
	if err != nil {
		return nil, err
	}
	prefix := strings.TrimSuffix(filepath.Base(log), ".jsonl") + "-"
	var out []aside
	for _, e := range entries {
		number, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".jsonl"), prefix)
		if !ok || len(number) != 20 || !strings.HasSuffix(e.Name(), ".jsonl") || !e.Type().IsRegular() {
			continue
		}
		if first, err := strconv.ParseUint(number, 10, 64); err == nil {
			out = append(out, aside{filepath.Join(filepath.Dir(log), e.Name()), first})
		}
	}
	slices.SortFunc(out, func(a, b aside) int { return strings.Compare(a.path, b.path) })
	return out, nil
}

// rotate puts the file aside and begins another; l.mu is held. Where that
// fails, the log goes on in the file that it has. There is a file under the
// log's name at every moment, for those who read it meanwhile: the old one has
// both names until the new one takes its place.
func (l *Log) rotate() {
	f, err := l.begin()
	if err != nil {
		return
	}
	name := asideName(l.log, l.first)
	if err := os.Link(l.log, name); err != nil {
		_ = errors.Join(f.Close(), os.Remove(f.Name())) // it is empty
		return
	}
	if err := os.Rename(f.Name(), l.log); err != nil {
		_ = errors.Join(f.Close(), os.Remove(f.Name())) // it is empty
		if err := os.Remove(name); err != nil {
			l.err = fmt.Errorf("the audit log cannot go on after it was put aside: %w", err)
		}
		return
	}
	if err := errors.Join(l.file.Close(), syncDir(filepath.Dir(l.log))); err != nil {
		l.err = fmt.Errorf("the audit log is in doubt since it was put aside: %w", errors.Join(err, f.Close()))
		return
	}
	l.file, l.size, l.first = f, 0, l.seq+1
	l.prune()
}

// begin makes the file that takes the log's place; what a crash left of an
// earlier one is empty.
func (l *Log) begin() (*os.File, error) {
	next := l.log + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(next, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
}

// halfRotated takes off the second name that a crash between rotate's two steps
// left to the newest file, and returns the others.
func halfRotated(newest os.FileInfo, files []aside) ([]aside, error) {
	if len(files) == 0 {
		return nil, nil
	}
	last := files[len(files)-1]
	st, err := os.Lstat(last.path)
	if err != nil || !os.SameFile(newest, st) {
		return files, err
	}
	return files[:len(files)-1], os.Remove(last.path)
}

// prune removes the oldest files; the log says so first, so that what is gone
// by rule can be told from what is gone otherwise.
func (l *Log) prune() {
	files, err := asideOf(l.log)
	if err != nil || len(files) <= l.keep {
		return
	}
	old := files[:len(files)-l.keep]
	through := files[len(old)].first - 1
	err = l.append(control.Event{
		Kind: "audit-pruned", Actor: "daemon",
		Text: fmt.Sprintf("records up to %d are no longer kept; the tree over them is", through),
		Data: map[string]any{"through": through},
	})
	if err != nil {
		return
	}
	for _, f := range old {
		_ = os.Remove(f.path) // tried again with the next
	}
}
