package supervisor

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// modelSteps is how many steps are a part of every test run; make model has a
// million.
const (
	modelSteps = 20_000
	// modelEpisode is how many steps one state directory lives.
	modelEpisode = 1000
)

// modelPolicy has no delay that the actor's own timers have, too.
func modelPolicy() plan.Lifecycle {
	p := testPolicy
	p.StopTimeout = 3 * time.Second
	return p
}

// TestModel drives a real actor, with a real store and audit log, by random
// events in random orders, crashes between any two actions included, and holds
// it against a model that knows no actions, only what must be true. The actor's
// own goroutines run; in which order their messages are handled is chance, and
// the chance is the seed's.
func TestModel(t *testing.T) {
	seed := modelNumber(t, "CORDON_MODEL_SEED", uint64(time.Now().UnixNano()))
	steps := modelNumber(t, "CORDON_MODEL_STEPS", modelSteps)
	t.Logf("replay with CORDON_MODEL_SEED=%d CORDON_MODEL_STEPS=%d", seed, steps)
	seen := map[string]int{}
	for at := uint64(0); at < steps; at += modelEpisode {
		w := newWorld(t, rand.New(rand.NewPCG(seed, at)), seen)
		for range min(modelEpisode, steps-at) {
			w.step()
			if t.Failed() {
				t.Fatalf("CORDON_MODEL_SEED=%d, episode at %d; the last steps were:\n  %s", seed, at, strings.Join(w.trail, "\n  "))
			}
		}
		w.close()
	}
	t.Logf("what happened, and in which phases: %v", seen)
	for _, what := range append([]string{"phase running", "phase quarantined", "phase backoff", "swapped", "swap given up"}, worldDeeds...) {
		if steps >= modelSteps && seen[what] == 0 {
			t.Errorf("nothing of %q ever happened", what)
		}
	}
}

