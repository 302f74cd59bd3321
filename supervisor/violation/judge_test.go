package violation

import (
	"slices"
	"testing"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func judgeOf(r plan.Response) *Judge {
	return NewJudge(&plan.Plan{Violation: map[string]plan.Response{"seccomp": r}})
}

// decide gives the actions for violations at the given seconds.
func decide(j *Judge, seconds ...int) []Action {
	out := make([]Action, len(seconds))
	for i, s := range seconds {
		out[i] = j.Decide(Seccomp, epoch.Add(time.Duration(s)*time.Second))
	}
	return out
}

func TestJudge(t *testing.T) {
	budget := plan.Response{Action: "deny", Budget: 2, Window: time.Minute, Then: "quarantine"}
	tests := []struct {
		name     string
		response plan.Response
		at       []int
		want     []Action
	}{
		{"no budget", plan.Response{Action: "deny"}, []int{0, 1, 2}, []Action{Deny, Deny, Deny}},
		{"spent", budget, []int{0, 1, 2}, []Action{Deny, Deny, Quarantine}},
		{"window slides", budget, []int{0, 50, 60, 70, 110}, []Action{Deny, Deny, Deny, Quarantine, Quarantine}},
		{"edge of the window is outside", budget, []int{0, 0, 60}, []Action{Deny, Deny, Deny}},
		{"a flood stays over it", budget, []int{0, 0, 30, 59, 88, 117}, []Action{Deny, Deny, Quarantine, Quarantine, Quarantine, Quarantine}},
		{"the clock steps back", budget, []int{100, 100, 0, 1}, []Action{Deny, Deny, Quarantine, Quarantine}},
		{"no window never ends", plan.Response{Action: "log", Budget: 1, Then: "kill"}, []int{0, 1 << 30}, []Action{Log, Kill}},
		{"not an action", plan.Response{Action: "Deny"}, []int{0}, []Action{Quarantine}},
		{"no then", plan.Response{Action: "log", Budget: 1}, []int{0, 0}, []Action{Log, Quarantine}},
		{"empty", plan.Response{}, []int{0}, []Action{Quarantine}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := decide(judgeOf(tt.response), tt.at...)
			for i := range tt.want {
				if got[i] != tt.want[i] {
					t.Errorf("violation %d at %d s: got %s, want %s", i, tt.at[i], got[i], tt.want[i])
				}
			}
		})
	}
}

func TestJudgeUnknownWall(t *testing.T) {
	if got := judgeOf(plan.Response{Action: "log"}).Decide(Files, epoch); got != Quarantine {
		t.Errorf("a wall without a response: got %s, want %s", got, Quarantine)
	}
}

func TestJudgeMemoryIsBounded(t *testing.T) {
	j := judgeOf(plan.Response{Action: "deny", Budget: 1 << 40, Then: "kill"})
	for range maxRemembered {
		if got := j.Decide(Seccomp, epoch); got != Deny {
			t.Fatalf("within the budget: got %s", got)
		}
	}
	for range 10 {
		if got := j.Decide(Seccomp, epoch); got != Kill {
			t.Fatalf("past what is remembered: got %s", got)
		}
	}
	if n := len(j.times[Seccomp]); n != maxRemembered {
		t.Errorf("remembers %d violations, want %d", n, maxRemembered)
	}
}

// TestJudgeRecalls: a budget that was spent before another process watched is
// not given back, and one that was not is what was left of it.
func TestJudgeRecalls(t *testing.T) {
	for _, c := range []struct {
		past []int
		want []Action
	}{
		{nil, []Action{Deny, Deny, Quarantine}},
		{[]int{0}, []Action{Deny, Quarantine, Quarantine}},
		{[]int{0, 1}, []Action{Quarantine, Quarantine, Quarantine}},
		{[]int{-90, -80}, []Action{Deny, Deny, Quarantine}}, // outside of the window
	} {
		var past []Violation
		for _, s := range c.past {
			past = append(past, Violation{Wall: Seccomp, Time: epoch.Add(time.Duration(s) * time.Second)}, Violation{Wall: Files, Time: epoch})
		}
		j := judgeOf(plan.Response{Action: "deny", Budget: 2, Window: time.Minute, Then: "quarantine"}).Recall(past)
		if got := decide(j, 2, 3, 4); !slices.Equal(got, c.want) {
			t.Errorf("after %v: got %v, want %v", c.past, got, c.want)
		}
	}
}
