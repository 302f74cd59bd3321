package launch

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// TestADirectoryIsNoStandardStream: from one the host's tree could be walked.
func TestADirectoryIsNoStandardStream(t *testing.T) {
	l := testLauncher(t)
	dir, err := os.Open("/etc")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, r := range []Request{{Stdin: dir}, {Stdout: dir}, {Stderr: dir}, {Socket: dir}} {
		r.Name, r.Plan = "directory", testPlan(t, "shell", nil, "true")
		if _, err := l.Start(t.Context(), r); err == nil || !strings.Contains(err.Error(), "is a directory") {
			t.Errorf("got %v", err)
		}
	}
}

// TestAGrantedFileInsideAGrantedTree: a profile names the file, a flag the tree.
func TestAGrantedFileInsideAGrantedTree(t *testing.T) {
	l := testLauncher(t)
	rights := []string{"execute", "read_file", "read_dir"}
	files := []plan.File{
		{Path: "/usr", From: "/usr", Access: rights},
		{Path: "/usr/bin/env", From: "/usr/bin/env", Access: rights, Optional: true},
	}
	o, err := run(t, l, testPlan(t, "static", files, "/usr/bin/env", "echo", "ran"))
	if err != nil || o.out != "ran\n" {
		t.Errorf("got %q, %v", o.out, err)
	}
}

// TestAFailedStartEndsWhatItsGroupHolds: the uid is free only after that.
func TestAFailedStartEndsWhatItsGroupHolds(t *testing.T) {
	l := testLauncher(t)
	s := &start{l: l, r: Request{Name: "failed", Plan: testPlan(t, "shell", nil, "true")}}
	if err := s.claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	for _, dir := range s.group.Paths() {
		if err := os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.fail.run(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("it ended by itself: %v", cmd.ProcessState)
	}
	lease, err := leaseUID(l.cfg.RuntimeDir, l.cfg.UIDBase, l.cfg.UIDCount, s.lease.uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.release(); err != nil {
		t.Error(err)
	}
}

// TestNoReportAfterDone: also where the time is up as the plugin ends.
func TestNoReportAfterDone(t *testing.T) {
	l := testLauncher(t)
	p := testPlan(t, "shell", nil, "sleep", "1000")
	p.Time.Wall = time.Nanosecond
	started, told := make(chan *Process, 1), make(chan struct{})
	proc, err := l.Start(t.Context(), Request{Name: "late", Plan: p, OnViolation: func(violation.Violation) {
		defer close(told)
		proc := <-started
		if err := proc.Kill(); err != nil { // it ends while this report is on the way
			t.Error(err)
		}
		<-proc.child.Done()
		select {
		case <-proc.Done():
			t.Error("it is done while its report is on the way")
		case <-time.After(100 * time.Millisecond): // nothing to wait for: the order is right
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	started <- proc
	<-told
	<-proc.Done()
	if err := proc.Release(); err != nil {
		t.Error(err)
	}
}

// TestKeeperOutlivesALaunchOutOfMemory: a plugin in the making stands in its
// group already; what kills it there must not kill the keeper.
func TestKeeperOutlivesALaunchOutOfMemory(t *testing.T) {
	l := testLauncher(t)
	first, err := run(t, l, testPlan(t, "shell", nil, "true"))
	if err != nil || first.exit.Status.ExitStatus() != 0 {
		t.Fatalf("a plain start: %v, %v", err, first.exit.Status)
	}
	keeper := l.keeper.PID()
	p := testPlan(t, "shell", nil, "true")
	page := int64(4096)
	p.Limits.MemoryMax = &page
	if o, err := run(t, l, p); err == nil && o.exit.Status.ExitStatus() == 0 {
		t.Errorf("it ran in one page of memory: %v", o.exit.Status)
	}
	again, err := run(t, l, testPlan(t, "shell", nil, "true"))
	if err != nil || again.exit.Status.ExitStatus() != 0 {
		t.Errorf("a start after it: %v, %v", err, again.exit.Status)
	}
	if now := l.keeper.PID(); now != keeper {
		t.Errorf("the keeper is process %d, and was %d", now, keeper)
	}
}

// TestAGrantedTreeIsNoWayToAService: connecting wants no more than write
// permission on the socket, which its mode may give to everybody; neither the
// network namespace nor a read-only mount is asked.
func TestAGrantedTreeIsNoWayToAService(t *testing.T) {
	l := testLauncher(t)
	dir := t.TempDir()
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	service, err := net.Listen("unix", filepath.Join(dir, "service"))
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	if err := os.Chmod(filepath.Join(dir, "service"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("read"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`
import socket
print(open(%q).read())
try: socket.socket(socket.AF_UNIX).connect(%q); print("connected")
except OSError as e: print("errno", e.errno)
`, dir+"/file", dir+"/service")
	p := testPlan(t, "python", []plan.File{{Path: dir, From: dir, Access: []string{"read_file", "read_dir"}}}, "python3", "-c", script)
	p.Seccomp.Rules = append(p.Seccomp.Rules, seccomp.Rule{Names: []string{"socket", "connect"}, Action: seccomp.ActAllow})
	o, err := run(t, l, p)
	if err != nil || o.out != "read\nerrno 13\n" {
		t.Errorf("got %q, %v, violations %v; want the file read and the connection refused", o.out, err, o.violations)
	}
}
