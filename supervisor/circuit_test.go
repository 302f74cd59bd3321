package supervisor

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/control"
)

// TestCircuitOpensTriesAndCloses drives one method through every state while
// another goes on.
func TestCircuitOpensTriesAndCloses(t *testing.T) {
	b := newBench(t)
	_, conn := b.start()
	answer := error(&ipc.RPCError{Code: ipc.CodeDeadline, Local: true, Message: "no answer"})
	conn.call = func(_ context.Context, method string) (json.RawMessage, error) {
		if method == "fine" {
			return json.RawMessage(`1`), nil
		}
		b.clock.advance(2 * time.Second)
		return nil, answer
	}
	call := func(method string) error {
		_, err := b.Call(t.Context(), control.CallParams{Name: "p", Method: method})
		return err
	}
	for range methodFailures {
		if err := call("slow"); err == nil || strings.Contains(err.Error(), "circuit") {
			t.Fatalf("before the limit: %v", err)
		}
	}
	err := call("slow")
	if codeOf(err) != ipc.CodeOverloaded || !strings.Contains(err.Error(), "circuit") || !strings.Contains(err.Error(), "no answer within 2s") {
		t.Errorf("with the circuit open: %v", err)
	}
	if err := call("fine"); err != nil {
		t.Errorf("another method: %v", err)
	}
	b.await("circuit-open")
	if in, err := b.Inspect(t.Context(), named); err != nil || len(in.Circuits) != 1 || in.Circuits[0].State != control.CircuitOpen {
		t.Errorf("inspect shows %+v, %v", in.Circuits, err)
	}
	b.clock.advance(breakerWait)
	if err := call("slow"); err == nil || strings.Contains(err.Error(), "circuit") {
		t.Errorf("the try was not made: %v", err)
	}
	b.clock.advance(breakerWait) // a failed try doubles the wait
	if err := call("slow"); codeOf(err) != ipc.CodeOverloaded {
		t.Errorf("after a failed try: %v", err)
	}
	b.clock.advance(breakerWait)
	answer = nil
	if err := call("slow"); err != nil {
		t.Errorf("the try that succeeds: %v", err)
	}
	b.await("circuit-closed")
	if err := call("slow"); err != nil {
		t.Errorf("closed again: %v", err)
	}
}

// advance moves the clock without firing timers.
func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// TestNoCallerShutsOthersOut: short patience and a plugin's own errors open
// nothing.
func TestNoCallerShutsOthersOut(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		took time.Duration
		want outcome
	}{
		{"hasty", context.DeadlineExceeded, breakerPatience - 1, unknown},
		{"gave up", context.Canceled, time.Hour, unknown},
		{"its own error", &ipc.RPCError{Code: ipc.CodeDeadline}, time.Hour, good},
		{"ended", &ipc.RPCError{Code: ipc.CodePluginGone, Local: true}, time.Hour, unknown},
		{"late", context.DeadlineExceeded, breakerPatience, bad},
		{"full", &ipc.RPCError{Code: ipc.CodeOverloaded, Local: true}, 0, bad},
	} {
		if got, _ := judgeCall(c.err, c.took); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestOneTryAtATime(t *testing.T) {
	cs := newCircuits(func(control.Circuit) {})
	for range methodFailures {
		done, err := cs.begin(epoch, "m")
		if err != nil {
			t.Fatal(err)
		}
		done(epoch, bad, "x")
	}
	now := epoch.Add(breakerWait)
	done, err := cs.begin(now, "m")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cs.begin(now, "m"); err == nil {
		t.Error("two tries at once")
	}
	done(now, unknown, "") // the caller gave up
	if _, err := cs.begin(now, "m"); err != nil {
		t.Errorf("nobody may try any more: %v", err)
	}
}

func TestThePluginAsAWhole(t *testing.T) {
	cs := newCircuits(func(control.Circuit) {})
	for i := range pluginFailures {
		done, err := cs.begin(epoch, string(rune('a'+i)))
		if err != nil {
			t.Fatal(err)
		}
		done(epoch, bad, "x")
	}
	if _, err := cs.begin(epoch, "another"); err == nil || !strings.Contains(err.Error(), "the plugin") {
		t.Errorf("a method that never failed: %v", err)
	}
}

// FuzzCircuit: whatever happens in whatever order, an open circuit is tried
// again once its time has come, and no more than one try is under way.
func FuzzCircuit(f *testing.F) {
	f.Add([]byte{2, 2, 2, 2, 2, 9, 2, 9, 1})
	f.Add([]byte{2, 2, 2, 2, 2, 9, 0, 9, 9, 9})
	f.Fuzz(func(t *testing.T, steps []byte) {
		c, now, tries := closedCircuit(), epoch, 0
		for _, step := range steps {
			if step%10 == 9 {
				now = now.Add(breakerWaitMax)
			}
			next, ok := c.admit(now)
			if !ok && !next.until.After(now) && !next.probing {
				t.Fatalf("refused although its time has come: %+v", c)
			}
			c = next
			if !ok {
				continue
			}
			if c.state == control.CircuitHalfOpen {
				tries++
			}
			if tries > 1 {
				t.Fatalf("%d tries at once", tries)
			}
			c = c.settle(now, c.turn, outcome(step%3), methodFailures, "x")
			tries = 0
		}
		if c, ok := c.admit(now.Add(breakerWaitMax)); !ok {
			t.Fatalf("it never opens the way again: %+v", c)
		}
	})
}

// TestCircuitsAreHandedOver: what a daemon writes down of circuits holds for the
// next: those that are open stay so for as long, and then one call is tried.
func TestCircuitsAreHandedOver(t *testing.T) {
	now := epoch
	fail := func(cs *circuits, method string, times int) {
		t.Helper()
		for range times {
			done, err := cs.begin(now, method)
			if err != nil {
				t.Fatal(err)
			}
			done(now, bad, "no answer")
		}
	}
	before := newCircuits(func(control.Circuit) {})
	fail(before, "slow", methodFailures)
	fail(before, "other", 1)
	text, err := json.Marshal(before.kept())
	if err != nil {
		t.Fatal(err)
	}
	var said []keptCircuit
	if err := json.Unmarshal(text, &said); err != nil {
		t.Fatal(err)
	}
	after := newCircuits(func(control.Circuit) {})
	after.restore(said)
	if _, err := after.begin(now, "slow"); err == nil {
		t.Error("the circuit of slow is closed")
	}
	fail(after, "third", pluginFailures-methodFailures-1-methodFailures+1) // what the plugin failed before counts on
	if done, err := after.begin(now.Add(breakerWait), "slow"); err != nil {
		t.Errorf("no call is tried: %v", err)
	} else {
		done(now, good, "")
	}
	if _, err := after.begin(now, "slow"); err != nil {
		t.Errorf("it did not close: %v", err)
	}
}
