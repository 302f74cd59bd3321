package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
)

// naiveCall is a call, with the end of its slot.
type naiveCall struct {
	slot int64
	good bool
}

// TestErrorBudget holds the state machine to its rules over random calls: what it
// counts, when it enters degraded mode and when it leaves.
func TestErrorBudget(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 5)) // #nosec G404 -- a test's
		rules := plan.Objective{
			Objective: []int64{500, 900, 990, 999}[r.IntN(4)], Window: time.Hour, BurnRate: 1 + r.IntN(20), MinCalls: 1 + r.IntN(30),
		}
		width := rules.Window / slots
		var b errorBudget
		b = b.at(epoch, rules)
		now, badShare := epoch, r.Float64()*r.Float64()
		var all []naiveCall
		for range 600 {
			if r.IntN(40) == 0 {
				badShare = r.Float64() * r.Float64()
			}
			now = now.Add(time.Duration(r.Int64N(int64(width) / 2)))
			if r.IntN(200) == 0 {
				now = now.Add(time.Duration(r.Int64N(int64(2 * rules.Window))))
			}
			ok := r.Float64() > badShare
			before := b
			b = b.after(now, rules, ok)
			if again := before.after(now, rules, ok); again != b {
				t.Fatal("the same call came to something else")
			}
			newest := b.until.UnixNano()
			all = append(all, naiveCall{newest, ok})
			look := func(n int) float64 {
				bad, sum := 0, 0
				for _, c := range all {
					if newest-c.slot < int64(n)*int64(width) {
						if sum++; !c.good {
							bad++
						}
					}
				}
				if sum < rules.MinCalls {
					return 0
				}
				return float64(bad) / float64(sum) / rules.Allowed()
			}
			whole, short := look(slots), look(shortSlots)
			if got := b.burn(slots, rules); got != whole {
				t.Fatalf("seed %d: burns %v, counted %v", seed, got, whole)
			}
			if got := b.burn(shortSlots, rules); got != short {
				t.Fatalf("seed %d: burns %v in short, counted %v", seed, got, short)
			}
			was := before.at(now, rules)
			must := short >= float64(rules.BurnRate) || whole >= 1 && short >= 1
			switch {
			case was.degraded.IsZero() && must == b.degraded.IsZero():
				t.Fatalf("seed %d: burns %v and %v of %d: degraded %v", seed, whole, short, rules.BurnRate, !must)
			case !was.degraded.IsZero() && b.degraded.IsZero() && (short >= 1 || now.Sub(was.degraded) < shortSlots*width):
				t.Fatalf("seed %d: it recovered at a burn of %v after %v", seed, short, now.Sub(was.degraded))
			case !b.degraded.IsZero() && b.reason == "":
				t.Fatal("degraded without a reason")
			}
			if back := b.at(now.Add(-time.Hour), rules); back.slots != b.slots {
				t.Fatal("a clock that went back changed what was counted")
			}
		}
		if b = b.at(now.Add(rules.Window), rules); !b.degraded.IsZero() {
			t.Fatalf("seed %d: nobody called for a whole window, and it is degraded still: %s", seed, b.reason)
		}
	}
}

// TestErrorBudgetEnds: good calls alone never degrade, bad ones alone always do.
func TestErrorBudgetEnds(t *testing.T) {
	rules := plan.Objective{Objective: 999, Window: time.Hour, BurnRate: 14, MinCalls: 20}
	var well, ill errorBudget
	now := epoch
	for i := range 1000 {
		now = now.Add(time.Second)
		well = well.after(now, rules, true)
		ill = ill.after(now, rules, false)
		if !well.degraded.IsZero() {
			t.Fatal("good calls degraded it")
		}
		if ill.degraded.IsZero() != (i+1 < rules.MinCalls) {
			t.Fatalf("after %d bad calls: %v", i+1, ill.degraded)
		}
	}
	if want := "20 of 20 calls within 5m were bad, which burns its error budget 1000.0 times too fast (slo.objective 99.9%)"; ill.reason != want {
		t.Errorf("the reason is %q", ill.reason)
	}
}

