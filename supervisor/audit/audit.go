// Package audit keeps the append-only record of what happened: one JSON object
// a line, numbered without gaps, each with the hash of the line before it, so
// that a line that was changed, added or taken away later is seen.
//
// A line has reached the disk when Append returns; what is given to Queue keeps
// its place and gets there within a moment, or with the next Append. Text that a plugin may have
// chosen is escaped and capped here, so that no record can be forged by it.
//
// Beside the lines stands a Merkle tree over them (see tiles) and a signed
// checkpoint of it, so that one record can be proven to be in the log, and an
// older state of the log to be the beginning of a newer one, without showing
// the rest. A file that has become large is put aside under another name; the
// oldest such are removed, which the log says. The tree stays whole, so proofs
// of what was removed still hold.
//
// The key lies on the same machine: a checkpoint that was carried away proves
// something against root, one that was not only against everyone else.
package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

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
	// maxKept is how large a buffer may be that is kept for the next records.
	maxKept = 256 << 10
	// tail is how much of the file is read back at Open, at least.
	tail = 4 << 20
)

// When a checkpoint is signed: after so many records or bytes, or the first
// record after so long a time; also when the log is opened and closed.
const (
	checkpointRecords = 256
	checkpointBytes   = 1 << 20
	checkpointTime    = time.Minute
)

// What is kept: a file is put aside at fileMax bytes, and keepFiles of those
// stay, 576 MiB in all.
const (
	fileMax   = 64 << 20
	keepFiles = 8
)

// ErrBroken is returned when the file is not what this package wrote.
var ErrBroken = errors.New("the audit log is broken")

// line is one record as it stands in the file.
type line struct {
	control.Event
	// Prev is the sha256 of the line before, without its line end.
	Prev string `json:"prev"`
}

// paths are where the parts of a log lie.
type paths struct{ log, tiles, checkpoint, key, public string }

// pathsOf derives them from that of the file.
func pathsOf(log string) paths {
	base := strings.TrimSuffix(log, ".jsonl")
	return paths{log: log, tiles: base + ".tiles", checkpoint: base + ".checkpoint", key: base + ".key", public: base + ".pub"}
}

// Log is the open file. It is safe for concurrent use.
type Log struct {
	paths
	mu     sync.Mutex
	file   *os.File
	now    func() time.Time
	max    int64 // bytes at which the file is put aside
	keep   int   // files that were put aside and stay
	size   int64 // of the whole lines
	first  uint64
	seq    uint64
	prev   string
	recent []control.Event
	subs   map[*Subscription]struct{}
	err    error // set when the file can no longer be trusted

	keys  keys
	tiles *tiles
	queue queue
	lost  int // queued records that could not be written

	piece, data []byte // of the last ones that were written, to be used again

	waitingMu sync.Mutex // taken with mu or without, never before it
	waiting   []*writing

	// The newest checkpoint: how far, when, and the bytes written since.
	signed   tlog.Tree
	signedAt time.Time
	since    int64
}

// Open opens or makes the log at path (mode 0600) and goes on after its last
// whole line. A line that a crash left torn is taken off and recorded. A line
// that does not parse, does not follow the one before or is not in the tree,
// and a log that is shorter than its checkpoint, is ErrBroken. Beside path (its
// .jsonl taken off) lie .tiles, .checkpoint, .key and .pub. Only what came
// after the checkpoint, and 4 MiB at least, is read: VerifyFiles reads all.
func Open(path string, now func() time.Time) (*Log, error) {
	l := &Log{
		paths: pathsOf(path), now: now, max: fileMax, keep: keepFiles,
		subs: map[*Subscription]struct{}{}, prev: hashOf(nil), first: 1,
	}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("cannot open the audit log %s: %w", path, err)
	}
	return l, nil
}

// writing is one record on its way. Who adds it writes it, unless someone else
// who waited for the file did: then both share one fsync.
type writing struct {
	ev   control.Event
	err  error
	over bool // guarded by Log.mu, as are the others from then on
}

// Append writes one record and returns it with its number and time; Seq and
// Time of ev are ignored. After an error that leaves the file in doubt every
// later Append fails too.
func (l *Log) Append(ev control.Event) (control.Event, error) {
	w := &writing{ev: ev}
	l.waitingMu.Lock()
	l.waiting = append(l.waiting, w)
	l.waitingMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !w.over {
		l.writeWaiting()
	}
	return w.ev, w.err
}

// writeWaiting writes all records that wait; l.mu is held.
func (l *Log) writeWaiting() {
	l.flush() // what was queued before comes before
	if l.err == nil && l.size >= l.max {
		l.rotate()
	}
	l.waitingMu.Lock()
	all := l.waiting
	l.waiting = nil
	l.waitingMu.Unlock()
	evs := make([]control.Event, len(all))
	for i, w := range all {
		evs[i] = w.ev
		evs[i].Time = l.now()
	}
	written, err := l.appendAll(evs)
	for i, w := range all {
		w.over, w.ev, w.err = true, control.Event{}, err
		if err == nil {
			w.ev = written[i]
		}
	}
	if err == nil && l.checkpointDue() {
		_ = l.checkpoint() // the records are safe; it is tried again with the next
	}
}

// append writes one record of the log's own; l.mu is held.
func (l *Log) append(ev control.Event) error {
	ev.Time = l.now()
	_, err := l.appendAll([]control.Event{ev})
	return err
}

