package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// roleEnv tells a process of this program what it is for; without it, it
// measures.
const roleEnv = "CORDON_BENCH_SECCOMP"

// What the other processes are for.
const (
	roleVictim = "victim" // makes calls, filtered or not
	roleLoader = "loader" // times one loading of a program
	roleDenied = "denied" // measures round trips, bound to one processor
)

// cpuEnv is the processor that a victim binds itself to.
const cpuEnv = "CORDON_BENCH_CPU"

// listenEnv is set for a victim whose refused calls somebody answers. Without a
// listener the kernel answers them, so that nothing can wait for ever.
const listenEnv = "CORDON_BENCH_LISTEN"

func listenerFlag(listen string) uintptr {
	if listen == "" {
		return 0
	}
	return unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
}

// patience bounds the wait for any answer.
const patience = time.Minute

// How a victim waits for the loop, on its socket: which loop and how often.
const orderBytes = 16

// loop is one sequence of calls that a victim can repeat.
type loop uint64

const (
	loopGetppid loop = iota
	loopFcntl
	loopMmap
	loopMmapNothing
	loopDenied
)

// once makes the calls of one turn. Every call is raw: the Go runtime makes
// none of its own here.
func (l loop) once() {
	switch l {
	case loopGetppid:
		raw(unix.SYS_GETPPID, 0, 0, 0, 0, 0)
	case loopFcntl:
		raw(unix.SYS_FCNTL, 3, unix.F_GETFD, 0, 0, 0)
	case loopMmap:
		at := raw(unix.SYS_MMAP, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0))
		raw(unix.SYS_MUNMAP, at, 4096, 0, 0, 0)
	case loopMmapNothing: // fails as early as it can, so that the filter is most of it
		raw(unix.SYS_MMAP, 0, 0, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0))
	case loopDenied:
		raw(unix.SYS_MOUNT, 0, 0, 0, 0, 0)
	}
}

// raw makes a call and returns what the kernel left, an error too.
//
//go:uintptrescapes
func raw(nr, a, b, c, d, e uintptr) uintptr {
	value, _, _ := unix.RawSyscall6(nr, a, b, c, d, e, 0)
	return value
}

// beVictim never returns. Descriptor 3 is the socket; a program comes over it,
// empty for none, and what is loaded is told by the listener's number.
func beVictim() {
	runtime.LockOSThread()
	program, err := readProgram()
	if err == nil {
		err = bind(os.Getenv(cpuEnv))
	}
	if err != nil {
		dieOf(err)
	}
	listener := 0
	if len(program) > 0 {
		if listener, err = load(program, listenerFlag(os.Getenv(listenEnv))); err != nil {
			dieOf(err)
		}
	}
	serveOrders(listener)
	raw(unix.SYS_EXIT_GROUP, 0, 0, 0, 0, 0)
}

// serveOrders tells the listener's number, then repeats loops as it is told and
// answers with the nanoseconds that they took. Allowed calls are timed by the
// thread's own processor time, so that other load of the machine does not
// count; a denied one waits for another process, which only a clock sees.
func serveOrders(listener int) {
	b, ts := new([orderBytes]byte), new(unix.Timespec)    // nothing is allocated behind the filter
	binary.LittleEndian.PutUint64(b[:], uint64(listener)) // #nosec G115 -- a descriptor
	raw(unix.SYS_WRITE, 3, uintptr(unsafe.Pointer(&b[0])), 8, 0, 0)
	for {
		if raw(unix.SYS_READ, 3, uintptr(unsafe.Pointer(&b[0])), orderBytes, 0, 0) != orderBytes {
			return
		}
		l, turns := loop(binary.LittleEndian.Uint64(b[:])), binary.LittleEndian.Uint64(b[8:])
		clock := uintptr(unix.CLOCK_THREAD_CPUTIME_ID)
		if l == loopDenied {
			clock = unix.CLOCK_MONOTONIC
		}
		from := clockNow(clock, ts)
		for range turns {
			l.once()
		}
		binary.LittleEndian.PutUint64(b[:], uint64(clockNow(clock, ts)-from)) // #nosec G115 -- it only grows
		raw(unix.SYS_WRITE, 3, uintptr(unsafe.Pointer(&b[0])), 8, 0, 0)
	}
}

