package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/namespaces"
)

// failing is a step that fails wherever it stands in its phase.
var failing = map[string]namespaces.Step{
	"keep":     {Op: namespaces.OpRmdir, S: strings.Repeat("x", 200), Text: "fail"},
	"join":     {Op: namespaces.OpNamespace, File: namespaces.NoFile, A: 1 << 40, Text: "fail"},
	"mount":    {Op: namespaces.OpSeal, File: namespaces.NoFile, S: "/no/such/mount", Text: "fail"},
	"identity": {Op: namespaces.OpSecurebits, File: namespaces.NoFile, A: 1 << 40, Text: "fail"},
	"lock":     {Op: namespaces.OpChdir, File: namespaces.NoFile, S: "/no/such/directory", Text: "fail"},
	"exec":     {Op: namespaces.OpExec, File: namespaces.NoFile, Paths: []string{"/no/such/program"}, Args: []string{"x"}, Text: "fail"},
}

// host is what a start could leave behind.
type host struct {
	descriptors, mounts int
	children            string // of the keeper
	groups              []string
}

func look(t *testing.T, l *Launcher) host {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	pid := l.keeper.PID()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	h := host{mounts: strings.Count(string(mounts), "\n"), children: string(children), descriptors: descriptors(t)<<16 + len(fds)}
	h.groups, err = filepath.Glob("/sys/fs/cgroup/*/" + l.cfg.CgroupRoot + "/*/tasks")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// settled waits until no more is there than before: the keeper answers first and
// closes what it was given then.
func settled(t *testing.T, l *Launcher, before host) (after host, ok bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; <-time.After(time.Millisecond) {
		after = look(t, l)
		ok = after.mounts == before.mounts && after.children == before.children && after.descriptors <= before.descriptors && len(after.groups) == 0
		if ok || time.Now().After(end) {
			return after, ok
		}
	}
}

// TestEveryStepThatFailsLeavesNothing fails each step of a start in turn: the
// error names it, and no process, group, mount, descriptor or uid stays taken.
func TestEveryStepThatFailsLeavesNothing(t *testing.T) {
	l := testLauncher(t)
	p := testPlan(t, "shell", nil, "true")
	var steps []namespaces.Step
	l.tamper = func(s []namespaces.Step) []namespaces.Step {
		steps = slices.Clone(s)
		return s
	}
	start := func() error {
		proc, err := l.Start(t.Context(), Request{Name: "failing", Plan: p, UID: l.cfg.UIDBase + 2})
		if err != nil {
			return err
		}
		<-proc.Done()
		return proc.Release()
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	all := slices.Clone(steps)
	before := look(t, l)
	for at, step := range all {
		bad := failing[namespaces.Phase(step.Op)]
		bad.Prepared = step.Prepared
		if step.Op == namespaces.OpExec {
			l.tamper = func(s []namespaces.Step) []namespaces.Step { return append(slices.Clone(s[:at]), bad) }
		} else {
			l.tamper = func(s []namespaces.Step) []namespaces.Step { return slices.Insert(slices.Clone(s), at, bad) }
		}
		err := start()
		var failed *namespaces.StepError
		var exec *ExecError
		switch {
		case step.Op == namespaces.OpExec && errors.As(err, &exec):
		case namespaces.Phase(step.Op) == "keep" && errors.As(err, &failed): // the keeper's, before there is a step
		case errors.As(err, &failed) && failed.Step == at && failed.Text == "fail":
		default:
			t.Errorf("step %d (%s): got %v", at, step, err)
		}
		if after, ok := settled(t, l, before); !ok {
			t.Errorf("step %d (%s): left %+v, before %+v", at, step, after, before)
		}
	}
	l.tamper = nil
	if err := start(); err != nil {
		t.Errorf("a start after all of them: %v", err)
	}
}
