package supervisor

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// removed is the end of a plugin; nothing leaves it.
const removed control.State = "removed"

// killRetry is how long a kill may take before it is tried again.
const killRetry = 5 * time.Second

// placeTime is how long a start may wait for its place and its plan. Where a
// thousand plugins start at once none of them is to blame for that.
const placeTime = 5 * time.Minute

// maxGoodbye bounds how long a plugin may take to leave by itself after the
// goodbye; the rest of timeout_stop_sec is for SIGTERM.
const maxGoodbye = time.Second

// process says what there is of a plugin's process.
type process int

const (
	noProcess process = iota
	launching         // the launcher works; evSpawned or evStartFailed will come
	alive             // evExited will come
)

// after says what follows when the process that is being stopped has gone.
type after int

const (
	thenStop   after = iota // it stays stopped
	thenStart               // it starts again
	thenPolicy              // its exit status and the restart policy decide
	thenFail                // it failed, whatever the status; the restart policy decides
	thenGiveUp              // it failed in a way that trying again will not mend
)

// stopStep is how far a graceful stop has got.
type stopStep int

const (
	goodbyeSent stopStep = iota
	termSent
	killSent
)

// lifecycle is the state of one plugin: what transition reads and returns.
// It is a value; Starts is never written in place.
type lifecycle struct {
	Phase   control.State
	Process process
	// After and Stop have a meaning while the phase is stopping.
	After after
	Stop  stopStep
	// Run numbers the launches, Timer the timers that were armed; an event that
	// belongs to an earlier one is stale.
	Run, Timer uint64
	// Restarts counts the automatic restarts since an operator started it; Step
	// is how many of them stand in a row, the rung of the delay.
	Restarts, Step int
	// Starts are the times of the starts within the start limit's interval.
	Starts []time.Time
	// Since is when the phase was entered.
	Since  time.Time
	Reason string
	// Closing says that the daemon ends: nothing starts any more.
	Closing bool
	// Swap is what a swap has beside the plugin's process; see swapping.
	Swap swapping
}

// eventKind is what can happen to a plugin.
type eventKind int

const (
	evStart        eventKind = iota // an operator, or the daemon for an enabled plugin
	evStop                          // an operator
	evRestart                       // an operator
	evRelease                       // an operator, from quarantine
	evRemove                        // an operator
	evShutdown                      // the daemon ends
	evSpawned                       // the process exists
	evReady                         // it said hello
	evStartFailed                   // it could not be made, or did not say hello
	evDisconnected                  // its connection ended
	evExited                        // the last of its processes has gone
	evViolation                     // a wall was hit; Action says what was decided
	evTimer                         // the armed timer ran out
	evUnhealthy                     // it does not answer its watchdog, or says that it is not well
	evSwap                          // an operator
	evDrained                       // the process that a swap replaced has answered all it was asked
	evPlaced                        // its start has a place among those that are made at once, and its plan is known
	eventKinds
)

// event is one thing that happened. Everything that transition may depend on
// is in it, time and chance included.
type event struct {
	Kind eventKind
	Time time.Time
	// Run is for the events of a process: the launch it came from.
	Run uint64
	// Timer is for evTimer.
	Timer uint64
	// Clean is for evExited: exit status 0.
	Clean bool
	// Permanent is for evStartFailed: trying again will not mend it.
	Permanent bool
	// Action is for evViolation.
	Action violation.Action
	// Jitter, at least 0 and below 1, spreads restarts.
	Jitter float64
	// Again is for evStart: the daemon starts anew what it could not go on with,
	// which counts as any other restart.
	Again bool
	// Drain is for evSwap: how long the process before may go on with its calls.
	Drain  time.Duration
	Reason string
}

// actionKind is what the actor does for a transition.
type actionKind int

