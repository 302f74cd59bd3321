package launch

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawSeccomp asks the kernel by seccomp(2) whether it knows an action.
func rawSeccomp(operation uintptr, action *uint32) error {
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, operation, 0, uintptr(unsafe.Pointer(action)))
	if errno != 0 {
		return errno
	}
	return nil
}
