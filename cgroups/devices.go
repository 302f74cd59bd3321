package cgroups

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// openDevices are the minor numbers of the five devices of major 1 that are
// only memory: null, zero, full, random, urandom.
var openDevices = []int64{3, 5, 7, 8, 9}

// closedListV1 is how devices.list shows that all others are closed.
const closedListV1 = "c 1:3 rwm\nc 1:5 rwm\nc 1:7 rwm\nc 1:8 rwm\nc 1:9 rwm"

// closedDevices denies every device but those.
func closedDevices() []specs.LinuxDeviceCgroup {
	// The library panics on a nil number; -1 is any.
	any64 := int64(-1)
	list := []specs.LinuxDeviceCgroup{{Allow: false, Type: "a", Major: &any64, Minor: &any64, Access: "rwm"}}
	mem := int64(1)
	for _, minor := range openDevices {
		list = append(list, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &mem, Minor: &minor, Access: "rwm"})
	}
	return list
}

// closeDevices closes the devices of a new group, where its root did not
// already.
func (g *Group) closeDevices() error {
	m := g.with("devices")
	if m == nil {
		m = g.unified()
	}
	var err error
	switch {
	case m == nil || m.h.closed:
	case m.h.v2:
		err = g.tree.kernel.closeDevices(m.dir, m.h.mount, "/"+g.tree.root+"/"+g.name)
	default:
		err = closeV1(m.dir)
	}
	if err != nil {
		return fmt.Errorf("cannot close devices (CONFIG_CGROUP_BPF): %w", err)
	}
	return nil
}

// closeRoot closes the devices of a v1 root, which each group in it inherits,
// instead of each group's own: six writes less a start. The kernel refuses it
// where groups are there already, and a root in which processes live (a daemon
// under a root of its own) is left alone; then each group is closed by itself.
func (t *Tree) closeRoot(h *hierarchy) bool {
	d, err := openDir(t.rootDir(h))
	if err != nil {
		return false
	}
	defer d.Close()
	closed := func() bool {
		text, err := d.text("devices.list")
		return err == nil && text == closedListV1
	}
	if closed() {
		return true
	}
	if procs, err := d.text("cgroup.procs"); err != nil || procs != "" {
		return false
	}
	return closeV1(d) == nil && closed()
}

// closeV1 writes the device list of cgroup-v1/devices.rst.
func closeV1(d *dir) error {
	if err := d.write("devices.deny", "a"); err != nil {
		return err
	}
	var allowed []string
	for _, minor := range openDevices {
		allowed = append(allowed, fmt.Sprintf("c 1:%d rwm", minor))
	}
	return d.writeAll("devices.allow", allowed...)
}

// deviceProgram is the program that closes devices on v2: loaded by the library
// for the first group, and attached as it is to the others.
type deviceProgram struct {
	mu sync.Mutex
	f  *os.File
}

// attach closes the devices of one group. It is called once a group: programs
// stack.
func (p *deviceProgram) attach(d *dir, mount, group string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.f != nil {
		return d.with(func(fd int) error { return attachProgram(fd, int(p.f.Fd())) })
	}
	m, err := cgroup2.Load(group, cgroup2.WithMountpoint(mount))
	if err != nil {
		return err
	}
	if err := m.Update(&cgroup2.Resources{Devices: closedDevices()}); err != nil {
		return err
	}
	// Without it the next group has the program loaded again.
	_ = d.with(func(fd int) error {
		p.f, err = attachedProgram(fd)
		return err
	})
	return nil
}

func (p *deviceProgram) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.f == nil {
		return nil
	}
	f := p.f
	p.f = nil
	return f.Close()
}

// bpfProgAttach is union bpf_attr for BPF_PROG_ATTACH.
type bpfProgAttach struct {
	targetFD, progFD, attachType, flags, replaceFD uint32
}

func attachProgram(group, program int) error {
	a := bpfProgAttach{targetFD: uint32(group), progFD: uint32(program), attachType: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
	if errno != 0 {
		return fmt.Errorf("BPF_PROG_ATTACH: %w", errno)
	}
	return nil
}

// attachedProgram opens the one device program of a group.
func attachedProgram(group int) (*os.File, error) {
	var ids [1]uint32
	var pin runtime.Pinner
	pin.Pin(&ids)
	defer pin.Unpin()
	q := bpfProgQuery{targetFD: uint32(group), attachType: unix.BPF_CGROUP_DEVICE, progIDs: uint64(uintptr(unsafe.Pointer(&ids))), progCount: 1}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&q)), unsafe.Sizeof(q))
	if errno != 0 {
		return nil, fmt.Errorf("BPF_PROG_QUERY: %w", errno)
	}
	if q.progCount != 1 {
		return nil, fmt.Errorf("cannot tell the group's device program among %d", q.progCount)
	}
	byID := struct{ id, next, flags uint32 }{id: ids[0]}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_GET_FD_BY_ID, uintptr(unsafe.Pointer(&byID)), unsafe.Sizeof(byID))
	if errno != 0 {
		return nil, fmt.Errorf("BPF_PROG_GET_FD_BY_ID: %w", errno)
	}
	return os.NewFile(fd, "device program"), nil
}

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
