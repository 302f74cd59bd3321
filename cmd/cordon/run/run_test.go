package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// fakeProcess ends when it is killed or signalled, or by itself if it was made
// with an end.
type fakeProcess struct {
	done    chan struct{}
	exit    launch.Exit
	did     []string
	ended   bool
	release error
}

func newFakeProcess() *fakeProcess { return &fakeProcess{done: make(chan struct{})} }

// end ends it; the first end stands.
func (p *fakeProcess) end(status syscall.WaitStatus) {
	if p.ended {
		return
	}
	p.ended = true
	p.exit = launch.Exit{Status: status, Duration: 5, Usage: cgroups.Usage{PidsCurrent: -1}}
	close(p.done)
}

func (p *fakeProcess) Done() <-chan struct{} { return p.done }
func (p *fakeProcess) Exit() launch.Exit     { return p.exit }
func (p *fakeProcess) PlanDigest() string    { return "sha256:plan" }

func (p *fakeProcess) Kill() error {
	p.did = append(p.did, "kill")
	p.end(syscall.WaitStatus(syscall.SIGKILL))
	return nil
}

func (p *fakeProcess) Signal(sig syscall.Signal) error {
	p.did = append(p.did, sig.String())
	return nil
}

func (p *fakeProcess) Enforced() (launch.Enforced, error) {
	return launch.Enforced{Walls: []launch.Wall{{Name: "seccomp", State: "enforced"}}}, nil
}

func (p *fakeProcess) Release() error {
	p.did = append(p.did, "release")
	return p.release
}

// fakeStarter gives out one process, or fails; begin runs once it started.
type fakeStarter struct {
	p      *fakeProcess
	err    error
	begin  func(launch.Request)
	wait   bool // until the start is given up
	closed int
}

func (s *fakeStarter) start(ctx context.Context, r launch.Request) (process, error) {
	if s.wait {
		<-ctx.Done()
		return nil, fmt.Errorf("cannot start: %w", ctx.Err())
	}
	if s.err != nil {
		return nil, s.err
	}
	if s.begin != nil {
		s.begin(r)
	}
	return s.p, nil
}

func (s *fakeStarter) close() error {
	s.closed++
	return nil
}

// try runs a session over s and returns its status, standard error and report.
func try(t *testing.T, s *fakeStarter, o Options, signals chan os.Signal) (status int, stderr string, report []byte) {
	t.Helper()
	o.Argv = []string{"/bin/tool"}
	o.Report = filepath.Join(t.TempDir(), "report")
	r, err := CreateReport(o.Report)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p := &plan.Plan{Profile: "strict"}
	status = newSession(&o, p, r, &out).run(func() (starter, error) { return s, nil }, signals)
	if s.closed != 1 {
		t.Errorf("the launcher was closed %d times", s.closed)
	}
	report, err = os.ReadFile(o.Report)
	if err != nil {
		t.Fatal(err)
	}
	return status, strings.ReplaceAll(out.String(), o.Report, "REPORT"), report
}

// last is the result line of a report.
func last(t *testing.T, report []byte) *Result {
	t.Helper()
	_, r, err := ReadReport(bytes.NewReader(report))
	if err != nil || r == nil {
		t.Fatalf("cannot read the report back: %v\n%s", err, report)
	}
	return r
}

func TestStatusOfTheCommand(t *testing.T) {
	for status, want := range map[syscall.WaitStatus]int{0: 0, 7 << 8: 7, 255 << 8: 255, 9: 137, 15: 143, 11 | 0x80: 139} {
		s := &fakeStarter{p: newFakeProcess()}
		s.begin = func(launch.Request) { s.p.end(status) }
		got, stderr, report := try(t, s, Options{}, nil)
		r := last(t, report)
		if got != want || r.Status != want || stderr != "" {
			t.Errorf("wait status %#x: got %d (report %d), want %d; stderr %q", uint32(status), got, r.Status, want, stderr)
		}
		if status.Exited() != (r.ExitCode != nil) || status.Signaled() != (r.Signal != "") {
			t.Errorf("wait status %#x: the report has exit code %v, signal %q", uint32(status), r.ExitCode, r.Signal)
		}
		if len(r.Walls) != 1 || r.Usage == nil || r.Duration != 5 || r.PlanDigest != "sha256:plan" {
			t.Errorf("the result is not whole: %+v", r)
		}
	}
}

func TestStatusWithoutACommand(t *testing.T) {
	tests := []struct {
		err  error
		want int
	}{
		{&launch.ExecError{Path: "/bin/tool", Errno: syscall.ENOENT}, 127},
		{fmt.Errorf("wrapped: %w", &launch.ExecError{Path: "/bin/tool", Errno: syscall.EACCES}), 126},
		{&launch.ExecError{Path: "/bin/tool", Errno: syscall.ENOEXEC}, 126},
		{errors.New("no memory"), 125},
	}
	for _, tt := range tests {
		got, stderr, report := try(t, &fakeStarter{err: tt.err}, Options{}, nil)
		if got != tt.want || !strings.HasPrefix(stderr, "cordon: cannot run /bin/tool: ") {
			t.Errorf("%v: status %d, want %d; stderr %q", tt.err, got, tt.want, stderr)
		}
		if r := last(t, report); r.Error == "" || r.Status != tt.want {
			t.Errorf("%v: the report says %+v", tt.err, r)
		}
	}
}

