package seccomp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// auditSeccomp is AUDIT_SECCOMP of linux/audit.h, the type of the records
	// that the kernel makes of what a filter did.
	auditSeccomp = 1326
	// auditReadLog is AUDIT_NLGRP_READLOG as a bit of a netlink address.
	auditReadLog = 1
	// maxRecord is MAX_AUDIT_MESSAGE_LENGTH with the header before it, in bytes.
	maxRecord = 8970 + unix.SizeofNlMsghdr
	// x32Bit is __X32_SYSCALL_BIT.
	x32Bit = 0x40000000
	// archI386 is AUDIT_ARCH_I386 of linux/audit.h.
	archI386 = 0x40000003
)

// Death is one process that its filter killed, as the kernel's audit tells it.
// Nobody is asked before such a call, and its parent alone learns of the end.
type Death struct {
	// PID and UID are as the host sees them.
	PID int
	UID uint32
	// Arch is the AUDIT_ARCH_* value, NR the number as the process passed it:
	// with an x32 call's bit in it.
	Arch uint32
	NR   int
	PC   uint64
	// Exe is the executable as the plugin sees it, escaped as in a Go string.
	Exe string
}

// Call names the call: the kernel's name for it, or what it is of.
func (d Death) Call() string {
	switch {
	case d.Arch == archI386:
		return fmt.Sprintf("call %d of 32 bit programs (i386)", d.NR)
	case d.Arch != AuditArch:
		return fmt.Sprintf("call %d of another architecture (%#x)", d.NR, d.Arch)
	case d.NR&x32Bit != 0:
		return fmt.Sprintf("call %d of x32 programs", d.NR&^x32Bit)
	default:
		return Name(d.NR)
	}
}

// Native tells whether Call is the name of a call of this architecture, which
// a rule of the filter kills.
func (d Death) Native() bool { return d.Arch == AuditArch && Known(d.NR) }

// Deaths reads the kernel's audit for what filters killed, on the whole host.
// It needs CAP_AUDIT_READ in the first user and network namespace, and nothing
// of an audit daemon: any number of readers get each record
// (netlink(7), AUDIT_NLGRP_READLOG). Records may be lost when there are more of
// them than are read; Next then goes on with what is left.
type Deaths struct{ file *os.File }

// deathsRoom is for the records that wait to be read, in bytes of the kernel's: some
// thousands of them.
const deathsRoom = 4 << 20

// firstPIDNamespace is the inode of the first pid namespace, the same on every
// kernel (PROC_PID_INIT_INO of linux/proc_ns.h).
const firstPIDNamespace = 0xEFFFFFFC

// inFirstNamespaces refuses where the audit would be silent, or would count
// processes otherwise than we do. The kernel's own threads (2 is their parent)
// are in the first network namespace; a host that hides them is not asked.
func inFirstNamespaces() error {
	var pids, ours, first unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &pids); err != nil {
		return &os.PathError{Op: "stat", Path: "/proc/self/ns/pid", Err: err}
	}
	if pids.Ino != firstPIDNamespace {
		return errors.New("this is not the host's first pid namespace")
	}
	if unix.Stat("/proc/self/ns/net", &ours) == nil && unix.Stat("/proc/2/ns/net", &first) == nil && ours.Ino != first.Ino {
		return errors.New("this is not the host's first network namespace")
	}
	return nil
}

// OpenDeaths begins to read. Close it once.
func OpenDeaths() (*Deaths, error) {
	if err := inFirstNamespaces(); err != nil {
		return nil, fmt.Errorf("cannot read the kernel's audit: %w", err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_AUDIT)
	if err != nil {
		return nil, fmt.Errorf("cannot read the kernel's audit: %w", err)
	}
	// Best effort: as it is there is room for some two hundred records.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, deathsRoom)
	// Before it is bound, so that no other record is ever queued.
	err = onlySeccomp(fd)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: auditReadLog})
	}
	if err != nil {
		_ = unix.Close(fd) // nothing was read
		return nil, fmt.Errorf("cannot read the kernel's audit: %w", err)
	}
	return &Deaths{file: os.NewFile(uintptr(fd), "audit")}, nil // #nosec G115 -- a descriptor
}

