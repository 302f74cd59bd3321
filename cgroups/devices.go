package cgroups

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openDevices are the minor numbers of the five devices of major 1 that are
// only memory: null, zero, full, random, urandom.
var openDevices = []int64{3, 5, 7, 8, 9}

// closedListV1 is how devices.list shows that all others are closed.
const closedListV1 = "c 1:3 rwm\nc 1:5 rwm\nc 1:7 rwm\nc 1:8 rwm\nc 1:9 rwm"

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
		err = g.tree.kernel.closeDevices(m.dir)
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

// deviceProgram is the program that closes devices on v2: loaded for the first
// group, and attached as it is to the others. The library's own is not used: it
// loads one for each group, and keeps its descriptor until the garbage is
// collected.
type deviceProgram struct {
	mu sync.Mutex
	f  *os.File
}

// attach closes the devices of one group. It is called once a group: programs
// stack.
func (p *deviceProgram) attach(d *dir) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.f == nil {
		f, err := loadProgram(deviceCode())
		if err != nil {
			return err
		}
		p.f = f
	}
	return d.with(func(fd int) error { return attachProgram(fd, int(p.f.Fd())) })
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

// instruction is struct bpf_insn of linux/bpf.h: the low half of registers is
// the destination, the high half the source.
type instruction struct {
	code, registers uint8
	offset          int16
	value           int32
}

// deviceCode answers 1 for the devices that stay open and 0 for all others. It
// is given struct bpf_cgroup_dev_ctx: the type in the low half of the first
// word, then major and minor.
func deviceCode() []instruction {
	const (
		load    = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
		and     = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		unequal = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
		equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		move    = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
		exit    = unix.BPF_JMP | unix.BPF_EXIT
		char    = 2 // BPF_DEVCG_DEV_CHAR
		mem     = 1 // the major number; drivers/char/mem.c
		context = 1 << 4
	)
	n := int16(len(openDevices))
	code := []instruction{
		{code: load, registers: 2 | context, offset: 0},
		{code: and, registers: 2, value: 0xffff},
		{code: unequal, registers: 2, offset: n + 3, value: char},
		{code: load, registers: 2 | context, offset: 4},
		{code: unequal, registers: 2, offset: n + 1, value: mem},
		{code: load, registers: 2 | context, offset: 8},
	}
	for i, minor := range openDevices {
		code = append(code, instruction{code: equal, registers: 2, offset: n - int16(i) + 1, value: int32(minor)})
	}
	return append(code,
		instruction{code: move, value: 0}, instruction{code: exit},
		instruction{code: move, value: 1}, instruction{code: exit})
}

// bpfProgLoad is union bpf_attr for BPF_PROG_LOAD, as far as it is used.
type bpfProgLoad struct {
	kind, count           uint32
	code, license         uint64
	logLevel, logSize     uint32
	log                   uint64
	kernelVersion, flags  uint32
	name                  [unix.BPF_OBJ_NAME_LEN]byte
	ifindex, expectedType uint32
}

func loadProgram(code []instruction) (*os.File, error) {
	license := []byte("Apache-2.0\x00")
	var pin runtime.Pinner
	pin.Pin(&code[0])
	pin.Pin(&license[0])
	defer pin.Unpin()
	a := bpfProgLoad{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code)), expectedType: unix.BPF_CGROUP_DEVICE,
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	copy(a.name[:], "cordon_devices")
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
	if errno != 0 {
		return nil, fmt.Errorf("BPF_PROG_LOAD: %w", errno)
	}
	return os.NewFile(fd, "device program"), nil // the kernel makes it close-on-exec
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