const (
	actPersist      actionKind = iota // write the record, synced
	actAudit                          // Name is the kind of the record
	actPublish                        // show the new state to everyone else
	actRecord                         // keep the violation
	actLaunch                         // start the start walk
	actCancel                         // give the start walk up
	actContain                        // freeze, and what a swap has beside it; where that fails, kill
	actEvidence                       // keep the evidence
	actGoodbye                        // ask it to leave
	actTerm                           // SIGTERM
	actKill                           // kill all of it, and what a swap has beside it
	actReap                           // wait, bounded, until that has gone
	actFree                           // release what the process held
	actArm                            // set the timer to Delay
	actRefuse                         // answer the operator with Reason and Hint
	actForget                         // delete the record and what belongs to it
	actLaunchBeside                   // start the start walk of what a swap brings
	actSwitch                         // what came is the plugin's process now, and takes the calls
	actTellSwap                       // audit; Name is the kind of the record
	actByeBeside                      // ask what is beside to leave
	actTermBeside                     // SIGTERM to it
	actEndBeside                      // give its start walk up and kill it
	actFreeBeside                     // release what it held
)

// action is one thing to do. The actor does them in order.
type action struct {
	Kind         actionKind
	Delay        time.Duration
	Name         string
	Reason, Hint string // NAME in a hint stands for the plugin's
}

// transition says what an event makes of a state and what has to be done for
// it, in order. It is pure: same arguments, same result.
//
// The promises its tests hold: only evRelease leads out of quarantine; every
// phase but removed has a way to stopped; a launch happens only when there is
// no process; every launch is followed to its end.
func transition(s lifecycle, ev event, p plan.Lifecycle) (lifecycle, []action) {
	if s.Swap.isOf(ev) {
		return whenBeside(s, ev, p)
	}
	if stale(s, ev) {
		return s, nil
	}
	next, acts := byPhase(s, ev, p)
	return endSwapWith(s, next, ev, acts)
}

// byPhase is transition for the plugin's own process.
func byPhase(s lifecycle, ev event, p plan.Lifecycle) (lifecycle, []action) {
	switch s.Phase {
	case control.Stopped, control.Failed:
		return whenIdle(s, ev, p)
	case control.Starting:
		return whenStarting(s, ev, p)
	case control.Running:
		return whenRunning(s, ev, p)
	case control.Stopping:
		return whenStopping(s, ev, p)
	case control.Backoff:
		return whenBackoff(s, ev, p)
	case control.Quarantined:
		return whenQuarantined(s, ev)
	case removed:
		return s, refuse(ev, "it was removed", "")
	default:
		// An unknown phase can only come from a damaged record: nothing may start.
		return quarantineNow(s, ev, fmt.Sprintf("unknown state %q", s.Phase))
	}
}

// stale says whether an event belongs to an earlier launch or timer, or to a
// process that is not there. A violation never is: it counts whenever it comes.
func stale(s lifecycle, ev event) bool {
	switch ev.Kind {
	case evSpawned:
		return ev.Run != s.Run || s.Process != launching
	case evReady, evDisconnected, evExited, evUnhealthy:
		return ev.Run != s.Run || s.Process != alive
	case evDrained: // of what is beside; whenBeside has those
		return true
	case evPlaced:
		return ev.Run != s.Run || s.Process != launching
	case evStartFailed:
		return ev.Run != s.Run || s.Process == noProcess
	case evTimer:
		return ev.Timer != s.Timer
	case evStart, evStop, evRestart, evRelease, evRemove, evShutdown, evViolation, evSwap, eventKinds:
		return false
	default:
		return true
	}
}

// whenIdle is for stopped and failed: no process, no timer.
func whenIdle(s lifecycle, ev event, p plan.Lifecycle) (lifecycle, []action) {
	switch ev.Kind {
	case evStart, evRestart:
		if ev.Again && !s.Closing {
			return restart(s, ev, p)
		}
		return startAfresh(s, ev, p)
	case evRelease:
		return s, refuse(ev, "it is not quarantined", "")
	case evSwap:
		return s, refuse(ev, "it does not run", "cordon start NAME")
	case evRemove:
		if s.Swap.Process != noProcess {
			return s, refuse(ev, "its processes have not ended yet", "cordon remove NAME, in a moment")
		}
		s.Phase, s.Since = removed, ev.Time
		return s, []action{{Kind: actForget}}
	case evShutdown:
		s.Closing = true
		return s, nil
	case evViolation:
		return lateViolation(s, ev)
	case evStop, evSpawned, evReady, evStartFailed, evDisconnected, evExited, evTimer, evUnhealthy, evDrained, evPlaced, eventKinds:
		return s, nil
	}
	return s, nil
}

