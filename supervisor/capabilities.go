package supervisor

import (
	"context"
	"fmt"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/broker"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/egress"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// capabilities makes the session of a run that is about to begin. What a plugin
// asks before the actor has taken it over waits.
func (p *plugin) capabilities(number uint64, bundle *Bundle, profile string, req *launch.Request) *broker.Session {
	if p.broker == nil {
		return nil
	}
	judge := violation.NewJudge(req.Plan).Recall(req.Past)
	size := req.Plan.Data.Size
	pl := req.Plan
	s := p.broker.Session(broker.Options{
		Plugin: p.name, Plan: pl, Policy: func() (broker.Policy, error) { return p.policyNow(bundle, profile) },
		Env: capability.Env{
			Data: req.Data, DataSize: size, Addresses: pl.Network.Addresses, Redact: p.log.hide,
			Log: func(text string) { p.log.add("log", []byte(text), false) },
			Standby: func() bool {
				run := p.shown.Load().run
				return run == nil || run.number != number
			},
		},
		Log:    func(text string) { p.logger.Warn(text, "plugin", p.name) },
		Denied: func(d broker.Denial) { p.deniedGrant(number, pl, judge, d) },
	})
	if len(pl.Network.Egress) > 0 {
		relay := egress.New(egress.Options{
			Network: pl.Network, Grants: connections{s}, Log: func(text string) { p.logger.Warn(text, "plugin", p.name) },
		})
		req.Network = relay.Open
		s.AtEnd(relay.Close)
	}
	return s
}

// connections is a session as the relay sees it.
type connections struct{ *broker.Session }

// Lease implements egress.Grants.
func (c connections) Lease(target string) (egress.Lease, error) {
	l, err := c.Session.Lease(grant.Egress, target)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Denied implements egress.Grants.
func (c connections) Denied(target, rule string, standing bool) {
	c.Deny(broker.Denial{Capability: grant.Egress, Target: target, Rule: rule, Standing: standing})
}

func closeSession(s *broker.Session) {
	if s != nil {
		s.Close()
	}
}

// deniedGrant makes a violation of a call that was not granted.
func (p *plugin) deniedGrant(number uint64, pl *plan.Plan, judge *violation.Judge, d broker.Denial) {
	now := p.clock.Now().UTC()
	v := violation.Violation{
		Kind: "violation", Time: now, Wall: violation.Grant, Call: d.Capability, What: d.Capability, Rule: violation.Escape(d.Rule, 512),
		Unliftable: d.Standing, PolicyDigest: pl.PolicyDigest(), Action: judge.Decide(violation.Grant, now),
	}
	if d.Target != "" {
		v.Args = []string{violation.Escape(d.Target, 512)}
		v.What += " " + v.Args[0]
	}
	for _, run := range p.shown.Load().runs() {
		if run.number == number {
			v.Where.PID, v.PlanDigest = run.proc.PID(), run.proc.PlanDigest()
		}
	}
	p.violated(number, v)
}

// policyNow resolves anew what the plugin may use: profile and ceiling may have
// changed since it was started.
func (p *plugin) policyNow(bundle *Bundle, profile string) (broker.Policy, error) {
	pl, err := p.source.Resolve(bundle, profile)
	if err != nil {
		return broker.Policy{}, err
	}
	return broker.Policy{Grants: broker.Granted(pl), Under: p.under()}, nil
}

// under bounds operators' grants by the ceiling, where there is one.
func (s *shared) under() func(plan.Capability) *plan.Capability {
	bounded, ok := s.source.(interface{ Ceiling() *profiles.Ceiling })
	if !ok {
		return nil
	}
	ceiling := bounded.Ceiling()
	return func(c plan.Capability) *plan.Capability {
		left, _ := ceiling.Attenuate(c)
		return left
	}
}

// RenewGrants asks policy about every running plugin at once, after it changed.
func (s *Supervisor) RenewGrants() {
	for _, p := range s.all() {
		for _, run := range p.shown.Load().runs() {
			if run.caps != nil {
				run.caps.Renew()
			}
		}
	}
}

// Capabilities implements control.Service.
func (s *Supervisor) Capabilities(_ context.Context, params control.NameParams) (control.Capabilities, error) {
	out := control.Capabilities{Catalogue: []control.Capability{}}
	if s.broker != nil {
		for _, c := range s.broker.Capabilities() {
			out.Catalogue = append(out.Catalogue, describe(c))
		}
	}
	if params.Name == "" {
		return out, nil
	}
	p, err := s.get(params.Name)
	if err != nil {
		return out, err
	}
	out.Grants = p.grantsNow()
	if s.metrics != nil {
		out.Metrics = s.metrics(p.name)
	}
	return out, nil
}

// grantsNow are a running plugin's grants as they are used, or what one that
// does not run would have.
func (p *plugin) grantsNow() []control.Use {
	snap := p.shown.Load()
	if snap.run != nil && snap.run.caps != nil {
		return snap.run.caps.Uses()
	}
	out := []control.Use{}
	if bundle, err := p.source.Open(snap.record.Digest); err == nil { // otherwise the next start says why
		if policy, err := p.policyNow(bundle, snap.record.Profile); err == nil {
			for _, c := range policy.Grants {
				out = append(out, control.Use{Capability: c.Name, Target: c.Target, By: c.Origin, Why: c.Why})
			}
		}
	}
	for _, d := range p.decisions(snap.record.Decisions) {
		out = append(out, control.Use{Capability: d.Capability, Target: d.Target, By: d.By, Until: d.Until, Revoked: d.Revoked})
	}
	return out
}

// describe is a capability in the words of the control socket.
func describe(c capability.Capability) control.Capability {
	spec, _ := grant.Find(c.Name)
	kinds := map[grant.Kind]string{grant.None: "none", grant.Path: "path", grant.Word: "name", grant.Endpoint: "place", grant.Address: "address"}
	out := control.Capability{Name: c.Name, Text: c.Text, Targets: kinds[spec.Kind], Cost: string(c.Cost), Methods: []control.CapabilityMethod{}}
	for _, phase := range c.Phases {
		out.Phases = append(out.Phases, string(phase))
	}
	for _, m := range c.Methods {
		out.Methods = append(out.Methods, control.CapabilityMethod{Name: m.Name, Text: m.Text, Params: m.Params, Result: m.Result})
	}
	return out
}

// Grant implements control.Service.
func (s *Supervisor) Grant(ctx context.Context, by control.Caller, params control.GrantParams) (control.Granted, error) {
	if under := s.under(); under != nil {
		left := under(plan.Capability{Name: params.Capability, Target: params.Target})
		if left == nil || len(left.Target) != len(params.Target) {
			return control.Granted{}, control.Errorf(ipc.CodeDenied, "[ceiling] in cordond.toml", "cannot grant %s to %s: it is above the ceiling", params.Capability, params.Name)
		}
	}
	return s.decide(ctx, by, params, false)
}

// Revoke implements control.Service.
func (s *Supervisor) Revoke(ctx context.Context, by control.Caller, params control.GrantParams) (control.Granted, error) {
	return s.decide(ctx, by, params, true)
}

// decided is what came of a decision.
type decided struct {
	cut int
	err error
}

func (s *Supervisor) decide(ctx context.Context, by control.Caller, params control.GrantParams, revoked bool) (control.Granted, error) {
	if s.broker == nil {
		return control.Granted{}, control.Errorf(ipc.CodeUnsupported, "", "this daemon serves no capabilities")
	}
	p, err := s.get(params.Name)
	if err != nil {
		return control.Granted{}, err
	}
	done := make(chan decided, 1)
	if !p.box.post(message{do: func() { done <- p.decide(by, params, revoked) }}) {
		return control.Granted{}, p.notFound()
	}
	select {
	case d := <-done:
		return control.Granted{Grants: p.grantsNow(), Cut: d.cut}, d.err
	case <-p.ended:
		return control.Granted{}, p.notFound()
	case <-ctx.Done():
		return control.Granted{}, control.Errorf(ipc.CodeDeadline, "cordon capability list "+p.name, "cannot wait any longer for %s: %w", p.name, ctx.Err())
	}
}

// decide runs in the actor. A revocation takes effect before it is written
// down, a grant only when it is.
func (p *plugin) decide(by control.Caller, params control.GrantParams, revoked bool) decided {
	verb := map[bool]string{true: "revoke", false: "grant"}[revoked]
	d := control.Decision{Capability: params.Capability, Target: params.Target, Revoked: revoked, By: by.String(), Time: p.clock.Now().UTC()}
	if !revoked && params.For > 0 {
		d.Until = d.Time.Add(min(params.For, 10*365*24*time.Hour))
	}
	list, err := broker.Decide(p.record.Decisions, d)
	if err != nil {
		return decided{err: control.Errorf(ipc.CodeInvalidParams, "cordon capability list", "cannot %s %s: %w", verb, params.Capability, err)}
	}
	if !revoked {
		if err := p.mayGrant(params); err != nil {
			return decided{err: err}
		}
	}
	var out decided
	before := p.record.Decisions
	if revoked {
		out.cut = p.enforce(list)
	}
	p.record.Decisions = list
	if p.save(); p.unsaved && !revoked {
		p.record.Decisions = before
		return decided{err: control.Errorf(ipc.CodeInternal, "", "cannot save the grant of %s to %s", params.Capability, p.name)}
	}
	if !revoked {
		out.cut = p.enforce(list)
	}
	p.auditEvent(control.Event{
		Plugin: p.name, Kind: map[bool]string{true: "revoked", false: "granted"}[revoked], Actor: by.String(),
		Text: fmt.Sprintf("%s of %s was %s", describeTargets(params), p.name, map[bool]string{true: "revoked", false: "granted"}[revoked]),
		Data: map[string]any{"capability": params.Capability, "target": params.Target, "until": d.Until, "cut": out.cut, "plan_digest": p.record.PlanDigest},
	})
	p.publish()
	if p.unsaved {
		out.err = control.Errorf(ipc.CodeInternal, "", "%s of %s is revoked, but that cannot be saved yet: it is tried again", params.Capability, p.name)
	}
	return out
}

func describeTargets(params control.GrantParams) string {
	if len(params.Target) == 0 {
		return params.Capability
	}
	return fmt.Sprintf("%s %s", params.Capability, params.Target)
}

// enforce puts decisions into force on what runs.
func (p *plugin) enforce(list []control.Decision) (cut int) {
	for _, run := range p.runs() {
		if run.caps != nil {
			cut += run.caps.Decide(p.decisions(list))
		}
	}
	return cut
}

// hasPlaces says whether the plan has listeners for all of these places.
func (p *plugin) hasPlaces(targets []string) bool {
	if p.plan == nil {
		return false
	}
	for _, text := range targets {
		t, err := grant.ParseEndpoint(text)
		found := false
		for _, place := range p.plan.Network.Egress {
			have, bad := grant.ParseEndpoint(place)
			found = found || err == nil && bad == nil && have.Covers(t) && have.Addr == t.Addr // a wildcard stands for names only
		}
		if !found {
			return false
		}
	}
	return true
}