// appendAll writes records in one piece, all or none; l.mu is held. Their times
// are kept.
func (l *Log) appendAll(evs []control.Event) ([]control.Event, error) {
	if l.err != nil {
		return nil, l.err
	}
	piece, leaves := l.piece[:0], make([]tlog.Hash, len(evs))
	var prev [2 * sha256.Size]byte
	copy(prev[:], l.prev)
	for i := range evs {
		ev, data := l.clean(evs[i])
		ev.Seq, ev.Time = l.seq+uint64(i)+1, ev.Time.UTC()
		from := len(piece)
		var err error
		if piece, err = appendLine(piece, ev, data, prev[:]); err != nil {
			return nil, fmt.Errorf("cannot write the audit log: %w", err)
		}
		text := piece[from:]
		evs[i], leaves[i] = ev, tlog.RecordHash(text)
		sum := sha256.Sum256(text)
		hex.Encode(prev[:], sum[:])
		piece = append(piece, '\n')
	}
	if l.piece = piece; cap(piece) > maxKept {
		l.piece = nil
	}
	if err := l.write(piece); err != nil {
		return nil, fmt.Errorf("cannot write the audit log: %w", err)
	}
	l.seq, l.prev = l.seq+uint64(len(evs)), string(prev[:])
	_ = l.tiles.add(leaves...) // kept in memory until they can be written
	for i := range evs {
		l.remember(evs[i])
		l.publish(evs[i])
	}
	return evs, nil
}

// write adds whole lines and syncs them; what a full disk left of them is taken
// off.
func (l *Log) write(piece []byte) error {
	_, err := l.file.WriteAt(piece, l.size)
	if err == nil {
		err = l.file.Sync()
	}
	if err == nil {
		l.size += int64(len(piece))
		l.since += int64(len(piece))
		return nil
	}
	if undo := l.file.Truncate(l.size); undo != nil {
		l.err = fmt.Errorf("the audit log is in doubt since an earlier error: %w", errors.Join(err, undo))
	}
	return err
}

// clean escapes and caps every field, and encodes the data, which holds until
// the next call; l.mu is held.
func (l *Log) clean(ev control.Event) (control.Event, []byte) {
	ev.Plugin = violation.Escape(ev.Plugin, maxName)
	ev.Kind = violation.Escape(ev.Kind, maxName)
	ev.Actor = violation.Escape(ev.Actor, maxName)
	ev.Text = violation.Escape(ev.Text, maxText)
	if len(ev.Data) == 0 {
		return ev, nil
	}
	data, err := appendData(l.data[:0], ev.Data)
	if err != nil || len(data) > maxData {
		ev.Data = map[string]any{"left_out": fmt.Sprintf("more than %d bytes, or no JSON", maxData)}
		data, _ = appendData(l.data[:0], ev.Data) // a string
	}
	if cap(data) <= maxKept {
		l.data = data
	}
	return ev, data
}

// Recent returns the newest n records (all that are held if n is 0), oldest
// first, of one plugin or of all if plugin is empty.
func (l *Log) Recent(n int, plugin string) []control.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []control.Event
	for _, ev := range l.recent[max(0, len(l.recent)-keep):] {
		if plugin == "" || ev.Plugin == plugin {
			out = append(out, ev)
		}
	}
	if n > 0 && len(out) > n {
		out = out[len(out)-n:]
	}
	return out
}

func (l *Log) remember(ev control.Event) {
	if len(l.recent) == 2*keep { // moved rarely, and in place
		copy(l.recent, l.recent[keep:])
		clear(l.recent[keep:])
		l.recent = l.recent[:keep]
	}
	l.recent = append(l.recent, ev)
}

// checkpointDue says whether enough has happened since the last one.
func (l *Log) checkpointDue() bool {
	records := int64(l.seq) - l.signed.N
	return records >= checkpointRecords || l.since >= checkpointBytes || l.now().Sub(l.signedAt) >= checkpointTime
}

// checkpoint signs the tree as it is now; l.mu is held.
func (l *Log) checkpoint() error {
	if err := l.tiles.flush(); err != nil {
		return err
	}
	tree, err := l.tiles.tree(l.tiles.size)
	if err != nil {
		return err
	}
	if tree.N == l.signed.N && !l.signedAt.IsZero() {
		return nil
	}
	signed, err := signTree(tree, l.keys.signer)
	if err != nil {
		return fmt.Errorf("cannot sign a checkpoint: %w", err)
	}
	if err := errors.Join(l.tiles.sync(), replaceFile(l.paths.checkpoint, signed, 0o600)); err != nil {
		return fmt.Errorf("cannot keep a checkpoint: %w", err)
	}
	l.signed, l.signedAt, l.since = tree, l.now(), 0
	return nil
}

// Checkpoint signs the log as it is now, and returns that and the public key.
// What reads the files afterwards finds every record covered.
func (l *Log) Checkpoint() (signed []byte, publicKey string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	if l.err != nil {
		return nil, "", l.err
	}
	if err := l.checkpoint(); err != nil {
		return nil, "", err
	}
	signed, err = readSmall(l.paths.checkpoint, maxCheckpoint)
	return signed, l.keys.public, err
}

// Path is where the newest records are; VerifyFiles and Prove take it.
func (l *Log) Path() string { return l.log }

// Close signs a last checkpoint, ends every subscription and closes the files.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.subs {
		l.drop(s)
	}
	if errors.Is(l.err, os.ErrClosed) {
		return l.err
	}
	l.flush()
	l.queue.stop()
	var err error
	if l.err == nil {
		err = l.checkpoint()
	}
	l.err = os.ErrClosed
	return errors.Join(err, l.tiles.close(), l.file.Close())
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
	if !c.anchored && l.Seq > 1 {
		c.seq, c.prev = l.Seq-1, l.Prev
	}
	c.anchored = true
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
