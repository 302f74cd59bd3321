package supervisor

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

var update = flag.Bool("update", false, "write the golden files anew")

var epoch = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// testPolicy has a different figure everywhere, so that a mix-up shows.
var testPolicy = plan.Lifecycle{
	Restart: "on-failure", RestartSec: 200 * time.Millisecond, RestartSteps: 4, RestartMaxDelaySec: 10 * time.Second,
	ResetAfter: 10 * time.Minute, StartLimitBurst: 3, StartLimitInterval: time.Minute,
	StartTimeout: 30 * time.Second, StopTimeout: 8 * time.Second,
}

var (
	eventNames  = []string{"start", "stop", "restart", "release", "remove", "shutdown", "spawned", "ready", "start-failed", "disconnected", "exited", "violation", "timer", "unhealthy", "swap", "drained", "placed"}
	actionNames = []string{"persist", "audit", "publish", "record", "launch", "cancel", "contain", "evidence", "goodbye", "term", "kill", "reap", "free", "arm", "refuse", "forget", "launch-beside", "switch", "tell", "bye-beside", "term-beside", "end-beside", "free-beside"}
)

// namedState is one row of the table.
type namedState struct {
	name  string
	state lifecycle
}

// everyState holds each phase with each process state that it can have.
func everyState() []namedState {
	at := func(p control.State, proc process) lifecycle {
		return lifecycle{Phase: p, Process: proc, Run: 1, Timer: 5, Since: epoch}
	}
	stopping := func(a after, step stopStep) lifecycle {
		s := at(control.Stopping, alive)
		s.After, s.Stop = a, step
		return s
	}
	// The process beside is launch 2.
	beside := func(s lifecycle, proc process, part part, step stopStep) lifecycle {
		s.Swap = swapping{Process: proc, Part: part, Stop: step, Run: 2, Drain: 20 * time.Second}
		return s
	}
	running := at(control.Running, alive)
	return []namedState{
		{"stopped", at(control.Stopped, noProcess)},
		{"failed", at(control.Failed, noProcess)},
		{"starting, launching", at(control.Starting, launching)},
		{"starting, alive", at(control.Starting, alive)},
		{"running", at(control.Running, alive)},
		{"stopping, launching", at(control.Stopping, launching)},
		{"stopping, then stop", stopping(thenStop, goodbyeSent)},
		{"stopping, then start", stopping(thenStart, termSent)},
		{"stopping, then policy", stopping(thenPolicy, goodbyeSent)},
		{"stopping, then fail", stopping(thenFail, killSent)},
		{"stopping, then give up", stopping(thenGiveUp, killSent)},
		{"backoff", at(control.Backoff, noProcess)},
		{"quarantined", at(control.Quarantined, noProcess)},
		{"quarantined, launching", at(control.Quarantined, launching)},
		{"quarantined, alive", at(control.Quarantined, alive)},
		{"removed", at(removed, noProcess)},
		{"running, launching beside", beside(running, launching, coming, 0)},
		{"running, coming beside", beside(running, alive, coming, 0)},
		{"running, given up beside", beside(running, launching, leaving, killSent)},
		{"running, draining beside", beside(running, alive, draining, 0)},
		{"running, leaving beside", beside(running, alive, leaving, goodbyeSent)},
		{"running, told beside", beside(running, alive, leaving, termSent)},
		{"stopping, killed beside", beside(stopping(thenStop, goodbyeSent), alive, leaving, killSent)},
		{"backoff, killed beside", beside(at(control.Backoff, noProcess), alive, leaving, killSent)},
		{"stopped, killed beside", beside(at(control.Stopped, noProcess), alive, leaving, killSent)},
		{"starting, killed beside", beside(at(control.Starting, launching), alive, leaving, killSent)},
		{"ready, killed beside", beside(at(control.Starting, alive), alive, leaving, killSent)},
		{"quarantined, killed beside", beside(at(control.Quarantined, noProcess), alive, leaving, killSent)},
		{"quarantined, both", beside(at(control.Quarantined, alive), alive, leaving, killSent)},
		{"quarantined, launching beside", beside(at(control.Quarantined, alive), launching, leaving, killSent)},
	}
}

