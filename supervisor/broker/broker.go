// Package broker serves capabilities to plugins. A plugin owns nothing that it
// was not handed: at every call the broker looks for a grant that covers it,
// whose lease has not ended, which nobody has revoked and whose budget is not
// used up, checks the call against its contract, serves it, and records it. A
// call that no grant covers is a violation.
//
// A capability that fails or stalls is the only one to suffer: each call has a
// goroutine and a deadline, and one that keeps failing is given a rest.
package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
	"github.com/cordonhq/cordon/supervisor/contract"
	"github.com/cordonhq/cordon/supervisor/control"
)

// The bounds of one call, and of a capability that fails.
const (
	serveTime    = 10 * time.Second // then the plugin has an error; the call may still end
	failuresMax  = 5                // in a row
	failureRest  = 5 * time.Second
	maxInAudit   = 256 // bytes of a target
	maxStatement = 512
)

// Broker serves one catalogue to all plugins.
type Broker struct {
	clock        Clock
	audit        Auditor
	capabilities []capability.Capability
	methods      map[string]*method

	liveMu sync.Mutex
	live   map[string]int // sessions, by plugin: two while one is swapped
}

// Auditor takes records. Queue keeps their order, may lose the newest with the
// power, and does not wait for the disk.
type Auditor interface {
	Queue(ev control.Event)
}

// method is one call with the breaker that it shares with nobody.
type method struct {
	capability.Method
	of       capability.Capability
	contract *contract.Contract

	mu       sync.Mutex
	failures int
	rest     time.Time
}

// New makes a broker of a catalogue. A schema that cannot be used is an error.
func New(clock Clock, audit Auditor, capabilities []capability.Capability) (*Broker, error) {
	b := &Broker{clock: clock, audit: audit, capabilities: capabilities, methods: map[string]*method{}}
	for _, one := range capabilities {
		for _, m := range one.Methods {
			c, err := contract.Of(m.Name, m.Params, m.Result)
			if err != nil {
				return nil, fmt.Errorf("cannot serve %s: %w", m.Name, err)
			}
			b.methods[m.Name] = &method{Method: m, of: one, contract: c}
		}
	}
	return b, nil
}

// Capabilities is the catalogue.
func (b *Broker) Capabilities() []capability.Capability { return b.capabilities }

// Forget erases what every capability keeps for a plugin.
func (b *Broker) Forget(plugin string) error {
	var errs []error
	for _, c := range b.capabilities {
		if c.Forget != nil {
			errs = append(errs, c.Forget(plugin))
		}
	}
	return errors.Join(errs...)
}

// Options are one run of a plugin.
type Options struct {
	Plugin string
	Plan   *plan.Plan
	Env    capability.Env
	// Policy says what holds now; it is asked a few times a minute.
	Policy func() (Policy, error)
	// Denied is told of each call that was not granted. It must not wait.
	Denied func(Denial)
	// Log gets a line when a capability itself has failed.
	Log func(text string)
}

// Denial is a call that was not let through.
type Denial struct {
	Capability, Target string
	Rule               string
	// Standing says that there is a grant, which something else keeps from
	// being used.
	Standing bool
}

// Session is one run of a plugin with what it may use. Nothing is served
// before Open.
type Session struct {
	b *Broker
	o Options
	g *grants

	opened chan struct{}
	open   sync.Once
	done   chan struct{} // closed when it is
	mu     sync.Mutex
	digest string
	stop   func()
	summed map[sum]uint64
	ended  bool
	atEnd  []func()
	before []func()
	onTurn func()
}

// sum is what calls are counted by that are not recorded one by one: the method,
// and who granted it.
type sum struct{ what, by string }

func (s sum) compare(other sum) int {
	return cmp.Or(strings.Compare(s.what, other.what), strings.Compare(s.by, other.by))
}

