package violation

import (
	"sync"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
)

// maxRemembered bounds what a Judge remembers of one wall. A larger budget is
// judged as if it were this one: stricter, never laxer.
const maxRemembered = 4096

// Judge decides what the violations of one plugin lead to, by the plan's
// responses and their budgets. It is safe for concurrent use and is made anew
// for each start; see Recall.
type Judge struct {
	mu        sync.Mutex
	responses map[string]plan.Response // the plan's own
	// times are those of each wall's latest violations, oldest first, never more
	// than the budget.
	times map[Wall][]time.Time
}

// NewJudge makes a judge of p's responses.
func NewJudge(p *plan.Plan) *Judge { return &Judge{responses: p.Violation} }

// Recall has the judge count violations of the past, oldest first, as if it had
// decided on them: for a plugin that another process has watched so far.
func (j *Judge) Recall(past []Violation) *Judge {
	for _, v := range past {
		j.Decide(v.Wall, v.Time)
	}
	return j
}

// Change has the judge go by p's responses from now on. What it remembers of each
// wall stays: a budget that was spent is not given back.
func (j *Judge) Change(p *plan.Plan) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.responses = p.Violation
	for wall, times := range j.times {
		j.times[wall] = times[max(0, len(times)-budgetOf(j.responses[string(wall)])):]
	}
}

// budgetOf is how many violations are remembered.
func budgetOf(r plan.Response) int { return max(0, min(r.Budget, maxRemembered)) }

// Decide counts one violation of w at now and says what it leads to: the
// response's action, or what follows it once the budget within its window is
// spent. A wall without a response, and a word that is no action, is answered
// with Quarantine. A clock that steps back never gives budget back.
func (j *Judge) Decide(w Wall, now time.Time) Action {
	j.mu.Lock()
	defer j.mu.Unlock()
	response, ok := j.responses[string(w)]
	if !ok {
		return Quarantine
	}
	if response.Budget <= 0 || j.spend(w, response, now) {
		return known(response.Action)
	}
	return known(response.Then)
}

// spend records a violation at now and says whether the budget still covered
// it. What the budget no longer covers is recorded too, so that a plugin that
// goes on stays over it.
func (j *Judge) spend(w Wall, r plan.Response, now time.Time) bool {
	times := j.times[w]
	if n := len(times); n > 0 && now.Before(times[n-1]) {
		now = times[n-1]
	}
	times = forget(times, now, r.Window)
	within := len(times) < budgetOf(r)
	if !within {
		times = append(times[:0], times[1:]...)
	}
	if j.times == nil {
		j.times = map[Wall][]time.Time{}
	}
	j.times[w] = append(times, now)
	return within
}

// forget drops what lies outside the window. A window of zero never ends.
func forget(times []time.Time, now time.Time, window time.Duration) []time.Time {
	if window <= 0 {
		return times
	}
	old := 0
	for old < len(times) && now.Sub(times[old]) >= window {
		old++
	}
	return append(times[:0], times[old:]...)
}

// known is the action of word, or the strictest for a word that is none.
func known(word string) Action {
	switch a := Action(word); a {
	case Log, Deny, Kill, Quarantine:
		return a
	default:
		return Quarantine
	}
}
