package store

import (
	"errors"
	"os"
	"sync"
	"syscall"
)

// reserveSize is room for some quarantines: a transaction writes the pages of
// one record (1 MiB at most, usually 4 KiB), of the way to it and of the free
// list, all anew.
const reserveSize = 4 << 20

// reserve is a file that only takes up room, so that a quarantine can be
// recorded on a full disk: then it is removed first. It is made again as soon
// as there is room. That it cannot be made is no reason not to run.
type reserve struct {
	path string
	mu   sync.Mutex
	held bool
}

// fill makes the file if it is not there. On a full disk that is one quick
// failure.
func (r *reserve) fill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held {
		return
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	err = syscall.Fallocate(int(f.Fd()), 0, 0, reserveSize)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(r.path) // half of it is of no use
		return
	}
	r.held = true
}

// spend gives the room back and calls write. The room is not taken up again
// meanwhile, not even to see that there is too little; and if another quarantine
// had it already, there may be some left.
func (r *reserve) spend(write func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held {
		r.held = false
		_ = os.Remove(r.path) // write says whether there is room
	}
	return write()
}
