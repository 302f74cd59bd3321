package supervisor

import (
	"slices"
	"testing"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
)

// TestAdjust: what can change while a plugin runs does, with its digest and a
// record; the rest is named; and what the kernel refuses leaves everything.
func TestAdjust(t *testing.T) {
	b := newBench(t)
	b.source.change(func(p *plan.Plan) { p.Limits.MemoryMax = new(int64(64 << 20)) })
	proc, _ := b.start()
	before := b.record().PolicyDigest
	if got := b.Adjust(t.Context(), "ann"); len(got) > 0 || proc.has("adjust") {
		t.Errorf("nothing has changed, and %+v was", got)
	}
	b.source.change(func(p *plan.Plan) {
		p.Limits.MemoryMax, p.Proc = new(int64(32<<20)), "full"
		p.Violation = map[string]plan.Response{"ipc": {Action: "kill"}, "watchdog": {Action: "kill"}}
		p.Lifecycle.Restart = "no"
	})
	got := b.Adjust(t.Context(), "ann")
	if len(got) != 1 || !slices.Contains(got[0].Changed, "resources.memory.max") || !slices.Contains(got[0].Changed, "lifecycle.restart") || !slices.Equal(got[0].Restart, []string{"proc"}) || got[0].Error != "" {
		t.Fatalf("adjusted %+v", got)
	}
	if ev := b.await("adjusted"); ev.Actor != "ann" || !proc.has("adjust") {
		t.Errorf("record %+v, deeds %v", ev, proc.list())
	}
	b.sync()
	if after := b.record().PolicyDigest; after == before {
		t.Error("the digest is that of before")
	}
	b.source.change(func(p *plan.Plan) { p.Limits.MemoryMax = new(int64(1 << 20)) })
	got = b.Adjust(t.Context(), "ann")
	if len(got) != 1 || got[0].Error == "" || len(got[0].Changed) > 0 {
		t.Errorf("a limit that the kernel refuses: %+v", got)
	}
	if b.status().State != control.Running {
		t.Errorf("it is %s", b.status().State)
	}
}
