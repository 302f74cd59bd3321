package seccomp

import (
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxErrno is the greatest errno that the kernel passes on (MAX_ERRNO).
const maxErrno = 4095

// errnos is the native table of errno names, made when first asked for.
var errnos = sync.OnceValue(func() map[string]syscall.Errno {
	m := map[string]syscall.Errno{"EWOULDBLOCK": unix.EAGAIN, "EDEADLOCK": unix.EDEADLK, "ENOTSUP": unix.EOPNOTSUPP}
	for e := syscall.Errno(1); e < 200; e++ {
		if name := unix.ErrnoName(e); name != "" {
			m[name] = e
		}
	}
	return m
})

// ErrnoNumber returns the number of an errno name such as "EPERM".
func ErrnoNumber(name string) (syscall.Errno, bool) {
	switch name { // those that filters name most, without the table
	case "EPERM":
		return unix.EPERM, true
	case "ENOSYS":
		return unix.ENOSYS, true
	case "EINVAL":
		return unix.EINVAL, true
	case "ENOTTY":
		return unix.ENOTTY, true
	case "EACCES":
		return unix.EACCES, true
	case "EAFNOSUPPORT":
		return unix.EAFNOSUPPORT, true
	}
	e, ok := errnos()[name]
	return e, ok
}
