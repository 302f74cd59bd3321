package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/mod/sumdb/tlog"
)

// The tiles are the Merkle tree over all records (RFC 6962), in tiles of height
// 8 as golang.org/x/mod/sumdb/tlog has them: one file for each level, in which
// the tiles stand one after another. A level's entry is the hash of a full tile
// of the level below; level 0 has the hash of each record. Hashes between the
// levels are computed when they are read.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	tileLevels = 7 // 2^56 records
)

// tiles is the tree on the disk and what has not got there yet.
type tiles struct {
	dir     string
	levels  [tileLevels]*os.File // opened at first use
	size    int64                // leaves that the files have
	pending []tlog.Hash          // leaves after them
	look    bool                 // only read
}

// openTiles opens or makes the directory (0700). How many leaves count is for
// the caller to say: what the files have beyond is written over.
func openTiles(dir string, size int64) (*tiles, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return &tiles{dir: dir, size: size}, nil
}

// level opens a level's file, and makes it unless this only reads.
func (t *tiles) level(n int) (*os.File, error) {
	if n >= tileLevels {
		return nil, errors.New("the tree has too many levels")
	}
	if t.levels[n] != nil {
		return t.levels[n], nil
	}
	flags := os.O_RDWR | os.O_CREATE
	if t.look {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(filepath.Join(t.dir, strconv.Itoa(n)), flags|syscall.O_NOFOLLOW, 0o600)
	if err == nil {
		t.levels[n] = f
	}
	return f, err
}

// add takes more leaves, and writes them if the disk lets it.
func (t *tiles) add(leaves ...tlog.Hash) error {
	t.pending = append(t.pending, leaves...)
	return t.flush()
}

// flush writes what waits, up to the end of a tile at once. What cannot be
// written waits on.
func (t *tiles) flush() error {
	for len(t.pending) > 0 {
		n := min(int64(len(t.pending)), tileWidth-t.size%tileWidth)
		if err := t.put(0, t.size, t.pending[:n]); err != nil {
			return fmt.Errorf("cannot write the audit log's tree: %w", err)
		}
		t.size += n
		t.pending = t.pending[n:]
	}
	t.pending = nil
	return nil
}

// put writes entries of one tile of a level, from the nth on, and, where that
// completes the tile, the next level's. It may be done again.
func (t *tiles) put(level int, n int64, run []tlog.Hash) error {
	f, err := t.level(level)
	if err != nil {
		return err
	}
	data := make([]byte, 0, len(run)*tlog.HashSize)
	for i := range run {
		data = append(data, run[i][:]...)
	}
	if _, err := f.WriteAt(data, n*tlog.HashSize); err != nil {
		return err
	}
	end := n + int64(len(run))
	if end%tileWidth != 0 {
		return nil
	}
	whole, err := t.read(level, end-tileWidth, tileWidth)
	if err != nil {
		return err
	}
	return t.put(level+1, n/tileWidth, []tlog.Hash{fold(whole)})
}

// read returns count entries of a level, from the nth on.
func (t *tiles) read(level int, n, count int64) ([]tlog.Hash, error) {
	f, err := t.level(level)
	if err != nil {
		return nil, err
	}
	data := make([]byte, count*tlog.HashSize)
	if _, err := f.ReadAt(data, n*tlog.HashSize); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: its tree ends before entry %d of level %d", ErrBroken, n+count, level)
	} else if err != nil {
		return nil, err
	}
	out := make([]tlog.Hash, count)
	for i := range out {
		copy(out[i][:], data[i*tlog.HashSize:])
	}
	return out, nil
}

// fold is the hash over a power of two of hashes, which it writes over.
func fold(hashes []tlog.Hash) tlog.Hash {
	for len(hashes) > 1 {
		for i := range len(hashes) / 2 {
			hashes[i] = tlog.NodeHash(hashes[2*i], hashes[2*i+1])
		}
		hashes = hashes[:len(hashes)/2]
	}
	return hashes[0]
}

// ReadHashes implements tlog.HashReader over what was flushed.
func (t *tiles) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, 0, len(indexes))
	for _, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		width := int64(1) << (level % tileHeight)
		hashes, err := t.read(level/tileHeight, n*width, width)
		if err != nil {
			return nil, err
		}
		out = append(out, fold(hashes))
	}
	return out, nil
}

// tree is the root over the first n leaves.
func (t *tiles) tree(n int64) (tlog.Tree, error) {
	if n > t.size {
		return tlog.Tree{}, fmt.Errorf("the tree on the disk has %d records, not %d", t.size, n)
	}
	root, err := tlog.TreeHash(n, t)
	return tlog.Tree{N: n, Hash: root}, err
}

// sync brings the files to the disk.
func (t *tiles) sync() error {
	var errs []error
	for _, f := range t.levels {
		if f != nil {
			errs = append(errs, f.Sync())
		}
	}
	return errors.Join(errs...)
}

func (t *tiles) close() error {
	var errs []error
	for i, f := range t.levels {
		if f != nil {
			errs = append(errs, f.Close())
			t.levels[i] = nil
		}
	}
	return errors.Join(errs...)
}
