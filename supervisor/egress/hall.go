package egress

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Hall makes a network namespace in which every address is its own and nobody
// is: a place for sockets that shall reach each other and nothing else. The
// caller closes it; it lasts as long as it or a socket of it does.
func Hall() (*os.File, error) {
	type made struct {
		ns  *os.File
		err error
	}
	done := make(chan made, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- made{err: err}
			return
		}
		defer func() { _ = home.Close() }()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- made{err: os.NewSyscallError("unshare", err)}
			return
		}
		ns, err := furnish()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			if ns != nil {
				_ = ns.Close()
			}
			done <- made{err: errors.Join(err, os.NewSyscallError("setns", back))}
			return // still locked: the thread ends with this goroutine
		}
		runtime.UnlockOSThread()
		done <- made{ns, err}
	}()
	m := <-done
	if m.err != nil {
		return nil, fmt.Errorf("cannot make a network namespace for sockets: %w", m.err)
	}
	return m.ns, nil
}

// furnish makes every address the thread's new namespace's own.
func furnish() (*os.File, error) {
	if err := errors.Join(up(), routeAll(unix.AF_INET)); err != nil {
		return nil, err
	}
	_ = routeAll(unix.AF_INET6) // a host without IPv6 has no such address to listen at either
	return os.Open("/proc/thread-self/ns/net")
}

// Within runs fn on a thread that is in a network namespace meanwhile. It must
// not wait for anybody.
func Within(ns *os.File, fn func() error) error { return inside(ns, fn) }