func TestWhichCallsAreGood(t *testing.T) {
	rules := plan.Objective{Objective: 990, Latency: 200 * time.Millisecond, Window: time.Hour}
	for name, c := range map[string]struct {
		err  error
		took time.Duration
		want outcome
	}{
		"answered":             {nil, 100 * time.Millisecond, good},
		"slow":                 {nil, 201 * time.Millisecond, bad},
		"its own error":        {&ipc.RPCError{Code: -32042}, 0, good},
		"internal":             {&ipc.RPCError{Code: ipc.CodeInternal}, 0, bad},
		"wrong parameters":     {&ipc.RPCError{Code: ipc.CodeInvalidParams}, 0, good},
		"gone":                 {&ipc.RPCError{Code: ipc.CodePluginGone, Local: true}, 0, bad},
		"claims to be gone":    {&ipc.RPCError{Code: ipc.CodePluginGone}, 0, good},
		"its contract":         {control.Errorf(ipc.CodeContract, "", "x"), 0, bad},
		"late":                 {context.DeadlineExceeded, 2 * time.Second, bad},
		"the caller's haste":   {context.DeadlineExceeded, time.Millisecond, unknown},
		"the caller went":      {context.Canceled, time.Millisecond, unknown},
		"the caller went late": {context.Canceled, time.Second, bad},
		"it takes no more":     {&ipc.RPCError{Code: ipc.CodeOverloaded, Local: true}, 0, bad},
		"something of our own": {errors.New("x"), 0, unknown},
	} {
		if got := judgeGood(c.err, c.took, rules); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestDegraded: what is essential is served, the rest refused with the reason,
// dependants and operators are told, and it ends when the short window is well,
// without a call.
func TestDegraded(t *testing.T) {
	f := newFamily(t, map[string]manifest.Needs{"a": wants("p")}, "a")
	f.source.change(func(p *plan.Plan) {
		p.SLO = plan.Objective{Objective: 900, Latency: time.Second, Window: time.Hour, BurnRate: 5, MinCalls: 4, Essential: []string{"vital"}}
	})
	f.do(f.Start, "p")
	conn := <-f.connector.made
	f.do(f.Start, "a")
	told := (<-f.connector.made).told
	f.until("a", control.Running)
	conn.call = func(_ context.Context, method string) (json.RawMessage, error) {
		if method == "slow" {
			f.clock.jump(2 * time.Second)
		}
		return json.RawMessage(`1`), nil
	}
	call := func(method string) error {
		_, err := f.Call(t.Context(), control.CallParams{Name: "p", Method: method})
		return err
	}
	for range 4 {
		if err := call("slow"); err != nil {
			t.Fatal(err)
		}
	}
	err := call("slow")
	want := "cannot call slow of p: it is degraded, and serves only vital: 4 of 4 calls within 5m were bad, which burns its error budget 10.0 times too fast (slo.objective 90%)"
	var refused *control.Error
	if !errors.As(err, &refused) || refused.Code != ipc.CodeOverloaded || refused.Message != want {
		t.Errorf("it was answered %v", err)
	}
	if err := call("vital"); err != nil {
		t.Errorf("what is essential: %v", err)
	}
	st := f.of("p")
	if st.State != control.Running || st.Degraded == nil || st.Objective == nil || st.Objective.Bad != 4 || st.Objective.Calls != 5 {
		t.Errorf("the status is %+v, %+v, %+v", st, st.Degraded, st.Objective)
	}
	if ev := f.await("degraded"); !strings.Contains(ev.Text, "p is degraded: 4 of 4 calls") || !strings.HasSuffix(ev.Text, "it serves only vital") {
		t.Errorf("the event is %q", ev.Text)
	}
	for want, late := (Neighbour{Name: "p", Ready: true, Degraded: true}), time.After(time.Minute); ; {
		select {
		case n := <-told:
			if n != want {
				continue
			}
		case <-late:
			t.Fatal("a dependant was not told")
		}
		break
	}
	f.clock.jump(10 * time.Minute)
	f.clock.fire(5 * time.Minute)
	f.await("recovered")
	if err := call("other"); err != nil {
		t.Errorf("after it recovered: %v", err)
	}
}

// TestBudgetsAreHandedOver: what a daemon writes down of an error budget holds for
// the next, if the rules are the same; what makes no sense begins anew.
func TestBudgetsAreHandedOver(t *testing.T) {
	rules := plan.Objective{Objective: 900, Window: time.Hour, BurnRate: 2, MinCalls: 10}
	turns := 0
	made := func() *objective {
		return &objective{changed: func(*control.Degraded) {}, turned: func() { turns++ }}
	}
	before := made()
	if before.kept() != nil {
		t.Error("without an objective something is written down")
	}
	before.follow(rules)
	now := epoch
	for i := range 20 {
		now = now.Add(time.Second)
		err := error(nil)
		if i%2 == 0 {
			err = &ipc.RPCError{Code: ipc.CodeInternal}
		}
		before.count(now, err, time.Millisecond)
	}
	if before.now(now) == nil || turns != 1 {
		t.Fatalf("degraded: %v, after %d turns", before.now(now), turns)
	}
	for i := range 3 { // each sixtieth of the window is written down
		before.now(now.Add(time.Duration(i) * rules.Window / slots))
	}
	if turns != 3 {
		t.Errorf("written down %d times", turns)
	}
	text, err := json.Marshal(before.kept())
	if err != nil {
		t.Fatal(err)
	}
	said := func() (k keptBudget) {
		t.Helper()
		if err := json.Unmarshal(text, &k); err != nil {
			t.Fatal(err)
		}
		return k
	}
	k := said()
	after := made()
	after.restore(&k, rules)
	after.follow(rules) // as the actor does, and forgets nothing
	was, is := before.status(now), after.status(now)
	if *was != *is || after.now(now) == nil || after.now(now).Reason != before.now(now).Reason {
		t.Errorf("before: %+v, %v; after: %+v, %v", was, before.now(now), is, after.now(now))
	}
	for name, spoil := range map[string]func(*keptBudget){
		"other rules":         func(k *keptBudget) { k.Rules.Window *= 2 },
		"too few slots":       func(k *keptBudget) { k.Slots = k.Slots[1:] },
		"fewer than no calls": func(k *keptBudget) { k.Slots[7][1] = -5 },
	} {
		k := said()
		spoil(&k)
		o := made()
		o.restore(&k, rules)
		o.follow(rules)
		if st := o.status(now); st.Calls != 0 || o.now(now) != nil {
			t.Errorf("%s: %+v", name, st)
		}
	}
}
