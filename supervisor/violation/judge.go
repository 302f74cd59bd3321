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
// for each start.
type Judge struct {
	mu    sync.Mutex
	walls map[Wall]*ledger
}

// ledger is one wall's response and the times of its latest violations, oldest
// first, never more than the budget.
type ledger struct {
	response plan.Response
	times    []time.Time
}

// NewJudge makes a judge of p's responses.
func NewJudge(p *plan.Plan) *Judge {
	j := &Judge{walls: make(map[Wall]*ledger, len(p.Violation))}
	for name, response := range p.Violation {
		response.Budget = min(response.Budget, maxRemembered)
		j.walls[Wall(name)] = &ledger{response: response}
	}
	return j
}

// Change has the judge go by p's responses from now on. What it remembers of each
// wall stays: a budget that was spent is not given back.
func (j *Judge) Change(p *plan.Plan) {
	fresh := NewJudge(p)
	j.mu.Lock()
	defer j.mu.Unlock()
	for wall, l := range fresh.walls {
		if old := j.walls[wall]; old != nil {
			most := max(l.response.Budget, 0)
			l.times = old.times[max(0, len(old.times)-most):]
		}
	}
	j.walls = fresh.walls
}

// Decide counts one violation of w at now and says what it leads to: the
// response's action, or what follows it once the budget within its window is
// spent. A wall without a response, and a word that is no action, is answered
// with Quarantine. A clock that steps back never gives budget back.
func (j *Judge) Decide(w Wall, now time.Time) Action {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := j.walls[w]
	if l == nil {
		return Quarantine
	}
	if l.response.Budget <= 0 {
		return known(l.response.Action)
	}
	if l.spend(now) {
		return known(l.response.Action)
	}
	return known(l.response.Then)
}

// spend records a violation at now and says whether the budget still covered
// it. What the budget no longer covers is recorded too, so that a plugin that
// goes on stays over it.
func (l *ledger) spend(now time.Time) bool {
	if n := len(l.times); n > 0 && now.Before(l.times[n-1]) {
		now = l.times[n-1]
	}
	l.forget(now)
	within := len(l.times) < l.response.Budget
	if !within {
		l.times = append(l.times[:0], l.times[1:]...)
	}
	l.times = append(l.times, now)
	return within
}

// forget drops what lies outside the window. A window of zero never ends.
func (l *ledger) forget(now time.Time) {
	if l.response.Window <= 0 {
		return
	}
	old := 0
	for old < len(l.times) && now.Sub(l.times[old]) >= l.response.Window {
		old++
	}
	l.times = append(l.times[:0], l.times[old:]...)
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
