package cgroups

import (
	"strconv"
	"testing"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

// watched starts a watcher on the group and gives its events.
func watched(t *testing.T, g *Group) <-chan Event {
	t.Helper()
	w, err := NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan Event, 1000)
	remove, err := w.Add(g, func(e Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		remove()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return events
}

// await takes events until one of a kind comes.
func await(t *testing.T, events <-chan Event, kind EventKind) Event {
	t.Helper()
	guard := time.After(hangGuard)
	for {
		select {
		case e := <-events:
			if e.Kind == kind {
				return e
			}
		case <-guard:
			t.Fatalf("no event %q", kind)
		}
	}
}

func TestAMemoryBombIsToldWithItsFigures(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		const limit = 48 << 20
		g := testGroup(t, testTree(t, l), Limits{MemoryMax: ptr(int64(limit))})
		events := watched(t, g)
		script, env := self("eat")
		cmd := start(t, g, script, env)
		e := await(t, events, EventOOMKill)
		// The kernel lets what cannot wait exceed the limit by a few pages.
		if e.Count < 1 || e.Limit != limit || e.Peak > limit+64*pageSize || e.Peak < limit/2 {
			t.Errorf("event %+v, want limit %d and a peak near it", e, limit)
		}
		if err := cmd.Wait(); err == nil {
			t.Error("the memory bomb was not killed")
		}
		if g.unified() != nil {
			await(t, events, EventEmpty)
		}
	})
}

func TestAForkBombIsToldWithItsFigures(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		g := testGroup(t, testTree(t, l), Limits{PidsMax: ptr(int64(10))})
		events := watched(t, g)
		start(t, g, "while :; do sleep 1000 & done 2>/dev/null")
		e := await(t, events, EventPidsMax)
		if e.Count < 1 || e.Limit != 10 || e.Peak != 10 && e.Peak != -1 {
			t.Errorf("event %+v, want limit 10", e)
		}
	})
}

// The last process of a group is told also when it came and went unseen.
func TestEmptyIsTold(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		g := testGroup(t, testTree(t, l), Limits{})
		if g.unified() == nil {
			t.Skip("no unified tree: cgroup.events is missing, and Features says so")
		}
		events := watched(t, g)
		for n := range 3 {
			if err := start(t, g, "exit 0").Wait(); err != nil {
				t.Fatal(err)
			}
			if e := await(t, events, EventEmpty); e.Count != int64(n+1) {
				t.Errorf("event %+v, want count %d", e, n+1)
			}
		}
	})
}

// What happened before Add is told, since nobody can be fast enough to add a
// watch before the first fork.
func TestAddTellsOfTheTimeBefore(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		g := testGroup(t, testTree(t, l), Limits{PidsMax: ptr(int64(3))})
		first := watched(t, g)
		start(t, g, "while :; do sleep 1000 & done 2>/dev/null")
		await(t, first, EventPidsMax)
		await(t, watched(t, g), EventPidsMax)
	})
}

// The loop may have chosen a watch to look at just before it is removed.
func TestNoCallAfterRemove(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		w, err := NewWatcher()
		if err != nil {
			t.Fatal(err)
		}
		g := testGroup(t, testTree(t, l), Limits{PidsMax: ptr(int64(3))})
		calls := make(chan Event, 1000)
		remove, err := w.Add(g, func(e Event) { calls <- e })
		if err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		var chosen *watch
		for one := range w.watches {
			chosen = one
		}
		w.mu.Unlock()
		start(t, g, "while :; do sleep 1000 & done 2>/dev/null")
		await(t, calls, EventPidsMax)
		remove()
		chosen.pidsMax, chosen.oomKills, chosen.populated = -1, -1, true
		told := len(calls)
		(round{watch: chosen, said: true}).look()
		if len(calls) != told {
			t.Error("called after remove returned")
		}
		remove() // twice is no harm
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		remove() // nor is it after Close
		if _, err := w.Add(g, func(Event) {}); err == nil {
			t.Error("a closed watcher took a group")
		}
	})
}

func TestManyGroupsOneLoop(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		w, err := NewWatcher()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		told := make(chan string, 1000)
		want := map[string]bool{}
		for range 8 {
			g := testGroup(t, tree, Limits{PidsMax: ptr(int64(2))})
			want[g.Name()] = true
			if _, err := w.Add(g, func(e Event) {
				if e.Kind == EventPidsMax {
					told <- g.Name()
				}
			}); err != nil {
				t.Fatal(err)
			}
			start(t, g, "sleep 1000 & sleep 1000 & sleep 1000 & wait")
		}
		guard := time.After(hangGuard)
		for len(want) > 0 {
			select {
			case name := <-told:
				delete(want, name)
			case <-guard:
				t.Fatalf("nothing was told of %v", want)
			}
		}
	})
}

// TestPressureIsTold: a group that may use a tenth of a processor and wants all
// of it stands still most of the time.
func TestPressureIsTold(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		if !tree.offers("pressure") {
			t.Skip("skipped: needs pressure stall information, and Features says so")
		}
		g := testGroup(t, tree, Limits{CPUMax: &CPUMax{Quota: 10000, Period: 100000}})
		w, err := NewWatcher()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		events := make(chan Event, 100)
		remove, err := w.AddPressure(g, func(e Event) { events <- e })
		if err != nil {
			t.Fatal(err)
		}
		cmd := start(t, g, "while :; do :; done")
		for e := await(t, events, EventPressure); e.File != "cpu.pressure"; e = await(t, events, EventPressure) {
		}
		remove()
		_ = cmd.Process.Kill()
	})
}
