package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
)

// Adjust resolves the profile of every running plugin anew, and changes what can
// change while it runs: quotas, budgets and what violations lead to, and its
// restarts. It tells what it changed and what waits for a restart, by plugin; one
// whose profile has not changed is not listed. A mistake in a profile leaves its
// plugins as they are.
func (s *Supervisor) Adjust(ctx context.Context, by string) []control.Adjusted {
	var out []control.Adjusted
	for _, p := range s.all() {
		snap := p.shown.Load()
		if snap.run == nil {
			continue
		}
		a, err := p.adjust(ctx, snap, by)
		if err != nil {
			a.Error = fmt.Sprintf("what held before holds on: %v", err)
		}
		if a.Name = p.name; err != nil || len(a.Changed)+len(a.Restart) > 0 {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b control.Adjusted) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// adjust resolves outside the actor, as that reads files, and changes within it.
func (p *plugin) adjust(ctx context.Context, snap *snapshot, by string) (a control.Adjusted, err error) {
	if snap.swapping {
		return a, errors.New("a swap is under way: reload again when it is over (cordon events NAME)")
	}
	bundle, err := p.source.Open(snap.record.Digest)
	if err != nil {
		return a, err
	}
	next, err := p.source.Resolve(bundle, snap.record.Profile)
	if err != nil {
		return a, err
	}
	done := make(chan struct{})
	posted := p.box.post(message{do: func() {
		defer close(done)
		if p.run == snap.run { // another one was resolved anew by itself
			a, err = p.change(next, by)
		}
	}})
	if !posted {
		return a, nil
	}
	select {
	case <-done:
		return a, err
	case <-p.ended: // before its turn came
		return control.Adjusted{}, nil
	case <-ctx.Done():
		return control.Adjusted{}, context.Cause(ctx)
	}
}

// change moves the actor's run to what of next can be had without a restart.
func (p *plugin) change(next *plan.Plan, by string) (a control.Adjusted, err error) {
	merged, live, restart := profiles.Changes(p.run.plan(), next)
	a.Restart = restart
	if len(live) == 0 {
		return a, nil
	}
	if err := p.run.proc.Adjust(merged); err != nil {
		return a, err
	}
	a.Changed = live
	p.run.judge.Change(merged)
	p.run.inForce.Store(merged)
	p.writeBook(p.run)
	p.plan, p.policy = merged, merged.Lifecycle
	p.record.PolicyDigest, p.record.PlanDigest = merged.PolicyDigest(), p.run.proc.PlanDigest()
	p.publish()
	p.save()
	p.auditEvent(control.Event{
		Plugin: p.name, Kind: "adjusted", Actor: by, Text: p.name + " goes on under a changed profile: " + strings.Join(live, ", "),
		Data: map[string]any{"changed": live, "plan_digest": p.record.PlanDigest, "policy_digest": p.record.PolicyDigest},
	})
	return a, nil
}
