package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/supervisor/audit"
	"github.com/cordonhq/cordon/supervisor/contract"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/violation"
)

var _ control.Service = (*Supervisor)(nil)

// eventQueue is how many records a follower of the audit log may lag behind.
const eventQueue = 1024

// do asks a plugin's actor for kind and waits until the plugin has settled.
func (s *Supervisor) do(ctx context.Context, by control.Caller, name string, kind eventKind) (control.Status, error) {
	return s.tell(ctx, by, name, message{event: event{Kind: kind}})
}

// tell is do for a message that says more than its kind.
func (s *Supervisor) tell(ctx context.Context, by control.Caller, name string, m message) (control.Status, error) {
	p, err := s.get(name)
	if err != nil {
		return control.Status{}, err
	}
	op := &operation{by: by.String(), done: make(chan error, 1)}
	m.op = op
	if !p.box.post(m) {
		return control.Status{}, p.notFound()
	}
	select {
	case err := <-op.done:
		return p.status(), err
	case <-ctx.Done():
		return p.status(), control.Errorf(ipc.CodeDeadline, "cordon ps", "cannot wait any longer for %s: %w", name, ctx.Err())
	}
}

// Start implements control.Service.
func (s *Supervisor) Start(ctx context.Context, by control.Caller, p control.NameParams) (control.Status, error) {
	leave, err := s.admit("start", p.Name)
	if err != nil {
		return control.Status{}, err
	}
	defer leave()
	return s.startWith(ctx, by, p.Name)
}

// Stop implements control.Service.
func (s *Supervisor) Stop(ctx context.Context, by control.Caller, p control.NameParams) (control.Status, error) {
	return s.stopWith(ctx, by, p.Name, evStop)
}

// Restart implements control.Service.
func (s *Supervisor) Restart(ctx context.Context, by control.Caller, p control.NameParams) (control.Status, error) {
	leave, err := s.admit("restart", p.Name)
	if err != nil {
		return control.Status{}, err
	}
	defer leave()
	return s.stopWith(ctx, by, p.Name, evRestart)
}

// Release implements control.Service.
func (s *Supervisor) Release(ctx context.Context, by control.Caller, p control.ReleaseParams) (control.Status, error) {
	reason := violation.Escape(p.Reason, 300)
	if reason == "" {
		reason = "no reason given"
	}
	if err := checkProbation(p.Probation); err != nil {
		return control.Status{}, err
	}
	return s.tell(ctx, by, p.Name, message{event: event{Kind: evRelease, Reason: reason}, probation: p.Probation})
}

// Remove implements control.Service.
func (s *Supervisor) Remove(ctx context.Context, by control.Caller, p control.NameParams) error {
	_, err := s.do(ctx, by, p.Name, evRemove)
	return err
}

// Enable implements control.Service.
func (s *Supervisor) Enable(_ context.Context, by control.Caller, p control.NameParams) (control.Status, error) {
	return s.setEnabled(by, p.Name, true)
}

// Disable implements control.Service.
func (s *Supervisor) Disable(_ context.Context, by control.Caller, p control.NameParams) (control.Status, error) {
	return s.setEnabled(by, p.Name, false)
}

func (s *Supervisor) setEnabled(by control.Caller, name string, on bool) (control.Status, error) {
	p, err := s.get(name)
	if err != nil {
		return control.Status{}, err
	}
	done := make(chan error, 1)
	if !p.box.post(message{do: func() { done <- p.enable(by, on) }}) {
		return control.Status{}, p.notFound()
	}
	select {
	case err = <-done:
	case <-p.ended:
		err = p.notFound()
	}
	return p.status(), err
}

// enable runs in the actor.
func (p *plugin) enable(by control.Caller, on bool) error {
	kind := map[bool]string{true: "enabled", false: "disabled"}[on]
	was := p.record.Enabled
	p.record.Enabled = on
	if p.save(); p.unsaved {
		p.record.Enabled = was
		return control.Errorf(ipc.CodeInternal, "", "cannot save that %s is %s", p.name, kind)
	}
	p.auditEvent(control.Event{Plugin: p.name, Kind: kind, Actor: by.String(), Text: p.name + " is " + kind})
	p.publish()
	return nil
}