func whenStarting(s lifecycle, ev event, p plan.Lifecycle) (lifecycle, []action) {
	switch ev.Kind {
	case evPlaced: // what it takes from here on is its own doing
		return arm(s, startTime(p), nil)
	case evSpawned:
		s.Process = alive
		return arm(s, startTime(p)+p.WarmUp, nil)
	case evReady:
		return enter(disarm(s), ev, control.Running, "", "started")
	case evStartFailed:
		if s.Process == alive {
			return killThen(s, ev, failureOf(ev), ev.Reason)
		}
		s.Process = noProcess
		return settle(s, ev, p, failureOf(ev), ev.Reason)
	case evDisconnected:
		return killThen(s, ev, thenFail, "it closed its connection before it was ready")
	case evExited:
		return settle(gone(s), ev, p, thenFail, "it ended before it was ready: "+ev.Reason, action{Kind: actFree})
	case evTimer:
		return killThen(s, ev, thenFail, notReady(s, ev, p))
	case evViolation:
		return liveViolation(s, ev)
	case evStop:
		return killThen(s, ev, thenStop, whyStopped(ev, "stopped by an operator while it started"))
	case evRestart:
		return killThen(s, ev, thenStart, "restarted by an operator")
	case evShutdown:
		s.Closing = true
		return killThen(s, ev, thenStop, "cordond ended")
	case evRelease:
		return s, refuse(ev, "it is not quarantined", "")
	case evRemove:
		return s, refuse(ev, "it is starting", "cordon stop NAME")
	case evSwap:
		return s, refuse(ev, "it is starting", "cordon restart NAME")
	case evStart, evUnhealthy, evDrained, eventKinds:
		return s, nil
	}
	return s, nil
}

func whenRunning(s lifecycle, ev event, p plan.Lifecycle) (lifecycle, []action) {
	switch ev.Kind {
	case evStop:
		return stopThen(s, ev, p, thenStop, whyStopped(ev, "stopped by an operator"))
	case evRestart:
		return stopThen(s, ev, p, thenStart, "restarted by an operator")
	case evShutdown:
		s.Closing = true
		return stopThen(s, ev, p, thenStop, "cordond ended")
	case evDisconnected:
		return stopThen(s, ev, p, thenPolicy, "it closed its connection")
	case evExited:
		well := p.ResetAfter > 0 && ev.Time.Sub(s.Since) >= p.ResetAfter
		if well {
			s.Step, s.Starts = 0, nil
		}
		return settle(gone(s), ev, p, thenPolicy, ev.Reason, action{Kind: actFree})
	case evUnhealthy:
		next, acts := killThen(s, ev, thenFail, ev.Reason)
		return next, append(acts, action{Kind: actRecord})
	case evViolation:
		return liveViolation(s, ev)
	case evRelease:
		return s, refuse(ev, "it is not quarantined", "")
	case evRemove:
		return s, refuse(ev, "it is running", "cordon stop NAME")
	case evSwap:
		return beginSwap(s, ev)
	case evTimer:
		return pressSwap(s, ev, p)
	case evStart, evSpawned, evReady, evStartFailed, evDrained, evPlaced, eventKinds:
		return s, nil
	}
	return s, nil
}

func whenStopping(s lifecycle, ev event, p plan.Lifecycle) (lifecycle, []action) {
	switch ev.Kind {
	case evStart, evRestart:
		if s.Closing {
			return s, refuse(ev, "cordond is ending", "")
		}
		s.After = thenStart
		return s, nil
	case evStop:
		s.After, s.Reason = thenStop, whyStopped(ev, "stopped by an operator")
		return s, nil
	case evShutdown:
		s.Closing, s.After = true, thenStop
		return s, nil
	case evSpawned: // the start was given up too late to prevent it
		s.Process = alive
		return arm(s, killRetry, []action{{Kind: actKill}})
	case evStartFailed:
		if s.Process == alive {
			return s, nil
		}
		return settle(gone(s), ev, p, s.After, s.Reason)
	case evExited:
		return settle(gone(s), ev, p, s.After, stopReason(s, ev), action{Kind: actFree})
	case evTimer:
		return pressStop(s, p)
	case evViolation:
		return liveViolation(s, ev)
	case evRelease:
		return s, refuse(ev, "it is not quarantined", "")
	case evRemove:
		return s, refuse(ev, "it is stopping", "cordon stop NAME")
	case evSwap:
		return s, refuse(ev, "it is stopping", "cordon restart NAME")
	case evReady, evDisconnected, evUnhealthy, evDrained, evPlaced, eventKinds:
		return s, nil
	}
	return s, nil
}