// everyEvent holds each kind of event in each shape that makes a difference.
func everyEvent() []event {
	var out []event
	for k := range eventKinds {
		ev := event{Kind: k, Time: epoch.Add(time.Second), Run: 1, Timer: 5, Reason: "why"}
		switch k {
		case evViolation:
			for _, a := range []violation.Action{violation.Log, violation.Deny, violation.Kill, violation.Quarantine} {
				ev.Action = a
				out = append(out, ev)
			}
		case evExited:
			out = append(out, ev)
			ev.Clean = true
			out = append(out, ev)
		case evStartFailed:
			out = append(out, ev)
			ev.Permanent = true
			out = append(out, ev)
		case evSwap:
			ev.Drain = 20 * time.Second
			out = append(out, ev)
		default:
			out = append(out, ev)
		}
	}
	return out
}

// eventsBeside are those of the process that a swap has beside the plugin's.
func eventsBeside() []event {
	all := slices.DeleteFunc(everyEvent(), func(ev event) bool {
		return !slices.Contains([]eventKind{evPlaced, evSpawned, evReady, evStartFailed, evDisconnected, evExited, evUnhealthy, evDrained, evViolation}, ev.Kind)
	})
	for i := range all {
		all[i].Run = 2
	}
	return all
}

func eventName(ev event) string {
	name := eventNames[ev.Kind]
	if ev.Run == 2 {
		name = "beside: " + name
	}
	switch {
	case ev.Kind == evViolation:
		name += " " + string(ev.Action)
	case ev.Clean:
		name += " clean"
	case ev.Permanent:
		name += " permanent"
	}
	return name
}

