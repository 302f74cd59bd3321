package supervisor

import (
	"context"
	"testing"
	"time"
)

// TestStartsAnewAreNotInTheLane: what a daemon could not go on with starts beside
// plugins that crash in loops.
func TestStartsAnewAreNotInTheLane(t *testing.T) {
	b := newBench(t)
	for range cap(b.lane) {
		leave, err := b.enter(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
	}
	p, err := b.get("p")
	if err != nil {
		t.Fatal(err)
	}
	p.box.post(message{do: func() {
		p.again = true
		p.handle(message{event: event{Kind: evStart, Again: true}})
	}})
	select {
	case <-b.launcher.started:
	case <-time.After(time.Minute):
		t.Fatalf("it waits in the lane: %+v", b.status())
	}
}

// Plugins that start again and again wait for each other, and keep nobody
// waiting whom somebody starts.
func TestRestartsHaveALaneOfTheirOwn(t *testing.T) {
	s := sharedOf(Config{})
	width := cap(s.lane)
	if width < 1 || width >= cap(s.places) && width != maxStarting {
		t.Fatalf("the lane is %d wide beside %d places", width, cap(s.places))
	}
	s.lane = make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	leave, err := s.enter(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan func(), 1)
	go func() {
		if leave, err := s.enter(t.Context(), true); err == nil {
			second <- leave
		}
	}()
	for range maxStarting - 1 {
		asked, err := s.enter(ctx, false)
		if err != nil {
			t.Fatal(err)
		}
		defer asked()
	}
	select {
	case <-second:
		t.Fatal("two restarts are under way in a lane for one")
	default:
	}
	cancel()
	if _, err := s.enter(ctx, true); err == nil {
		t.Error("one that was cancelled was let in")
	}
	left := make(chan struct{})
	go func() {
		leave()
		(<-second)() // the lane and a place are free again
		close(left)
	}()
	select {
	case <-left:
	case <-time.After(time.Minute):
		t.Fatal("a restart that was over kept the next one waiting")
	}
	if len(s.lane) != 0 || len(s.places) != maxStarting-1 {
		t.Errorf("%d in the lane and %d places taken, when all restarts have left", len(s.lane), len(s.places))
	}
	for processors, want := range map[int]int{1: 1, 2: 1, 4: 2, 64: maxStarting} {
		if got := restartsAtOnce(processors); got != want {
			t.Errorf("%d restarts at once on %d processors, not %d", got, processors, want)
		}
	}
}
