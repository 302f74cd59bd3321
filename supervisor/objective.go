package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// An objective is a share of calls that must be good within a window; what may
// fail of it is the error budget, and how many times faster than evenly it is
// being used up is the burn rate (Google's Site Reliability Workbook, "Alerting
// on SLOs"). A plugin is degraded when the budget of the whole window is used up
// and is being used up still, or when a short window burns far too fast; it has
// recovered when the short window burns no more than it may.

// The windows of an objective: the whole one is of so many slots, the short one
// of the newest so many.
const (
	slots      = 60
	shortSlots = 5
)

// slot counts the calls of one part of the window.
type slot struct{ good, bad uint32 }

// errorBudget is the state of one objective: a value that after and at make the
// next of.
type errorBudget struct {
	slots [slots]slot // newest last
	until time.Time   // when the newest ends
	// degraded since; zero is well.
	degraded time.Time
	reason   string
}

// at gives the budget at a later time. A clock that goes back changes nothing;
// then the newest slot takes what comes.
func (b errorBudget) at(now time.Time, rules plan.Objective) errorBudget {
	width := rules.Window / slots
	if b.until.IsZero() {
		b.until = now.Add(width)
	}
	if now.Before(b.until) {
		return b.judge(now, rules)
	}
	gone := now.Sub(b.until)/width + 1
	if gone >= slots {
		b.slots, b.until = [slots]slot{}, now.Add(width)
		return b.judge(now, rules)
	}
	copy(b.slots[:], b.slots[gone:])
	clear(b.slots[slots-gone:])
	b.until = b.until.Add(gone * width)
	return b.judge(now, rules)
}

// after is at with one more call.
func (b errorBudget) after(now time.Time, rules plan.Objective, good bool) errorBudget {
	b = b.at(now, rules)
	if good {
		b.slots[slots-1].good++
	} else {
		b.slots[slots-1].bad++
	}
	return b.judge(now, rules)
}

// count gives the calls of the newest n slots.
func (b errorBudget) count(n int) (bad, all int) {
	for _, s := range b.slots[slots-n:] {
		bad += int(s.bad)
		all += int(s.good) + int(s.bad)
	}
	return bad, all
}

// burn is how many times the allowed share is bad; nothing burns of too few calls.
func (b errorBudget) burn(n int, rules plan.Objective) float64 {
	bad, all := b.count(n)
	if all == 0 || all < rules.MinCalls {
		return 0
	}
	return float64(bad) / float64(all) / rules.Allowed()
}

// judge enters and leaves degraded mode.
func (b errorBudget) judge(now time.Time, rules plan.Objective) errorBudget {
	whole, short := b.burn(slots, rules), b.burn(shortSlots, rules)
	switch {
	case b.degraded.IsZero() && short >= float64(rules.BurnRate):
		b.degraded, b.reason = now, b.words(shortSlots, rules, fmt.Sprintf("which burns its error budget %.1f times too fast", short))
	case b.degraded.IsZero() && whole >= 1 && short >= 1:
		b.degraded, b.reason = now, b.words(slots, rules, "which is its whole error budget")
	case !b.degraded.IsZero() && short < 1 && now.Sub(b.degraded) >= shortSlots*(rules.Window/slots):
		b.degraded, b.reason = time.Time{}, ""
	}
	return b
}

func (b errorBudget) words(n int, rules plan.Objective, what string) string {
	bad, all := b.count(n)
	return fmt.Sprintf("%d of %d calls within %s were bad, %s (slo.objective %s)", bad, all, violation.Span(time.Duration(n)*(rules.Window/slots)), what, rules.Percent())
}

// objective keeps the budget of one plugin, over all its processes. The nil one
// has no rules.
type objective struct {
	mu     sync.Mutex
	rules  plan.Objective
	budget errorBudget
	// changed is told when the plugin degrades or recovers, turned when a new slot
	// of the window begins; they must not wait.
	changed func(d *control.Degraded)
	turned  func()
}

// follow takes new rules; what was counted under others is forgotten.
func (o *objective) follow(rules plan.Objective) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if rules.Equal(o.rules) {
		return
	}
	was := o.shown()
	o.rules, o.budget = rules, errorBudget{}
	if was != nil {
		o.changed(nil)
	}
}

// shown is the degraded mode, nil if it is well; o.mu is held.
func (o *objective) shown() *control.Degraded {
	if o.budget.degraded.IsZero() {
		return nil
	}
	return &control.Degraded{Since: o.budget.degraded, Reason: o.budget.reason, Serves: o.rules.Essential}
}

// settle takes the next budget; o.mu is held.
func (o *objective) settle(next errorBudget) {
	was, until := o.budget.degraded, o.budget.until
	o.budget = next
	if !next.until.Equal(until) {
		o.turned()
	}
	if was.IsZero() != next.degraded.IsZero() {
		o.changed(o.shown())
	}
}

// now gives the degraded mode at a time, nil if it is well.
func (o *objective) now(now time.Time) *control.Degraded {
	if o == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.rules.Set() {
		return nil
	}
	o.settle(o.budget.at(now, o.rules))
	return o.shown()
}