// clockNow is in nanoseconds. It is a call, which every filter here allows.
func clockNow(clock uintptr, ts *unix.Timespec) int64 {
	raw(unix.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	return ts.Nano()
}

// beLoader times one loading of a program: microseconds matter and a thread can
// load only once from nothing, so each is a process.
func beLoader() {
	runtime.LockOSThread()
	program, err := readProgram()
	if err != nil {
		dieOf(err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		dieOf(err)
	}
	var b [8]byte
	from := time.Now()
	_, err = load(program, 0)
	binary.LittleEndian.PutUint64(b[:], uint64(time.Since(from))) // #nosec G115 -- it only grows
	if err != nil {
		dieOf(err)
	}
	raw(unix.SYS_WRITE, 3, uintptr(unsafe.Pointer(&b[0])), 8, 0, 0)
	raw(unix.SYS_EXIT_GROUP, 0, 0, 0, 0, 0)
}

func dieOf(err error) {
	fmt.Fprintln(os.Stderr, "cannot be measured:", err)
	os.Exit(1)
}

// readProgram takes a length and so many bytes from the socket.
func readProgram() ([]byte, error) {
	var length [4]byte
	if err := readSocket(length[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(length[:])
	if n > unix.BPF_MAXINSNS*8 {
		return nil, errors.New("the program is too long")
	}
	program := make([]byte, n)
	return program, readSocket(program)
}

// readSocket fills b, without a file whose finalizer would close descriptor 3.
func readSocket(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(3, b)
		if err != nil || n == 0 {
			return fmt.Errorf("the socket ended: %w", err)
		}
		b = b[n:]
	}
	return nil
}

// load puts a program on this thread.
func load(program []byte, flags uintptr) (listener int, err error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	prog := unix.SockFprog{Len: uint16(len(program) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))} // #nosec G115 -- at most BPF_MAXINSNS
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return 0, fmt.Errorf("cannot load a program: %w", errno)
	}
	return int(fd), nil
}

// bind keeps this thread on one processor; "" leaves it free.
func bind(cpu string) error {
	if cpu == "" {
		return nil
	}
	n, err := strconv.Atoi(cpu)
	if err != nil {
		return err
	}
	var set unix.CPUSet
	set.Set(n)
	return unix.SchedSetaffinity(0, &set)
}

// victim is another process of this program, seen from the one that measures.
type victim struct {
	cmd      *exec.Cmd
	socket   *os.File
	listener int // its number in the victim
}

// spawn starts a process of this program with a socket and hands it a program.
func spawn(role, cpu string, program []byte, env ...string) (*victim, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(pair[0], true); err != nil { // for deadlines
		return nil, errors.Join(err, unix.Close(pair[0]), unix.Close(pair[1]))
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs") // #nosec G115 -- descriptors
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+role, cpuEnv+"="+cpu, "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	err = cmd.Start()
	_ = theirs.Close() // the victim has its own
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	v := &victim{cmd: cmd, socket: ours}
	message := append(binary.LittleEndian.AppendUint32(nil, uint32(len(program))), program...) // #nosec G115 -- at most BPF_MAXINSNS*8
	if _, err := ours.Write(message); err != nil {
		return nil, errors.Join(err, v.end())
	}
	return v, nil
}

// newVictim starts a victim that waits for orders.
func newVictim(cpu string, program []byte, env ...string) (*victim, error) {
	v, err := spawn(roleVictim, cpu, program, env...)
	if err != nil {
		return nil, err
	}
	listener, err := v.answer()
	if err != nil {
		return nil, errors.Join(err, v.end())
	}
	v.listener = int(listener)
	return v, nil
}

// order has a loop repeated and returns the nanoseconds of one turn.
func (v *victim) order(l loop, turns int) (float64, error) {
	b := binary.LittleEndian.AppendUint64(nil, uint64(l))
	b = binary.LittleEndian.AppendUint64(b, uint64(turns)) // #nosec G115 -- a count
	if _, err := v.socket.Write(b); err != nil {
		return 0, err
	}
	took, err := v.answer()
	return float64(took) / float64(turns), err
}

func (v *victim) answer() (int64, error) {
	var b [8]byte
	if err := v.socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(v.socket, b[:]); err != nil {
		return 0, fmt.Errorf("the measured process does not answer: %w", err)
	}
	return int64(binary.LittleEndian.Uint64(b[:])), nil // #nosec G115 -- nanoseconds
}

// take copies the victim's listener.
func (v *victim) take() (int, error) {
	pidfd, err := unix.PidfdOpen(v.cmd.Process.Pid, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(pidfd)
	return unix.PidfdGetfd(pidfd, v.listener, 0)
}

// end closes the socket, which a victim takes for the end, and reaps it.
func (v *victim) end() error {
	err := v.socket.Close()
	if v.cmd.Process != nil {
		_ = v.cmd.Process.Kill() // it may have ended
		_ = v.cmd.Wait()         // killed, so never a success
	}
	return err
}
