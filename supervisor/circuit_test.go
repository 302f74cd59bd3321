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