// Session makes one for a run that is about to begin. Close it.
func (b *Broker) Session(o Options) *Session {
	s := &Session{b: b, o: o, g: newGrants(b.clock.Now, Granted(o.Plan)), opened: make(chan struct{}), done: make(chan struct{}), stop: func() {}, summed: map[sum]uint64{}}
	s.o.Env.Done = s.done
	if o.Log == nil {
		s.o.Log = func(string) {}
	}
	b.begun(o.Plugin, 1)
	return s
}

// begun counts a plugin's sessions, and says how many there are.
func (b *Broker) begun(plugin string, by int) int {
	b.liveMu.Lock()
	defer b.liveMu.Unlock()
	if b.live == nil {
		b.live = map[string]int{}
	}
	b.live[plugin] += by
	n := b.live[plugin]
	if n == 0 {
		delete(b.live, plugin)
	}
	return n
}

// Granted are a plan's grants, egress and listen among them.
func Granted(p *plan.Plan) []plan.Capability {
	out := slices.Clone(p.Capabilities)
	for _, to := range p.Network.Egress {
		out = append(out, plan.Capability{
			Name: grant.Egress, Target: []string{to}, Origin: p.Origins["network.egress."+to],
			Budget: plan.Budget{Rate: 1000, Window: time.Second, Concurrent: 4096},
		})
	}
	for _, at := range p.Network.Listen {
		out = append(out, plan.Capability{
			Name: grant.Listen, Target: []string{at.At}, Origin: p.Origins["network.listen."+at.At],
			Budget: plan.Budget{Rate: 1000, Window: time.Second, Concurrent: 4096},
		})
	}
	return out
}

// Open begins to serve, with what operators have decided so far.
func (s *Session) Open(planDigest string, decisions []Decision) {
	s.g.decide(decisions)
	s.mu.Lock()
	s.digest = planDigest
	s.mu.Unlock()
	s.open.Do(func() { close(s.opened) })
	if len(s.g.original) > 0 || len(decisions) > 0 {
		s.later()
	}
}

// later arranges for the next renewal.
func (s *Session) later() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.stop = s.b.clock.AfterFunc(LeaseTime/3, func() { s.Renew(); s.later() })
	}
}

// Renew asks policy and renews the leases, or lets them run out. It returns how
// many connections were cut.
func (s *Session) Renew() int {
	p, err := s.o.Policy()
	if err != nil {
		s.o.Log("cannot renew the grants: " + err.Error())
		return s.g.lapse()
	}
	defer s.turned()
	return s.g.renew(p)
}

// Decide puts operators' decisions into force, all of them. When it returns
// nothing is served any more that they forbid, and what ran on it is cut: so
// many connections.
func (s *Session) Decide(decisions []Decision) int {
	defer s.turned()
	return s.g.decide(decisions)
}

// OnTurn has f called whenever what is granted may have become more. Call it
// before the session is used.
func (s *Session) OnTurn(f func()) { s.onTurn = f }

func (s *Session) turned() {
	if s.onTurn != nil {
		s.onTurn()
	}
}

// Uses lists the grants with how they were used.
func (s *Session) Uses() []Use { return s.g.uses() }

// Close ends everything that the session handed out.
func (s *Session) Close() {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended = true
	s.stop()
	summed := s.summed
	s.mu.Unlock()
	s.open.Do(func() { close(s.opened) })
	close(s.done)
	for _, end := range s.before {
		end()
	}
	s.g.close()
	for _, end := range s.atEnd {
		end()
	}
	for _, of := range slices.SortedFunc(maps.Keys(summed), sum.compare) {
		s.record(of.what, "", of.by, "served", map[string]any{"calls": summed[of]})
	}
	last := s.b.begun(s.o.Plugin, -1) == 0 // else another process of it goes on with what is open
	for _, c := range s.b.capabilities {
		var err error
		if c.Left != nil {
			err = c.Left(&s.o.Env)
		}
		if c.Closed != nil && last {
			err = errors.Join(err, c.Closed(s.o.Plugin))
		}
		if err != nil {
			s.o.Log(fmt.Sprintf("cannot end %s: %v", c.Name, err))
		}
	}
}

