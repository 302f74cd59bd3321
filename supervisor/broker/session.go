package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
	"github.com/cordonhq/cordon/supervisor/control"
)

// LeaseTime is for how long a grant is issued, and a third of it how often it
// is renewed: a grant that policy no longer has is gone after a third, and one
// that policy cannot be asked about any more after the whole.
const LeaseTime = time.Minute

// Clock tells the time and wakes; the supervisor's.
type Clock interface {
	Now() time.Time
	AfterFunc(d time.Duration, fn func()) (stop func())
}

// Decision and Use are what the control socket says of grants.
type (
	Decision = control.Decision
	Use      = control.Use
)

// decides says whether a decision is about all of a target.
func decides(d Decision, spec grant.Spec, target string) bool {
	return d.Capability == spec.Name &&
		(len(d.Target) == 0 || slices.ContainsFunc(d.Target, func(t string) bool { return spec.Covers(t, target) }))
}

// MaxDecisions bounds the decisions about one plugin.
const MaxDecisions = 256

// Decide adds a decision to a list, and drops older ones that it makes void.
func Decide(list []Decision, d Decision) ([]Decision, error) {
	spec, ok := grant.Find(d.Capability)
	if !ok {
		return list, fmt.Errorf("there is no capability %q; known are %s", d.Capability, strings.Join(grant.Names(), ", "))
	}
	if spec.Kind != grant.None && len(d.Target) == 0 && !d.Revoked {
		return list, fmt.Errorf("say what %s is granted for: it takes targets", spec.Name)
	}
	d.Target = slices.Clone(d.Target)
	for i, t := range d.Target {
		if err := spec.Check(t); err != nil {
			return list, err
		}
		if spec.Kind == grant.Path && d.Revoked { // reading goes with writing, or the reverse would stay
			_, at, _ := grant.SplitPath(t)
			d.Target[i] = "rw:" + at
		}
	}
	out := slices.DeleteFunc(slices.Clone(list), func(old Decision) bool {
		if old.Capability != d.Capability {
			return false
		}
		if !d.Revoked { // a ceiling may take it away, and what is older holds again
			return d.Until.IsZero() && !old.Revoked && slices.Equal(old.Target, d.Target)
		}
		if len(d.Target) == 0 {
			return true
		}
		return len(old.Target) > 0 && !slices.ContainsFunc(old.Target, func(t string) bool { return !decides(d, spec, t) })
	})
	if len(out) >= MaxDecisions {
		return list, fmt.Errorf("more than %d grants and revocations: write them into the profile", MaxDecisions)
	}
	return append(out, d), nil
}

// Policy is what holds now for a plugin.
type Policy struct {
	Grants []plan.Capability
	// Under gives what of an operator's grant is under the ceiling, nil for
	// nothing of it; nil is no ceiling.
	Under func(plan.Capability) *plan.Capability
}

// entry is one grant as it is used.
type entry struct {
	plan.Capability
	until  time.Time // of the lease
	uses   uint64
	slow   uint64 // calls over the budget
	bytes  int64
	active int
	have   float64 // calls that may be made at once
	at     time.Time
}

func (e *entry) key() string {
	return e.Name + " " + strings.Join(e.Target, " ") + fmt.Sprint(e.Budget) + e.Origin
}

// take takes one call of the rate.
func (e *entry) take(now time.Time) bool {
	perSecond := float64(e.Budget.Rate) / e.Budget.Window.Seconds()
	if e.at.IsZero() {
		e.have = float64(e.Budget.Rate)
	} else {
		e.have = min(float64(e.Budget.Rate), e.have+max(0, now.Sub(e.at).Seconds())*perSecond)
	}
	e.at = now
	if e.have < 1 {
		return false
	}
	e.have--
	return true
}

// DeniedError says why a call was not let through.
type DeniedError struct {
	Capability, Target string
	// Rule is what refused it.
	Rule string
}

// Error implements error.
func (e *DeniedError) Error() string {
	return strings.TrimSpace(e.Capability+" "+e.Target) + " is not granted: " + e.Rule
}

// BudgetError says that a grant's budget is used up for now, or for good.
type BudgetError struct{ What string }

// Error implements error.
func (e *BudgetError) Error() string { return e.What }

// grants are what one plugin may use now: the part of a session that decides.
// It asks nobody and waits for nothing.
type grants struct {
	mu        sync.Mutex
	now       func() time.Time
	original  []plan.Capability // of the plan it was started with
	policy    []*entry
	decisions []Decision
	given     map[string]*entry // what operators granted, by key
	under     func(plan.Capability) *plan.Capability
	holds     map[*hold]struct{}
	closed    bool
	// turn counts what changed any of these; what was let through in one turn
	// needs no second look in it while its lease runs.
	turn uint64
}

// hold is one thing that a revocation cuts.
type hold struct {
	name, target string
	entry        *entry
	cut          func()
}

func newGrants(now func() time.Time, original []plan.Capability) *grants {
	g := &grants{now: now, original: original, given: map[string]*entry{}, holds: map[*hold]struct{}{}}
	for _, c := range original {
		g.policy = append(g.policy, &entry{Capability: c, until: now().Add(LeaseTime)})
	}
	return g
}

