package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/seccomp/compile"
	"github.com/cordonhq/cordon/supervisor/violation"
)

var programs = seccomp.NewCache("", compile.Compile)

func testLauncher(t *testing.T) *Launcher {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	l, err := New(Config{
		CgroupRoot: fmt.Sprintf("cordon-test-launch-%d", os.Getpid()), UIDBase: 1900200000, UIDCount: 64,
		RuntimeDir: t.TempDir(), Compile: programs.Program, Templates: 8,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func testPlan(t *testing.T, profile string, files []plan.File, argv ...string) *plan.Plan {
	t.Helper()
	p, err := profiles.Builtin(profile)
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := profiles.Resolve(profiles.Input{Profile: p, Ceiling: profiles.DefaultCeiling(), Argv: argv, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

// outcome is what became of one run.
type outcome struct {
	out        string
	exit       Exit
	violations []violation.Violation
	enforced   Enforced
}

// run starts a plan, collects its output and acts on violations as an owner
// does: it kills.
func run(t *testing.T, l *Launcher, p *plan.Plan) (outcome, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var o outcome
	var mu sync.Mutex
	kill := make(chan struct{}, 64)
	proc, err := l.Start(ctx, Request{
		Name: "t" + fmt.Sprint(time.Now().UnixNano()), Plan: p, Stdout: w, Stderr: w, KeepWalls: true,
		OnViolation: func(v violation.Violation) {
			mu.Lock()
			defer mu.Unlock()
			o.violations = append(o.violations, v)
			if contains(v.Action) {
				kill <- struct{}{}
			}
		},
	})
	w.Close()
	if err != nil {
		return o, err
	}
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		select {
		case <-kill:
			if err := proc.Kill(); err != nil {
				t.Error(err)
			}
		case <-proc.Done():
		}
	}()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	<-proc.Done()
	<-killed
	o.out, o.exit = string(data), proc.Exit()
	if o.enforced, err = proc.Enforced(); err != nil {
		t.Error(err)
	}
	if err := proc.Release(); err != nil {
		t.Error(err)
	}
	return o, nil
}

func TestShellRunsBehindEveryWall(t *testing.T) {
	l := testLauncher(t)
	o, err := run(t, l, testPlan(t, "shell", nil, "sh", "-c", "echo hello; id -u; ls /; cat /etc/passwd; touch /data/x && ls -la /data"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(o.out, "hello\n1000\n") || o.exit.Status.ExitStatus() != 0 {
		t.Errorf("status %v, output %s", o.exit.Status, o.out)
	}
	for _, v := range o.violations {
		t.Errorf("violation: %s", violation.Sentence(v))
	}
	for _, w := range o.enforced.Walls {
		if w.State != "enforced" {
			t.Errorf("%s: planned %q, actual %q, %s", w.Name, w.Planned, w.Actual, w.State)
		}
	}
}

func TestMissingCommandIsAnExecError(t *testing.T) {
	l := testLauncher(t)
	_, err := run(t, l, testPlan(t, "strict", nil, "/bin/true"))
	var exec *ExecError
	if !errors.As(err, &exec) || exec.Errno != syscall.ENOENT {
		t.Fatalf("got %v", err)
	}
}

func TestAttacksAreNamed(t *testing.T) {
	l := testLauncher(t)
	for _, c := range []struct {
		name, script string
		wall         violation.Wall
		what         string
	}{
		{"mount", "import ctypes; ctypes.CDLL(None).mount(b'none', b'/mnt', b'tmpfs', 0, 0)", violation.Seccomp, "mount"},
		{"memory", "b = []\nwhile True: b.append(b'x' * (1 << 20))", violation.Memory, "memory.max"},
		{"fork", "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", violation.Pids, "pids.max"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := testPlan(t, "python", nil, "python3", "-c", c.script)
			for i, r := range p.Rlimits { // the second wall would answer before the first
				if r.Name == "data" {
					p.Rlimits = append(p.Rlimits[:i], p.Rlimits[i+1:]...)
					break
				}
			}
			o, err := run(t, l, p)
			if err != nil {
				t.Fatal(err)
			}
			if len(o.violations) == 0 {
				t.Fatalf("no violation; status %v, output %s", o.exit.Status, o.out)
			}
			if len(o.violations) != 1 {
				t.Errorf("%d violations, want one: %v", len(o.violations), o.violations)
			}
			v := o.violations[0]
			if v.Wall != c.wall || v.What != c.what {
				t.Errorf("got %s", violation.Sentence(v))
			}
			t.Log(violation.Paragraph(v))
			if !o.exit.Status.Signaled() {
				t.Errorf("it went on: %v", o.exit.Status)
			}
		})
	}
}

// TestOldKernelsGiveNoMemfd: what allowed it refuses it, whatever its arguments,
// and what did not allow it still tells of it.
func TestOldKernelsGiveNoMemfd(t *testing.T) {
	one := []seccomp.Condition{{Index: 1, Op: seccomp.OpEqual, Value: 1}}
	for name, f := range map[string]seccomp.Filter{
		"by name":        {Rules: []seccomp.Rule{{Names: []string{"memfd_create", "read"}, Action: seccomp.ActAllow}}},
		"alone":          {Rules: []seccomp.Rule{{Names: []string{"memfd_create"}, Action: seccomp.ActLog}}},
		"by group":       {Rules: []seccomp.Rule{{Names: []string{"@ipc"}, Action: seccomp.ActAllow}}},
		"by an argument": {Rules: []seccomp.Rule{{Names: []string{"memfd_create"}, Args: one, Action: seccomp.ActAllow}}},
	} {
		for _, r := range withoutMemfd(f).Rules {
			names, err := seccomp.Expand(r.Names)
			if err != nil {
				t.Fatal(err)
			}
			if slices.Contains(names, "memfd_create") && (r.Action != seccomp.ActErrno || r.Errno != "ENOSYS" || r.Args != nil) {
				t.Errorf("%s: still %+v", name, r)
			}
		}
		if got := withoutMemfd(f); got.Rules[len(got.Rules)-1].Errno != "ENOSYS" {
			t.Errorf("%s: not refused: %+v", name, got)
		}
	}
	closed := seccomp.Filter{Rules: []seccomp.Rule{{Names: []string{"read"}, Action: seccomp.ActAllow}}}
	if got := withoutMemfd(closed); got.Digest() != closed.Digest() {
		t.Errorf("what did not allow it has changed: %+v", got)
	}
}

// staticTool builds the smallest static program of the C library.
func staticTool(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	source, tool := dir+"/tool.c", dir+"/tool"
	if err := os.WriteFile(source, []byte("int main(void) { return 7; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-static", "-o", tool, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return tool
}

func TestEveryBuiltinProfileIsEnforcedAsPlanned(t *testing.T) {
	l := testLauncher(t)
	tool := staticTool(t)
	for _, name := range profiles.BuiltinNames() {
		t.Run(name, func(t *testing.T) {
			files := []plan.File{{Path: "/tool", From: tool, Access: []string{"execute", "read_file"}}}
			o, err := run(t, l, testPlan(t, name, files, "/tool"))
			if err != nil {
				t.Fatal(err)
			}
			if o.exit.Status.ExitStatus() != 7 {
				t.Errorf("status %v, violations %v", o.exit.Status, o.violations)
			}
			if len(o.enforced.Walls) < 30 {
				t.Errorf("only %d walls were read back", len(o.enforced.Walls))
			}
			for _, w := range o.enforced.Walls {
				if w.State != "enforced" {
					t.Errorf("%s: planned %q, actual %q (%s)", w.Name, w.Planned, w.Actual, w.State)
				}
			}
		})
	}
}

// TestNothingIsLeftWhenAStartFails asks for what cannot be had, one after the
// other, and for a good start after them.
func TestNothingIsLeftWhenAStartFails(t *testing.T) {
	l := testLauncher(t)
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/shadow", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, want string }{
		{dir + "/fifo", "fifo"}, {dir + "/link", "symbolic link"}, {dir + "/gone", "no such file"},
	} {
		files := []plan.File{{Path: "/x", From: c.path, Access: []string{"read_file"}}}
		_, err := run(t, l, testPlan(t, "shell", files, "sh", "-c", "true"))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.path, err, c.want)
		}
	}
	p := testPlan(t, "shell", nil, "sh", "-c", "true")
	p.Process.Cwd = "/nowhere"
	if _, err := run(t, l, p); err == nil || !strings.Contains(err.Error(), "change to /nowhere (step ") {
		t.Errorf("got %v", err)
	}
	groups, err := l.tree.Sweep()
	if err != nil || len(groups) != 0 {
		t.Errorf("groups were left: %v, %v", groups, err)
	}
	if _, err := run(t, l, testPlan(t, "shell", nil, "sh", "-c", "true")); err != nil {
		t.Error(err)
	}
}

// TestOptionalGrantInsideAnother: the outer grant shows it where it exists.
func TestOptionalGrantInsideAnother(t *testing.T) {
	l := testLauncher(t)
	files := []plan.File{{Path: "/usr", From: "/usr", Access: []string{"execute", "read_file", "read_dir"}}}
	o, err := run(t, l, testPlan(t, "shell", files, "sh", "-c", "ls /usr/share >/dev/null && echo listed"))
	if err != nil || o.out != "listed\n" {
		t.Errorf("got %q, %v", o.out, err)
	}
}

// setIDs tries every call that can leave a file or directory with a set-id bit
// (raw: a library may choose another) and tells how each was answered.
const setIDs = `#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TRY(name, call) do { errno = 0; long r = call; printf("%s %d\n", name, r < 0 ? errno : 0); } while (0)
int main(void) {
	struct { unsigned long flags, mode, resolve; } how = {O_CREAT|O_WRONLY, 06755, 0};
	umask(0);
	int fd = open("/w/f", O_CREAT|O_RDWR, 0755);
	TRY("chmod", syscall(SYS_chmod, "/w/f", 04755));
	TRY("fchmod", syscall(SYS_fchmod, fd, 02755));
	TRY("fchmodat", syscall(SYS_fchmodat, AT_FDCWD, "/w/f", 06755));
	TRY("fchmodat2", syscall(452, AT_FDCWD, "/w/f", 04755, 0));
	TRY("open", syscall(SYS_open, "/w/open", O_CREAT|O_WRONLY, 04755));
	TRY("openat", syscall(SYS_openat, AT_FDCWD, "/w/openat", O_CREAT|O_WRONLY, 02755));
	TRY("tmpfile", syscall(SYS_openat, AT_FDCWD, "/w", O_TMPFILE|O_WRONLY, 04755));
	TRY("openat2", syscall(437, AT_FDCWD, "/w/openat2", &how, sizeof how));
	TRY("creat", syscall(SYS_creat, "/w/creat", 04755));
	TRY("mkdir", syscall(SYS_mkdir, "/w/mkdir", 02755));
	TRY("mkdirat", syscall(SYS_mkdirat, AT_FDCWD, "/w/mkdirat", 02755));
	TRY("mknod", syscall(SYS_mknod, "/w/mknod", S_IFREG|04755, 0));
	TRY("mknodat", syscall(SYS_mknodat, AT_FDCWD, "/w/mknodat", S_IFREG|02755, 0));
	TRY("plain", syscall(SYS_chmod, "/w/f", 01700));
	return 0;
}
`

// TestWritableGrantActsAsItsOwner: what the plugin makes belongs to the user
// whose directory it is, never to root or root's group, and so must not have a
// set-id bit: outside of the plugin's nosuid view anyone could run it.
func TestWritableGrantActsAsItsOwner(t *testing.T) {
	l := testLauncher(t)
	program := compiled(t, "setids", setIDs)
	const plainOnly = `chmod 1
fchmod 1
fchmodat 1
fchmodat2 1
open 1
openat 1
tmpfile 1
openat2 38
creat 1
mkdir 1
mkdirat 1
mknod 1
mknodat 1
plain 0
`
	for _, gid := range []int{1000, 0} {
		dir := t.TempDir()
		if err := os.Chown(dir, 1000, gid); err != nil {
			t.Fatal(err)
		}
		files := []plan.File{
			{Path: "/w", From: dir, Access: writeRights},
			{Path: "/setids", From: program, Access: []string{"execute", "read_file"}},
		}
		o, err := run(t, l, answeredPlan(t, "static", `"deny"`, files, "/setids"))
		if err != nil || o.out != plainOnly {
			t.Fatalf("gid %d: got %q, %v", gid, o.out, err)
		}
		if n := len(o.violations); n != 12 {
			t.Errorf("gid %d: %d violations, want one for each call but openat2: %v", gid, n, o.violations)
		}
		made, err := os.ReadDir(dir)
		if err != nil || len(made) != 1 {
			t.Errorf("gid %d: there is %v, %v; want f alone", gid, made, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(dir+"/f", &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid != 1000 || st.Gid == 0 || st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
			t.Errorf("gid %d: the file belongs to %d:%d, mode %o", gid, st.Uid, st.Gid, st.Mode)
		}
	}
	root := t.TempDir()
	_, err := run(t, l, testPlan(t, "shell", []plan.File{{Path: "/w", From: root, Access: writeRights}}, "sh", "-c", "true"))
	if err == nil || !strings.Contains(err.Error(), "belongs to root") {
		t.Errorf("a root-owned directory was granted for writing: %v", err)
	}
	if err := os.Chmod(root, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	_, err = run(t, l, testPlan(t, "shell", []plan.File{{Path: "/w", From: root, Access: writeRights}}, "sh", "-c", "true"))
	if err == nil || !strings.Contains(err.Error(), "anyone may write there") {
		t.Errorf("a directory to which everybody writes was granted for writing: %v", err)
	}
}

// TestFileWatchTellsRefusalsFromProbes: a read outside the grants is reported
// by its path; a listing that is granted, a missing file and a probe are not.
func TestFileWatchTellsRefusalsFromProbes(t *testing.T) {
	l := testLauncher(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/diary", []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := "ls /listed >/dev/null; cat /listed/gone /sys/devices/system/cpu/online 2>/dev/null; cat /listed/diary; cat /etc/shadow"
	profile, err := profiles.Builtin("shell")
	if err != nil {
		t.Fatal(err)
	}
	p, err := profiles.Resolve(profiles.Input{
		Profile: profile, Ceiling: profiles.DefaultCeiling(), Argv: []string{"sh", "-c", script}, Watch: true,
		Files: []plan.File{{Path: "/listed", From: dir, Access: []string{"read_dir"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	o, err := run(t, l, p)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, v := range o.violations {
		paths = append(paths, v.Path)
	}
	if got := strings.Join(paths, " "); got != "/listed/diary /etc/shadow" {
		t.Errorf("reported %q; output %s", got, o.out)
	}
	if strings.Contains(o.out, "secret") {
		t.Errorf("it was read: %s", o.out)
	}
}

// again executes itself anew by every path to an execve that it can think of:
// as it stands, with a path in page 0 (which it tries to map, by mmap, by mremap
// and at the end of a stack that grows down), with a null pointer, and execveat.
const again = `#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
static void tell(const char *what, long r) { printf("%s %d\n", what, r == -1 ? errno : 0); fflush(stdout); }
int main(int argc, char **argv) {
	char *args[] = {"/again", "again", 0}, *none[] = {0};
	if (argc > 1) { puts("executed again"); return 0; }
	tell("execve", syscall(SYS_execve, "/again", args, none));
	tell("map", (long)mmap(0, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED, -1, 0));
	void *page = mmap(0, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);
	strcpy(page, "/again");
	tell("remap", (long)mremap(page, 4096, 4096, MREMAP_MAYMOVE|MREMAP_FIXED, 0));
	for (long at = 1; at < 4096; at++) {
		long r = syscall(SYS_execve, at, args, none);
		if (r != -1 || errno != EFAULT) tell("page 0", r);
	}
	tell("null", syscall(SYS_execve, 0, args, none));
	tell("beyond", syscall(SYS_execve, 4096, args, none));
	tell("high", syscall(SYS_execve, 1L << 32, args, none));
	tell("execveat", syscall(SYS_execveat, AT_FDCWD, "/again", args, none, 0));
	return 0;
}
`

// TestExecveHappensOnce: the strict profile's program is executed, and nothing
// after it; every attempt is reported with its path, but those which the kernel
// refuses by itself.
func TestExecveHappensOnce(t *testing.T) {
	l := testLauncher(t)
	files := []plan.File{{Path: "/again", From: compiled(t, "again", again), Access: []string{"execute", "read_file"}}}
	o, err := run(t, l, answeredPlan(t, "strict", `"deny"`, files, "/again"))
	const want = "execve 1\nmap 1\nremap 1\nnull 14\nbeyond 1\nhigh 1\nexecveat 1\n"
	if err != nil || o.out != want {
		t.Errorf("got %q, %v", o.out, err)
	}
	if len(o.violations) != 4 {
		t.Fatalf("%d violations, want 4: %v", len(o.violations), o.violations)
	}
	v := o.violations[0]
	if v.Call != "execve" || v.Path != "/again" || !strings.Contains(v.Change, "execve = \"any\"") {
		t.Errorf("the first is %s: %+v", violation.Sentence(v), v)
	}
	if o, err = run(t, l, answeredPlan(t, "static", `"deny"`, files, "/again")); err != nil || o.out != "executed again\n" {
		t.Errorf("builtin:static: got %q, %v", o.out, err)
	}
}

// TestExecveOnceAtATime: launches that share the keeper's page do not take each
// other's path.
func TestExecveOnceAtATime(t *testing.T) {
	l := testLauncher(t)
	program := compiled(t, "again", again)
	var wg sync.WaitGroup
	for i := range 12 {
		at := fmt.Sprintf("/again%d", i)
		p := answeredPlan(t, "strict", `"deny"`, []plan.File{{Path: at, From: program, Access: []string{"execute", "read_file"}}}, at, "again")
		wg.Go(func() {
			if o, err := run(t, l, p); err != nil || o.out != "executed again\n" {
				t.Errorf("%s: got %q, %v", at, o.out, err)
			}
		})
	}
	wg.Wait()
}

// TestWhatTheFilterKillsIsNamed: nobody is asked before such a call, and of a
// child only its parent learns. Each must be a violation that names the call.
func TestWhatTheFilterKillsIsNamed(t *testing.T) {
	if deaths, err := seccomp.OpenDeaths(); err != nil {
		t.Skipf("needs the kernel's audit: %v", err)
	} else if err := deaths.Close(); err != nil {
		t.Fatal(err)
	}
	const (
		child = "import os, ctypes, signal\nif os.fork() == 0: ctypes.CDLL(None).syscall(%d)\nos.wait()\nsignal.alarm(30)\nsignal.pause()"
		first = "import ctypes; ctypes.CDLL(None).syscall(%d)"
		x32   = 0x40000000 + unix.SYS_GETPID
	)
	l := testLauncher(t)
	for name, c := range map[string]struct {
		script string
		nr     int
		what   string
	}{
		"a child's x32 call":       {child, x32, "call 39 of x32 programs"},
		"its own x32 call":         {first, x32, "call 39 of x32 programs"},
		"a child's, by a rule":     {child, unix.SYS_SWAPOFF, "swapoff"},
		"its own, by a rule":       {first, unix.SYS_SWAPOFF, "swapoff"},
		"a call of a number alone": {child, math.MaxInt32, "call 1073741823 of x32 programs"},
	} {
		t.Run(name, func(t *testing.T) {
			p := testPlan(t, "python", nil, "python3", "-c", fmt.Sprintf(c.script, c.nr))
			p.Seccomp.Rules = append(p.Seccomp.Rules, seccomp.Rule{Names: []string{"swapoff"}, Action: seccomp.ActKillProcess})
			o, err := run(t, l, p)
			if err != nil {
				t.Fatal(err)
			}
			if len(o.violations) != 1 {
				t.Fatalf("%d violations, want one: %v; %s", len(o.violations), o.violations, o.out)
			}
			v := o.violations[0]
			if v.Wall != violation.Seccomp || v.What != c.what || !v.Killed || v.Where.PID == 0 || !strings.Contains(v.Where.Exe, "python3") {
				t.Errorf("got %+v", v)
			}
			t.Log(violation.Paragraph(v))
		})
	}
}

// TestTheOwnerIsOfWhatWasOpened: who may rename what is granted could otherwise
// have the plugin write as another.
func TestTheOwnerIsOfWhatWasOpened(t *testing.T) {
	l := testLauncher(t)
	if _, err := run(t, l, testPlan(t, "shell", nil, "true")); err != nil {
		t.Fatal(err)
	}
	granted, other := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Chown(granted, 1000, 1000), os.Chown(other, 2000, 2000)); err != nil {
		t.Fatal(err)
	}
	m := namespaces.Mount{Path: "/w", From: granted, Writable: true}
	o, err := namespaces.OpenSource(m)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	m.From = other // as if it had been renamed since
	keeper, err := l.kept()
	if err != nil {
		t.Fatal(err)
	}
	s := &start{l: l, keeper: keeper, lease: &lease{uid: l.cfg.UIDBase}}
	if _, err := s.idmap(t.Context(), opened{o, m}); err != nil {
		t.Fatal(err)
	}
	ids := mapLine(1000, l.cfg.UIDBase)
	if l.users.held[ids+ids] == nil {
		t.Errorf("the plugin does not write as 1000, whose directory it is: %v", slices.Collect(maps.Keys(l.users.held)))
	}
}
