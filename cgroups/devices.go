package cgroups

import (
	"fmt"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bpfProgQuery is the kernel's union bpf_attr for BPF_PROG_QUERY (linux/bpf.h).
type bpfProgQuery struct {
	targetFD, attachType, queryFlags, attachFlags uint32
	progIDs                                       uint64
	progCount                                     uint32
	_                                             uint32
}

// devicesClosedV2 says whether a device program is attached to a v2 group. Our
// New attaches one and nobody else knows the group.
func devicesClosedV2(d *dir) (bool, error) {
	var closed bool
	err := d.with(func(fd int) error {
		q := bpfProgQuery{targetFD: uint32(fd), attachType: unix.BPF_CGROUP_DEVICE}
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&q)), unsafe.Sizeof(q))
		closed = q.progCount > 0
		if errno == 0 || errno == unix.ENOSPC {
			return nil // no room for ids was given, only the count is asked for
		}
		closed = false
		if slices.Contains([]syscall.Errno{unix.EINVAL, unix.ENOSYS, unix.EPERM, unix.EBADF}, errno) {
			return nil // no CONFIG_CGROUP_BPF: nothing is attached
		}
		return fmt.Errorf("cannot ask for device programs: %w", errno)
	})
	return closed, err
}
