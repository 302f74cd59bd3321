package namespaces

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// startedKeeper is the process of a keeper that this process started.
type startedKeeper struct{ pid int }

func (p startedKeeper) PID() int { return p.pid }

func (p startedKeeper) wait([]*Child) error {
	err := p.reap()
	if err != nil { // else it has ended and reaped everything itself
		endOrphans(p.pid)
	}
	return err
}

// reap waits for its end: an *exitError unless it ended well.
func (p startedKeeper) reap() error {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(p.pid, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fmt.Errorf("cannot wait for the keeper: %w", err)
		case status.Exited() && status.ExitStatus() == 0:
			return nil
		default:
			return &exitError{status}
		}
	}
}

// execute starts the keeper with its socket as descriptor 3. It asks the kernel
// itself: os/exec forks a child more, to see whether it can wait by pidfd, which
// is as dear as the keeper's own start.
func execute(program, socket *os.File) (pid int, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("cannot open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	return syscall.ForkExec(fmt.Sprintf("/proc/self/fd/%d", program.Fd()), []string{"cordon-keeper"}, &syscall.ProcAttr{
		Dir: "/", Env: []string{}, Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), socket.Fd()},
	})
}

// exitError is an end that should not have been.
type exitError struct{ status syscall.WaitStatus }

func (e *exitError) Error() string {
	if e.status.Signaled() {
		return "signal: " + e.status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", e.status.ExitStatus())
}

// wasKilled says that somebody, or the kernel short of memory, sent SIGKILL:
// no fault of the keeper's.
func wasKilled(end error) bool {
	var exit *exitError
	return errors.As(end, &exit) && exit.status.Signaled() && exit.status.Signal() == syscall.SIGKILL
}