// Handle answers one request of the plugin: an ipc.Handler.
func (s *Session) Handle(ctx context.Context, r *ipc.Request) (any, error) {
	m := s.b.methods[r.Method]
	if m == nil {
		return nil, &ipc.RPCError{Code: ipc.CodeMethodNotFound, Message: "method not found", Local: true}
	}
	select {
	case <-s.opened:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	q := query{phase: capability.Serving, params: r.Params}
	if r.Conn != nil {
		q.takes = r.Conn.Takes
		if r.Conn.Phase() == ipc.PhaseReady {
			q.phase = capability.Ready
		}
	}
	return s.call(ctx, m, q, r.GiveUp)
}

// query is what a call came with.
type query struct {
	phase  capability.Phase
	params json.RawMessage
	takes  func(ipc.DescriptorKind) bool
}

// call is the third walk: contract, grant, budget, breaker, and then the
// capability itself. One that never returns costs its grant a place, and nobody
// else anything: at the deadline, or when the plugin asks for its answer no
// more, giveUp answers instead.
func (s *Session) call(ctx context.Context, m *method, q query, giveUp func(error) bool) (any, error) {
	w := &walk{s: s, m: m, began: s.b.clock.Now(), giveUp: giveUp}
	defer s.b.clock.AfterFunc(serveTime, w.late)()
	defer context.AfterFunc(ctx, func() { w.abandon(ctx.Err()) })()
	got := s.serve(ctx, m, q, &w.let)
	if !w.over.CompareAndSwap(false, true) {
		discard(got.result)
		return nil, errGivenUp
	}
	if got.refused {
		return nil, got.err
	}
	a := w.let.Load()
	if got.err == nil {
		got = s.checked(m, a, got)
	}
	s.noted(m, a, got.err, s.b.clock.Now().Sub(w.began))
	return got.result, s.shown(m, got.err)
}

// errGivenUp goes nowhere: the plugin has had another answer.
var errGivenUp = errors.New("it was given up")

// walk is one call under way.
type walk struct {
	s      *Session
	m      *method
	began  time.Time
	giveUp func(error) bool
	let    atomic.Pointer[admitted]
	over   atomic.Bool // it has come to its end, one way or the other
}

// late ends the walk at its deadline.
func (w *walk) late() {
	if w.abandon(ipc.Errorf(ipc.CodeDeadline, "%s did not answer within %v", w.m.Name, serveTime)) {
		w.m.failed(w.s.b.clock.Now())
	}
}

// abandon ends the walk with an error, if it has not ended.
func (w *walk) abandon(err error) bool {
	if !w.over.CompareAndSwap(false, true) {
		return false
	}
	if a := w.let.Load(); a != nil { // or it was given up before it was let through
		w.s.noted(w.m, a, err, w.s.b.clock.Now().Sub(w.began))
	}
	w.giveUp(err)
	return true
}

// answer is how a call went.
type answer struct {
	result  any
	err     error
	refused bool // it was not let through: err is what the plugin sees
}

// serve lets a call through or not, and has it served.
func (s *Session) serve(ctx context.Context, m *method, q query, let *atomic.Pointer[admitted]) answer {
	if !slices.Contains(m.of.Phases, q.phase) {
		return answer{refused: true, err: ipc.Errorf(ipc.CodeNotReady, "%s is not served while a plugin is %s", m.Name, q.phase)}
	}
	if err := m.contract.Params(m.Name, q.params); err != nil {
		return answer{refused: true, err: ipc.Errorf(ipc.CodeContract, "cannot call %s: its parameters break the contract: %w", m.Name, err)}
	}
	target := ""
	if m.Target != nil {
		var err error
		if target, err = m.Target(q.params); err != nil {
			return answer{refused: true, err: ipc.Errorf(ipc.CodeInvalidParams, "cannot call %s: %w", m.Name, err)}
		}
	}
	a, err := s.g.admit(m.of.Name, target)
	if err != nil {
		return answer{refused: true, err: s.refused(m, target, err)}
	}
	defer a.end()
	if err := m.admit(s.b.clock.Now()); err != nil {
		return answer{refused: true, err: err}
	}
	a.meta = ipc.MetaOf(q.params)
	let.Store(a)
	return s.fenced(ctx, m, a, q)
}

// refused turns what admit said into an answer, and a denial into a violation.
func (s *Session) refused(m *method, target string, err error) error {
	var denied *DeniedError
	var budget *BudgetError
	switch {
	case errors.As(err, &denied):
		s.Deny(Denial{Capability: m.of.Name, Target: target, Rule: denied.Rule, Standing: strings.HasPrefix(denied.Rule, "revoked")})
		return ipc.Errorf(ipc.CodeDenied, "cannot call %s: %w", m.Name, err)
	case errors.As(err, &budget):
		return ipc.Errorf(ipc.CodeOverloaded, "cannot call %s now: %w", m.Name, err)
	}
	return ipc.Errorf(ipc.CodeShuttingDown, "cannot call %s: %w", m.Name, err)
}

// Deny reports what was not let through.
func (s *Session) Deny(d Denial) {
	if s.o.Denied != nil {
		s.o.Denied(d)
	}
}

// checked looks once more before an answer leaves: what was revoked meanwhile
// is not served.
func (s *Session) checked(m *method, a *admitted, got answer) answer {
	if err := a.still(); err != nil {
		discard(got.result)
		return answer{err: s.refused(m, a.target, err)}
	}
	return got
}

// fenced calls the capability behind a fence of its own.
func (s *Session) fenced(ctx context.Context, m *method, a *admitted, q query) (got answer) {
	defer func() {
		if p := recover(); p != nil {
			got = answer{err: fmt.Errorf("panic: %v", p)}
		}
	}()
	result, err := m.Serve(ctx, &capability.Call{
		Plugin: s.o.Plugin, Method: m.Name, Params: q.params, Target: a.target, Root: a.root, Grant: a.entry.Capability,
		Meta: a.meta, Narrowed: a.narrowed, Takes: q.takes, Env: &s.o.Env, Spend: a.spend, Hold: a.hold,
		Note: func(outcome string, data map[string]any) { s.record(m.Name, a.target, a.entry.Origin, outcome, data) },
		Deny: func(rule string) {
			s.Deny(Denial{Capability: m.of.Name, Target: a.target, Rule: rule, Standing: true})
		},
	})
	return answer{result: result, err: err}
}

// shown is the error that the plugin sees; a capability's own failure is not
// shown to it.
func (s *Session) shown(m *method, err error) error {
	var answer *ipc.RPCError
	var budget *BudgetError
	switch {
	case err == nil:
		m.worked()
		return nil
	case errors.As(err, &budget):
		return ipc.Errorf(ipc.CodeOverloaded, "cannot call %s: %w", m.Name, err)
	case errors.Is(err, capability.ErrCut):
		return ipc.Errorf(ipc.CodeDenied, "cannot call %s: %w", m.Name, err)
	case errors.As(err, &answer):
		return err
	case errors.Is(err, context.Canceled):
		return err
	}
	m.failed(s.b.clock.Now())
	s.o.Log(fmt.Sprintf("%s failed: %.300v", m.Name, err))
	return ipc.Errorf(ipc.CodeInternal, "%s has failed", m.Name)
}

// admit keeps calls away from a capability that keeps failing.
func (m *method) admit(now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Before(m.rest) {
		return ipc.Errorf(ipc.CodeUnsupported, "%s has failed %d times in a row and rests for %v", m.Name, m.failures, m.rest.Sub(now).Round(time.Millisecond))
	}
	return nil
}

func (m *method) failed(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failures++; m.failures >= failuresMax {
		m.rest = now.Add(failureRest)
	}
}

func (m *method) worked() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures, m.rest = 0, time.Time{}
}