func whenBackoff(s lifecycle, ev event, p plan.Lifecycle) (lifecycle, []action) {
	switch ev.Kind {
	case evTimer:
		return restart(s, ev, p)
	case evStart, evRestart:
		return startAfresh(s, ev, p)
	case evStop:
		return enter(disarm(s), ev, control.Stopped, whyStopped(ev, "stopped by an operator"), "stopped")
	case evShutdown:
		s.Closing = true
		return enter(disarm(s), ev, control.Stopped, "cordond ended", "stopped")
	case evViolation:
		return lateViolation(s, ev)
	case evRelease:
		return s, refuse(ev, "it is not quarantined", "")
	case evRemove:
		return s, refuse(ev, "it waits to be restarted", "cordon stop NAME")
	case evSwap:
		return s, refuse(ev, "it waits to be restarted", "cordon restart NAME")
	case evSpawned, evReady, evStartFailed, evDisconnected, evExited, evUnhealthy, evDrained, evPlaced, eventKinds:
		return s, nil
	}
	return s, nil
}

func whenQuarantined(s lifecycle, ev event) (lifecycle, []action) {
	switch ev.Kind {
	case evRelease:
		if s.Process != noProcess || s.Swap.Process != noProcess {
			return s, refuse(ev, "its processes have not ended yet", "cordon release NAME, in a moment")
		}
		s.Restarts, s.Step, s.Starts = 0, 0, nil
		return enter(disarm(s), ev, control.Stopped, "released: "+ev.Reason, "released")
	case evStart, evRestart, evSwap:
		return s, refuse(ev, "it is quarantined: "+s.Reason, "cordon why NAME, then cordon release NAME")
	case evRemove:
		return s, refuse(ev, "it is quarantined, and removing it would forget that", "cordon why NAME, then cordon release NAME")
	case evShutdown:
		s.Closing = true
		if s.Process == alive {
			return s, []action{{Kind: actKill}}
		}
		return s, nil
	case evSpawned: // the wall was hit before the launcher had returned
		s.Process = alive
		return arm(s, killRetry, []action{{Kind: actContain}, {Kind: actEvidence}, {Kind: actKill}, {Kind: actReap}})
	case evStartFailed:
		if s.Process == alive {
			return s, nil
		}
		return gone(s), []action{{Kind: actPublish}}
	case evExited:
		return gone(s), []action{{Kind: actFree}, {Kind: actPublish}}
	case evTimer:
		if s.Process == noProcess { // and what is beside is endSwapWith's
			return s, nil
		}
		return arm(s, killRetry, []action{{Kind: actKill}})
	case evViolation:
		return s, []action{{Kind: actRecord}}
	case evStop, evReady, evDisconnected, evUnhealthy, evDrained, evPlaced, eventKinds:
		return s, nil
	}
	return s, nil
}

// liveViolation answers a violation while there may be a process.
func liveViolation(s lifecycle, ev event) (lifecycle, []action) {
	switch ev.Action {
	case violation.Log, violation.Deny:
		return s, []action{{Kind: actRecord}}
	case violation.Kill:
		// Nothing is kept of it that a dead process could not give, so the kill is
		// what contains it; the disk waits.
		if s.Phase == control.Stopping { // what was to follow stays
			s.Stop = killSent
			return arm(s, killRetry, []action{{Kind: actKill}, {Kind: actRecord}})
		}
		next, acts := killThen(s, ev, thenFail, ev.Reason)
		return next, append(acts, action{Kind: actRecord})
	case violation.Quarantine:
		return quarantineNow(s, ev, ev.Reason)
	default: // an unknown decision is the strictest
		return quarantineNow(s, ev, ev.Reason)
	}
}

// lateViolation answers a violation that is heard of when the process has gone.
func lateViolation(s lifecycle, ev event) (lifecycle, []action) {
	switch ev.Action {
	case violation.Log, violation.Deny, violation.Kill:
		return s, []action{{Kind: actRecord}}
	case violation.Quarantine:
		return quarantineNow(s, ev, ev.Reason)
	default:
		return quarantineNow(s, ev, ev.Reason)
	}
}