// onlySeccomp has the kernel drop every record of another type: on a host that
// audits much they are thousands a second.
func onlySeccomp(fd int) error {
	var want [2]byte
	binary.NativeEndian.PutUint16(want[:], auditSeccomp)
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4}, // nlmsg_type, read as big-endian
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(binary.BigEndian.Uint16(want[:]))},
		{Code: unix.BPF_RET | unix.BPF_K, K: maxRecord},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}) // #nosec G115 -- four
}

// Next waits for the next death; os.ErrClosed is the end. It must not be called
// concurrently.
func (d *Deaths) Next() (Death, error) {
	raw, err := d.file.SyscallConn()
	if err != nil {
		return Death{}, err
	}
	buf := make([]byte, maxRecord)
	for {
		n, from, errno := 0, unix.Sockaddr(nil), error(nil)
		err := raw.Read(func(fd uintptr) bool {
			n, from, errno = unix.Recvfrom(int(fd), buf, 0) // #nosec G115 -- a descriptor
			return !errors.Is(errno, unix.EAGAIN)
		})
		if err != nil {
			return Death{}, err
		}
		if errno != nil { // ENOBUFS: some were lost
			if errors.Is(errno, unix.ENOBUFS) || errors.Is(errno, unix.EINTR) {
				continue
			}
			return Death{}, fmt.Errorf("cannot read the kernel's audit: %w", errno)
		}
		if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 {
			continue // somebody else's
		}
		if death, ok := parseDeath(buf[:n]); ok {
			return death, nil
		}
	}
}

// Close ends Next.
func (d *Deaths) Close() error { return d.file.Close() }

// parseDeath reads one netlink message. ok is false for what is no record of a
// process that was killed. The lengths in the header are not looked at: the
// kernel's count without header for the records of this group, and the message
// ends where the datagram does.
func parseDeath(message []byte) (d Death, ok bool) {
	if len(message) < unix.SizeofNlMsghdr || len(message) > maxRecord || binary.NativeEndian.Uint16(message[4:]) != auditSeccomp {
		return Death{}, false
	}
	fields := map[string]string{}
	for field := range strings.FieldsSeq(string(bytes.TrimRight(message[unix.SizeofNlMsghdr:], "\x00"))) {
		key, value, found := strings.Cut(field, "=")
		if _, twice := fields[key]; found && !twice { // no name that a process gives itself is written with a space
			fields[key] = value
		}
	}
	code, err := strconv.ParseUint(fields["code"], 0, 32)
	if action := code & unix.SECCOMP_RET_ACTION_FULL; err != nil || action != unix.SECCOMP_RET_KILL_PROCESS && action != unix.SECCOMP_RET_KILL_THREAD {
		return Death{}, false
	}
	uid, err1 := strconv.ParseUint(fields["uid"], 10, 32)
	pid, err2 := strconv.ParseInt(fields["pid"], 10, 32)
	arch, err3 := strconv.ParseUint(fields["arch"], 16, 32)
	nr, err4 := strconv.ParseInt(fields["syscall"], 10, 64)
	if errors.Join(err1, err2, err3, err4) != nil || nr < -1<<31 || nr >= 1<<32 {
		return Death{}, false
	}
	pc, _ := strconv.ParseUint(fields["ip"], 0, 64) // 0 is not known
	return Death{PID: int(pid), UID: uint32(uid), Arch: uint32(arch), NR: int(nr), PC: pc, Exe: untrusted(fields["exe"])}, true
}

// untrusted undoes audit_log_untrustedstring: quoted, or in hexadecimal where
// it has a quote, a space or what is no printable character.
func untrusted(field string) string {
	if text, ok := strings.CutPrefix(field, `"`); ok {
		return escape(strings.TrimSuffix(text, `"`), maxPath)
	}
	text, err := hex.DecodeString(field)
	if err != nil { // "(null)"
		return ""
	}
	return escape(string(text), maxPath)
}
