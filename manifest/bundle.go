package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles/strict"
)

// Bundle is a plugin's directory as its author ships it, checked, and not to
// be trusted any further: whoever owns it can still change it. What runs is a
// Sealed.
type Bundle struct {
	Manifest *Manifest
	// Files and Bytes are what the tree holds.
	Files int
	Bytes int64
	dir   string
	root  *os.File
}

// Open parses the manifest in dir and checks the tree: files, directories and
// symbolic links that stay inside, nothing else, within the bounds. A wrong
// manifest gives a strict.Errors. The caller closes the Bundle.
func Open(dir string) (*Bundle, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the bundle: %w", &os.PathError{Op: "open", Path: dir, Err: err})
	}
	b := &Bundle{dir: dir, root: os.NewFile(uintptr(fd), dir)}
	if err := b.check(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Close gives the directory's descriptor back.
func (b *Bundle) Close() error { return b.root.Close() }

func (b *Bundle) check() error {
	data, err := readManifest(b.root)
	if err != nil {
		return fmt.Errorf("cannot open the bundle %s: %w", b.dir, err)
	}
	if b.Manifest, err = Parse(filepath.Join(b.dir, FileName), data); err != nil {
		return err
	}
	w := &walker{ctx: context.Background()}
	root, err := reopen(b.root)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := w.walk(root); err != nil {
		return fmt.Errorf("cannot open the bundle %s: %w", b.dir, err)
	}
	b.Files, b.Bytes = len(w.entries), w.bytes
	return nil
}

// reopen gives a second descriptor of an open directory, at its start.
func reopen(d *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(d.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", d.Name(), err)
	}
	return os.NewFile(uintptr(fd), d.Name()), nil
}

// readManifest reads plugin.toml below an open directory, bounded.
func readManifest(root *os.File) ([]byte, error) {
	fd, err := unix.Openat2(int(root.Fd()), FileName, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("there is no %s; six lines are enough for one: schema, and under [plugin] name, version, exec, protocol", FileName)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", FileName, err)
	}
	f := os.NewFile(uintptr(fd), FileName)
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is no regular file", FileName), err)
	}
	return io.ReadAll(io.LimitReader(f, strict.MaxFile+1))
}

// Sealed is a verified copy of a bundle that only root can change.
type Sealed struct {
	// Path is the directory, named by the hexadecimal digits of Digest.
	Path string
	// Digest is "sha256:" and 64 hexadecimal digits, the same on every machine
	// for the same files.
	Digest   string
	Manifest *Manifest
	// Files and Bytes are what the copy holds.
	Files int
	Bytes int64
}

// Seal copies the bundle into the directory into, which must be root's own,
// reads the copy back, and names it by its digest. A copy that is there
// already is verified and used. On an error nothing is left there.
func (b *Bundle) Seal(into string) (*Sealed, error) {
	s, err := b.seal(into)
	if err != nil {
		return nil, fmt.Errorf("cannot seal %s: %w", b.dir, err)
	}
	return s, nil
}

func (b *Bundle) seal(into string) (sealed *Sealed, err error) {
	if err := checkHome(into); err != nil {
		return nil, err
	}
	home, err := os.Open(into)
	if err != nil {
		return nil, err
	}
	defer home.Close()
	tmp, err := newTemp(into)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tmp.discard()) }()
	if err := b.copyTo(tmp.dir); err != nil {
		return nil, err
	}
	s, err := measure(tmp.path)
	if err != nil {
		return nil, err
	}
	if s.Manifest.Name != b.Manifest.Name || s.Manifest.Version != b.Manifest.Version {
		return nil, changed(FileName)
	}
	if err := unix.Syncfs(int(tmp.dir.Fd())); err != nil {
		return nil, fmt.Errorf("cannot write to the disk: %w", err)
	}
	return settle(home, into, tmp, s)
}

// checkHome refuses a directory that somebody else could change things in.
func checkHome(into string) error {
	var st unix.Stat_t
	if err := unix.Lstat(into, &st); err != nil {
		return &os.PathError{Op: "stat", Path: into, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is no directory", into)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to uid %d, not to the daemon", into, st.Uid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("%s can be written by others (mode %04o)", into, st.Mode&0o7777)
	}
	return nil
}

// settle gives the copy its name, or uses the one that bears it.
func settle(home *os.File, into string, tmp *temp, s *Sealed) (*Sealed, error) {
	name := strings.TrimPrefix(s.Digest, "sha256:")
	s.Path = filepath.Join(into, name)
	err := unix.Renameat2(int(home.Fd()), filepath.Base(tmp.path), int(home.Fd()), name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return OpenSealed(s.Path, s.Digest)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot name the copy %s: %w", s.Path, err)
	}
	tmp.path = "" // it has become the copy
	if err := home.Sync(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot write to the disk: %w", err), os.RemoveAll(s.Path))
	}
	return s, nil
}

// tempPrefix begins the names of unfinished copies.
const tempPrefix = ".tmp-"

// temp is an unfinished copy: a directory that only root can enter, locked as
// long as somebody works on it.
type temp struct {
	path string
	dir  *os.File
}

func newTemp(into string) (*temp, error) {
	p, err := os.MkdirTemp(into, tempPrefix)
	if err != nil {
		return nil, err
	}
	d, err := os.Open(p)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(p))
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, d.Close(), os.RemoveAll(p))
	}
	return &temp{p, d}, nil
}

func (t *temp) discard() error {
	var err error
	if t.path != "" {
		err = os.RemoveAll(t.path)
	}
	return errors.Join(err, t.dir.Close())
}

// Sweep removes what a Seal left unfinished whose process ended in the middle;
// one that is still at work is left alone.
func Sweep(into string) error {
	found, err := filepath.Glob(filepath.Join(into, tempPrefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range found {
		d, err := os.Open(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			errs = append(errs, os.RemoveAll(p))
		}
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}
