package seccomp

import (
	"testing"
	"time"
)

var floodEpoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestFloodReportsABurstAndThenARate(t *testing.T) {
	var f Flood
	reported := 0
	for range 1000 {
		if report, suppressed, escalate := f.Call(floodEpoch, 1, false); report {
			reported++
			if suppressed != 0 || escalate {
				t.Fatalf("call %d: suppressed %d, escalate %v", reported, suppressed, escalate)
			}
		}
	}
	if reported != FloodBurst {
		t.Errorf("%d of the first calls were reported, want %d", reported, FloodBurst)
	}
	next := floodEpoch.Add(2*FloodInterval + FloodInterval/2)
	if report, suppressed, _ := f.Call(next, 1, false); !report || suppressed != 1000-FloodBurst {
		t.Errorf("after an interval: report %v, suppressed %d, want true, %d", report, suppressed, 1000-FloodBurst)
	}
	if report, _, _ := f.Call(next, 1, false); !report {
		t.Error("two intervals gave back one call")
	}
	if report, _, _ := f.Call(next, 1, false); report {
		t.Error("two intervals gave back three calls")
	}
	if report, suppressed, _ := f.Call(next.Add(FloodInterval/2), 1, false); !report || suppressed != 1 {
		t.Errorf("what is left of an interval was lost: report %v, suppressed %d", report, suppressed)
	}
}

func TestFloodIsFullAgainAfterAPause(t *testing.T) {
	var f Flood
	for range 2 * FloodBurst {
		f.Call(floodEpoch, 1, false)
	}
	later := floodEpoch.Add(time.Hour)
	for i := range FloodBurst + 1 {
		if report, _, _ := f.Call(later, 1, false); report != (i < FloodBurst) {
			t.Fatalf("call %d after a pause: report %v", i, report)
		}
	}
}

func TestFloodEscalatesOnceWithinAWindow(t *testing.T) {
	for name, c := range map[string]struct {
		step time.Duration
		want int
	}{
		"a flood":                   {FloodWindow / (2 * FloodLimit), 1},
		"many calls, over a longer": {FloodWindow / (FloodLimit - 10), 0},
	} {
		t.Run(name, func(t *testing.T) {
			var f Flood
			escalations := 0
			for i := range 3 * FloodLimit {
				report, _, escalate := f.Call(floodEpoch.Add(time.Duration(i)*c.step), 1, false)
				if escalate {
					escalations++
					if !report || i != FloodLimit {
						t.Errorf("escalated at call %d, reported %v", i, report)
					}
				}
			}
			if escalations != c.want {
				t.Errorf("%d escalations, want %d", escalations, c.want)
			}
		})
	}
}

func TestFloodForgetsNoCall(t *testing.T) {
	var g Flood
	g.Call(floodEpoch, 1, false)
	g.Unreported(1, 0)
	if _, suppressed, _ := g.Call(floodEpoch, 1, false); suppressed != 1 {
		t.Errorf("suppressed %d, want the one that was not reported", suppressed)
	}
	for range 2 * FloodBurst {
		g.Call(floodEpoch, 1, false)
	}
	if report, suppressed, _ := g.Call(floodEpoch, 1, true); !report || suppressed != FloodBurst+2 {
		t.Errorf("a call that must be reported: %v, suppressed %d", report, suppressed)
	}
}

func TestFloodGivesNothingBackWhenTheClockStepsBack(t *testing.T) {
	var f Flood
	for range FloodBurst {
		f.Call(floodEpoch, 1, false)
	}
	if report, _, _ := f.Call(floodEpoch.Add(-time.Hour), 1, false); report {
		t.Error("a clock that stepped back gave a call back")
	}
}

func TestFloodHidesNoOtherCall(t *testing.T) {
	var f Flood
	for range 2 * FloodBurst {
		f.Call(floodEpoch, 1, false)
	}
	for i, want := range []bool{true, false} {
		if report, _, _ := f.Call(floodEpoch, 2, false); report != want {
			t.Errorf("call %d of another number: report %v, want %v", i, report, want)
		}
	}
	f.Unreported(2, 0)
	if report, _, _ := f.Call(floodEpoch, 2, false); !report {
		t.Error("a call that nobody had time for is taken for reported")
	}
	if report, _, _ := f.Call(floodEpoch, 1<<20, false); report {
		t.Error("numbers without a call are remembered without bound")
	}
}
