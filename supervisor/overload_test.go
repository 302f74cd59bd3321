package supervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/store"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// until waits for a condition that comes by itself.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for late := time.After(time.Minute); !is(); {
		select {
		case <-late:
			t.Fatalf("cannot wait any longer: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

// TestStartsWaitForTheirPlace: a start that waits for others spends none of its
// own time; when none leaves for long it says so.
func TestStartsWaitForTheirPlace(t *testing.T) {
	for _, leaves := range []bool{true, false} {
		b := newBench(t)
		var others []func()
		for range maxStarting {
			leave, err := b.enter(t.Context(), false)
			if err != nil {
				t.Fatal(err)
			}
			others = append(others, leave)
		}
		done := make(chan error, 1)
		go func() {
			_, err := b.Start(context.Background(), operator, named)
			done <- err
		}()
		until(t, "it waits for its place", func() bool {
			b.clock.mu.Lock()
			defer b.clock.mu.Unlock()
			return b.clock.made[placeTime] > 0
		})
		until(t, "it says so", func() bool { return b.status().Stage == stagePlace })
		b.clock.mu.Lock()
		if n, place := b.clock.made[testPolicy.StartTimeout], b.clock.made[placeTime]; n != 0 || place != 1 {
			t.Errorf("%d timers run for its own time, and %d for its place", n, place)
		}
		b.clock.mu.Unlock()
		if leaves {
			others[0]()
			if err := <-done; err != nil {
				t.Errorf("when another had left: %v", err)
			}
			continue
		}
		b.clock.fire(placeTime)
		if err := <-done; err == nil || !strings.Contains(err.Error(), "no place among the 8 plugins that are started at once was free within 5m0s") {
			t.Errorf("it was answered %v", err)
		}
		if n := len(b.record().Violations); n != 0 {
			t.Errorf("it did nothing wrong, and has %d violations", n)
		}
	}
}

// TestAPlacedStartHasItsOwnTime: from its place on timeout_start_sec is counted.
func TestAPlacedStartHasItsOwnTime(t *testing.T) {
	b := newBench(t)
	hangs := make(chan struct{})
	b.launcher.set(func(*fakeProcess) error {
		<-hangs
		return errors.New("given up")
	})
	done := make(chan error, 1)
	go func() {
		_, err := b.Start(context.Background(), operator, named)
		done <- err
	}()
	b.clock.fire(testPolicy.StartTimeout)
	b.await("stopping")
	close(hangs)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "it was not ready within 30s: the stage start was not over") {
		t.Errorf("it was answered %v", err)
	}
}

// TestAskedStartsAreAdmitted: one too many is told so at once, and nothing is
// stopped for it; who stops or looks is always served.
func TestAskedStartsAreAdmitted(t *testing.T) {
	b := newBench(t)
	b.connector.bye = func(string) {
		b.launcher.mu.Lock()
		defer b.launcher.mu.Unlock()
		b.launcher.all[len(b.launcher.all)-1].end(0)
	}
	proc, _ := b.start()
	var leave []func()
	for range maxAsked {
		l, err := b.admit("start", "another")
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, l)
	}
	for verb, err := range map[string]error{
		"start":   second(b.Start(t.Context(), operator, named)),
		"restart": second(b.Restart(t.Context(), operator, named)),
		"swap":    second(b.Swap(t.Context(), operator, control.SwapParams{Name: "p"})),
	} {
		if codeOf(err) != ipc.CodeOverloaded || !strings.Contains(err.Error(), fmt.Sprintf("cannot %s p: %d starts", verb, maxAsked)) {
			t.Errorf("%s was answered %v", verb, err)
		}
	}
	if len(proc.list()) != 0 || b.status().State != control.Running {
		t.Errorf("the plugin was touched: %v", proc.list())
	}
	leave[0]()
	if _, err := b.Restart(t.Context(), operator, named); err != nil {
		t.Errorf("when there was room again: %v", err)
	}
	if leave, err := b.admit("start", "another"); err != nil {
		t.Errorf("a restart that was over kept its room: %v", err)
	} else {
		defer leave()
	}
	if _, err := b.Stop(t.Context(), operator, named); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// TestQuarantineUnderAFlood: a plugin that hits its wall a hundred thousand times
// as fast as it can is quarantined all the same, what waits for its actor is
// bounded, and every hit is counted.
func TestQuarantineUnderAFlood(t *testing.T) {
	b := newBench(t)
	proc, _ := b.start()
	p, err := b.get("p")
	if err != nil {
		t.Fatal(err)
	}
	const each, plugins = 25_000, 4
	var threads sync.WaitGroup
	longest := make(chan int, plugins)
	for range plugins {
		threads.Go(func() {
			most := 0
			for i := range each {
				proc.req.OnViolation(hitBy(violation.Deny))
				if i%64 == 0 {
					p.box.mu.Lock()
					most = max(most, len(p.box.queue))
					p.box.mu.Unlock()
				}
			}
			longest <- most
		})
	}
	proc.req.OnViolation(hitBy(violation.Quarantine))
	threads.Wait()
	b.await("quarantined")
	if b.record().Quarantine == nil {
		t.Error("the quarantine is not on the disk")
	}
	for range plugins {
		if n := <-longest; n > maxWaiting+8 { // and what must not be lost
			t.Errorf("%d messages waited for the actor", n)
		}
	}
	counted := make(chan int)
	p.box.post(message{do: func() {
		n := p.muted
		for _, ev := range b.audit.Recent(0, "p") {
			if ev.Kind == "violation" {
				n++
			}
		}
		counted <- n
	}})
	if n := <-counted; n != each*plugins {
		t.Errorf("%d hits of %d were recorded or counted", n, each*plugins)
	}
}

// TestSlowDiskKeepsNoPluginAlive: while a quarantine is on its way to a disk that
// takes its time the plugin stands still, then it is killed; it is on record in
// the end, and nobody who only looks waits.
func TestSlowDiskKeepsNoPluginAlive(t *testing.T) {
	b := newBench(t)
	slow, asked := make(chan struct{}), make(chan struct{})
	b.put = func(r store.Record) error {
		if r.Quarantine != nil {
			close(asked)
			<-slow
			b.put = b.store.Put
		}
		return b.store.Put(r)
	}
	proc, _ := b.start()
	proc.req.OnViolation(hitBy(violation.Quarantine))
	<-asked
	if deeds := proc.list(); len(deeds) != 1 || deeds[0] != "freeze" {
		t.Errorf("before the disk has it: %v", deeds)
	}
	b.clock.fire(persistTime)
	if !proc.has("kill") {
		t.Errorf("after %v: %v", persistTime, proc.list())
	}
	if _, err := b.List(t.Context()); err != nil {
		t.Error(err)
	}
	close(slow)
	b.await("quarantined")
	if b.record().Quarantine == nil {
		t.Error("the quarantine is not on the disk")
	}
}

// TestShortOfMemory: a start that the kernel has no memory for is tried again, at
// the pace of restarts, and not counted as the plugin's violation.
func TestShortOfMemory(t *testing.T) {
	b := newBench(t)
	b.launcher.set(func(*fakeProcess) error { return fmt.Errorf("cannot make its namespaces: %w", unix.ENOMEM) })
	_, err := b.Start(t.Context(), operator, named)
	if err == nil || !strings.Contains(err.Error(), unix.ENOMEM.Error()) || !strings.Contains(err.Error(), "it will be tried again") {
		t.Errorf("it was answered %v", err)
	}
	b.launcher.set(nil)
	b.clock.fire(testPolicy.RestartSec)
	b.await("started")
	if st := b.record(); len(st.Violations) != 0 {
		t.Errorf("%d violations", len(st.Violations))
	}
}