// List implements control.Service.
func (s *Supervisor) List(context.Context) ([]control.Status, error) {
	out := []control.Status{}
	for _, p := range s.all() {
		out = append(out, p.status())
	}
	return out, nil
}

// status reads the snapshot, and the kernel for what is used now.
func (p *plugin) status() control.Status {
	snap := p.shown.Load()
	r := snap.record
	st := control.Status{
		Name: r.Name, Version: r.Version, Profile: r.Profile, State: r.State, Enabled: r.Enabled,
		Since: r.Since, Restarts: r.Restarts, Reason: r.Reason,
	}
	if snap.plan != nil && snap.plan.Violation["seccomp"].Action == string(violation.Log) {
		st.NotEnforced = []string{"seccomp"}
	}
	if r.State == control.Stopped && r.Held || r.State == control.Backoff {
		st.Waits = p.waits()
	}
	if r.State == control.Starting {
		st.Stage = p.stages.now()
	}
	if snap.draining != "" {
		st.Draining = snap.draining
	}
	st.Degraded, st.Objective = p.objective.now(p.clock.Now()), p.objective.status(p.clock.Now())
	if until := r.Probation; p.clock.Now().Before(until) {
		st.Probation = &until
	}
	if snap.run == nil || r.State == control.Quarantined {
		return st
	}
	st.PID = snap.run.proc.PID()
	if r.State == control.Running {
		st.Uptime = max(0, p.clock.Now().Sub(r.Since))
	}
	st.Memory = max(0, snap.run.proc.Memory())
	return st
}

// Inspect implements control.Service.
func (s *Supervisor) Inspect(_ context.Context, params control.NameParams) (control.Inspection, error) {
	p, err := s.get(params.Name)
	if err != nil {
		return control.Inspection{}, err
	}
	snap := p.shown.Load()
	r := snap.record
	in := control.Inspection{
		Status: p.status(), Digest: r.Digest, Signature: "unsigned", Protocol: r.Protocol,
		PolicyDigest: r.PolicyDigest, PlanDigest: r.PlanDigest, Plan: snap.plan,
		Walls: []launch.Wall{}, Observed: map[string]string{"files": "enforced, not observed"},
		Hello: helloOf(snap.run), Violations: r.Violations, Interpreters: runBy(r), Stages: p.stages.list(),
	}
	if snap.plan == nil {
		s.planAhead(&in, r.Digest, r.Profile)
	}
	if snap.run != nil {
		in.Circuits = snap.run.breaker.list()
	}
	if in.Plan != nil && slices.Contains(in.Plan.Watch, "files") {
		in.Observed["files"] = "enforced and observed"
	}
	if snap.run != nil && r.State == control.Running {
		enforced, err := snap.run.proc.Enforced()
		if err != nil && !errors.Is(err, launch.ErrEnded) { // it is between two lives: no walls
			return in, control.Errorf(ipc.CodeInternal, "", "cannot read back the walls of %s: %w", p.name, err)
		}
		in.Walls = enforced.Walls
	}
	return in, nil
}

// planAhead shows what a plugin that has not been started yet would get.
func (s *Supervisor) planAhead(in *control.Inspection, digest, profile string) {
	b, err := s.source.Open(digest)
	if err != nil {
		return // the next start says why
	}
	if pl, err := s.source.Resolve(b, profile); err == nil {
		in.Plan, in.PolicyDigest = pl, pl.PolicyDigest()
	}
}

// Why implements control.Service.
func (s *Supervisor) Why(_ context.Context, params control.NameParams) ([]violation.Violation, error) {
	p, err := s.get(params.Name)
	if err != nil {
		return nil, err
	}
	return append([]violation.Violation{}, p.shown.Load().record.Violations...), nil
}

