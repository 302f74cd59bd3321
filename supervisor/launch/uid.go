package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// lease is one pair of host uids (the plugin's and its reaper's), held by a
// lock on the two bytes of their numbers in the file of lockPath. The lock belongs
// to the open file, which the keeper holds too: it ends when the last process that
// could use the uids has gone, whoever is killed before.
type lease struct {
	uid  uint32
	file *os.File
}

// uidPatience is how long a uid is waited for that somebody else has: the keeper
// of a daemon that was killed a moment ago still ends its plugins.
const uidPatience = 15 * time.Second

// awaitUID is leaseUID with that patience.
func awaitUID(ctx context.Context, cfg Config, uid uint32) (*lease, error) {
	l, err := leaseUID(cfg.RuntimeDir, cfg.UIDBase, cfg.UIDCount, uid)
	if !errors.Is(err, errUIDTaken) {
		return l, err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(uidPatience); errors.Is(err, errUIDTaken) && time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		}
		l, err = leaseUID(cfg.RuntimeDir, cfg.UIDBase, cfg.UIDCount, uid)
	}
	return l, err
}

// errUIDTaken says that the uid that was asked for is in use.
var errUIDTaken = errors.New("another process tree still runs as it")

// leaseUID takes uid, or a free pair of the upper half of the range if uid is
// 0; the lower half is the daemon's, who keeps a pair for each plugin.
func leaseUID(dir string, base, count, uid uint32) (*lease, error) {
	first, last := uid, uid
	if uid == 0 {
		first, last = base+count/4*2, base+count-2
	}
	for u := uint64(first); u <= uint64(last); u += 2 {
		l, err := tryUID(dir, uint32(u))
		if l != nil || err != nil {
			return l, err
		}
	}
	if uid != 0 {
		return nil, fmt.Errorf("cannot run as uid %d: %w", uid, errUIDTaken)
	}
	return nil, fmt.Errorf("cannot find a free uid from %d to %d: every pair is in use", first, last+1)
}

// tryUID gives neither a lease nor an error if somebody has the pair.
func tryUID(dir string, uid uint32) (*lease, error) {
	f, err := openLock(dir, uid)
	if err != nil {
		return nil, err
	}
	err = lockUID(f, uid, unix.F_WRLCK)
	if err == nil && !uidLives(uid) && !uidLives(uid+1) {
		return &lease{uid: uid, file: f}, nil
	}
	if err == nil {
		return nil, (&lease{uid: uid, file: f}).release()
	}
	_ = f.Close() // nothing was locked
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, nil //nolint:nilnil // said above
	}
	return nil, fmt.Errorf("cannot lock a uid: %w", err)
}

// uidLives says whether a process of a uid is left, be it a dead one that nobody
// has reaped. A keeper that is killed takes its locks along, and what dies with it
// dies a little later; where no process has the uid the kernel knows at once.
func uidLives(uid uint32) bool {
	_, err := unix.Getpriority(unix.PRIO_USER, int(uid))
	return !errors.Is(err, unix.ESRCH)
}

// lockUID locks, or unlocks, the pair that begins with uid.
func lockUID(f *os.File, uid uint32, how int16) error {
	lock := unix.Flock_t{Type: how, Whence: 0, Start: int64(uid), Len: 2}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock)
}

// release frees the uids at once: unlocking acts on the open file, also where
// the keeper has not closed its copy yet.
func (l *lease) release() error {
	return errors.Join(lockUID(l.file, l.uid, unix.F_UNLCK), l.file.Close())
}

// lockFiles is how many files the locks are in. In one file alone, every close of
// a descriptor of it would go through the locks of all plugins, and there are
// several closes to a start (locks_remove_posix in the kernel's fs/locks.c).
const lockFiles = 64

// lockPath is the file in which the pair that begins with uid is locked.
func lockPath(dir string, uid uint32) string {
	return filepath.Join(dir, "leases", strconv.FormatUint(uint64(uid/2%lockFiles), 10))
}

func openLock(dir string, uid uint32) (*os.File, error) {
	path := lockPath(dir, uid)
	open := func() (int, error) {
		return unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	}
	fd, err := open()
	if errors.Is(err, unix.ENOENT) {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return nil, fmt.Errorf("cannot make the runtime directory: %w", err)
		}
		fd, err = open()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock of a uid: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	return os.NewFile(uintptr(fd), path), nil
}
