package launch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// flooder makes setpriority (which builtin:static does not allow) as often as
// its argument says and exits with 1 if one of them fails. It asks for what it has,
// which nobody is refused: the tests may run with any niceness.
const flooder = `#include <stdlib.h>
#include <sys/resource.h>
int main(int argc, char **argv) {
	int failed = 0, now = getpriority(PRIO_PROCESS, 0);
	for (long n = atol(argv[1]); n > 0; n--)
		failed |= setpriority(PRIO_PROCESS, 0, now) != 0;
	return failed;
}
`

func floodPlan(t *testing.T, response, count string) *plan.Plan {
	t.Helper()
	files := []plan.File{{Path: "/flood", From: compiled(t, "flood", flooder), Access: []string{"execute", "read_file"}}}
	return answeredPlan(t, "static", response, files, "/flood", count)
}

// compiled is the path of a static program that everybody may run.
func compiled(t *testing.T, name, source string) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, name)
	if err := os.WriteFile(program+".c", []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-static", "-o", program, program+".c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return program
}

// answeredPlan is a built-in profile with another response to refused calls.
func answeredPlan(t *testing.T, base, response string, files []plan.File, argv ...string) *plan.Plan {
	t.Helper()
	p, err := profiles.ParseProfile("answered.toml", []byte("extends = [\"builtin:"+base+"\"]\n[violation]\nseccomp = "+response+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := profiles.Resolve(profiles.Input{Profile: p, Ceiling: profiles.DefaultCeiling(), Argv: argv, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

// refusedCalls counts what was told of, one by one or together.
func refusedCalls(list []violation.Violation) (all int) {
	for _, v := range list {
		all += 1 + v.Suppressed
	}
	return all
}

func TestAFloodOfDeniedCallsIsSummarisedAndEndsInQuarantine(t *testing.T) {
	l := testLauncher(t)
	l.floodLimit = 1000 // an emulated machine makes no 2000 calls in a second
	o, err := run(t, l, floodPlan(t, `"deny"`, "100000000"))
	if err != nil {
		t.Fatal(err)
	}
	if len(o.violations) == 0 {
		t.Fatal("nothing was reported")
	}
	last := o.violations[len(o.violations)-1]
	if last.Action != violation.Quarantine || !last.Flood || last.Call != "setpriority" || !strings.Contains(violation.Sentence(last), "flood") {
		t.Errorf("the last is %s: %+v", violation.Sentence(last), last)
	}
	if all := refusedCalls(o.violations); all <= l.floodLimit {
		t.Errorf("%d calls were told of, and a flood is more than %d", all, l.floodLimit)
	}
	if len(o.violations) > 10*seccomp.FloodBurst {
		t.Errorf("%d violations were reported one by one", len(o.violations))
	}
}

func TestComplainModeLetsAFloodGoOn(t *testing.T) {
	l := testLauncher(t)
	o, err := run(t, l, floodPlan(t, `"log"`, "3000"))
	if err != nil {
		t.Fatal(err)
	}
	if o.exit.Status.ExitStatus() != 0 {
		t.Errorf("a call of complain mode failed: %v", o.exit.Status)
	}
	for _, v := range o.violations {
		if v.Action != violation.Log || !v.NotEnforced || !strings.Contains(violation.Sentence(v), "not enforced") {
			t.Fatalf("a record of complain mode does not say so: %+v, %s", v, violation.Sentence(v))
		}
	}
	if n := len(o.violations); n < 1 || n > 2000 {
		t.Errorf("%d of 3000 calls were reported one by one", n)
	}
}

func TestEveryRefusedCallCountsAgainstTheBudget(t *testing.T) {
	l := testLauncher(t)
	o, err := run(t, l, floodPlan(t, `{ action = "deny", budget = "1000/h", then = "kill" }`, "100000000"))
	if err != nil {
		t.Fatal(err)
	}
	if len(o.violations) == 0 {
		t.Fatal("nothing was reported")
	}
	last := o.violations[len(o.violations)-1]
	if last.Action != violation.Kill || last.Flood {
		t.Errorf("the last is %s: %+v", violation.Sentence(last), last)
	}
	if all := refusedCalls(o.violations); all != 1001 {
		t.Errorf("%d calls were told of before the plugin was killed, want the budget and one", all)
	}
}
