package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeClock moves when it is told to.
type fakeClock struct {
	mu    sync.Mutex
	now   time.Time
	calls map[*time.Time]func()
}

func newClock() *fakeClock {
	return &fakeClock{now: time.Unix(1000, 0), calls: map[*time.Time]func(){}}
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) AfterFunc(d time.Duration, fn func()) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.now.Add(d)
	c.calls[&at] = fn
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.calls, &at)
	}
}

func (c *fakeClock) pass(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	var due []func()
	for at, fn := range c.calls {
		if !at.After(c.now) {
			due = append(due, fn)
			delete(c.calls, at)
		}
	}
	c.mu.Unlock()
	for _, fn := range due {
		fn()
	}
}

// bench runs tasks that end when they are told to, and notes what came of each.
type bench struct {
	t     *testing.T
	clock *fakeClock
	s     *Scheduler
	mu    sync.Mutex
	cond  *sync.Cond
	said  []string
	gates map[string]chan struct{}
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, clock: newClock(), gates: map[string]chan struct{}{}}
	b.s, b.cond = New(b.clock), sync.NewCond(&b.mu)
	return b
}

func (b *bench) say(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said = append(b.said, what)
	b.cond.Broadcast()
}

// task is one that says when it begins, and ends when it is released or its
// context is.
func (b *bench) task(name string, priority int, within time.Duration) Task {
	b.mu.Lock()
	release := make(chan struct{})
	b.gates[name] = release
	b.mu.Unlock()
	return Task{
		Priority: priority, Within: within, Bytes: 10,
		Dropped: func(why string) { b.say(name + " " + why) },
		Run: func(ctx context.Context, left time.Duration) {
			if left > within {
				b.t.Errorf("%s has %v left of %v", name, left, within)
			}
			b.say(name)
			select {
			case <-release:
			case <-ctx.Done():
				b.say(name + " cut")
			}
		},
	}
}

func (b *bench) submit(q *Queue, name string, priority int, within time.Duration) uint64 {
	b.t.Helper()
	id, err := q.Submit(b.task(name, priority, within))
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

// heard waits until these were said, in any order, and forgets them; nothing
// else may have been.
func (b *bench) heard(want ...string) {
	b.t.Helper()
	stop := time.AfterFunc(time.Minute, b.cond.Broadcast)
	defer stop.Stop()
	end := time.Now().Add(time.Minute)
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.said) < len(want) && time.Now().Before(end) {
		b.cond.Wait()
	}
	slices.Sort(b.said)
	slices.Sort(want)
	if !slices.Equal(b.said, want) {
		b.t.Fatalf("heard %v, want %v", b.said, want)
	}
	b.said = nil
}

func (b *bench) release(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.gates[name])
}

func TestPriorityThenOrder(t *testing.T) {
	b := newBench(t)
	q := b.s.Open(1)
	b.submit(q, "first", 0, time.Hour)
	for _, name := range []string{"low", "high", "high too"} {
		b.submit(q, name, map[bool]int{true: 9}[name != "low"], time.Hour)
	}
	for _, name := range []string{"first", "high", "high too", "low"} {
		b.heard(name)
		b.release(name)
	}
	if _, err := q.Submit(Task{Priority: 10, Within: time.Second}); err == nil {
		t.Error("a priority beyond the highest")
	}
	if _, err := q.Submit(Task{Within: -1}); err == nil {
		t.Error("a deadline that has passed")
	}
}

// TestNoPluginWaitsBehindAnother: what runs is bounded for each and for all, and
// a plugin whose tasks never end keeps no other from its turn.
func TestNoPluginWaitsBehindAnother(t *testing.T) {
	b := newBench(t)
	var greedy []*Queue
	var begun []string
	for i := range 8 { // 8 of their own and 16 shared: the last two have to share none
		q := b.s.Open(MaxAtOnce)
		greedy = append(greedy, q)
		for n := range 10 {
			b.submit(q, fmt.Sprintf("%d.%d", i, n), 9, time.Hour)
		}
	}
	for i := range 8 {
		for n := range 4 {
			if n == 0 || i < 5 || i == 5 && n == 1 { // 5 times 3 is 15, and one more
				begun = append(begun, fmt.Sprintf("%d.%d", i, n))
			}
		}
	}
	b.heard(begun...)
	late := b.s.Open(MaxAtOnce)
	b.submit(late, "late", 0, time.Hour)
	b.submit(late, "late too", 0, time.Hour)
	b.heard("late")
	b.release("late")
	b.heard("late too")
	b.release("0.0") // the place goes to whoever has waited for it the longest
	b.heard("5.2")
	for _, q := range greedy {
		q.Close()
	}
	if greedy[0].Waiting() != 0 {
		t.Error("something waits in a queue that is closed")
	}
}

func TestDeadlines(t *testing.T) {
	b := newBench(t)
	q := b.s.Open(1)
	b.submit(q, "runs", 0, time.Minute)
	b.heard("runs")
	b.submit(q, "waits", 0, time.Second)
	b.submit(q, "waits longer", 0, time.Hour)
	b.clock.pass(time.Second)
	b.heard("waits deadline")
	b.release("runs")
	b.heard("waits longer")
	b.clock.pass(2 * time.Hour) // it has begun: the rest of its time is its own to keep
	b.release("waits longer")
	b.submit(q, "next", 0, time.Minute)
	b.heard("next")
	b.release("next")
}

func TestCancel(t *testing.T) {
	b := newBench(t)
	q := b.s.Open(1)
	running := b.submit(q, "runs", 0, time.Hour)
	b.heard("runs")
	waiting := b.submit(q, "waits", 0, time.Hour)
	b.submit(q, "last", 0, time.Hour)
	if !q.Cancel(waiting) || q.Cancel(waiting) || q.Cancel(99) {
		t.Error("a task that waits is cancelled once")
	}
	if !q.Cancel(running) {
		t.Error("a task that runs is cancelled")
	}
	b.heard("runs cut", "last")
	b.submit(q, "never", 0, time.Hour)
	q.Close()
	b.heard("last cut", "never ended")
	if _, err := q.Submit(b.task("x", 0, time.Second)); err == nil {
		t.Error("a queue that is closed takes more")
	}
}

func TestQueueIsBounded(t *testing.T) {
	b := newBench(t)
	q := b.s.Open(1)
	b.submit(q, "runs", 0, time.Hour)
	b.heard("runs")
	for range MaxWaiting {
		b.submit(q, "waits", 0, time.Hour)
	}
	if _, err := q.Submit(b.task("one more", 0, time.Hour)); !errors.Is(err, ErrFull) {
		t.Errorf("one more: %v", err)
	}
	q.Close()
	q = b.s.Open(1)
	big := b.task("big", 0, time.Hour)
	big.Bytes = MaxBytes
	if _, err := q.Submit(big); err != nil { // it runs at once, and waits no more
		t.Fatal(err)
	}
	if _, err := q.Submit(big); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Submit(b.task("too much", 0, time.Hour)); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("too many bytes: %v", err)
	}
	q.Close()
}