// noted records a call that a grant covered.
func (s *Session) noted(m *method, a *admitted, err error, took time.Duration) {
	if m.Summed && err == nil {
		s.mu.Lock()
		s.summed[sum{m.Name, a.entry.Origin}]++
		s.mu.Unlock()
		return
	}
	data := map[string]any{"took_us": took.Microseconds()}
	if a.meta.RequestID != "" {
		data["request_id"] = a.meta.RequestID
	}
	if a.meta.Traceparent != "" {
		data["traceparent"] = a.meta.Traceparent
	}
	s.record(m.Name, a.target, a.entry.Origin, outcomeOf(err), data)
}

// AtEnd has end called by Close, after everything was cut. Call it before the
// session is used.
func (s *Session) AtEnd(end func()) { s.atEnd = append(s.atEnd, end) }

// BeforeEnd has end called by Close before anything is cut. Call it before the
// session is used.
func (s *Session) BeforeEnd(end func()) { s.before = append(s.before, end) }

// Lease is one use of a grant by something that is no call, such as a
// connection.
type Lease struct {
	s *Session
	a *admitted
}

// Lease lets something be used, or reports why not; it waits until the session
// is open. End it.
func (s *Session) Lease(name, target string) (*Lease, error) {
	l, err := s.Admit(name, target)
	var denied *DeniedError
	if errors.As(err, &denied) {
		s.Deny(Denial{Capability: name, Target: target, Rule: denied.Rule, Standing: strings.HasPrefix(denied.Rule, "revoked")})
	}
	return l, err
}

