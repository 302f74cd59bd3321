package supervisor

import (
	"context"
	"testing"
	"time"
)

// Plugins that crash in loops live one at a time, each until its process has
// ended or its time is over, and those that do not crash wait for none of them.
func TestLoopsLiveOneAtATime(t *testing.T) {
	b := newBench(t)
	p, err := b.get("p")
	if err != nil {
		t.Fatal(err)
	}
	p.loops = make(chan struct{}, 1)
	first, err := p.beginLoop(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	late, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.beginLoop(late, true); err == nil {
		t.Error("two lives at a time")
	}
	if other, err := p.beginLoop(late, false); err != nil {
		t.Errorf("one that crashes in no loop waited: %v", err)
	} else {
		other()
	}
	next := func(what string) func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		over, err := p.beginLoop(ctx, true)
		if err != nil {
			t.Fatalf("%s keeps the next one waiting: %v", what, err)
		}
		return over
	}
	run := &running{settled: make(chan struct{})}
	p.endLoop(run, first)
	close(run.settled)
	second := next("a process that has ended")
	first() // again, which is nobody's
	if len(p.loops) != 1 {
		t.Error("one life was over twice")
	}
	long := &running{settled: make(chan struct{})}
	defer close(long.settled)
	p.endLoop(long, second)
	b.clock.fire(loopTime)
	next("a process that goes on")()
}
