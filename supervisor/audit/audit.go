// Package audit keeps the append-only record of what happened: one JSON object
// a line, numbered without gaps, each with the hash of the line before it, so
// that a line that was changed, added or taken away later is seen.
//
// A line has reached the disk when Append returns. Text that a plugin may have
// chosen is escaped and capped here, so that no record can be forged by it.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// The caps of one record, in bytes after escaping.
const (
	maxName = 128
	maxText = 2048
	maxData = 16 << 10
	// maxLine is more than any record that passes the caps can need.
	maxLine = 64 << 10
	// keep is how many records are held in memory for Recent.
	keep = 1000
	// tail is how much of the file is read back at Open.
	tail = 4 << 20
)

// ErrBroken is returned when the file is not what this package wrote.
var ErrBroken = errors.New("the audit log is broken")

// line is one record as it stands in the file.
type line struct {
	control.Event
	// Prev is the sha256 of the line before, without its line end.
	Prev string `json:"prev"`
}

// Log is the open file. It is safe for concurrent use.
type Log struct {
	mu     sync.Mutex
	file   *os.File
	now    func() time.Time
	size   int64 // of the whole lines
	seq    uint64
	prev   string
	recent []control.Event
	subs   map[*Subscription]struct{}
	err    error // set when the file can no longer be trusted
}

// Open opens or makes the log at path (mode 0600) and goes on after its last
// whole line. A line that a crash left torn is taken off and recorded; a last
// line that does not parse or does not follow the one before is ErrBroken.
// Only the last 4 MiB are read: Verify reads all.
func Open(path string, now func() time.Time) (*Log, error) {
	l := &Log{now: now, subs: map[*Subscription]struct{}{}, prev: hashOf(nil)}
	if err := l.open(path); err != nil {
		return nil, fmt.Errorf("cannot open the audit log %s: %w", path, err)
	}
	return l, nil
}

func (l *Log) open(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	l.file = f
	torn, err := l.recover()
	if err == nil && len(torn) > 0 {
		_, err = l.Append(control.Event{
			Kind: "audit-recovered", Actor: "daemon",
			Text: fmt.Sprintf("took off %d bytes of a record that a crash left unfinished", len(torn)),
			Data: map[string]any{"sha256": hashOf(torn)},
		})
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

// recover reads the end of the file, sets the counters from it and takes off
// what follows the last line end, which it returns.
func (l *Log) recover() (torn []byte, err error) {
	st, err := l.file.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	data, whole, err := readTail(l.file, st.Size())
	if err != nil {
		return nil, err
	}
	end := bytes.LastIndexByte(data, '\n') + 1
	if end == 0 && st.Size() > maxLine {
		return nil, fmt.Errorf("%w: it has no lines", ErrBroken)
	}
	torn = data[end:]
	l.size = st.Size() - int64(len(torn))
	if err := l.load(data[:end], whole); err != nil {
		return nil, err
	}
	if len(torn) > 0 {
		return torn, l.file.Truncate(l.size)
	}
	return nil, nil
}

// readTail reads at most the last tail bytes, from the start of a line; whole
// says that this is the whole file.
func readTail(f *os.File, size int64) (data []byte, whole bool, err error) {
	from := max(0, size-tail)
	data = make([]byte, size-from)
	if _, err := f.ReadAt(data, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	if from == 0 {
		return data, true, nil
	}
	return data[bytes.IndexByte(data, '\n')+1:], false, nil
}

// load checks that the lines follow each other and keeps the newest.
func (l *Log) load(data []byte, whole bool) error {
	check := checker{anchored: whole, prev: hashOf(nil)}
	for text := range bytes.Lines(data) {
		ev, err := check.next(bytes.TrimSuffix(text, []byte("\n")))
		if err != nil {
			return err
		}
		l.remember(ev)
	}
	l.seq, l.prev = check.seq, check.prev
	return nil
}

func (l *Log) remember(ev control.Event) {
	if len(l.recent) >= keep {
		l.recent = append(l.recent[:0:0], l.recent[keep/10:]...)
	}
	l.recent = append(l.recent, ev)
}

// Append writes one record and returns it with its number and time; Seq and
// Time of ev are ignored. After an error that leaves the file in doubt every
// later Append fails too.
func (l *Log) Append(ev control.Event) (control.Event, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return control.Event{}, l.err
	}
	ev = clean(ev)
	ev.Seq, ev.Time = l.seq+1, l.now().UTC()
	text, err := json.Marshal(line{Event: ev, Prev: l.prev})
	if err != nil {
		return control.Event{}, fmt.Errorf("cannot write the audit log: %w", err)
	}
	if err := l.write(text); err != nil {
		return control.Event{}, fmt.Errorf("cannot write the audit log: %w", err)
	}
	l.seq, l.prev = ev.Seq, hashOf(text)
	l.remember(ev)
	l.publish(ev)
	return ev, nil
}

// write adds one line and syncs it; what a full disk left of it is taken off.
func (l *Log) write(text []byte) error {
	_, err := l.file.WriteAt(append(text, '\n'), l.size)
	if err == nil {
		err = l.file.Sync()
	}
	if err == nil {
		l.size += int64(len(text)) + 1
		return nil
	}
	if undo := l.file.Truncate(l.size); undo != nil {
		l.err = fmt.Errorf("the audit log is in doubt since an earlier error: %w", errors.Join(err, undo))
	}
	return err
}

// clean escapes and caps every field.
func clean(ev control.Event) control.Event {
	ev.Plugin = violation.Escape(ev.Plugin, maxName)
	ev.Kind = violation.Escape(ev.Kind, maxName)
	ev.Actor = violation.Escape(ev.Actor, maxName)
	ev.Text = violation.Escape(ev.Text, maxText)
	if len(ev.Data) == 0 {
		return ev
	}
	if text, err := json.Marshal(ev.Data); err != nil || len(text) > maxData {
		ev.Data = map[string]any{"left_out": fmt.Sprintf("more than %d bytes, or no JSON", maxData)}
	}
	return ev
}

// Recent returns the newest n records (all that are held if n is 0), oldest
// first, of one plugin or of all if plugin is empty.
func (l *Log) Recent(n int, plugin string) []control.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []control.Event
	for _, ev := range l.recent {
		if plugin == "" || ev.Plugin == plugin {
			out = append(out, ev)
		}
	}
	if n > 0 && len(out) > n {
		out = out[len(out)-n:]
	}
	return out
}

// Close ends every subscription and closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.subs {
		l.drop(s)
	}
	if l.err == nil {
		l.err = os.ErrClosed
	}
	return l.file.Close()
}

