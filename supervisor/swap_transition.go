package supervisor

import (
	"fmt"
	"slices"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// part is what the process beside the plugin's is there for.
type part int

const (
	coming   part = iota // it becomes the plugin's when it is ready
	draining             // it was the plugin's, and finishes what it was asked
	leaving              // its end is waited for
)

// swapping is the second process of a plugin that is being swapped: first the
// one that comes, then the one that it has replaced. At no time are there more
// than two, and at no time does more than one take calls.
type swapping struct {
	// Process is what there is of it; with noProcess no swap is under way.
	Process process
	Part    part
	Stop    stopStep
	// Run is its launch; it stays when it has ended, so that no other gets the
	// number.
	Run uint64
	// Drain is how long what was replaced may go on with its calls.
	Drain time.Duration
	// Failed is why what came has not become the plugin's; empty if it has.
	Failed string
}

// isOf says whether an event is one of that process.
func (w swapping) isOf(ev event) bool {
	if w.Process == noProcess || ev.Run != w.Run {
		return false
	}
	switch ev.Kind {
	case evSpawned, evPlaced:
		return w.Process == launching
	case evReady, evDisconnected, evExited, evUnhealthy, evDrained:
		return w.Process == alive
	case evStartFailed, evViolation:
		return true
	case evStart, evStop, evRestart, evRelease, evRemove, evShutdown, evTimer, evSwap, eventKinds:
		return false
	default:
		return false
	}
}

// beginSwap has another process be started beside the one that runs.
func beginSwap(s lifecycle, ev event) (lifecycle, []action) {
	switch {
	case s.Closing:
		return s, refuse(ev, "cordond is ending", "")
	case s.Swap.Process != noProcess && s.Swap.Part == coming:
		return s, refuse(ev, "another swap is under way", "cordon events NAME")
	case s.Swap.Process != noProcess:
		return s, refuse(ev, "the process before has not ended yet", "cordon events NAME")
	}
	s.Swap = swapping{Process: launching, Run: max(s.Run, s.Swap.Run) + 1, Drain: ev.Drain}
	return arm(s, placeTime, []action{{Kind: actTellSwap, Name: "swapping"}, {Kind: actPublish}, {Kind: actLaunchBeside}})
}

// whenBeside answers an event of the process that is not the plugin's.
func whenBeside(s lifecycle, ev event, p plan.Lifecycle) (lifecycle, []action) {
	switch ev.Kind {
	case evPlaced:
		if s.Swap.Part != coming {
			return s, nil
		}
		return armRunning(s, startTime(p), nil)
	case evSpawned:
		s.Swap.Process = alive
		if s.Swap.Part != coming { // given up too late to prevent it
			return endBeside(s)
		}
		return armRunning(s, startTime(p)+p.WarmUp, nil)
	case evReady:
		if s.Swap.Part != coming || s.Phase != control.Running {
			return s, nil
		}
		return switchOver(s, ev)
	case evStartFailed:
		if s.Swap.Process == launching {
			return besideGone(failSwap(s, ev.Reason))
		}
		return giveUp(s, ev.Reason)
	case evDisconnected:
		if s.Swap.Part == coming {
			return giveUp(s, "it closed its connection before it was ready")
		}
		return dismiss(s, p)
	case evDrained:
		return dismiss(s, p)
	case evUnhealthy:
		if s.Swap.Part == leaving {
			return s, nil
		}
		return giveUp(s, ev.Reason)
	case evExited:
		s, acts := besideGone(failSwap(s, "it ended before it was ready: "+ev.Reason))
		return s, append([]action{{Kind: actFreeBeside}}, acts...)
	case evViolation:
		return besideViolation(s, ev)
	case evStart, evStop, evRestart, evRelease, evRemove, evShutdown, evTimer, evSwap, eventKinds:
		return s, nil
	}
	return s, nil
}

// switchOver makes what came the plugin's process: it takes every call from now
// on, and the one before finishes what it was asked. An operator has asked for it,
// so restarts are counted anew.
func switchOver(s lifecycle, ev event) (lifecycle, []action) {
	s.Run, s.Swap.Run = s.Swap.Run, s.Run
	s.Swap.Part = draining
	s.Since, s.Reason, s.Restarts, s.Step = ev.Time, "", 0, 0
	return arm(s, s.Swap.Drain, []action{{Kind: actSwitch}, {Kind: actPersist}, {Kind: actPublish}, {Kind: actTellSwap, Name: "swapped"}})
}

// failSwap notes why what comes does not become the plugin's process.
func failSwap(s lifecycle, reason string) lifecycle {
	if s.Swap.Part == coming {
		s.Swap.Part, s.Swap.Failed = leaving, reason
	}
	return s
}

// giveUp ends the process beside; the plugin's own goes on.
func giveUp(s lifecycle, reason string) (lifecycle, []action) { return endBeside(failSwap(s, reason)) }

// endBeside kills it, or gives its start up; evExited or evStartFailed follows.
func endBeside(s lifecycle) (lifecycle, []action) {
	s.Swap.Part, s.Swap.Stop = leaving, killSent
	return armRunning(s, killRetry, []action{{Kind: actEndBeside}})
}

// dismiss asks what was replaced to leave, once.
func dismiss(s lifecycle, p plan.Lifecycle) (lifecycle, []action) {
	if s.Swap.Part != draining || s.Phase != control.Running {
		return s, nil
	}
	s.Swap.Part, s.Swap.Stop = leaving, goodbyeSent
	return arm(s, goodbyeTime(p), []action{{Kind: actByeBeside}})
}

// pressSwap is the end of waiting for the process beside, while the plugin runs:
// nothing else has a timer then.
func pressSwap(s lifecycle, _ event, p plan.Lifecycle) (lifecycle, []action) {
	switch {
	case s.Swap.Process == noProcess:
		return s, nil
	case s.Swap.Part == coming:
		return giveUp(s, fmt.Sprintf("it was not ready in time (timeout_start_sec %v, after %v at most for a place)", startTime(p), placeTime))
	case s.Swap.Part == draining:
		return dismiss(s, p)
	case s.Swap.Stop == goodbyeSent && s.Swap.Process == alive:
		s.Swap.Stop = termSent
		return arm(s, max(0, p.StopTimeout-goodbyeTime(p)), []action{{Kind: actTermBeside}})
	}
	return endBeside(s)
}

// besideGone is that there is only the plugin's own process any more.
func besideGone(s lifecycle) (lifecycle, []action) {
	name := "swap-done"
	if s.Swap.Failed != "" {
		name = "swap-failed"
	}
	s.Swap.Process = noProcess
	if !hasTimer(s) {
		s = disarm(s)
	}
	return s, []action{{Kind: actPublish}, {Kind: actTellSwap, Name: name}}
}

// besideViolation answers a wall that the process beside has hit. Where that means
// quarantine it is the plugin's, with all of its processes: which of the two
// did it says nothing for the other.
func besideViolation(s lifecycle, ev event) (lifecycle, []action) {
	switch ev.Action {
	case violation.Log, violation.Deny:
		return s, []action{{Kind: actRecord}}
	case violation.Kill:
		s, acts := giveUp(s, ev.Reason)
		return s, append(acts, action{Kind: actRecord})
	case violation.Quarantine:
	default: // an unknown decision is the strictest
	}
	if s.Phase == control.Quarantined {
		return s, []action{{Kind: actRecord}}
	}
	next, acts := quarantineNow(s, ev, ev.Reason)
	return endSwapWith(s, next, ev, acts)
}

// endSwapWith ends a swap when the plugin's own process does not run any more,
// and sees to it that it ends.
func endSwapWith(before, s lifecycle, ev event, acts []action) (lifecycle, []action) {
	switch {
	case s.Swap.Process == noProcess, s.Phase == control.Running && before.Phase == control.Running:
		return s, acts
	case s.Phase == control.Running: // it was started while what was beside dies
		return arm(s, killRetry, acts)
	}
	if before.Phase == control.Running {
		s = failSwap(s, "the plugin was "+string(s.Phase)+" meanwhile")
		s.Swap.Part, s.Swap.Stop = leaving, killSent
		if !slices.ContainsFunc(acts, func(a action) bool { return a.Kind == actKill }) { // which is of both
			acts = append([]action{{Kind: actEndBeside}}, acts...)
		}
	} else if ev.Kind == evTimer {
		acts = append([]action{{Kind: actEndBeside}}, acts...)
	}
	armed := slices.ContainsFunc(acts, func(a action) bool { return a.Kind == actArm })
	if armed || hasTimer(s) || s.Timer == before.Timer && ev.Kind != evTimer {
		return s, acts
	}
	return arm(s, killRetry, acts)
}

// hasTimer says whether the timer is for the plugin's own process.
func hasTimer(s lifecycle) bool {
	switch s.Phase {
	case control.Starting, control.Stopping, control.Backoff:
		return true
	case control.Quarantined:
		return s.Process != noProcess
	case control.Stopped, control.Running, control.Failed, removed:
		return false
	default:
		return false
	}
}

// armRunning sets the timer for the process beside, unless the plugin's own needs
// it: then that one's end looks after both.
func armRunning(s lifecycle, d time.Duration, acts []action) (lifecycle, []action) {
	if hasTimer(s) {
		return s, acts
	}
	return arm(s, d, acts)
}