// find gives the grant for a target; g.mu is held.
func (g *grants) find(name, target string) (e *entry, root string, err error) {
	spec, ok := grant.Find(name)
	if !ok {
		return nil, "", &DeniedError{name, target, "there is no such capability"}
	}
	now := g.now()
	for i := len(g.decisions) - 1; i >= 0; i-- {
		d := g.decisions[i]
		switch {
		case !decides(d, spec, target):
		case d.Revoked:
			return nil, "", &DeniedError{name, target, fmt.Sprintf("revoked by %s at %s", d.By, d.Time.UTC().Format(time.RFC3339))}
		case d.Until.IsZero() || now.Before(d.Until):
			if e := g.operators(d); e != nil {
				if root, ok := e.covers(spec, target); ok {
					return e, root, nil
				}
			}
		}
	}
	rule := "no grant of its profile covers it"
	for _, e := range g.policy {
		root, ok := e.covers(spec, target)
		switch {
		case e.Name != name || !ok:
		case now.Before(e.until):
			return e, root, nil
		default:
			rule = "the lease of its grant has ended"
		}
	}
	return nil, "", &DeniedError{name, target, rule}
}

// covers gives the target of a grant that covers another; "" for a capability
// without targets.
func (e *entry) covers(spec grant.Spec, target string) (root string, ok bool) {
	if spec.Kind == grant.None {
		return "", target == ""
	}
	for _, t := range e.Target {
		if spec.Covers(t, target) {
			return t, true
		}
	}
	return "", false
}

// operators gives the entry of an operator's grant, as far as it is under the
// ceiling.
func (g *grants) operators(d Decision) *entry {
	c := plan.Capability{
		Name: d.Capability, Target: d.Target, Budget: plan.Budget{Rate: 1000, Window: time.Second, Concurrent: 64}, Why: "granted while it ran",
		Origin: fmt.Sprintf("%s at %s", d.By, d.Time.UTC().Format(time.RFC3339)),
	}
	if g.under != nil {
		left := g.under(c)
		if left == nil {
			return nil
		}
		c = *left
	}
	fresh := &entry{Capability: c, until: d.Until}
	key := fresh.key()
	if have := g.given[key]; have != nil {
		return have
	}
	g.given[key] = fresh
	return fresh
}

// narrowed says whether something beneath root was revoked.
func (g *grants) narrowed(name, root string) bool {
	spec, _ := grant.Find(name)
	return slices.ContainsFunc(g.decisions, func(d Decision) bool {
		return d.Revoked && d.Capability == name && slices.ContainsFunc(d.Target, func(t string) bool {
			if spec.Kind == grant.Path { // whatever the rights
				t = strings.TrimPrefix(t, "rw:")
			}
			return spec.Covers(root, t)
		})
	})
}

// admitted is a call that was let through.
type admitted struct {
	meta     ipc.Meta // what the plugin says that it belongs to
	g        *grants
	name     string
	target   string
	root     string
	entry    *entry
	until    time.Time // of the lease when it was let through; zero for no end
	turn     uint64
	narrowed bool
	once     sync.Once
}

// admit lets one call through, or says why not.
func (g *grants) admit(name, target string) (*admitted, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errEnded
	}
	e, root, err := g.find(name, target)
	if err != nil {
		return nil, err
	}
	what := strings.TrimSpace(name + " " + root)
	switch {
	case e.Budget.Bytes > 0 && e.bytes >= e.Budget.Bytes:
		e.slow++
		return nil, &BudgetError{fmt.Sprintf("the %d bytes of %s are used up for this run", e.Budget.Bytes, what)}
	case e.active >= e.Budget.Concurrent:
		e.slow++
		return nil, &BudgetError{fmt.Sprintf("%d uses of %s at once are all that is granted", e.Budget.Concurrent, what)}
	case !e.take(g.now()):
		e.slow++
		return nil, &BudgetError{fmt.Sprintf("%s is granted %d times in %s", what, e.Budget.Rate, e.Budget.Window)}
	}
	e.uses++
	e.active++
	return &admitted{g: g, name: name, target: target, root: root, entry: e, until: e.until, turn: g.turn, narrowed: g.narrowed(name, root)}, nil
}

// end gives the call's place back.
func (a *admitted) end() {
	a.once.Do(func() {
		a.g.mu.Lock()
		defer a.g.mu.Unlock()
		a.entry.active--
	})
}

// still says whether what was let through would be let through now.
func (a *admitted) still() error {
	a.g.mu.Lock()
	defer a.g.mu.Unlock()
	if a.turn == a.g.turn && (a.until.IsZero() || a.g.now().Before(a.until)) {
		return nil
	}
	return a.g.allowed(a.name, a.target)
}

// allowed is find without the answer; g.mu is held.
func (g *grants) allowed(name, target string) error {
	if g.closed {
		return errEnded
	}
	_, _, err := g.find(name, target)
	return err
}

