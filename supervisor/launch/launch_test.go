package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

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
		RuntimeDir: t.TempDir(), Compile: programs.Program,
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
		Name: "t" + fmt.Sprint(time.Now().UnixNano()), Plan: p, Stdout: w, Stderr: w,
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
		{"memory", "b = bytearray(1 << 32)\nfor i in range(0, len(b), 4096): b[i] = 1", violation.Memory, "memory.max"},
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