// admit says why a method is not served now.
func (o *objective) admit(now time.Time, plugin, method string) error {
	d := o.now(now)
	if d == nil || len(d.Serves) == 0 || slices.Contains(d.Serves, method) {
		return nil
	}
	return control.Errorf(ipc.CodeOverloaded, "cordon ps; try again later",
		"cannot call %s of %s: it is degraded, and serves only %s: %s", violation.Escape(method, 64), plugin, strings.Join(d.Serves, ", "), d.Reason)
}

// count takes the end of a call.
func (o *objective) count(now time.Time, err error, took time.Duration) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.rules.Set() {
		return
	}
	switch judgeGood(err, took, o.rules) {
	case good:
		o.settle(o.budget.after(now, o.rules, true))
	case bad:
		o.settle(o.budget.after(now, o.rules, false))
	case unknown:
	}
}

// budgetLeft is the share of the error budget that is left, at most 1; it may be
// below 0.
func (o *objective) status(now time.Time) *control.Objective {
	if o.now(now); o == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.rules.Set() {
		return nil
	}
	bad, all := o.budget.count(slots)
	return &control.Objective{
		Objective: o.rules.Percent(), Window: o.rules.Window, Calls: all, Bad: bad,
		Burn: o.budget.burn(slots, o.rules), Short: o.budget.burn(shortSlots, o.rules),
	}
}

// keptBudget is an objective as a daemon writes it down for the next.
type keptBudget struct {
	Rules    plan.Objective `json:"rules"`
	Slots    [][2]int       `json:"slots"` // good and bad calls, newest last
	Until    time.Time      `json:"until"`
	Degraded time.Time      `json:"degraded,omitzero"`
	Reason   string         `json:"reason,omitempty"`
}

// kept is what there is to write down; nil without an objective.
func (o *objective) kept() *keptBudget {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.rules.Set() {
		return nil
	}
	k := &keptBudget{Rules: o.rules, Until: o.budget.until, Degraded: o.budget.degraded, Reason: o.budget.reason}
	for _, s := range o.budget.slots {
		k.Slots = append(k.Slots, [2]int{int(s.good), int(s.bad)})
	}
	return k
}

// restore goes on with what an earlier daemon wrote down, under the same rules:
// nobody is told anew of what was so before.
func (o *objective) restore(k *keptBudget, rules plan.Objective) {
	if k == nil || !rules.Set() || !k.Rules.Equal(rules) || len(k.Slots) != slots {
		return
	}
	b := errorBudget{until: k.Until, degraded: k.Degraded, reason: k.Reason}
	for i, s := range k.Slots {
		if min(s[0], s[1]) < 0 || max(s[0], s[1]) > math.MaxUint32 {
			return
		}
		b.slots[i] = slot{uint32(s[0]), uint32(s[1])} // #nosec G115 -- bounded above
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rules, o.budget = rules, b
}

// judgeGood says whether a call was good for an objective. What only the caller
// is to blame for says nothing: that it gave up early, or what it asked.
func judgeGood(err error, took time.Duration, rules plan.Objective) outcome {
	slow := rules.Latency > 0 && took > rules.Latency
	if err == nil || errors.Is(err, context.Canceled) && slow {
		if slow {
			return bad
		}
		return good
	}
	if o, _ := judgeCall(err, took); o == bad {
		return bad
	}
	var answer *ipc.RPCError
	var own *control.Error
	switch {
	case errors.As(err, &own) && own.Code == ipc.CodeContract: // the plugin broke its own
		return bad
	case !errors.As(err, &answer):
		return unknown
	case answer.Code == ipc.CodeInternal && !answer.Local, answer.Code == ipc.CodePluginGone && answer.Local, slow:
		return bad
	case answer.Local:
		return unknown
	}
	return good
}

// newObjective makes the plugin's, without rules yet.
func (p *plugin) newObjective() *objective {
	return &objective{changed: p.degradedOrNot, turned: func() { p.box.post(message{do: p.writeBooks}) }}
}

// degradedOrNot tells everyone whom it concerns; it does not wait. While it is
// degraded it is looked at again, for nobody may call.
func (p *plugin) degradedOrNot(d *control.Degraded) {
	p.box.post(message{do: func() {
		ev := control.Event{Plugin: p.name, Kind: "recovered", Actor: "daemon", Text: p.name + " keeps its objective again"}
		if d != nil {
			ev.Kind, ev.Text = "degraded", p.name+" is degraded: "+d.Reason
			if len(d.Serves) > 0 {
				ev.Text += "; it serves only " + strings.Join(d.Serves, ", ")
				ev.Data = map[string]any{"serves": d.Serves}
			}
			p.lookAgain()
		}
		p.writeBooks()
		p.auditEvent(ev)
		p.shared.degraded(p.name, d != nil)
	}})
}

// lookAgain sees after a while whether the plugin has recovered.
func (p *plugin) lookAgain() {
	p.objective.mu.Lock()
	width := p.objective.rules.Window / slots
	p.objective.mu.Unlock()
	if width <= 0 {
		return
	}
	p.clock.AfterFunc(shortSlots*width, func() {
		if p.objective.now(p.clock.Now()) != nil {
			p.box.post(message{do: p.lookAgain})
		}
	})
}

// spreadDegraded tells those that need a plugin how it serves.
func (s *Supervisor) spreadDegraded(name string, degraded bool) {
	for _, d := range s.graph().Dependants(name) {
		if q := s.plugin(d.Name); q != nil && d.Fits {
			q.tell(Neighbour{Name: name, Ready: true, Degraded: degraded})
		}
	}
}
