package ipc

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// idlers are the connections whose reader lingers. One goroutine looks at all of
// them, at the pace of a timerfd(2). While a timer of the runtime's is due, a
// thread waits in epoll_wait(2) for it and is woken by every edge of every
// socket; a thread in nanosleep(2) keeps the runtime's monitor busy. Each made a
// call half as slow again.
var idlers ticker

type ticker struct {
	mu      sync.Mutex
	turns   map[*turn]struct{}
	running bool
}

// add has t.tick called until it returns false. It must not be called with the
// lock of a turn, which tick takes. It fails when there are no descriptors left.
func (k *ticker) add(t *turn) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.turns == nil {
		k.turns = map[*turn]struct{}{}
	}
	if !k.running {
		beat, err := newBeat()
		if err != nil {
			return err
		}
		k.running = true
		go k.run(beat)
	}
	k.turns[t] = struct{}{}
	return nil
}

// newBeat returns a descriptor that can be read once every lingerTime.
func newBeat() (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	every := unix.NsecToTimespec(int64(lingerTime))
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("timerfd_settime", err)
	}
	return os.NewFile(uintptr(fd), "linger timer"), nil
}

// run ends when nobody lingers.
func (k *ticker) run(beat *os.File) {
	defer beat.Close()
	var count [8]byte
	for more := true; more; {
		_, err := beat.Read(count[:])
		more = k.tick(err != nil)
	}
}

// tick looks at everyone. Without a beat, nobody lingers any longer.
func (k *ticker) tick(last bool) (more bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for t := range k.turns {
		if !t.tick(last) {
			delete(k.turns, t)
		}
	}
	k.running = len(k.turns) > 0 && !last
	return k.running
}
