package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// actEnv makes the test binary the command itself.
const actEnv = "CORDON_VM_ACT"

func TestMain(m *testing.M) {
	if os.Getenv(actEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// fakeQEMU says by a file that the guest is up, and never ends by itself. What
// is tried with KVM says nothing.
const fakeQEMU = `#!/bin/sh
case "$*" in *accel?tcg*) echo $$ >%[1]s.new && mv %[1]s.new %[1]s ;; esac
exec sleep 1000
`

// TestInterruptLeavesNothing interrupts a run in the middle of a guest's: the
// guest has ended when the command has, and of its files only those are there
// that the next run uses, and the logs.
func TestInterruptLeavesNothing(t *testing.T) {
	if _, err := closure(t.Context()); err != nil {
		t.Skipf("skipped: %v", err)
	}
	dir := t.TempDir()
	up := filepath.Join(dir, "up")
	work := filepath.Join(dir, "vm")
	kernel := filepath.Join(work, "kernel-6.1")
	if err := errors.Join(
		os.Mkdir(filepath.Join(dir, "bin"), 0o755),
		os.WriteFile(filepath.Join(dir, "bin", "qemu-system-x86_64"), fmt.Appendf(nil, fakeQEMU, up), 0o755),
		os.MkdirAll(kernel+"/modules", 0o755), os.WriteFile(kernel+"/vmlinuz", nil, 0o600),
		os.WriteFile(kernel+"/release", []byte("6.1\n"+keptAs()), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-kernel", "6.1", "-tier", "cordon/cgroups", "-dir", work)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), actEnv+"=1", "PATH="+dir+"/bin:"+os.Getenv("PATH"))
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	pid := awaitGuest(t, up, ended, &said)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		t.Fatal("it does not end")
	}
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(said.String(), "interrupted") {
		t.Errorf("it ended with %v and said %s", cmd.ProcessState, said.String())
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the guest is still there: %v", err)
	}
	entries, err := os.ReadDir(work)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains([]string{"kernel-6.1", "recipes"}, e.Name()) && filepath.Ext(e.Name()) != ".log" {
			t.Errorf("%s was left", e.Name())
		}
	}
}

// awaitGuest gives the process of the guest once it is up.
func awaitGuest(t *testing.T, up string, ended <-chan error, said *strings.Builder) (pid int) {
	t.Helper()
	const patience = 10 * time.Minute // the tests are built first
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		select {
		case err := <-ended:
			t.Fatalf("it ended before a guest was up: %v: %s", err, said.String())
		case <-tick.C:
		}
		if text, err := os.ReadFile(up); err == nil {
			if _, err := fmt.Sscan(string(text), &pid); err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("no guest came up")
	return 0
}