// spend takes bytes of the budget. What was taken stays taken.
func (a *admitted) spend(n int64) error {
	a.g.mu.Lock()
	defer a.g.mu.Unlock()
	e := a.entry
	if e.Budget.Bytes > 0 && e.bytes+n > e.Budget.Bytes {
		e.slow++
		return &BudgetError{fmt.Sprintf("the %d bytes of %s are used up for this run", e.Budget.Bytes, strings.TrimSpace(a.name+" "+a.root))}
	}
	e.bytes += n
	return nil
}

// hold keeps what a revocation cuts.
func (a *admitted) hold(cut func()) (done func(), err error) {
	g := a.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.allowed(a.name, a.target); err != nil {
		return nil, errors.Join(capability.ErrCut, err)
	}
	h := &hold{name: a.name, target: a.target, entry: a.entry, cut: cut}
	g.holds[h] = struct{}{}
	a.entry.active++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if _, ok := g.holds[h]; ok {
			delete(g.holds, h)
			h.entry.active--
		}
	}, nil
}

// decide puts the operators' decisions into force, and cuts what they end. It
// returns how many things were cut.
func (g *grants) decide(list []Decision) int {
	g.mu.Lock()
	g.decisions = slices.Clone(list)
	g.turn++
	cut := g.sever()
	g.mu.Unlock()
	return run(cut)
}

// renew brings the grants to what policy now has. A plugin never gets more by
// it than the plan that it was started with; what policy has taken away is gone
// at once, and the leases of the rest begin anew.
func (g *grants) renew(p Policy) int {
	g.mu.Lock()
	old := map[string]*entry{}
	for _, e := range g.policy {
		old[e.key()] = e
	}
	g.policy = g.policy[:0:0]
	g.under = p.Under
	g.turn++
	until := g.now().Add(LeaseTime)
	for _, c := range meet(g.original, p.Grants) {
		e := &entry{Capability: c}
		if have := old[e.key()]; have != nil {
			e = have
		}
		e.until = until
		g.policy = append(g.policy, e)
	}
	cut := g.sever()
	g.mu.Unlock()
	return run(cut)
}

// meet gives what two lists of grants both have, with the tighter budget.
func meet(a, b []plan.Capability) []plan.Capability {
	var out []plan.Capability
	for _, x := range a {
		spec, ok := grant.Find(x.Name)
		for _, y := range b {
			if !ok || y.Name != x.Name {
				continue
			}
			both := x
			if spec.Kind != grant.None {
				if both.Target = spec.Meet(x.Target, y.Target); len(both.Target) == 0 {
					continue
				}
			}
			both.Budget = tighter(x.Budget, y.Budget)
			out = append(out, both)
		}
	}
	return out
}

func tighter(a, b plan.Budget) plan.Budget {
	out := a
	if float64(b.Rate)*a.Window.Seconds() < float64(a.Rate)*b.Window.Seconds() {
		out.Rate, out.Window = b.Rate, b.Window
	}
	out.Concurrent = min(a.Concurrent, b.Concurrent)
	if a.Bytes == 0 || b.Bytes > 0 && b.Bytes < a.Bytes {
		out.Bytes = b.Bytes
	}
	return out
}

// sever takes out everything that is no longer allowed; g.mu is held. Its cuts
// are called without the lock.
func (g *grants) sever() []*hold {
	var out []*hold
	for h := range g.holds {
		if g.allowed(h.name, h.target) != nil {
			out = append(out, h)
			delete(g.holds, h)
			h.entry.active--
		}
	}
	return out
}

func run(cut []*hold) int {
	for _, h := range cut {
		h.cut()
	}
	return len(cut)
}

// lapse cuts what hangs on a lease that has ended, and says when to look again.
func (g *grants) lapse() int {
	g.mu.Lock()
	cut := g.sever()
	g.mu.Unlock()
	return run(cut)
}

// close ends everything.
func (g *grants) close() {
	g.mu.Lock()
	g.closed = true
	g.turn++
	cut := g.sever()
	g.mu.Unlock()
	run(cut)
}

var errEnded = errors.New("the plugin has ended")

// uses lists every grant, the profile's first.
func (g *grants) uses() []Use {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Use
	add := func(e *entry, revoked bool) {
		out = append(out, Use{
			Capability: e.Name, Target: e.Target, By: e.Origin, Why: e.Why, Until: e.until, Uses: e.uses, Refused: e.slow,
			Bytes: e.bytes, Active: e.active, Revoked: revoked,
		})
	}
	for _, e := range g.policy {
		spec, _ := grant.Find(e.Name)
		gone := slices.ContainsFunc(g.decisions, func(d Decision) bool {
			return d.Revoked && d.Capability == e.Name &&
				(len(d.Target) == 0 || len(e.Target) > 0 && !slices.ContainsFunc(e.Target, func(t string) bool { return !decides(d, spec, t) }))
		})
		add(e, gone)
	}
	for _, d := range g.decisions {
		if d.Revoked {
			out = append(out, Use{Capability: d.Capability, Target: d.Target, By: d.By, Revoked: true})
		} else if e := g.operators(d); e != nil {
			add(e, false)
		}
	}
	return out
}
