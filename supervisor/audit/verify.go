package audit

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/cordonhq/cordon/supervisor/control"
)

// Verified is what was found when a whole log was read.
type Verified struct {
	// First and Last are the numbers of the records that are there; those before
	// First were removed by the rule that the log keeps.
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	// Signed is how many records the checkpoint covers, Root the root of the tree
	// over them, in base64. Those after it are only chained.
	Signed int64  `json:"signed"`
	Root   string `json:"root"`
	// Key is the public key that the checkpoint was checked with.
	Key string `json:"key"`
	// Unfinished is the number of bytes after the last whole record: one that is
	// being written, or that a crash left.
	Unfinished int `json:"unfinished,omitempty"`
}

// Verify reads one file of a log from the first record on and returns how many
// there are. An error wraps ErrBroken and says which record does not follow.
func Verify(r io.Reader) (records uint64, err error) {
	check := checker{anchored: true, prev: hashOf(nil)}
	rest, err := eachLine(r, func(text []byte) error {
		_, err := check.next(text)
		return err
	})
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: record %d is unfinished", ErrBroken, check.seq+1)
	}
	return check.seq, err
}

// VerifyFiles reads everything of the log at path: each line follows the one
// before, is in the tree, and the tree is the one that the checkpoint signs.
// With publicKey empty the key beside the log is used, which proves nothing
// against who could replace that. The daemon may be writing meanwhile.
func VerifyFiles(path, publicKey string) (Verified, error) {
	return Read(path, publicKey, func(control.Event) {})
}

// Read is VerifyFiles that shows each record on the way, in order. What it has
// shown holds only if it returns no error.
func Read(path, publicKey string, see func(control.Event)) (Verified, error) {
	v, err := newVerifier(path, publicKey)
	if err != nil {
		return Verified{}, fmt.Errorf("cannot verify the audit log %s: %w", path, err)
	}
	v.see = see
	defer func() { _ = v.tiles.close() }() // only read from
	if err := v.run(); err != nil {
		return v.found, fmt.Errorf("cannot verify the audit log %s: %w", path, err)
	}
	return v.found, nil
}

// verifier follows the records and the tree over them side by side.
type verifier struct {
	paths
	tiles  *tiles
	signed tlog.Tree
	check  checker
	tree   edge
	pruned uint64 // through which record the log says that it was pruned
	root   tlog.Hash
	found  Verified
	see    func(control.Event)
}

func newVerifier(path, publicKey string) (*verifier, error) {
	v := &verifier{paths: pathsOf(path), check: checker{prev: hashOf(nil)}}
	if publicKey == "" {
		data, err := readSmall(v.public, maxKey)
		if err != nil {
			return nil, err
		}
		publicKey = string(data)
	}
	// The checkpoint is read first: what is written meanwhile comes after it.
	data, err := readSmall(v.paths.checkpoint, maxCheckpoint)
	if err != nil {
		return nil, err
	}
	if v.signed, err = OpenCheckpoint(data, publicKey); err != nil {
		return nil, err
	}
	v.tiles = &tiles{dir: v.paths.tiles, size: v.signed.N, look: true}
	v.found = Verified{Signed: v.signed.N, Root: v.signed.Hash.String(), Key: publicKey}
	return v, nil
}

func (v *verifier) run() error {
	// Held open before the others are listed, so that no record is missed should
	// it be put aside meanwhile.
	newest, err := os.Open(v.log)
	if err != nil {
		return err
	}
	defer func() { _ = newest.Close() }() // only read from
	files, err := v.asideBut(newest)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := v.older(f); err != nil {
			return err
		}
	}
	rest, err := eachLine(newest, v.line)
	if err != nil {
		return err
	}
	v.found.Unfinished, v.found.Last = len(rest), v.check.seq
	return v.conclude()
}

// asideBut are the files that were put aside before the newest, which may just
// have become one itself, and others after it.
func (v *verifier) asideBut(newest *os.File) ([]string, error) {
	st, err := newest.Stat()
	if err != nil {
		return nil, err
	}
	files, err := asideOf(v.log)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range files {
		other, err := os.Lstat(f.path)
		if err != nil {
			return nil, err
		}
		if os.SameFile(st, other) {
			break // what follows was begun later
		}
		out = append(out, f.path)
	}
	return out, nil
}

// older reads a file that nothing is added to any more.
func (v *verifier) older(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	rest, err := eachLine(f, v.line)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: %s ends in the middle of a record", ErrBroken, filepath.Base(path))
	}
	return err
}

func (v *verifier) line(text []byte) error {
	ev, err := v.check.next(text)
	if err != nil {
		return err
	}
	return v.record(ev, tlog.RecordHash(text))
}

// record takes one record that is there.
func (v *verifier) record(ev control.Event, leaf tlog.Hash) error {
	if v.found.First == 0 {
		v.found.First = ev.Seq
		if err := v.skip(ev.Seq - 1); err != nil {
			return err
		}
	}
	if through, ok := ev.Data["through"].(float64); ok && ev.Kind == "audit-pruned" && ev.Actor == "daemon" {
		v.pruned = max(v.pruned, uint64(through))
	}
	if v.tree.n < v.signed.N {
		have, err := v.tiles.read(0, v.tree.n, 1)
		if err != nil {
			return err
		}
		if have[0] != leaf {
			return fmt.Errorf("%w: record %d is not the one that the tree has", ErrBroken, ev.Seq)
		}
	}
	v.leaf(leaf)
	v.see(ev)
	return nil
}

// skip takes the records that are no longer there from the tree.
func (v *verifier) skip(through uint64) error {
	if through > uint64(v.signed.N) {
		return fmt.Errorf("%w: it begins with record %d, but its checkpoint signs only %d", ErrBroken, through+1, v.signed.N)
	}
	for v.tree.n < int64(through) {
		have, err := v.tiles.read(0, v.tree.n, 1)
		if err != nil {
			return err
		}
		v.leaf(have[0])
	}
	return nil
}

func (v *verifier) leaf(h tlog.Hash) {
	v.tree.add(h)
	if v.tree.n == v.signed.N {
		v.root = v.tree.root()
	}
}

// conclude compares what was read with what was signed.
func (v *verifier) conclude() error {
	switch {
	case v.tree.n < v.signed.N:
		return fmt.Errorf("%w: it ends with record %d, but its checkpoint signs %d", ErrBroken, v.tree.n, v.signed.N)
	case v.signed.N > 0 && v.root != v.signed.Hash:
		return fmt.Errorf("%w: the tree over its records is not the one that its checkpoint signs", ErrBroken)
	case v.found.First > v.pruned+1:
		return fmt.Errorf("%w: records 1 to %d are gone, and no record says that they were to be removed", ErrBroken, v.found.First-1)
	}
	return nil
}

// edge is the right edge of a tree that grows: the hash of each complete
// subtree, the largest first.
type edge struct {
	n      int64
	hashes []tlog.Hash
}

func (e *edge) add(leaf tlog.Hash) {
	for n := e.n; n&1 == 1; n >>= 1 {
		last := len(e.hashes) - 1
		leaf = tlog.NodeHash(e.hashes[last], leaf)
		e.hashes = e.hashes[:last]
	}
	e.hashes = append(e.hashes, leaf)
	e.n++
}

// root is the tree's; there is a leaf at least.
func (e *edge) root() tlog.Hash {
	root := e.hashes[len(e.hashes)-1]
	for i := len(e.hashes) - 2; i >= 0; i-- {
		root = tlog.NodeHash(e.hashes[i], root)
	}
	return root
}
