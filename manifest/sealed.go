package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// OpenSealed opens the sealed copy at path and proves that it is the one with
// this digest: owned by root, unwritable for others, and every byte as it was.
//
// The first time in a process every file is read. After that it is enough that
// inode, size, mode, owner and change time of every entry are what they were:
// the kernel sets the change time on each write, chmod, rename or link, and
// offers no call to set it back, so only root could deceive this, by turning
// the clock back or writing to the disk's blocks. Against root there is no
// wall here. A change time within two seconds of the reading proves nothing
// (the clock behind it is coarse), so such a copy is read in full again.
func OpenSealed(path, digest string) (*Sealed, error) {
	s, err := openSealed(path, digest)
	if err != nil {
		return nil, fmt.Errorf("cannot open the sealed bundle %s: %w", path, err)
	}
	return s, nil
}

// proven remembers the fingerprints of copies that were read in full, and what
// their manifests say, which nobody changes.
var proven = struct {
	sync.Mutex
	by map[string]proof
}{by: map[string]proof{}}

type proof struct {
	print    fingerprint
	manifest *Manifest
}

// maxProven bounds what is remembered; beyond it everything is read again.
const maxProven = 4096

type fingerprint [sha256.Size]byte

func openSealed(path, want string) (*Sealed, error) {
	if err := checkHome(filepath.Dir(filepath.Clean(path))); err != nil {
		return nil, err
	}
	key := path + "\x00" + want
	proven.Lock()
	last, known := proven.by[key]
	proven.Unlock()
	if known {
		w, err := look(path)
		if err != nil {
			return nil, err
		}
		if print, _ := fingerprintOf(w.entries); print == last.print {
			return &Sealed{Path: path, Digest: want, Manifest: last.manifest, Files: len(w.entries), Bytes: w.bytes}, nil
		}
	}
	return prove(path, want, key)
}

// prove reads the copy in full.
func prove(path, want, key string) (*Sealed, error) {
	before := time.Now()
	s, entries, err := measureEntries(path)
	if err != nil {
		return nil, err
	}
	if s.Digest != want {
		return nil, fmt.Errorf("it was changed: its digest is %s, not %s; remove it and install the plugin again", s.Digest, want)
	}
	print, newest := fingerprintOf(entries)
	proven.Lock()
	defer proven.Unlock()
	delete(proven.by, key)
	if len(proven.by) < maxProven && newest.Before(before.Add(-2*time.Second)) {
		proven.by[key] = proof{print, s.Manifest}
	}
	return s, nil
}

// fingerprintOf is over everything but the content; newest is the last change.
func fingerprintOf(entries []*entry) (print fingerprint, newest time.Time) {
	h := sha256.New()
	for _, e := range entries {
		var b [56]byte
		for i, n := range []uint64{
			e.stat.Dev, e.stat.Ino, uint64(e.stat.Size), uint64(e.stat.Mode),
			uint64(e.stat.Uid), uint64(e.stat.Ctim.Sec), uint64(e.stat.Ctim.Nsec),
		} {
			binary.LittleEndian.PutUint64(b[8*i:], n)
		}
		_, _ = h.Write(b[:])
		_, _ = h.Write([]byte(e.path + "\x00" + e.target + "\x00"))
		if t := time.Unix(e.stat.Ctim.Sec, e.stat.Ctim.Nsec); t.After(newest) {
			newest = t
		}
	}
	h.Sum(print[:0])
	return print, newest
}

// checkSealed judges an entry of a sealed copy.
func checkSealed(e *entry) error {
	if int(e.stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to uid %d, not to the daemon", e.path, e.stat.Uid)
	}
	if e.kind != symlink && e.mode != 0o644 && e.mode != 0o755 {
		return fmt.Errorf("%s has mode %04o, not 0644 or 0755", e.path, e.mode)
	}
	if e.kind == regular && e.stat.Nlink != 1 {
		return fmt.Errorf("%s has %d links, not one", e.path, e.stat.Nlink)
	}
	return nil
}

// look walks a sealed copy without reading its files.
func look(path string) (*walker, error) {
	root, err := openDir(path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	w := &walker{ctx: context.Background(), check: checkSealed}
	return w, w.walk(root)
}

func parseBelow(root *os.File) (*Manifest, error) {
	data, err := readManifest(root)
	if err != nil {
		return nil, err
	}
	return Parse(FileName, data)
}

func openDir(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func measure(path string) (*Sealed, error) {
	s, _, err := measureEntries(path)
	return s, err
}

// measureEntries reads a sealed copy in full and says what it is.
func measureEntries(path string) (*Sealed, []*entry, error) {
	root, err := openDir(path)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	p, ctx := newPool()
	w := &walker{ctx: ctx, check: checkSealed}
	w.file = func(e *entry, f *os.File) error {
		p.jobs <- func() error { return errors.Join(sumFile(e, f), f.Close()) }
		return nil
	}
	if err := p.finish(w.walk(root)); err != nil {
		return nil, nil, err
	}
	m, err := parseBelow(root)
	if err != nil {
		return nil, nil, err
	}
	return &Sealed{Path: path, Digest: digest(w.entries), Manifest: m, Files: len(w.entries), Bytes: w.bytes}, w.entries, nil
}