// Verify reads a whole log from its first record and returns how many there
// are. An error wraps ErrBroken and says which record does not follow.
func Verify(r io.Reader) (records uint64, err error) {
	check := checker{anchored: true, prev: hashOf(nil)}
	buf := make([]byte, 0, maxLine)
	chunk := make([]byte, 32<<10)
	for {
		n, readErr := r.Read(chunk)
		buf = append(buf, chunk[:n]...)
		for {
			end := bytes.IndexByte(buf, '\n')
			if end < 0 {
				break
			}
			if _, err := check.next(buf[:end]); err != nil {
				return check.seq, err
			}
			buf = buf[end+1:]
		}
		if len(buf) > maxLine {
			return check.seq, fmt.Errorf("%w: after record %d: a line of more than %d bytes", ErrBroken, check.seq, maxLine)
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			return check.seq, readErr
		}
	}
	if len(buf) > 0 {
		return check.seq, fmt.Errorf("%w: record %d is unfinished", ErrBroken, check.seq+1)
	}
	return check.seq, nil
}

// checker follows the chain. An anchored one starts at the first record of
// all; another takes the first line it sees on trust.
type checker struct {
	anchored bool
	seq      uint64
	prev     string
}

func (c *checker) next(text []byte) (control.Event, error) {
	var l line
	if len(text) > maxLine {
		return l.Event, fmt.Errorf("%w: after record %d: a line of %d bytes", ErrBroken, c.seq, len(text))
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return l.Event, fmt.Errorf("%w: after record %d: %w", ErrBroken, c.seq, err)
	}
	if !c.anchored {
		c.anchored, c.seq, c.prev = true, l.Seq-1, l.Prev
	}
	if l.Seq != c.seq+1 || l.Prev != c.prev {
		return l.Event, fmt.Errorf("%w: record %d does not follow record %d", ErrBroken, l.Seq, c.seq)
	}
	c.seq, c.prev = l.Seq, hashOf(text)
	return l.Event, nil
}

func hashOf(text []byte) string {
	if len(text) == 0 {
		return strings.Repeat("0", 2*sha256.Size)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
