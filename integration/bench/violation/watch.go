package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// watch looks at one process from outside.
type watch struct {
	events *os.File // cgroup.events of its group
	pidfd  int
	stands bool // whether it is looked for its group's standing still
}

// seen is when what was seen, 0 for never; in nanoseconds of the monotonic
// clock, or in microseconds since a moment.
type seen struct {
	contained, persisted, dead float64
	told                       float64 // by the violation's own record: the group was told to freeze, the call answered
}

func (s seen) since(began int64) seen {
	from := func(t float64) float64 {
		if t == 0 {
			return 0
		}
		return micros(int64(t) - began)
	}
	return seen{contained: from(s.contained), persisted: from(s.persisted), dead: from(s.dead)}
}

// newWatch watches the process and, if it stands still before it dies, its group.
func newWatch(pid int, stands bool) (w *watch, err error) {
	w = &watch{pidfd: -1, stands: stands}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return w, err
	}
	_, group, ok := strings.Cut("\n"+string(text), "\n0::")
	if !ok {
		return w, errors.New("the process is in no cgroup v2")
	}
	group, _, _ = strings.Cut(group, "\n")
	if w.events, err = os.Open(unified() + group + "/cgroup.events"); err != nil {
		return w, err
	}
	if w.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return w, fmt.Errorf("cannot watch process %d: %w", pid, err)
	}
	return w, nil
}

// The kernel tells of changes to cgroup.events at most once in 10 ms, so the file
// is looked at this often until the group stands still.
const look = 50 * time.Microsecond

// run looks until the process has died.
func (w *watch) run() (s seen, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buf, end := make([]byte, 4096), float64(monotonic()+patience.Nanoseconds())
	for s.dead == 0 {
		fds := []unix.PollFd{{Fd: int32(w.events.Fd()), Events: unix.POLLPRI}, {Fd: int32(w.pidfd), Events: unix.POLLIN}}
		timeout := unix.NsecToTimespec(patience.Nanoseconds())
		if s.contained == 0 && w.stands {
			timeout = unix.NsecToTimespec(look.Nanoseconds())
		}
		n, err := unix.Ppoll(fds, &timeout, nil)
		now := float64(monotonic())
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 && now > end {
			return s, fmt.Errorf("the process does not end: %w", errors.Join(err, unix.ETIMEDOUT))
		}
		if n, _ := w.events.ReadAt(buf, 0); s.contained == 0 && strings.Contains(string(buf[:n]), "frozen 1") {
			s.contained = float64(monotonic())
		}
		if fds[1].Revents != 0 {
			s.dead = now
		}
	}
	if s.contained == 0 { // dead is contained, too
		s.contained = s.dead
	}
	return s, nil
}

func (w *watch) close() {
	if w.events != nil {
		_ = w.events.Close()
	}
	if w.pidfd >= 0 {
		_ = unix.Close(w.pidfd)
	}
}