// Admit is Lease for what somebody else does: that it is not granted is no
// violation of the plugin's.
func (s *Session) Admit(name, target string) (*Lease, error) {
	<-s.opened
	a, err := s.g.admit(name, target)
	var denied *DeniedError
	if err != nil {
		if !errors.As(err, &denied) {
			s.record(name, target, "", "refused", map[string]any{"why": err.Error()})
		}
		return nil, err
	}
	return &Lease{s, a}, nil
}

// Spend takes bytes of the grant's budget.
func (l *Lease) Spend(n int64) error { return l.a.spend(n) }

// Hold has cut called when the grant goes; see capability.Call.
func (l *Lease) Hold(cut func()) (done func(), err error) { return l.a.hold(cut) }

// End gives the place back.
func (l *Lease) End() { l.a.end() }

// Note records what became of it.
func (l *Lease) Note(outcome string, data map[string]any) {
	l.s.record(l.a.name, l.a.target, l.a.entry.Origin, outcome, data)
}

func (s *Session) record(what, target, by, outcome string, data map[string]any) {
	s.mu.Lock()
	digest := s.digest
	s.mu.Unlock()
	if len(target) > maxInAudit {
		target = target[:maxInAudit] + "..."
	}
	if data == nil {
		data = map[string]any{}
	}
	data["what"], data["outcome"], data["plan_digest"] = what, outcome, digest
	if target != "" {
		data["target"] = target
	}
	if by != "" {
		data["grant"] = by
	}
	s.b.audit.Queue(control.Event{
		Plugin: s.o.Plugin, Kind: "capability", Actor: "plugin", Data: data,
		Text: s.o.Plugin + " used " + strings.TrimSpace(what+" "+target) + ": " + outcome,
	})
}

func outcomeOf(err error) string {
	var answer *ipc.RPCError
	switch {
	case err == nil:
		return "served"
	case errors.As(err, &answer):
		return fmt.Sprintf("error %d", answer.Code)
	}
	return "failed"
}

// discard closes what a result would have handed over.
func discard(result any) {
	if with, ok := result.(ipc.WithFiles); ok {
		for _, f := range with.Files {
			_ = f.Close() // nobody has got it
		}
	}
	if c, ok := result.(interface{ Close() error }); ok {
		_ = c.Close()
	}
}
