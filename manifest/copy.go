package manifest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// sealedTime is the time of everything in a sealed copy: 1980, the first that
// every archive format can hold.
var sealedTime = []unix.Timespec{{Sec: 315532800}, {Sec: 315532800}}

// sealedMode is a file's mode in a sealed copy: of the author's bits only the
// owner's execute counts.
func sealedMode(e *entry) uint32 {
	if e.kind == dir || e.mode&0o100 != 0 {
		return 0o755
	}
	return 0o644
}

// copyTo copies the tree below an empty directory that only root can enter.
// The tree is walked and judged again as it is copied.
func (b *Bundle) copyTo(to *os.File) error {
	root, err := reopen(b.root)
	if err != nil {
		return err
	}
	defer root.Close()
	p, ctx := newPool()
	w := &walker{ctx: ctx}
	w.enter = func(e *entry) error { return makeDir(to, e) }
	w.link = func(e *entry) error {
		return copied(e, unix.Symlinkat(e.target, int(to.Fd()), e.path))
	}
	w.file = func(e *entry, from *os.File) error {
		dst, err := create(to, e)
		if err != nil {
			return errors.Join(err, from.Close())
		}
		p.jobs <- func() error { return copyFile(e, dst, from) }
		return nil
	}
	if err := p.finish(w.walk(root)); err != nil {
		return err
	}
	return w.finishTimes(to)
}

func copied(e *entry, err error) error {
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w", e.path, err)
	}
	return nil
}

// makeDir makes a directory. Paths below the destination are safe to use:
// nobody else can enter it.
func makeDir(to *os.File, e *entry) error {
	if e.path == "." {
		return copied(e, nil)
	}
	return copied(e, unix.Mkdirat(int(to.Fd()), e.path, 0o755))
}

func create(to *os.File, e *entry) (*os.File, error) {
	fd, err := unix.Openat(int(to.Fd()), e.path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, copied(e, err)
	}
	return os.NewFile(uintptr(fd), e.path), nil
}

// copyFile shares the blocks where the file system can, or copies them, in the
// kernel where it can; and closes both.
func copyFile(e *entry, dst, src *os.File) (err error) {
	defer func() { err = errors.Join(err, src.Close(), dst.Close()) }()
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) != nil {
		if err := copyBytes(e, dst, src); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dst.Fd()), &st); err != nil || st.Size != e.size {
		return errors.Join(changed(e.path), err)
	}
	return copied(e, unix.Fchmod(int(dst.Fd()), sealedMode(e)))
}

// copyBytes copies what the file had when it was judged, and one byte more if
// it has grown since, which the caller notices.
func copyBytes(e *entry, dst, src *os.File) error {
	_, err := io.Copy(dst, io.LimitReader(src, e.size+1))
	return copied(e, err)
}

// finishTimes fixes mode and times, the deepest first, because making a file
// touches its directory.
func (w *walker) finishTimes(to *os.File) error {
	fd := int(to.Fd())
	for i := len(w.entries) - 1; i >= 0; i-- {
		e := w.entries[i]
		if e.kind == dir {
			if err := unix.Fchmodat(fd, path.Clean(e.path), 0o755, 0); err != nil {
				return copied(e, err)
			}
		}
		if err := unix.UtimesNanoAt(fd, e.path, sealedTime, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return copied(e, err)
		}
	}
	return nil
}
