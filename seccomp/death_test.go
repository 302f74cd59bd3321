package seccomp

import (
	"encoding/binary"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// record is a message as the kernel sends it: its length counts no header.
func record(kind uint16, text string) []byte {
	b := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(text))
	binary.NativeEndian.PutUint32(b, uint32(len(text)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	return append(b, text...)
}

const killedRecord = `audit(1795391455.574:292): auid=4294967295 uid=1900000000 gid=1900000000 ses=4294967295 subj=a (enforce) pid=16708 comm="x" exe="/plugin/x" sig=31 arch=c000003e syscall=39 compat=0 ip=0x7fd39055a829 code=0x80000000`

func TestDeathsAreReadFromTheirRecords(t *testing.T) {
	whole := Death{PID: 16708, UID: 1900000000, Arch: AuditArch, NR: 39, PC: 0x7fd39055a829, Exe: "/plugin/x"}
	for name, c := range map[string]struct {
		from, to string // replaced in the record
		want     func(*Death)
		call     string
	}{
		"as it is":         {call: "getpid"},
		"a thread alone":   {from: "0x80000000", to: "0x0", call: "getpid"},
		"an i386 call":     {"arch=c000003e syscall=39", "arch=40000003 syscall=20", func(d *Death) { d.Arch, d.NR = archI386, 20 }, "call 20 of 32 bit programs (i386)"},
		"an x32 call":      {"syscall=39", "syscall=1073741863", func(d *Death) { d.NR = 1073741863 }, "call 39 of x32 programs"},
		"an ARM call":      {"arch=c000003e", "arch=c00000b7", func(d *Death) { d.Arch = 0xc00000b7 }, "call 39 of another architecture (0xc00000b7)"},
		"a name with more": {`"/plugin/x"`, "2F6120756964", func(d *Death) { d.Exe = "/a uid" }, "getpid"},
		"a terminal's":     {`"/plugin/x"`, "1B5B326A", func(d *Death) { d.Exe = `\x1b[2j` }, "getpid"},
		"nameless":         {`"/plugin/x"`, "(null)", func(d *Death) { d.Exe = "" }, "getpid"},
		"a lie":            {`comm="x"`, `comm="x" uid=0`, nil, "getpid"}, // a name with a space is never written so
	} {
		want := whole
		if c.want != nil {
			c.want(&want)
		}
		got, ok := parseDeath(record(auditSeccomp, strings.Replace(killedRecord, c.from, c.to, 1)))
		if !ok || got != want || got.Call() != c.call {
			t.Errorf("%s: %+v %q %t, want %+v %q", name, got, got.Call(), ok, want, c.call)
		}
	}
	for name, message := range map[string][]byte{
		"only logged":   record(auditSeccomp, strings.Replace(killedRecord, "0x80000000", "0x7ffc0000", 1)),
		"another type":  record(1300, killedRecord),
		"no uid":        record(auditSeccomp, strings.Replace(killedRecord, " uid=", " u=", 1)),
		"a uid too big": record(auditSeccomp, strings.Replace(killedRecord, "uid=1900000000", "uid=4294967296", 1)),
		"no number":     record(auditSeccomp, strings.Replace(killedRecord, "syscall=39", "syscall=x", 1)),
		"cut off":       record(auditSeccomp, killedRecord)[:15],
		"nothing":       nil,
	} {
		if d, ok := parseDeath(message); ok {
			t.Errorf("%s is taken for %+v", name, d)
		}
	}
}

func FuzzParseDeath(f *testing.F) {
	f.Add(record(auditSeccomp, killedRecord))
	f.Fuzz(func(t *testing.T, message []byte) {
		d, ok := parseDeath(message)
		if !ok {
			return
		}
		if strings.ContainsFunc(d.Call()+d.Exe, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%q %q could move a terminal's cursor", d.Call(), d.Exe)
		}
	})
}

// TestTheKernelTellsOfDeaths has a child killed by a filter of its own, and
// reads that from the kernel.
func TestTheKernelTellsOfDeaths(t *testing.T) {
	if os.Getenv("CORDON_TEST_KILLED") != "" {
		killMyself()
	}
	deaths, err := OpenDeaths()
	if err != nil {
		t.Skipf("needs CAP_AUDIT_READ in the first namespaces, and CONFIG_AUDIT: %v", err)
	}
	if err := deaths.file.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestTheKernelTellsOfDeaths$")
	cmd.Env = append(os.Environ(), "CORDON_TEST_KILLED=1")
	if err := cmd.Run(); err == nil {
		t.Fatal("the child lived")
	}
	for {
		d, err := deaths.Next()
		if err != nil {
			t.Fatal(err)
		}
		if d.PID != cmd.Process.Pid {
			continue // somebody else's on this machine
		}
		if d.Call() != "swapoff" || !d.Native() || d.Exe != self || int(d.UID) != os.Geteuid() {
			t.Errorf("got %+v (%s)", d, d.Call())
		}
		break
	}
	if err := deaths.Close(); err != nil {
		t.Error(err)
	}
	if _, err := deaths.Next(); err == nil {
		t.Error("a death after the end")
	}
}

// killMyself kills itself by a filter on a call that nobody makes.
func killMyself() {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_SWAPOFF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) // the parent sees that nobody was killed
	_ = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
	_, _, _ = unix.Syscall(unix.SYS_SWAPOFF, 0, 0, 0)
	os.Exit(0)
}
