package launch

import (
	"fmt"
	"os"
	"testing"

	"github.com/cordonhq/cordon/profiles/plan"
)

func onceLauncher(t *testing.T) *Launcher {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	l, err := New(Config{
		CgroupRoot: fmt.Sprintf("cordon-test-once-%d", os.Getpid()), UIDBase: 1900200000, UIDCount: 64,
		RuntimeDir: t.TempDir(), Compile: programs.Program, Once: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What was begun ahead of the first start is that start's, and the next makes
// its own.
func TestALauncherForOneStartMakesMore(t *testing.T) {
	l := onceLauncher(t)
	p := testPlan(t, "strict", []plan.File{{Path: "/tool", From: staticTool(t), Access: []string{"execute", "read_file"}}}, "/tool")
	for range 2 {
		if got, err := run(t, l, p); err != nil || got.exit.Status.ExitStatus() != 7 {
			t.Errorf("run = %+v, %v", got.exit, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// One that nothing was started with leaves neither keeper nor descriptors.
func TestALauncherForOneStartThatDidNotCome(t *testing.T) {
	before := descriptors(t)
	for range 8 {
		l := onceLauncher(t)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if l.keeper != nil {
			t.Error("a keeper is left")
		}
	}
	if after := descriptors(t); after > before+4 { // the runtime opens some of its own at first use
		t.Errorf("%d descriptors after, %d before", after, before)
	}
}
