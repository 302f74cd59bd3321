// Package volume keeps a plugin's data in a file system of its own, so that the
// kernel bounds its bytes and files: ext4 in an image of a fixed size, behind a
// loop device. What is in it, and how full it is, outlives every restart.
//
// Sources: loop(4), mke2fs(8), resize2fs(8), the kernel's
// Documentation/filesystems/ext4.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// MinSize is the least that a volume may have, in bytes: the file system's own
// tables have to go into it, too.
const MinSize = 1 << 20

// blockSize is the file system's, in bytes; every size is rounded down to it.
const blockSize = 4096

// journalFrom is the size from which a volume has a journal, which takes 4 MiB at
// least. A smaller one is checked after a crash of the host.
const journalFrom = 64 << 20

// toolTime bounds one run of a tool: it reads and writes tables alone.
const toolTime = 5 * time.Minute

// Spec is one volume.
type Spec struct {
	// Image is the file that it is in, Dir where it is mounted. Both lie in
	// directories that are root's alone.
	Image, Dir string
	// Size is in bytes, with the file system's own tables (about a fifteenth).
	Size int64
	// Inodes are how many files and directories fit in at least, rounded up to
	// whole blocks of its tables. They are fixed when the volume is made, and grow
	// with it.
	Inodes int64
}

// Mount makes the volume, if there is none, gives it its size, and mounts it:
// nosuid, nodev, noexec. One that a daemon left mounted is taken over. A smaller
// size than what is in it is an error, and nothing is changed then.
func Mount(ctx context.Context, s Spec) error {
	if err := s.mount(ctx); err != nil {
		return fmt.Errorf("cannot mount %s: %w", s.Image, err)
	}
	return nil
}

func (s Spec) mount(ctx context.Context) error {
	s.Size -= s.Size % blockSize
	if s.Size < MinSize {
		return fmt.Errorf("a volume of %d bytes is too small: it takes %d at least", s.Size, MinSize)
	}
	if err := os.Mkdir(s.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(s.Image)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := s.create(ctx); err != nil {
			return err
		}
	case err != nil:
		return err
	case info.Size() != s.Size:
		if err := s.resize(ctx); err != nil {
			return err
		}
	}
	if is, err := mounted(s.Dir); is || err != nil {
		return err
	}
	return s.attach(ctx)
}

// Unmount is the opposite of Mount. What is not mounted is no error.
func Unmount(dir string) error {
	is, err := mounted(dir)
	if err != nil || !is {
		return err
	}
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot unmount %s: %w", dir, err)
	}
	return nil
}

// Remove unmounts the volume and forgets what is in it.
func Remove(s Spec) error {
	if err := Unmount(s.Dir); err != nil {
		return err
	}
	err := os.Remove(s.Image)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(s.Dir))
}

// mounted says whether another file system than its parent's is at dir.
func mounted(dir string) (bool, error) {
	var at, above unix.Stat_t
	if err := unix.Lstat(dir, &at); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return false, &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(dir), &above); err != nil {
		return false, &fs.PathError{Op: "lstat", Path: filepath.Dir(dir), Err: err}
	}
	return at.Dev != above.Dev, nil
}

// create makes the image, whole or not at all. A directory that holds something
// would be hidden by it.
func (s Spec) create(ctx context.Context) (err error) {
	if entries, err := os.ReadDir(s.Dir); err != nil || len(entries) > 0 {
		return errors.Join(err, fmt.Errorf("%s is not empty, and would be hidden: move what is in it away, and back after the first start", s.Dir))
	}
	part := s.Image + ".new"
	if err := errors.Join(remove(part), sparse(part, s.Size)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = remove(part)
		}
	}()
	journal := "has_journal"
	if s.Size < journalFrom {
		journal = "^has_journal"
	}
	// The tables are written at once: nobody is to write to it later on its own.
	if err := tool(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-b", strconv.Itoa(blockSize), "-m", "0", "-O", journal,
		"-N", strconv.FormatInt(max(s.Inodes, 16), 10), "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0", part); err != nil {
		return err
	}
	return errors.Join(synced(part), os.Rename(part, s.Image), synced(filepath.Dir(s.Image)))
}

// resize gives a volume that is not in use another size. The check comes first:
// resize2fs asks for it.
func (s Spec) resize(ctx context.Context) error {
	if err := Unmount(s.Dir); err != nil {
		return err
	}
	if err := s.detached(ctx); err != nil {
		return err
	}
	if err := s.check(ctx, "-f"); err != nil {
		return err
	}
	info, err := os.Lstat(s.Image)
	if err != nil {
		return err
	}
	if info.Size() < s.Size {
		if err := os.Truncate(s.Image, s.Size); err != nil {
			return err
		}
	}
	if err := tool(ctx, "resize2fs", s.Image, strconv.FormatInt(s.Size/1024, 10)+"K"); err != nil {
		return errors.Join(fmt.Errorf("cannot give it %d bytes: what is in it may take more: %w", s.Size, err), os.Truncate(s.Image, max(info.Size(), s.Size)))
	}
	return errors.Join(os.Truncate(s.Image, s.Size), synced(s.Image))
}

// check mends what can be mended without a loss; without "-f" it looks only at
// what was not unmounted cleanly.
func (s Spec) check(ctx context.Context, flags ...string) error {
	const mended = 1
	var status *exec.ExitError
	err := tool(ctx, "e2fsck", append(flags, "-p", s.Image)...)
	if errors.As(err, &status) && status.ExitCode() == mended {
		return nil
	}
	return err
}

// detached waits until no loop device has the image: the kernel lets it go
// shortly after the last mount.
func (s Spec) detached(ctx context.Context) error {
	const tries, pause = 200, 10 * time.Millisecond
	for range tries {
		loop, err := attached(s.Image)
		if err != nil || loop == nil {
			return err
		}
		_ = loop.Close()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("it is still in use: something of an earlier run has it mounted")
}

func sparse(file string, size int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

func remove(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func synced(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Tools are the programs of e2fsprogs that a volume takes.
func Tools() []string { return []string{"mke2fs", "e2fsck", "resize2fs"} }

// find looks for a tool where every distribution has it: a daemon's PATH may be
// short, and is not asked.
func find(name string) (string, error) {
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() {
			return filepath.Join(dir, name), nil
		}
	}
	return "", fmt.Errorf("cannot find %s: install e2fsprogs", name)
}

func tool(ctx context.Context, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	path, err := find(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...) // #nosec G204 -- a tool of the host, with a path of the daemon's own
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Missing says what this host lacks for volumes, or "".
func Missing() string {
	for _, name := range Tools() {
		if _, err := find(name); err != nil {
			return "the tools of e2fsprogs (" + name + ")"
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return "loop devices (CONFIG_BLK_DEV_LOOP; modprobe loop)"
	}
	return ""
}
