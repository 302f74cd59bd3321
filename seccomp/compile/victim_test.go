package compile

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/seccomp"
)

// A victim is this test binary again: it loads a program on one of its threads
// as the launcher does, hands the listener over, really makes the calls it was
// told and reports what it got, all by raw system calls.

// victimCall is one call. Data are bytes whose address takes the place of an
// argument; Int80 makes it by the gate of i386.
type victimCall struct {
	NR    uint64         `json:"nr"`
	Args  [6]uint64      `json:"args"`
	Data  map[int][]byte `json:"data,omitempty"`
	Int80 bool           `json:"int80,omitempty"`
}

// result is what a call gave.
type result struct {
	Value uint64
	Errno syscall.Errno
}

const victimEnv = "CORDON_TEST_VICTIM"

func TestMain(m *testing.M) {
	if calls := os.Getenv(victimEnv); calls != "" {
		victim(calls)
	}
	os.Exit(m.Run())
}

// victim never returns. Descriptor 3 is the program, 4 the socket to the test.
func victim(calls string) {
	runtime.LockOSThread()
	var todo []victimCall
	if err := json.Unmarshal([]byte(calls), &todo); err != nil {
		victimFails("cannot read the calls", err)
	}
	program, err := io.ReadAll(os.NewFile(3, "program"))
	if err != nil {
		victimFails("cannot read the program", err)
	}
	for i, c := range todo {
		for arg, data := range c.Data {
			todo[i].Args[arg] = uint64(uintptr(place(data)))
		}
	}
	gate, err := int80Gate()
	if err != nil {
		victimFails("cannot make the gate", err)
	}
	out := make([]byte, 16*len(todo))
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		victimFails("cannot set no_new_privs", err)
	}
	prog := unix.SockFprog{Len: uint16(len(program) / instructionSize), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))}
	if errno := perform(todo, &prog, gate, out); errno != 0 {
		victimFails("cannot load the program", errno)
	}
	unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
}

// place copies data to the end of a page that no other follows.
func place(data []byte) unsafe.Pointer {
	size := (len(data) + 4095) / 4096 * 4096
	mem, err := unix.Mmap(-1, 0, size+4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		victimFails("cannot map", err)
	}
	if err := unix.Mprotect(mem[size:], unix.PROT_NONE); err != nil {
		victimFails("cannot protect", err)
	}
	copy(mem[size-len(data):], data)
	return unsafe.Pointer(&mem[size-len(data)])
}

func victimFails(what string, err error) {
	fmt.Fprintln(os.Stderr, "victim:", what+":", err)
	os.Exit(99)
}

// perform loads the program on this thread and does everything that is behind
// the filter, with read and write to the test. It is one function without a
// stack check: at a check the runtime may take the goroutine away, on a slow
// machine it does, and the calls that it makes for that are the filter's, too.
//
//go:nosplit
func perform(todo []victimCall, prog *unix.SockFprog, gate func(), out []byte) syscall.Errno {
	listener, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(prog)))
	if errno != 0 {
		return errno
	}
	number := uint32(listener)
	unix.RawSyscall(unix.SYS_WRITE, 4, uintptr(unsafe.Pointer(&number)), 4)
	unix.RawSyscall(unix.SYS_READ, 4, uintptr(unsafe.Pointer(&number)), 1)
	unix.RawSyscall(unix.SYS_CLOSE, listener, 0, 0) // the test has its own
	for i := range todo {
		c := &todo[i]
		if c.Int80 {
			gate()
			continue
		}
		value, _, errno := unix.RawSyscall6(uintptr(c.NR), uintptr(c.Args[0]), uintptr(c.Args[1]), uintptr(c.Args[2]),
			uintptr(c.Args[3]), uintptr(c.Args[4]), uintptr(c.Args[5]))
		binary.LittleEndian.PutUint64(out[16*i:], uint64(value))
		binary.LittleEndian.PutUint64(out[16*i+8:], uint64(errno))
	}
	unix.RawSyscall(unix.SYS_WRITE, 4, uintptr(unsafe.Pointer(&out[0])), uintptr(len(out)))
	return 0
}

// int80Gate is a function that calls getpid of i386: mov eax, 20; int 0x80;
// ret.
func int80Gate() (func(), error) {
	code, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	copy(code, []byte{0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3})
	entry := &code[0]
	holder := &entry // a Go function value points to its entry's address
	return *(*func())(unsafe.Pointer(&holder)), nil
}

// running is a victim as the test sees it.
type running struct {
	cmd      *exec.Cmd
	socket   *os.File
	listener int
	calls    int
}

// start starts a victim that waits, its listener taken.
func start(t *testing.T, f seccomp.Filter, calls ...victimCall) *running {
	t.Helper()
	program, err := Compile(f)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	todo, err := json.Marshal(calls)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+string(todo), "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	cmd.Dir = "/tmp"
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{read, theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = ours.Close()
	})
	if _, err := write.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(write.Close(), read.Close(), theirs.Close()); err != nil {
		t.Fatal(err)
	}
	var number [4]byte
	if _, err := io.ReadFull(ours, number[:]); err != nil {
		t.Fatalf("the victim did not load the program: %v", err)
	}
	return &running{cmd: cmd, socket: ours, calls: len(calls), listener: take(t, cmd.Process.Pid, int(binary.LittleEndian.Uint32(number[:])))}
}

// take copies a descriptor of the victim.
func take(t *testing.T, pid, fd int) int {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	taken, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

// serve gives the victim's listener away.
func (r *running) serve(t *testing.T, l *seccomp.Listener, h seccomp.Handler) (remove func()) {
	t.Helper()
	remove, err := l.Add(r.listener, h)
	if err := errors.Join(err, unix.Close(r.listener)); err != nil {
		t.Fatal(err)
	}
	return remove
}

// release lets the victim make its calls.
func (r *running) release(t *testing.T) {
	t.Helper()
	if _, err := r.socket.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
}

// results waits for what the calls gave.
func (r *running) results(t *testing.T) []result {
	t.Helper()
	b := make([]byte, 16*r.calls)
	if _, err := io.ReadFull(r.socket, b); err != nil {
		t.Fatalf("the victim ended: %v: %v", err, r.cmd.Wait())
	}
	var out []result
	for ; len(b) > 0; b = b[16:] {
		out = append(out, result{binary.LittleEndian.Uint64(b), syscall.Errno(binary.LittleEndian.Uint64(b[8:]))})
	}
	return out
}

// signal waits for the victim's end and returns what killed it, or 0.
func (r *running) signal(t *testing.T) syscall.Signal {
	t.Helper()
	err := r.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	status, ok := r.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return 0
	}
	return status.Signal()
}

// listen is a listener that the test closes.
func listen(t *testing.T) *seccomp.Listener {
	t.Helper()
	l, err := seccomp.NewListener()
	if err != nil {
		t.Fatal(err)
	}
	l.OnFault(func(err error) { t.Errorf("fault: %v", err) })
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}