// ready returns the plugin's process, if calls may be made.
func (s *Supervisor) ready(name string) (*running, error) {
	p, err := s.get(name)
	if err != nil {
		return nil, err
	}
	snap := p.shown.Load()
	switch {
	case snap.ready:
		return snap.run, nil
	case snap.record.State == control.Quarantined:
		return nil, control.Errorf(ipc.CodeQuarantined, "cordon why "+name, "plugin %s is quarantined: %s", name, snap.record.Reason)
	case snap.draining != "":
		return nil, control.Errorf(ipc.CodeNotReady, "cordon ps", "plugin %s takes no more calls: %s", name, snap.draining)
	default:
		return nil, control.Errorf(ipc.CodeNotReady, "cordon start "+name, "plugin %s is %s", name, snap.record.State)
	}
}

// Call implements control.Service. It uses the connection that the actor has
// published, and never waits for lifecycle.
func (s *Supervisor) Call(ctx context.Context, params control.CallParams) (json.RawMessage, error) {
	params.Accept = 0
	a, err := s.callWith(ctx, params, nil)
	return a.Result, err
}

// CallFiles implements control.Service.
func (s *Supervisor) CallFiles(ctx context.Context, params control.CallParams, files []*os.File) (ipc.Answer, error) {
	sent := false
	a, err := s.callWith(ctx, params, func() []*os.File { sent = true; return files })
	if !sent {
		closeFiles(files)
	}
	return a, err
}

// callWith makes a call; files, if not nil, gives up what goes along.
func (s *Supervisor) callWith(ctx context.Context, params control.CallParams, files func() []*os.File) (ipc.Answer, error) {
	run, err := s.enterRun(params.Name)
	if err != nil {
		return ipc.Answer{}, err
	}
	defer run.gate.leave()
	if params.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, min(params.Timeout, 24*time.Hour))
		defer cancel()
	}
	trace, err := s.traced(params.Meta)
	if err != nil {
		return ipc.Answer{}, err
	}
	result, err := s.callOnce(withTrace(ctx, trace), run, params, files)
	var gone *ipc.RPCError
	if errors.As(err, &gone) && gone.Local && gone.Code == ipc.CodePluginGone {
		run.await(ctx)
		return ipc.Answer{}, control.Errorf(gone.Code, "cordon why "+params.Name+", or cordon logs "+params.Name, "plugin %s ended before it answered: %w", params.Name, err)
	}
	return result, err
}

// callOnce makes a call that the circuit breaker lets through, and notes how it
// went.
func (s *Supervisor) callOnce(ctx context.Context, run *running, params control.CallParams, files func() []*os.File) (ipc.Answer, error) {
	if err := run.contract.Params(params.Method, params.Params); err != nil {
		return ipc.Answer{}, control.Errorf(ipc.CodeContract, "cordon inspect "+params.Name, "cannot call %s of %s: its parameters break the contract: %w", params.Method, params.Name, err)
	}
	if err := run.asksTool(params.Method, params.Params); err != nil {
		return ipc.Answer{}, control.Errorf(ipc.CodeContract, "cordon inspect "+params.Name, "cannot call %s of %s: its parameters break the pinned contract: %w", params.Method, params.Name, err)
	}
	began := s.clock.Now()
	if err := run.objective.admit(began, params.Name, params.Method); err != nil {
		return ipc.Answer{}, err
	}
	done, err := run.breaker.begin(began, params.Method)
	if err != nil {
		return ipc.Answer{}, err
	}
	defer run.flight.begin()()
	note := run.calls.begin(began, params.Method, params.Params, traceOf(ctx).Meta)
	a, err := run.ask(ctx, params, files)
	if err == nil {
		err = keptBy(run.contract, params, a.Result)
	}
	if err == nil {
		err = s.keptTools(run, params, a.Result)
	}
	ended := s.clock.Now()
	note(ended, err)
	run.objective.count(ended, err, ended.Sub(began))
	went, reason := judgeCall(err, ended.Sub(began))
	done(ended, went, reason)
	if err != nil {
		ipc.CloseDescriptors(a.Files)
		return ipc.Answer{}, err
	}
	return a, nil
}

