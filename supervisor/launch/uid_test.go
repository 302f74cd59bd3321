package launch

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUidOfWhatStillDies: a uid whose lock is free, for its keeper was killed, and
// as which a process is left, also one that nobody has reaped, is nobody's yet.
func TestUidOfWhatStillDies(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: to run as another uid")
	}
	const base = 1900209000 // no other test's
	dir := t.TempDir()
	for _, offset := range []uint32{0, 1} { // the plugin, and its reaper
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: base + offset, Gid: base}, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if l, err := leaseUID(dir, base, 8, base); !errors.Is(err, errUIDTaken) {
			t.Errorf("while uid %d runs: %v, %v", base+offset, l, err)
		}
		if other, err := leaseUID(dir, base, 8, base+2); err != nil {
			t.Errorf("another: %v", err)
		} else if err := other.release(); err != nil {
			t.Error(err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil { // it has ended, and is not reaped
			t.Fatal(err)
		}
		if l, err := leaseUID(dir, base, 8, base); !errors.Is(err, errUIDTaken) {
			t.Errorf("while uid %d is not reaped: %v, %v", base+offset, l, err)
		}
		_ = cmd.Wait()
		l, err := leaseUID(dir, base, 8, base)
		if err != nil {
			t.Fatalf("when uid %d has gone: %v", base+offset, err)
		}
		if err := l.release(); err != nil {
			t.Error(err)
		}
	}
}