// quarantineNow is the fourth walk: contain, persist, evidence, kill, reap,
// audit, publish. What the process held is released when its end is reported.
func quarantineNow(s lifecycle, ev event, reason string) (lifecycle, []action) {
	s.Phase, s.Since, s.Reason = control.Quarantined, ev.Time, reason
	s = disarm(s)
	acts := []action{{Kind: actContain}, {Kind: actPersist}, {Kind: actEvidence}, {Kind: actCancel}, {Kind: actKill}, {Kind: actReap}, {Kind: actAudit, Name: "quarantined"}, {Kind: actPublish}}
	if s.Process == noProcess && s.Swap.Process == noProcess {
		acts = []action{{Kind: actPersist}, {Kind: actEvidence}, {Kind: actAudit, Name: "quarantined"}, {Kind: actPublish}}
		return s, acts
	}
	return arm(s, killRetry, acts)
}

// startAfresh starts for an operator, who has seen what happened before.
func startAfresh(s lifecycle, ev event, p plan.Lifecycle) (lifecycle, []action) {
	s.Restarts, s.Step, s.Starts = 0, 0, nil
	return launchNow(s, ev, p)
}

// restart starts again by itself, if the start limit allows.
func restart(s lifecycle, ev event, p plan.Lifecycle) (lifecycle, []action) {
	s.Starts = recent(s.Starts, ev.Time, p.StartLimitInterval)
	if p.StartLimitBurst > 0 && p.StartLimitInterval > 0 && len(s.Starts) >= p.StartLimitBurst {
		reason := fmt.Sprintf("start limit hit: %d starts within %v; last: %s", len(s.Starts), p.StartLimitInterval, s.Reason)
		return enter(disarm(s), ev, control.Failed, reason, "failed")
	}
	s.Restarts++
	s.Step++
	return launchNow(s, ev, p)
}

// launchNow begins the start walk; there is no process.
func launchNow(s lifecycle, ev event, p plan.Lifecycle) (lifecycle, []action) {
	if s.Closing {
		return s, refuse(ev, "cordond is ending", "")
	}
	s.Starts = append(recent(s.Starts, ev.Time, p.StartLimitInterval), ev.Time)
	s.Run = max(s.Run, s.Swap.Run) + 1
	s.Process = launching
	s, acts := enter(s, ev, control.Starting, "", "starting")
	return arm(s, placeTime, append(acts, action{Kind: actLaunch}))
}

// startTime is timeout_start_sec; a plan without one gets systemd's 90 s.
func startTime(p plan.Lifecycle) time.Duration {
	if p.StartTimeout <= 0 {
		return 90 * time.Second
	}
	return p.StartTimeout
}

// killThen ends a process that is not asked first.
func killThen(s lifecycle, ev event, a after, reason string) (lifecycle, []action) {
	s.After, s.Stop = a, killSent
	kill := action{Kind: actKill}
	if s.Process == launching {
		kill.Kind = actCancel
	}
	s, acts := enter(s, ev, control.Stopping, reason, "stopping")
	return arm(s, killRetry, append([]action{kill}, acts...))
}

// stopThen asks a running plugin to leave.
func stopThen(s lifecycle, ev event, p plan.Lifecycle, a after, reason string) (lifecycle, []action) {
	s.After, s.Stop = a, goodbyeSent
	s, acts := enter(s, ev, control.Stopping, reason, "stopping")
	return arm(s, goodbyeTime(p), append(acts, action{Kind: actGoodbye}))
}

// pressStop is the next step of a stop that takes too long.
func pressStop(s lifecycle, p plan.Lifecycle) (lifecycle, []action) {
	if s.Process == launching {
		return arm(s, killRetry, []action{{Kind: actCancel}})
	}
	switch s.Stop {
	case goodbyeSent:
		s.Stop = termSent
		return arm(s, max(0, p.StopTimeout-goodbyeTime(p)), []action{{Kind: actTerm}})
	case termSent, killSent:
		s.Stop = killSent
		return arm(s, killRetry, []action{{Kind: actKill}})
	default:
		return arm(s, killRetry, []action{{Kind: actKill}})
	}
}

// stopReason adds how it ended where that decides what follows.
func stopReason(s lifecycle, ev event) string {
	if s.After == thenPolicy && ev.Reason != "" {
		return s.Reason + ": " + ev.Reason
	}
	return s.Reason
}

