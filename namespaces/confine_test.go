package namespaces

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// keptCaps are what the keeper's work takes; keeper/confine.c says for what.
var keptCaps = []int{
	unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_CHOWN, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL,
	unix.CAP_SYS_PTRACE, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP, unix.CAP_SETFCAP, unix.CAP_NET_ADMIN,
	unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_MKNOD, unix.CAP_SYS_RAWIO, unix.CAP_SYS_RESOURCE,
}

// The keeper is root for ever: it has a filter, and no capability beyond its
// work, which it could not get back by executing something either.
func TestKeeperStandsBehindWallsOfItsOwn(t *testing.T) {
	k := testKeeper(t)
	if out, _, err := testLaunch(t, k, testView("sh", "-c", "echo up")); err != nil || out != "up\n" {
		t.Fatalf("launch = %q, %v", out, err) // it has prepared itself
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", k.PID()))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(lineOf(string(b), "Seccomp:")); got != "2" {
		t.Errorf("Seccomp = %q, want a filter", got)
	}
	for _, set := range []string{"CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:"} {
		have, err := strconv.ParseUint(strings.TrimSpace(lineOf(string(b), set)), 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 64 {
			if have&(1<<n) != 0 && !slices.Contains(keptCaps, n) {
				t.Errorf("%s has capability %d, which its work does not take", set, n)
			}
		}
	}
}

// refusals tells, one a line, the errno of calls that root may make.
const refusals = `
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	static const int calls[] = {SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_kexec_file_load,
		SYS_reboot, SYS_bpf, SYS_iopl, SYS_ioperm, SYS_open_by_handle_at, SYS_swapon, SYS_swapoff, SYS_acct, SYS_vhangup,
		SYS_settimeofday, SYS_clock_settime};
	for (unsigned i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		/* arguments with which none does anything, whoever calls */
		long ret = syscall(calls[i], -1, -1, -1, -1, -1);
		printf("%d ", ret < 0 ? errno : 0);
	}
	printf("%d\n", kill(atoi(argv[1]), 0) ? errno : 0);
	return argc != 2;
}
`

// What the keeper makes is born behind its walls: the calls by which root
// changes the kernel are not there, and nobody else can be signalled.
func TestKeeperCannotChangeTheKernel(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("skipped: needs gcc")
	}
	k := testKeeper(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "refusals")
	if err := os.WriteFile(program+".c", []byte(refusals), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-static", "-o", program, program+".c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// Nothing but the keeper's own walls: root, in the host's namespaces.
	c, err := k.Launch(t.Context(), Launch{
		Steps: []Step{
			{Op: OpFD, File: 0, A: 1, Text: "give output"},
			{Op: OpExec, File: NoFile, Paths: []string{program}, Args: []string{program, strconv.Itoa(os.Getpid())}, Text: "execute"},
		},
		Files: []*os.File{w}, CgroupFile: NoFile, NetNSFile: NoFile, ReaperUID: 1900000001, ReaperGID: 1900000001,
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var out [512]byte
	n, _ := r.Read(out[:]) // nothing is told below
	<-c.Done()
	if err := c.Forget(); err != nil {
		t.Error(err)
	}
	told := strings.Fields(string(out[:n]))
	if len(told) != 17 {
		t.Fatalf("told %q", out[:n])
	}
	for i, errno := range told[:16] {
		if errno != strconv.Itoa(int(unix.ENOSYS)) {
			t.Errorf("call %d = errno %s, want ENOSYS", i, errno)
		}
	}
	if LandlockABI() >= 6 && told[16] != strconv.Itoa(int(unix.EPERM)) {
		t.Errorf("signalling a process that is no plugin = errno %s, want EPERM", told[16])
	}
}
