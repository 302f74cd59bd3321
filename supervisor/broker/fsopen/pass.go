package fsopen

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

// maxMounts bounds the mounts that are kept for one plugin.
const maxMounts = 64

// mount is a granted directory as a mount of its own, which is mounted nowhere:
// what is opened through it cannot be executed, nor mapped for execution, nor,
// if it was opened for reading, opened again for writing, whatever the mount
// that it was copied from allows; mount_setattr(2).
type mount struct {
	fd       int
	dev, ino uint64 // of the directory
	users    int    // calls under way
	dropped  bool   // the last of them closes it
}

type mountKey struct {
	dir    string
	writes bool
}

// mounts are those of all plugins, by their names. They go with the run.
type mounts struct {
	mu sync.Mutex
	of map[string]map[mountKey]*mount
}

// open is the method: it hands a descriptor over.
func (ms *mounts) open(_ context.Context, c *capability.Call) (any, error) {
	if err := c.Needs(ipc.KindFile, "fs.read"); err != nil {
		return nil, err
	}
	if c.Grant.Budget.Bytes > 0 {
		return nil, ipc.Errorf(ipc.CodeDenied, "cannot call fs.open: its grant counts bytes, and what passes a descriptor cannot be counted; fs.read and fs.write carry them")
	}
	r, flags := request{}, unix.O_RDONLY
	if at, reads := strings.CutPrefix(c.Target, "r:"); reads { // all that it asks for is in the target
		r.Path = at
	} else if err := json.Unmarshal(c.Params, &r); err != nil {
		return nil, err
	} else {
		flags = unix.O_RDWR
	}
	if r.Create {
		flags |= unix.O_CREAT
	}
	f, size, err := ms.pass(c.Plugin, c.Root, r.Path, flags, c.Narrowed)
	if err != nil {
		return nil, shown(r.Path, err)
	}
	if r.Truncate {
		if err := f.Truncate(0); err != nil {
			return nil, shown(r.Path, errors.Join(err, f.Close()))
		}
		size = 0
	}
	return ipc.WithFiles{Result: struct {
		Size int64 `json:"size"`
	}{size}, Files: []*os.File{f}}, nil
}

// pass opens a file as Open does, and then once more through the directory's own
// mount: what it comes to there must be the same file.
func (ms *mounts) pass(plugin, root, at string, flags int, noLinks bool) (*os.File, int64, error) {
	dir, rel, noLinks, err := split(root, at, noLinks)
	if err != nil {
		return nil, 0, err
	}
	base, err := retry(func() (int, error) { return openRoot(dir) })
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = unix.Close(base) }()
	how := howTo(noLinks)
	st, err := look(base, rel, flags, how)
	if errors.Is(err, unix.ENOENT) && flags&unix.O_CREAT != 0 {
		var f *os.File
		if f, err = create(base, rel, at, flags, how); err == nil {
			err = errors.Join(unix.Fstat(int(f.Fd()), &st), f.Close())
		}
	}
	if err != nil {
		return nil, 0, err
	}
	t, err := ms.get(plugin, mountKey{dir, flags&unix.O_ACCMODE != unix.O_RDONLY}, base)
	if err != nil {
		return nil, 0, err
	}
	defer ms.release(t)
	fd, err := retry(func() (int, error) {
		return unix.Openat2(t.fd, rel, &unix.OpenHow{Flags: uint64(flags&^unix.O_CREAT | unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_NONBLOCK), Resolve: how}) // #nosec G115 -- flags of open
	})
	if err != nil {
		return nil, 0, err
	}
	var got unix.Stat_t
	if err := unix.Fstat(fd, &got); err != nil || got.Dev != st.Dev || got.Ino != st.Ino {
		_ = unix.Close(fd) // nothing was written
		return nil, 0, errors.Join(err, unix.EXDEV)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, 0); err != nil { // it is no FIFO that waits for its other end
		_ = unix.Close(fd)
		return nil, 0, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), at), got.Size, nil // #nosec G115 -- a descriptor
}

// get gives the mount of a directory, of which base is a descriptor; release it.
// One that was made before is used again if it is still of the same directory.
func (ms *mounts) get(plugin string, key mountKey, base int) (*mount, error) {
	var st unix.Stat_t
	if err := unix.Fstat(base, &st); err != nil {
		return nil, err
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	mine := ms.of[plugin]
	if mine == nil {
		mine = map[mountKey]*mount{}
		ms.of[plugin] = mine
	}
	t := mine[key]
	if t == nil || t.dev != st.Dev || t.ino != st.Ino {
		if t != nil || len(mine) >= maxMounts {
			closeMounts(mine)
		}
		fd, err := detach(base, key.writes)
		if err != nil {
			return nil, err
		}
		t = &mount{fd: fd, dev: st.Dev, ino: st.Ino}
		mine[key] = t
	}
	t.users++
	return t, nil
}

// release ends one use.
func (ms *mounts) release(t *mount) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if t.users--; t.users == 0 && t.dropped {
		_ = unix.Close(t.fd)
	}
}

// detach makes the mount.
func detach(base int, writes bool) (int, error) {
	fd, err := unix.OpenTree(base, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if !writes {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = unix.Close(fd) // it was not used
		return -1, os.NewSyscallError("mount_setattr", err)
	}
	return fd, nil
}

// closeMounts drops them; what was opened through them stays, and calls under
// way go on. The caller holds the lock.
func closeMounts(mine map[mountKey]*mount) {
	for key, t := range mine {
		if t.dropped = true; t.users == 0 {
			_ = unix.Close(t.fd)
		}
		delete(mine, key)
	}
}

// closed is called when a run of a plugin has ended.
func (ms *mounts) closed(plugin string) error {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	closeMounts(ms.of[plugin])
	delete(ms.of, plugin)
	return nil
}