func TestViolationEndsTheRun(t *testing.T) {
	v := violation.Violation{Wall: violation.Seccomp, What: "mount", Call: "mount", Args: []string{`"none"`}, Action: violation.Quarantine}
	s := &fakeStarter{p: newFakeProcess()}
	s.begin = func(r launch.Request) { r.OnViolation(v) }
	status, stderr, report := try(t, s, Options{}, nil)
	if status != 137 || strings.Join(s.p.did, " ") != "kill release" {
		t.Errorf("status %d, did %v", status, s.p.did)
	}
	want := "cordon: seccomp refused mount(\"none\"); the plugin was killed\nhint: cordon why REPORT\n"
	if stderr != want {
		t.Errorf("stderr\n got %q\nwant %q", stderr, want)
	}
	var line map[string]any
	if err := json.Unmarshal(report[:bytes.IndexByte(report, '\n')], &line); err != nil {
		t.Fatal(err)
	}
	if line["kind"] != "violation" || line["action"] != "kill" || line["change"] != "[seccomp]\nallow = [\"mount\"]\n" {
		t.Errorf("the violation's line: %v", line)
	}
}

// TestViolationIsNotHidden: the command's first process may have ended well
// before the violation of another was told.
func TestViolationIsNotHidden(t *testing.T) {
	s := &fakeStarter{p: newFakeProcess()}
	s.begin = func(r launch.Request) {
		s.p.end(0)
		r.OnViolation(violation.Violation{Wall: violation.Memory, Action: violation.Kill})
	}
	if status, _, _ := try(t, s, Options{}, nil); status != 137 {
		t.Errorf("status %d, want 137", status)
	}
}

func TestDeniedGoesOn(t *testing.T) {
	s := &fakeStarter{p: newFakeProcess()}
	s.begin = func(r launch.Request) {
		for range 3 * maxQueued {
			r.OnViolation(violation.Violation{Wall: violation.Files, Path: "/etc/x", Access: "read", Action: violation.Deny})
		}
		s.p.end(3 << 8)
	}
	status, stderr, report := try(t, s, Options{}, nil)
	r := last(t, report)
	if status != 3 || r.Violations != 3*maxQueued || strings.Join(s.p.did, " ") != "release" {
		t.Errorf("status %d, %d violations, did %v", status, r.Violations, s.p.did)
	}
	if n := strings.Count(stderr, "the files wall refused"); n != maxShown {
		t.Errorf("%d sentences printed, want %d", n, maxShown)
	}
	if written := bytes.Count(report, []byte(`"kind":"violation"`)); written+r.Unreported != r.Violations {
		t.Errorf("%d written and %d unreported are not %d", written, r.Unreported, r.Violations)
	}
}

func TestExplainPrintsTheParagraph(t *testing.T) {
	s := &fakeStarter{p: newFakeProcess()}
	s.begin = func(r launch.Request) {
		r.OnViolation(violation.Violation{Wall: violation.Seccomp, Call: "mount", Action: violation.Kill})
	}
	_, stderr, _ := try(t, s, Options{Explain: true}, nil)
	if !strings.Contains(stderr, "To allow it, add to the profile:\n    [seccomp]\n") {
		t.Errorf("stderr %q", stderr)
	}
}

func TestTimeout(t *testing.T) {
	s := &fakeStarter{p: newFakeProcess()}
	status, stderr, report := try(t, s, Options{Timeout: 1}, nil)
	if r := last(t, report); status != 124 || !r.TimedOut || r.Signal != "SIGKILL" {
		t.Errorf("status %d, result %+v", status, r)
	}
	if !strings.Contains(stderr, "killed /bin/tool after 1ns (--timeout)") {
		t.Errorf("stderr %q", stderr)
	}
}

func TestTimeoutDuringTheStart(t *testing.T) {
	if status, _, _ := try(t, &fakeStarter{wait: true}, Options{Timeout: 1}, nil); status != 124 {
		t.Errorf("status %d, want 124", status)
	}
}

func TestSignals(t *testing.T) {
	s := &fakeStarter{p: newFakeProcess()}
	signals := make(chan os.Signal, 2)
	s.begin = func(launch.Request) { signals <- syscall.SIGTERM; signals <- syscall.SIGINT }
	status, _, _ := try(t, s, Options{}, signals)
	if got := strings.Join(s.p.did, " "); status != 137 || got != "terminated kill release" {
		t.Errorf("status %d, did %s", status, got)
	}
}

func TestSignalDuringTheStart(t *testing.T) {
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	status, stderr, _ := try(t, &fakeStarter{wait: true}, Options{}, signals)
	if status != 143 || !strings.Contains(stderr, "interrupted before it started") {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
}

func TestReleaseThatFails(t *testing.T) {
	s := &fakeStarter{p: newFakeProcess()}
	s.p.release = errors.New("cannot remove the group")
	s.begin = func(launch.Request) { s.p.end(0) }
	if status, stderr, _ := try(t, s, Options{}, nil); status != 125 || !strings.Contains(stderr, "cannot remove the group") {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
}