// ask is the call itself.
func (r *running) ask(ctx context.Context, params control.CallParams, files func() []*os.File) (ipc.Answer, error) {
	if files == nil {
		result, err := r.conn.Call(ctx, params.Method, params.Params)
		return ipc.Answer{Result: result}, err
	}
	conn, ok := r.conn.(interface {
		CallWith(ctx context.Context, method string, params json.RawMessage, files []*os.File, accept int) (ipc.Answer, error)
	})
	if !ok {
		return ipc.Answer{}, control.Errorf(ipc.CodeUnsupported, "", "plugin %s takes no descriptors", params.Name)
	}
	return conn.CallWith(ctx, params.Method, params.Params, files(), params.Accept)
}

// keptBy says how a result breaks the plugin's own contract. Its caller must not
// get it: what relies on the contract would break in its stead.
func keptBy(c *contract.Contract, params control.CallParams, result json.RawMessage) error {
	err := c.Result(params.Method, result)
	if err == nil {
		return nil
	}
	return control.Errorf(ipc.CodeContract, "cordon logs "+params.Name, "%s answered %s with what breaks its own contract: %w", params.Name, params.Method, err)
}

// settleTime bounds how long a failed call waits for the reason to be on record.
const settleTime = 2 * time.Second

// await waits until the end of a process is on record, so that who is told that
// a plugin ended can ask why at once.
func (r *running) await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	select {
	case <-r.settled:
	case <-ctx.Done():
	}
}

// Logs implements control.Service.
func (s *Supervisor) Logs(_ context.Context, params control.LogsParams) ([]control.LogLine, control.Stream[control.LogLine], error) {
	p, err := s.get(params.Name)
	if err != nil {
		return nil, nil, err
	}
	if !params.Follow {
		return p.log.tail(params.Lines), nil, nil
	}
	lines, f := p.log.tailAndFollow(params.Lines)
	return lines, f, nil
}

// Events implements control.Service.
func (s *Supervisor) Events(_ context.Context, params control.EventsParams) ([]control.Event, control.Stream[control.Event], error) {
	if !params.Follow {
		return s.audit.Recent(0, params.Name), nil, nil
	}
	// Subscribed before reading back: what is in both is left out by its number.
	sub := s.audit.Subscribe(eventQueue)
	past := s.audit.Recent(0, params.Name)
	return past, newEventStream(sub, params.Name, past), nil
}

// AuditCheckpoint implements control.Service.
func (s *Supervisor) AuditCheckpoint(context.Context) (control.AuditCheckpoint, error) {
	signed, public, err := s.audit.Checkpoint()
	if err != nil {
		return control.AuditCheckpoint{}, control.Errorf(ipc.CodeInternal, "", "cannot sign the audit log: %w", err)
	}
	return control.AuditCheckpoint{Path: s.audit.Path(), Checkpoint: string(signed), PublicKey: public}, nil
}

// Reload implements control.Service.
func (s *Supervisor) Reload(ctx context.Context, by control.Caller) (control.Reloaded, error) {
	if s.reload == nil {
		return control.Reloaded{}, control.Errorf(ipc.CodeUnsupported, "", "cannot reload: there is no configuration file")
	}
	out, err := s.reload(ctx, by.String())
	if err != nil {
		return out, control.Errorf(ipc.CodeInvalidParams, "", "cannot reload; what held before holds on: %w", err)
	}
	return out, nil
}

// Upgrade implements control.Service.
func (s *Supervisor) Upgrade(ctx context.Context, by control.Caller, params control.UpgradeParams) error {
	if s.upgrade == nil {
		return control.Errorf(ipc.CodeUnsupported, "", "cannot upgrade: this daemon cannot become another program")
	}
	if err := s.upgrade(ctx, by.String(), params.Program); err != nil {
		return control.Errorf(ipc.CodeConflict, "the running cordond goes on; stop and start it to use another program all the same", "cannot upgrade: %w", err)
	}
	return nil
}