func modelNumber(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// reference is what must be true of a plugin, whatever the actor does to make
// it so.
type reference struct {
	phase    control.State
	proc     int // 0 none, 1 being launched, 2 alive
	run      uint64
	intent   string // while stopping: stop, start, policy, fail, never
	closing  bool
	starts   []time.Time
	since    time.Time
	launched bool // the last event began a launch

	// What a swap has beside: as proc, for what, and of which launch.
	swap     int
	part     string // coming, draining, leaving
	swapRun  uint64
	beside   bool // the last event began a launch beside
	switched bool // the last event had the two change places
}

// isOf says whether an event is one of the process beside.
func (m *reference) isOf(ev event) bool {
	switch ev.Kind {
	case evSpawned, evPlaced:
		return m.swap == 1
	case evReady, evDisconnected, evExited, evUnhealthy, evDrained:
		return m.swap == 2
	default:
		return ev.Kind == evStartFailed || ev.Kind == evViolation
	}
}

func (m *reference) nextBeside(ev event) {
	switch ev.Kind {
	case evSpawned:
		m.swap = 2
	case evReady:
		if m.part == "coming" && m.phase == control.Running {
			m.run, m.swapRun = m.swapRun, m.run
			m.part, m.since, m.switched = "draining", ev.Time, true
		}
	case evStartFailed:
		m.part = "leaving"
		if m.swap == 1 {
			m.swap = 0
		}
	case evExited:
		m.swap = 0
	case evDisconnected, evDrained, evUnhealthy:
		m.part = "leaving"
	case evViolation:
		switch ev.Action {
		case violation.Log, violation.Deny:
		case violation.Kill:
			m.part = "leaving"
		default:
			if m.phase != control.Quarantined {
				m.enter(control.Quarantined, ev)
			}
		}
	default:
	}
}

// next is what an event makes of it, and whether an operator is refused.
func (m *reference) next(ev event, current bool) (refused bool) {
	m.launched, m.beside, m.switched = false, false, false
	defer func() {
		if m.swap != 0 && m.phase != control.Running {
			m.part = "leaving"
		}
	}()
	if m.swap != 0 && ev.Run == m.swapRun && m.isOf(ev) {
		m.nextBeside(ev)
		return false
	}
	quarantines := ev.Kind == evViolation && !slices.Contains([]violation.Action{violation.Log, violation.Deny, violation.Kill}, ev.Action)
	idle := m.phase == control.Stopped || m.phase == control.Failed
	busy := m.phase == control.Starting || m.phase == control.Running || m.phase == control.Stopping
	held := m.phase == control.Quarantined
	mine := ev.Run == m.run
	switch {
	case quarantines:
		m.enter(control.Quarantined, ev)
	case ev.Kind == evViolation:
		if ev.Action == violation.Kill && busy && m.phase != control.Stopping {
			m.enter(control.Stopping, ev)
			m.intent = "fail"
		}
	case ev.Kind == evShutdown:
		m.closing = true
		m.stop(ev, "stop")
	case ev.Kind == evStop:
		m.stop(ev, "stop")
	case ev.Kind == evRelease && (!held || m.proc != 0 || m.swap != 0), ev.Kind == evRemove && (!idle || m.swap != 0):
		return true
	case ev.Kind == evSwap && (m.phase != control.Running || m.closing || m.swap != 0):
		return true
	case ev.Kind == evSwap:
		m.swap, m.part, m.swapRun, m.beside = 1, "coming", max(m.run, m.swapRun)+1, true
	case ev.Kind == evRelease:
		m.enter(control.Stopped, ev)
		m.starts = nil
	case ev.Kind == evRemove:
		m.phase = removed
	case ev.Kind == evStart || ev.Kind == evRestart:
		switch {
		case held, m.closing && (idle || m.phase == control.Stopping || m.phase == control.Backoff):
			return true
		case idle || m.phase == control.Backoff:
			m.starts = nil
			m.launch(ev)
		case m.phase == control.Stopping:
			m.intent = "start"
		case ev.Kind == evRestart:
			m.stop(ev, "start")
		}
	case ev.Kind == evTimer && current:
		m.late(ev)
	case ev.Kind == evTimer || !mine:
	case ev.Kind == evSpawned && m.proc == 1:
		m.proc = 2
	case ev.Kind == evReady && m.proc == 2 && m.phase == control.Starting:
		m.enter(control.Running, ev)
	case ev.Kind == evUnhealthy && m.phase == control.Running:
		m.stop(ev, "fail")
	case ev.Kind == evDisconnected && m.proc == 2 && m.phase == control.Starting:
		m.stop(ev, "fail")
	case ev.Kind == evDisconnected && m.proc == 2 && m.phase == control.Running:
		m.stop(ev, "policy")
	case ev.Kind == evStartFailed && m.proc == 2 && m.phase == control.Starting:
		m.stop(ev, map[bool]string{true: "never", false: "fail"}[ev.Permanent])
	case ev.Kind == evStartFailed && m.proc == 1, ev.Kind == evExited && m.proc == 2:
		m.ended(ev)
	}
	return false
}

func (m *reference) enter(phase control.State, ev event) { m.phase, m.since = phase, ev.Time }

// stop is for what runs, or wants to.
func (m *reference) stop(ev event, intent string) {
	switch m.phase {
	case control.Starting, control.Running:
		m.enter(control.Stopping, ev)
		m.intent = intent
	case control.Stopping:
		m.intent = intent
	case control.Backoff:
		m.enter(control.Stopped, ev)
	case control.Stopped, control.Failed, control.Quarantined, removed:
	}
}

func (m *reference) launch(ev event) {
	m.enter(control.Starting, ev)
	m.proc, m.launched = 1, true
	m.run = max(m.run, m.swapRun) + 1
	m.starts = append(m.starts, ev.Time)
}

// late is the end of waiting: for the next try, or for the hello.
func (m *reference) late(ev event) {
	if m.swap != 0 { // what is beside has had its time, whatever for
		m.part = "leaving"
	}
	if m.phase == control.Backoff {
		m.again(ev)
	}
	if m.phase == control.Starting && !m.launched {
		m.stop(ev, "fail")
	}
}

// again is an automatic restart: not more than the burst within the interval.
func (m *reference) again(ev event) {
	p := modelPolicy()
	within := 0
	for _, at := range m.starts {
		if ev.Time.Sub(at) < p.StartLimitInterval {
			within++
		}
	}
	if within >= p.StartLimitBurst {
		m.enter(control.Failed, ev)
		return
	}
	m.launch(ev)
}

// ended is that there is no process any more.
func (m *reference) ended(ev event) {
	m.proc = 0
	intent := m.intent
	switch m.phase {
	case control.Quarantined:
		return
	case control.Starting:
		intent = map[bool]string{true: "never", false: "fail"}[ev.Permanent]
	case control.Running:
		intent = "policy"
		if ev.Time.Sub(m.since) >= modelPolicy().ResetAfter {
			m.starts = nil
		}
	case control.Stopped, control.Failed, control.Stopping, control.Backoff, removed:
	}
	clean := intent == "policy" && ev.Clean
	switch {
	case intent == "never":
		m.enter(control.Failed, ev)
	case intent == "stop" || clean || m.closing:
		m.enter(control.Stopped, ev)
	case intent == "start":
		m.starts = nil
		m.launch(ev)
	default:
		m.enter(control.Backoff, ev) // the policy restarts what failed
	}
}

// crashed is what must be so after the daemon was away, if the disk has phase.
func (m *reference) crashed(onDisk control.State) {
	*m = reference{phase: control.Stopped}
	if onDisk == control.Quarantined || onDisk == control.Failed {
		m.phase = onDisk
	}
}