// whyStopped is the reason of an evStop that has one: what it needs has gone.
func whyStopped(ev event, operator string) string {
	if ev.Reason != "" {
		return ev.Reason
	}
	return operator
}

func goodbyeTime(p plan.Lifecycle) time.Duration {
	return min(p.StopTimeout/4, maxGoodbye)
}

// settle decides what follows when there is no process any more.
func settle(s lifecycle, ev event, p plan.Lifecycle, a after, reason string, first ...action) (lifecycle, []action) {
	s = disarm(s)
	if a == thenStart && s.Closing {
		a = thenStop
	}
	var acts []action
	switch a {
	case thenStop:
		s, acts = enter(s, ev, control.Stopped, reason, "stopped")
	case thenStart:
		s, acts = startAfresh(s, ev, p)
	case thenPolicy:
		s, acts = byPolicy(s, ev, p, ev.Clean, reason)
	case thenFail:
		s, acts = byPolicy(s, ev, p, false, reason)
	case thenGiveUp:
		s, acts = enter(s, ev, control.Failed, reason, "failed")
	}
	return s, append(first, acts...)
}

// byPolicy is systemd's Restart=: no, on-failure, always.
func byPolicy(s lifecycle, ev event, p plan.Lifecycle, clean bool, reason string) (lifecycle, []action) {
	again := p.Restart == "always" || p.Restart == "on-failure" && !clean
	switch {
	case s.Closing:
		return enter(s, ev, control.Stopped, reason, "stopped")
	case again:
		s, acts := enter(s, ev, control.Backoff, reason, "backoff")
		return arm(s, restartDelay(p, s.Step+1, ev.Jitter), acts)
	case clean:
		return enter(s, ev, control.Stopped, reason, "stopped")
	default:
		return enter(s, ev, control.Failed, reason, "failed")
	}
}

// restartDelay is how long to wait before the nth automatic restart in a row:
// restart_sec before the first, then growing geometrically so that
// restart_max_delay_sec is reached after restart_steps; systemd.service(5).
// Jitter adds up to a tenth.
func restartDelay(p plan.Lifecycle, n int, jitter float64) time.Duration {
	low, high := float64(p.RestartSec), float64(p.RestartMaxDelaySec)
	d := low
	switch {
	case n <= 1 || p.RestartSteps <= 0 || low <= 0 || high <= low:
	case n > p.RestartSteps:
		d = high
	default:
		d = low * math.Pow(high/low, float64(n-1)/float64(p.RestartSteps))
	}
	return time.Duration(d * (1 + jitter/10))
}

// recent returns the starts within the interval before now, as a new slice.
func recent(starts []time.Time, now time.Time, interval time.Duration) []time.Time {
	return slices.DeleteFunc(slices.Clone(starts), func(t time.Time) bool { return now.Sub(t) >= interval })
}

// enter changes the phase: persisted first, then shown, then audited, so that
// who follows the events finds what they say.
func enter(s lifecycle, ev event, phase control.State, reason, name string) (lifecycle, []action) {
	s.Phase, s.Since, s.Reason = phase, ev.Time, reason
	return s, []action{{Kind: actPersist}, {Kind: actPublish}, {Kind: actAudit, Name: name}}
}

func gone(s lifecycle) lifecycle {
	s.Process = noProcess
	return disarm(s)
}

// arm sets the one timer, which makes every earlier one stale.
func arm(s lifecycle, d time.Duration, acts []action) (lifecycle, []action) {
	s.Timer++
	return s, append(acts, action{Kind: actArm, Delay: d})
}

func disarm(s lifecycle) lifecycle {
	s.Timer++
	return s
}

// refuse answers an operator; what the daemon or the plugin did needs no answer.
func refuse(ev event, reason, hint string) []action {
	switch ev.Kind {
	case evStart, evStop, evRestart, evRelease, evRemove, evSwap:
		return []action{{Kind: actRefuse, Reason: reason, Hint: hint}}
	case evShutdown, evSpawned, evReady, evStartFailed, evDisconnected, evExited, evViolation, evTimer, evUnhealthy, evDrained, evPlaced, eventKinds:
		return nil
	}
	return nil
}

func failureOf(ev event) after {
	if ev.Permanent {
		return thenGiveUp
	}
	return thenFail
}