// EvidenceList implements control.Service.
func (s *Supervisor) EvidenceList(_ context.Context, params control.NameParams) ([]control.Evidence, error) {
	if params.Name != "" && !manifest.ValidName(params.Name) {
		return nil, control.Errorf(ipc.CodeInvalidParams, "", "cannot list evidence: %w", errNoName)
	}
	files, err := s.cabinet.list(params.Name)
	out := make([]control.Evidence, 0, len(files))
	for _, f := range files {
		out = append(out, s.cabinet.describe(f))
	}
	return out, err
}

// EvidenceShow implements control.Service.
func (s *Supervisor) EvidenceShow(_ context.Context, params control.EvidenceParams) (control.EvidenceContent, error) {
	if !manifest.ValidName(params.Name) {
		return control.EvidenceContent{}, control.Errorf(ipc.CodeInvalidParams, "", "cannot show evidence: %w", errNoName)
	}
	content, err := s.cabinet.show(params.Name, params.ID, params.File)
	if err != nil {
		return content, control.Errorf(ipc.CodeNotFound, "cordon evidence list "+params.Name, "cannot show evidence of %s: %w", params.Name, err)
	}
	return content, nil
}

// holdsEvidence says whether a plugin is in quarantine because of what dir has.
func (s *Supervisor) holdsEvidence(dir string) bool {
	s.mu.RLock()
	p := s.plugins[filepath.Base(filepath.Dir(dir))]
	s.mu.RUnlock()
	if p == nil {
		return false
	}
	q := p.shown.Load().record.Quarantine
	return q != nil && (q.Evidence == dir || q.Evidence == "")
}

// SetEvidenceRules changes what is kept of quarantines from now on.
func (s *Supervisor) SetEvidenceRules(r EvidenceRules) { s.cabinet.setRules(r) }

// eventStream filters a subscription.
type eventStream struct {
	sub *audit.Subscription
	out chan control.Event
	end chan struct{}
}

func newEventStream(sub *audit.Subscription, name string, past []control.Event) *eventStream {
	e := &eventStream{sub: sub, out: make(chan control.Event), end: make(chan struct{})}
	var seen uint64
	if len(past) > 0 {
		seen = past[len(past)-1].Seq
	}
	go e.forward(name, seen)
	return e
}

func (e *eventStream) forward(name string, seen uint64) {
	defer close(e.out)
	for ev := range e.sub.C {
		if ev.Seq <= seen || name != "" && ev.Plugin != name {
			continue
		}
		select {
		case e.out <- ev:
		case <-e.end:
			return
		}
	}
}

func (e *eventStream) C() <-chan control.Event { return e.out }
func (e *eventStream) Lost() bool              { return e.sub.Lost() }

// Close ends it; call it once.
func (e *eventStream) Close() {
	e.sub.Close()
	close(e.end)
}

// Attach implements control.Service.
func (s *Supervisor) Attach(_ context.Context, params control.NameParams, deliver func(json.RawMessage) error) (control.AttachResult, control.Bridge, error) {
	run, err := s.ready(params.Name)
	if err != nil {
		return control.AttachResult{}, nil, err
	}
	if run.plan().Protocol == ipc.ProtocolCordon {
		return control.AttachResult{}, nil, control.Errorf(ipc.CodeUnsupported, "cordon call", "cannot attach to %s: it speaks protocol %q, not that of a client on stdio", params.Name, run.plan().Protocol)
	}
	bridge, err := run.conn.Attach(deliver)
	if err != nil {
		return control.AttachResult{}, nil, err
	}
	return control.AttachResult{Protocol: string(run.plan().Protocol)}, bridge, nil
}

// errClosing refuses what would begin while the daemon ends.
func errClosing() error {
	return control.Errorf(ipc.CodeShuttingDown, "", "cordond is ending")
}

var errNoName = errors.New("a plugin's name is lower-case letters, digits, '.', '-' and '_', at most 64, and begins with a letter or digit")
