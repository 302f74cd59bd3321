package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// attach mounts the image. A loop device that has it already is used: two of
// them would be two caches of one file system.
func (s Spec) attach(ctx context.Context) error {
	loop, err := attached(s.Image)
	if err != nil {
		return err
	}
	if loop == nil {
		if err := s.check(ctx); err != nil {
			return err
		}
		if loop, err = newLoop(s.Image); err != nil {
			return err
		}
	}
	defer loop.Close() // the mount keeps it; without one it is let go
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	if err := unix.Mount(loop.Name(), s.Dir, "ext4", flags, "errors=remount-ro"); err != nil {
		return fmt.Errorf("%s as ext4 (CONFIG_EXT4_FS; e2fsck %s, where it is damaged): %w", loop.Name(), s.Image, err)
	}
	return nil
}

// attached is the loop device that has a file, nil if none has. While it is
// open, it keeps it.
func attached(file string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: file, Err: err}
	}
	used, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, sys := range used {
		loop, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(filepath.Dir(sys))), os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // it was let go meanwhile, or is not ours to see
		}
		info, err := unix.IoctlLoopGetStatus64(int(loop.Fd()))
		if err == nil && info.Device == st.Dev && info.Inode == st.Ino {
			return loop, nil
		}
		_ = loop.Close()
	}
	return nil, nil //nolint:nilnil // there is none, which is no error
}

// newLoop gives a file to a free loop device, which lets it go when nobody uses
// it any more. Another program may be faster; then the next one is taken.
func newLoop(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w (CONFIG_BLK_DEV_LOOP; modprobe loop)", err)
	}
	defer control.Close()
	const tries = 64
	for range tries {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("cannot find a free loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		// Direct: what is in the file system's cache is not cached once more.
		config := unix.LoopConfig{Fd: uint32(f.Fd()), Size: blockSize, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO}}
		copy(config.Info.File_name[:len(config.Info.File_name)-1], file)
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		_ = loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("cannot give it to %s: %w", loop.Name(), err)
		}
	}
	return nil, errors.New("cannot get a loop device: others are faster every time")
}
