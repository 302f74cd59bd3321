package supervisor

import (
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// released is a plugin that was quarantined and released on probation.
func released(t *testing.T, probation time.Duration) *bench {
	t.Helper()
	b := newBench(t)
	proc, _ := b.start()
	proc.req.OnViolation(hitBy(violation.Quarantine))
	b.await("quarantined")
	<-proc.done
	b.letOut(probation)
	return b
}

// letOut releases as soon as the processes have ended.
func (b *bench) letOut(probation time.Duration) {
	b.t.Helper()
	b.eventually("it can be released", func() bool {
		_, err := b.Release(b.t.Context(), operator, control.ReleaseParams{Name: "p", Reason: "looked at it", Probation: probation})
		return err == nil
	})
}

func (b *bench) eventually(what string, is func() bool) {
	b.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !is(); <-tick.C {
		if time.Now().After(end) {
			b.t.Fatalf("cannot wait longer: %s", what)
		}
	}
}

func TestProbation(t *testing.T) {
	for _, a := range []violation.Action{violation.Deny, violation.Kill} {
		t.Run(string(a), func(t *testing.T) {
			b := released(t, time.Hour)
			if ev := b.await("released"); !strings.Contains(ev.Text, "looked at it; on probation until ") {
				t.Errorf("the record is %+v", ev)
			}
			b.reopen() // a probation outlives the daemon
			if st := b.status(); st.Probation == nil || !st.Probation.Equal(b.clock.Now().Add(time.Hour)) {
				t.Errorf("%+v", st)
			}
			proc, _ := b.start()
			proc.req.OnViolation(hitBy(violation.Log)) // not enforced, on probation neither
			proc.req.OnViolation(hitBy(a))
			if ev := b.await("quarantined"); !strings.Contains(ev.Text, "on probation until ") {
				t.Errorf("the record is %+v", ev)
			}
		})
	}
}

func TestProbationEnds(t *testing.T) {
	b := released(t, time.Hour)
	b.clock.jump(time.Hour)
	if st := b.status(); st.Probation != nil {
		t.Errorf("%+v", st)
	}
	proc, _ := b.start()
	proc.req.OnViolation(hitBy(violation.Deny))
	b.await("violation")
	if st := b.status(); st.State != control.Running {
		t.Errorf("it is %s: %s", st.State, st.Reason)
	}
	proc.req.OnViolation(hitBy(violation.Quarantine))
	b.await("quarantined")
	<-proc.done
	b.letOut(time.Hour)
	b.start()
}

// TestReleaseWithoutProbationEndsIt: the operator's last word holds.
func TestReleaseWithoutProbationEndsIt(t *testing.T) {
	b := released(t, time.Hour)
	proc, _ := b.start()
	proc.req.OnViolation(hitBy(violation.Quarantine))
	b.await("quarantined")
	<-proc.done
	b.letOut(0)
	proc, _ = b.start()
	proc.req.OnViolation(hitBy(violation.Deny))
	b.await("violation")
	if st := b.status(); st.State != control.Running {
		t.Errorf("it is %s: %s", st.State, st.Reason)
	}
}

func TestProbationThatIsNone(t *testing.T) {
	b := newBench(t)
	for _, d := range []time.Duration{-1, maxProbation + 1} {
		_, err := b.Release(t.Context(), operator, control.ReleaseParams{Name: "p", Probation: d})
		if codeOf(err) != ipc.CodeInvalidParams {
			t.Errorf("%v: %v", d, err)
		}
	}
}
