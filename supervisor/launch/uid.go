package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lease is one pair of host uids (the plugin's and its reaper's), held by a
// lock on the two bytes of their numbers in one file. The lock belongs to the
// open file, which the keeper holds too: it ends when the last process that
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
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(uidPatience); ; {
		l, err := leaseUID(cfg.RuntimeDir, cfg.UIDBase, cfg.UIDCount, uid)
		if !errors.Is(err, errUIDTaken) || time.Now().After(end) {
			return l, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		}
	}
}

// errUIDTaken says that the uid that was asked for is in use.
var errUIDTaken = errors.New("another process tree still runs as it")

// leaseUID takes uid, or a free pair of the upper half of the range if uid is
// 0; the lower half is the daemon's, who keeps a pair for each plugin.
func leaseUID(dir string, base, count, uid uint32) (*lease, error) {
	f, err := openLocks(dir)
	if err != nil {
		return nil, err
	}
	first, last := uid, uid
	if uid == 0 {
		first, last = base+count/4*2, base+count-2
	}
	for u := uint64(first); u <= uint64(last); u += 2 {
		lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: 0, Start: int64(u), Len: 2}
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock)
		if err == nil {
			return &lease{uid: uint32(u), file: f}, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return nil, errors.Join(fmt.Errorf("cannot lock a uid: %w", err), f.Close())
		}
	}
	if uid != 0 {
		err = fmt.Errorf("cannot run as uid %d: %w", uid, errUIDTaken)
	} else {
		err = fmt.Errorf("cannot find a free uid from %d to %d: every pair is in use", first, last+1)
	}
	return nil, errors.Join(err, f.Close())
}

// release frees the uids at once: unlocking acts on the open file, also where
// the keeper has not closed its copy yet.
func (l *lease) release() error {
	unlock := unix.Flock_t{Type: unix.F_UNLCK, Whence: 0, Start: int64(l.uid), Len: 2}
	err := unix.FcntlFlock(l.file.Fd(), unix.F_OFD_SETLK, &unlock)
	return errors.Join(err, l.file.Close())
}

func openLocks(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("cannot make the runtime directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "uids"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock of uids: %w", err)
	}
	return f, nil
}
