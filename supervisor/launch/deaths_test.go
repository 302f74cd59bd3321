package launch

import (
	"testing"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// TestADeathBeforeTheStartReturnedIsNamed: a plugin runs before its launcher
// knows that it does.
func TestADeathBeforeTheStartReturnedIsNamed(t *testing.T) {
	const uid = 70000
	d := &deaths{audit: &seccomp.Deaths{}, of: map[uint32]*mourned{}}
	early := seccomp.Death{PID: 7, UID: uid, Arch: seccomp.AuditArch, NR: 39}
	if p := d.whose(early); p != nil || len(d.of) != 0 {
		t.Fatal("a stranger is somebody's")
	}
	d.announce(uid)
	for range 2 * maxEarly {
		if p := d.whose(early); p != nil {
			t.Fatal("somebody is told too early")
		}
	}
	var told []violation.Violation
	pl := &plan.Plan{Violation: map[string]plan.Response{"seccomp": {Action: "deny"}}}
	p := &Process{lease: &lease{uid: uid}, judge: violation.NewJudge(pl), child: &namespaces.Child{}, fallen: fallen{flood: seccomp.Flood{Limit: 1 << 20}}}
	p.r.OnViolation = func(v violation.Violation) { told = append(told, v) }
	p.inForce.Store(&force{plan: pl, digests: func() (string, string) { return "", "" }})
	d.expect(p)
	if len(told) != maxEarly || told[0].Call != "getpid" {
		t.Errorf("told %d deaths: %v", len(told), told)
	}
	if d.whose(early) != p {
		t.Error("a later one is not told")
	}
	d.drop(uid)
	if d.whose(early) != nil {
		t.Error("somebody is told after the end")
	}
}