func actionsText(acts []action) string {
	var out []string
	for _, a := range acts {
		text := actionNames[a.Kind]
		switch a.Kind {
		case actArm:
			text += "(" + a.Delay.String() + ")"
		case actAudit, actTellSwap:
			text += "(" + a.Name + ")"
		default:
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// TestTransitionTable holds the whole table: what every event makes of every
// state. It is documentation as much as a test: read a change of it.
func TestTransitionTable(t *testing.T) {
	var b strings.Builder
	for _, from := range everyState() {
		events := everyEvent()
		if from.state.Swap.Process != noProcess {
			events = append(events, eventsBeside()...)
		}
		for _, ev := range events {
			to, acts := transition(from.state, ev, testPolicy)
			if reflect.DeepEqual(to, from.state) && len(acts) == 0 {
				continue // nothing happens
			}
			fmt.Fprintf(&b, "%-22s  %-20s -> %-11s  %s\n", from.name, eventName(ev), to.Phase, actionsText(acts))
		}
	}
	golden := filepath.Join("testdata", "transitions.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the table differs from %s; run with -update and read the difference\n%s", golden, b.String())
	}
}

// TestEveryStep checks the promises for one step from every state.
func TestEveryStep(t *testing.T) {
	for _, from := range everyState() {
		for _, closing := range []bool{false, true} {
			s := from.state
			s.Closing = closing
			for _, ev := range append(everyEvent(), eventsBeside()...) {
				name := fmt.Sprintf("%s, closing %v, %s", from.name, closing, eventName(ev))
				to := checkedStep(t, name, s, ev)
				checkWayOut(t, name, to)
			}
		}
	}
}

// checkedStep takes one step and holds every promise that can be seen in it.
func checkedStep(t *testing.T, name string, s lifecycle, ev event) lifecycle {
	t.Helper()
	before := slices.Clone(s.Starts)
	to, acts := transition(s, ev, testPolicy)
	again, acts2 := transition(s, ev, testPolicy)
	if !reflect.DeepEqual(to, again) || !reflect.DeepEqual(acts, acts2) || !slices.Equal(before, s.Starts) {
		t.Errorf("%s: not a pure function", name)
	}
	if s.Phase == control.Quarantined && to.Phase != control.Quarantined && (ev.Kind != evRelease || s.Process != noProcess || s.Swap.Process != noProcess) {
		t.Errorf("%s: left quarantine for %s", name, to.Phase)
	}
	if s.Phase == removed && to.Phase != removed {
		t.Errorf("%s: a removed plugin came back", name)
	}
	checkProcess(t, name, to)
	checkActions(t, name, s, to, acts)
	checkSwap(t, name, s, to, acts)
	return to
}

// checkProcess holds which phases have a process and which have none.
func checkProcess(t *testing.T, name string, s lifecycle) {
	t.Helper()
	has := s.Process != noProcess
	switch s.Phase {
	case control.Stopped, control.Failed, control.Backoff, removed:
		if has {
			t.Errorf("%s: %s with a process", name, s.Phase)
		}
	case control.Starting, control.Stopping:
		if !has {
			t.Errorf("%s: %s without a process", name, s.Phase)
		}
	case control.Running:
		if s.Process != alive {
			t.Errorf("%s: running without a process", name)
		}
	case control.Quarantined:
	default:
		t.Errorf("%s: unknown phase %q", name, s.Phase)
	}
}

// checkSwap holds what a swap may do: something comes or takes calls only beside
// what runs, what is beside is watched to its end, and is not left running beside
// what does not.
func checkSwap(t *testing.T, name string, s, to lifecycle, acts []action) {
	t.Helper()
	was, is := s.Swap, to.Swap
	if is.Process != noProcess && is.Run == to.Run {
		t.Errorf("%s: both processes are launch %d", name, to.Run)
	}
	if is.Process != noProcess && to.Phase != control.Running && is.Part != leaving {
		t.Errorf("%s: %s, and what is beside is not ended", name, to.Phase)
	}
	if has(acts, actLaunchBeside) && (was.Process != noProcess || s.Phase != control.Running || s.Closing) {
		t.Errorf("%s: a launch beside that must not be", name)
	}
	if has(acts, actSwitch) && (s.Phase != control.Running || was.Part != coming || was.Process != alive || !has(acts, actPersist) || !has(acts, actPublish)) {
		t.Errorf("%s: a switch that must not be", name)
	}
	if was.Process == alive && is.Process != alive && !has(acts, actFreeBeside) {
		t.Errorf("%s: what was beside is forgotten and not freed", name)
	}
	if was.Process != noProcess && is.Process == noProcess && !has(acts, actTellSwap) {
		t.Errorf("%s: nobody is told that the swap is over", name)
	}
	if is.Process == alive && is.Part == leaving && s.Phase == control.Running && to.Phase != control.Running && !has(acts, actEndBeside) && !has(acts, actKill) {
		t.Errorf("%s: what is beside is not killed", name)
	}
	began := was.Process == noProcess && is.Process != noProcess || was.Part != is.Part || s.Phase != to.Phase
	if is.Process != noProcess && began && !has(acts, actArm) && !hasTimer(to) {
		t.Errorf("%s: nothing looks after what is beside", name)
	}
	if to.Phase == removed && is.Process != noProcess {
		t.Errorf("%s: removed beside a process", name)
	}
}

func has(acts []action, k actionKind) bool {
	return slices.ContainsFunc(acts, func(a action) bool { return a.Kind == k })
}

func checkActions(t *testing.T, name string, s, to lifecycle, acts []action) {
	t.Helper()
	if has(acts, actLaunch) && (s.Phase == control.Quarantined || s.Closing || to.Process != launching) {
		t.Errorf("%s: a launch that must not be", name)
	}
	if s.Process == alive && to.Process != alive && !has(acts, actFree) && to.Phase != removed {
		t.Errorf("%s: the process is forgotten and not freed", name)
	}
	if s.Phase != to.Phase && to.Phase != removed && !has(acts, actPersist) {
		t.Errorf("%s: %s is not persisted", name, to.Phase)
	}
	waits := to.Phase == control.Backoff || to.Phase == control.Starting || to.Phase == control.Stopping
	if s.Phase != to.Phase && waits && !has(acts, actArm) {
		t.Errorf("%s: %s without a timer", name, to.Phase)
	}
	if s.Phase != control.Quarantined && to.Phase == control.Quarantined {
		checkContainmentOrder(t, name, acts)
	}
}

// checkContainmentOrder holds DESIGN's order: contained before persisted,
// persisted before anything else, dead before told.
func checkContainmentOrder(t *testing.T, name string, acts []action) {
	t.Helper()
	order := []actionKind{actContain, actPersist, actEvidence, actKill, actReap, actAudit, actPublish}
	last := -1
	for _, a := range acts {
		at := slices.Index(order, a.Kind)
		if at < 0 {
			continue
		}
		if at <= last {
			t.Errorf("%s: %s comes too late", name, actionNames[a.Kind])
		}
		last = at
	}
	if !has(acts, actPersist) || !has(acts, actEvidence) || !has(acts, actAudit) {
		t.Errorf("%s: an incomplete quarantine: %s", name, actionsText(acts))
	}
}

// checkWayOut drives a state to stopped with what an operator and time can do.
func checkWayOut(t *testing.T, name string, s lifecycle) {
	t.Helper()
	for range 12 {
		idle := s.Phase == control.Stopped || s.Phase == removed || s.Phase == control.Failed
		if idle && s.Swap.Process == noProcess {
			return
		}
		ev := event{Kind: evStop, Time: epoch.Add(time.Hour), Run: s.Run, Timer: s.Timer}
		switch {
		case s.Swap.Process == launching && s.Swap.Part == leaving:
			ev.Kind, ev.Run = evStartFailed, s.Swap.Run
		case s.Swap.Process == alive && s.Swap.Part == leaving:
			ev.Kind, ev.Run = evExited, s.Swap.Run
		case s.Process == launching:
			ev.Kind = evStartFailed
		case s.Process == alive && s.Phase != control.Running:
			ev.Kind = evExited
		case s.Phase == control.Quarantined:
			ev.Kind = evRelease
		}
		s, _ = transition(s, ev, testPolicy)
	}
	t.Errorf("%s: no way out of %s", name, s.Phase)
}

// FuzzTransition walks through random events and holds every promise at every
// step. Two bytes make an event: its kind and shape, and the time since the last.
func FuzzTransition(f *testing.F) {
	f.Add([]byte{0, 1, 6, 1, 7, 1, 33, 1, 0, 1, 3, 1, 0, 1})
	f.Add([]byte{0, 0, 8, 0, 12, 1, 8, 0, 12, 1, 8, 0, 12, 1, 8, 0, 12, 1})
	f.Add([]byte{0, 0, 6, 0, 7, 0, 2, 0, 12, 9, 12, 9, 10, 0, 5, 0})
	f.Add([]byte{0, 0, 6, 0, 7, 0, 14, 0, 210, 0, 211, 0, 12, 1, 214, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := lifecycle{Phase: control.Stopped, Since: epoch}
		now := epoch
		for i := 0; i+1 < len(data) && i < 400; i += 2 {
			now = now.Add(time.Duration(data[i+1]) * 300 * time.Millisecond)
			s = checkedStep(t, fmt.Sprintf("event %d", i/2), s, fuzzEvent(s, data[i], now))
			checkWayOut(t, fmt.Sprintf("event %d", i/2), s)
			if len(s.Starts) > testPolicy.StartLimitBurst {
				t.Errorf("%d starts are remembered", len(s.Starts))
			}
		}
	})
}

func fuzzEvent(s lifecycle, b byte, now time.Time) event {
	ev := event{Kind: eventKind(b % byte(eventKinds)), Time: now, Run: s.Run, Timer: s.Timer, Reason: "fuzz"}
	shape := b / byte(eventKinds)
	ev.Clean, ev.Permanent = shape&1 != 0, shape&1 != 0
	ev.Action = []violation.Action{violation.Log, violation.Deny, violation.Kill, violation.Quarantine, "unknown"}[shape%5]
	ev.Drain, ev.Again = time.Duration(shape)*time.Second, shape&2 != 0
	switch {
	case shape&12 == 12: // of what is beside
		ev.Run = s.Swap.Run
	case shape&8 != 0: // a stale one
		ev.Run, ev.Timer = ev.Run-1, ev.Timer-1
	}
	return ev
}

func TestRestartDelay(t *testing.T) {
	// 200 ms to 10 s in 4 steps: a factor of 50^(1/4) each.
	want := []time.Duration{200 * time.Millisecond, 531 * time.Millisecond, 1414 * time.Millisecond, 3760 * time.Millisecond, 10 * time.Second, 10 * time.Second}
	for i, w := range want {
		if got := restartDelay(testPolicy, i+1, 0); got.Truncate(time.Millisecond) != w {
			t.Errorf("restart %d waits %v, want %v", i+1, got, w)
		}
	}
	if got := restartDelay(testPolicy, 6, 0.5); got != 10500*time.Millisecond {
		t.Errorf("with jitter: %v", got)
	}
	flat := plan.Lifecycle{RestartSec: time.Second}
	if got := restartDelay(flat, 9, 0); got != time.Second {
		t.Errorf("without steps: %v, want 1s", got)
	}
}

// walk applies events at one second apart and returns the last state.
func walk(s lifecycle, p plan.Lifecycle, kinds ...event) (lifecycle, []action) {
	var acts []action
	for i, ev := range kinds {
		ev.Time = epoch.Add(time.Duration(i+1) * time.Second)
		ev.Run, ev.Timer = s.Run, s.Timer
		if ev.Kind == evStart && s.Phase == control.Stopped {
			ev.Run = 0
		}
		s, acts = transition(s, ev, p)
	}
	return s, acts
}

func TestStartLimit(t *testing.T) {
	crash := []event{{Kind: evSpawned}, {Kind: evReady}, {Kind: evExited, Reason: "exit status 1"}}
	var events []event
	events = append(events, event{Kind: evStart})
	for range 3 {
		events = append(events, crash...)
		events = append(events, event{Kind: evTimer})
	}
	s, _ := walk(lifecycle{Phase: control.Stopped}, testPolicy, events...)
	if s.Phase != control.Failed || !strings.Contains(s.Reason, "start limit hit: 3 starts") || !strings.Contains(s.Reason, "exit status 1") {
		t.Errorf("got %s: %s", s.Phase, s.Reason)
	}
	if s.Restarts != 2 {
		t.Errorf("%d restarts, want 2", s.Restarts)
	}
	s, acts := walk(s, testPolicy, event{Kind: evStart})
	if s.Phase != control.Starting || !has(acts, actLaunch) || len(s.Starts) != 1 {
		t.Errorf("an operator's start after that: %s", s.Phase)
	}
}

// TestStartsAgainAreCounted: what a daemon starts anew because it could not go on
// with it counts as a restart, so that one that takes its daemon along at each
// start is not started for ever.
func TestStartsAgainAreCounted(t *testing.T) {
	s := lifecycle{Phase: control.Stopped}
	for i := range testPolicy.StartLimitBurst {
		s, _ = transition(s, event{Kind: evStart, Again: true, Time: epoch.Add(time.Duration(i) * time.Second)}, testPolicy)
		if s.Phase != control.Starting || s.Step != i+1 {
			t.Fatalf("start %d: %s, step %d", i, s.Phase, s.Step)
		}
		s.Phase, s.Process = control.Stopped, noProcess // the daemon was killed
	}
	s, _ = transition(s, event{Kind: evStart, Again: true, Time: epoch.Add(time.Minute / 2)}, testPolicy)
	if s.Phase != control.Failed {
		t.Errorf("after the last it is %s", s.Phase)
	}
	s, _ = transition(s, event{Kind: evStart, Time: epoch.Add(time.Minute / 2)}, testPolicy)
	if s.Phase != control.Starting || s.Step != 0 {
		t.Errorf("an operator's start: %s, step %d", s.Phase, s.Step)
	}
}

func TestBeingWellResetsTheDelay(t *testing.T) {
	s := lifecycle{Phase: control.Running, Process: alive, Run: 1, Since: epoch, Step: 4, Starts: []time.Time{epoch}}
	soon, _ := transition(s, event{Kind: evExited, Run: 1, Time: epoch.Add(testPolicy.ResetAfter - 1)}, testPolicy)
	late, acts := transition(s, event{Kind: evExited, Run: 1, Time: epoch.Add(testPolicy.ResetAfter)}, testPolicy)
	if soon.Step != 4 || late.Step != 0 || len(late.Starts) != 0 {
		t.Errorf("steps after a short run %d, after a long one %d; want 4 and 0", soon.Step, late.Step)
	}
	if got := acts[len(acts)-1]; got.Kind != actArm || got.Delay != testPolicy.RestartSec {
		t.Errorf("after a long run: %s", actionsText(acts))
	}
}

func TestRestartWords(t *testing.T) {
	for _, c := range []struct {
		restart string
		clean   bool
		want    control.State
	}{
		{"no", true, control.Stopped},
		{"no", false, control.Failed},
		{"on-failure", true, control.Stopped},
		{"on-failure", false, control.Backoff},
		{"always", true, control.Backoff},
		{"always", false, control.Backoff},
	} {
		p := testPolicy
		p.Restart = c.restart
		s, _ := transition(lifecycle{Phase: control.Running, Process: alive, Run: 1}, event{Kind: evExited, Run: 1, Clean: c.clean}, p)
		if s.Phase != c.want {
			t.Errorf("restart = %q, clean %v: %s, want %s", c.restart, c.clean, s.Phase, c.want)
		}
	}
}
