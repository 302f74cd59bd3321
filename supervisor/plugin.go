package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/broker"
	"github.com/cordonhq/cordon/supervisor/contract"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/ingress"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/store"
	"github.com/cordonhq/cordon/supervisor/violation"
	"github.com/cordonhq/cordon/supervisor/volume"
)

// The bounds of what an actor waits for.
const (
	freezeTime  = 100 * time.Millisecond // containing
	persistTime = 2 * time.Second        // writing a quarantine before it kills without
	reapTime    = 4 * time.Second        // the end of a killed process
	goodbyeMax  = 5 * time.Second        // a goodbye that is sent
	saveEvery   = time.Second            // violations that were only refused
)

// The rate at which violations that were only refused get into the audit log,
// for each plugin: so many a second, so many at once.
const (
	auditRate  = 10
	auditBurst = 50
)

// maxStartsKept bounds the starts that a record has.
const maxStartsKept = 200

// defaultPolicy holds until a plan of the plugin is known: nothing restarts.
func defaultPolicy() plan.Lifecycle {
	return plan.Lifecycle{Restart: "no", StopTimeout: 10 * time.Second}
}

// plugin is the actor of one plugin: one goroutine owns its lifecycle, and
// everything it does follows from transition. Others see what it publishes.
type plugin struct {
	*shared
	name string
	box  *mailbox
	log  *logBook
	// shown is what everyone else may read, replaced as a whole.
	shown atomic.Pointer[snapshot]
	// ended is closed when the actor has ended.
	ended chan struct{}

	// house has the host's sockets at which it is reached, over its runs.
	house ingress.House

	// The goroutine's own.
	state     lifecycle
	record    store.Record
	policy    plan.Lifecycle
	plan      *plan.Plan
	run       *running
	cancel    context.CancelFunc // of the start walk
	walking   sync.WaitGroup
	hit       *violation.Violation // the violation that is being answered
	hitBy     *running             // and whose it is
	waiting   []waiter
	draining  string // why it gets no more calls; "" if it does
	again     bool   // it ran when its daemon went, and could not be gone on with
	swap      swap   // what a swap has beside run
	stopTimer func()
	saving    bool  // a later save is due
	unsaved   bool  // the disk has less than record
	auditErr  error // why the newest audit record could not be written
	budget    tokens
	objective *objective
	stages    stages // of its newest start
	muted     int    // violations that the audit log was spared
}

// waiter is an operator who waits for the plugin to settle.
type waiter struct {
	kind eventKind
	op   *operation
}

// snapshot is a plugin as others see it. It is never changed.
type snapshot struct {
	record store.Record
	plan   *plan.Plan
	run    *running // nil unless a process exists
	// ready says that calls may be made; draining, if not "", why no more may.
	ready    bool
	draining string
	// beside is the other process of a swap, and swapping says that one is under
	// way; see swap.
	beside   *running
	swapping bool
}

// runs are the processes that there are.
func (s *snapshot) runs() []*running {
	return slices.DeleteFunc([]*running{s.run, s.beside}, func(r *running) bool { return r == nil })
}

// running is one process with its connection.
type running struct {
	number uint64
	proc   Process
	conn   Conn
	// inForce is the plan that it runs under now; Adjust changes it.
	inForce atomic.Pointer[plan.Plan]
	judge   *violation.Judge
	hello   atomic.Pointer[json.RawMessage]
	told    atomic.Bool // that it broke the protocol
	calls   callBook
	flight  flight
	// objective is the plugin's, over all its runs.
	objective *objective
	// caps are what it may use of the host; nil without a broker.
	caps *broker.Session
	// listening are the sockets that it has from its start; nil without any.
	listening *ingress.Room
	breaker   *circuits
	// contract is what its methods take and answer.
	contract *contract.Contract
	// tools are those of an MCP server that an operator pinned; nil without a pin.
	tools   atomic.Pointer[contract.Tools]
	settled chan struct{}   // closed when its end, and why it came, are published
	ctx     context.Context //nolint:containedctx // of the process's own life
	cancel  context.CancelFunc
	// digest is of the bundle; adopted says that an earlier daemon began it.
	digest   string
	adopted  bool
	booking  sync.Mutex // serialises writeBook
	loosened sync.Once
	// gate counts the calls that it has not answered, and closes when another
	// process has taken its place.
	gate gate
	// data says that it has the data that is kept.
	data bool
}

func newRunning(number uint64, caps *broker.Session, b *Bundle, proc Process, conn Conn, pl *plan.Plan, changed func(control.Circuit)) *running {
	run := &running{
		number: number, caps: caps, contract: b.Contract, digest: b.Digest, proc: proc, conn: conn,
		judge: violation.NewJudge(pl), settled: make(chan struct{}), breaker: newCircuits(changed),
	}
	run.inForce.Store(pl)
	run.ctx, run.cancel = context.WithCancel(context.Background())
	return run
}

func (r *running) plan() *plan.Plan { return r.inForce.Load() }

// newPlugin makes the actor of a record that is in the store. Call go loop.
func newPlugin(s *shared, r store.Record) (*plugin, error) { return newHeir(s, r, nil, nil) }

// newHeir is newPlugin for one that an earlier daemon left running, or lost: left
// is gone on with if that is possible.
func newHeir(s *shared, r store.Record, left *launch.Left, lost error) (*plugin, error) {
	log, err := openLog(filepath.Join(s.stateDir, "logs", r.Name+".log"), s.clock)
	if err != nil {
		return nil, err
	}
	p := &plugin{
		shared: s, name: r.Name, box: newMailbox(), log: log, ended: make(chan struct{}),
		record: r, policy: defaultPolicy(), stopTimer: func() {}, cancel: func() {},
		budget: newTokens(auditRate, auditBurst, s.clock.Now()),
	}
	p.objective = p.newObjective()
	if left != nil {
		lost = p.adopt(left)
	}
	if p.run != nil {
		p.state = lifecycle{Phase: r.State, Process: alive, Run: p.run.number, Since: r.Since, Reason: r.Reason, Restarts: r.Restarts, Step: r.Step, Starts: r.Starts}
		p.publish()
		return p, nil
	}
	p.house.Close() // what of it was gone on with
	p.state = restored(r, s.clock.Now())
	if lost != nil {
		p.again, p.state.Reason = true, "daemon-crash: "+lost.Error()
		p.policy = s.policyOf(r)
		p.logger.Warn("cannot go on with what ran", "plugin", p.name, "err", lost)
	}
	if p.state.Phase != r.State {
		p.save()
	}
	p.closeData() // a daemon that was killed left it mounted
	p.publish()
	return p, nil
}

// restored is the state after the daemon was away. What ran has ended with it;
// a quarantine stays, and a record that makes no sense is one.
func restored(r store.Record, now time.Time) lifecycle {
	s := lifecycle{Phase: r.State, Since: r.Since, Reason: r.Reason, Restarts: r.Restarts, Step: r.Step, Starts: r.Starts}
	switch {
	case r.Quarantine != nil:
		s.Phase = control.Quarantined
	case slices.Contains([]control.State{control.Starting, control.Running, control.Stopping, control.Backoff}, r.State):
		s.Phase, s.Since, s.Reason = control.Stopped, now, "cordond ended while it was "+string(r.State)
	case !slices.Contains([]control.State{control.Stopped, control.Failed, control.Quarantined}, r.State):
		s.Phase, s.Since, s.Reason = control.Quarantined, now, fmt.Sprintf("unknown state %q in the store", r.State)
	}
	return s
}

// loop is the actor. It returns when the plugin was removed, or when the
// mailbox was closed.
func (p *plugin) loop() {
	defer close(p.ended)
	for p.state.Phase != removed && !p.box.isClosed() {
		<-p.box.wake
		queue, lost := p.box.take()
		p.muted += lost
		for _, m := range queue {
			p.handle(m)
		}
	}
	p.box.close()
	queue, _ := p.box.take()
	for _, m := range queue {
		p.drop(m)
	}
	p.end()
}

// drop answers a message that came too late.
func (p *plugin) drop(m message) {
	if m.op != nil {
		m.op.done <- p.notFound()
	}
	if m.begun != nil {
		p.discard(m.begun)
	}
}

// end leaves nothing of the plugin running.
func (p *plugin) end() {
	p.stopTimer()
	p.cancel()
	p.swap.cancelStart()
	p.freeBeside()
	if p.run != nil {
		p.free()
	}
	p.walking.Wait()
	p.house.Close()
	p.closeData()
	p.settleWaiters(p.notFound())
	if p.unsaved && p.state.Phase != removed {
		p.save()
	}
	if err := p.log.close(); err != nil {
		p.logger.Error("cannot close log", "plugin", p.name, "err", err)
	}
}

func (p *plugin) notFound() error {
	return control.Errorf(ipc.CodeNotFound, "cordon ps", "plugin %s is no more", p.name)
}

// handle answers one message: transition decides, perform does.
func (p *plugin) handle(m message) {
	if m.do != nil {
		m.do()
		return
	}
	m = p.strictly(m)
	m = p.commitSwap(m)
	p.accept(m)
	ev := m.event
	ev.Time, ev.Jitter = p.clock.Now(), p.random()
	before, timer := p.state.Phase, p.state.Timer
	next, acts := transition(p.state, ev, p.policy)
	p.state = next
	if next.Timer != timer { // what it would say is stale: it must not wake us to say so
		p.stopTimer()
	}
	p.beginProbation(m, before)
	err := p.perform(acts, m)
	p.hit, p.hitBy = nil, nil
	if m.begun != nil && m.begun == p.run && p.state.Process != alive { // only a fault in transition could lead here
		p.free()
	}
	p.keepListening()
	p.answer(m, err)
}

// accept takes what a message brings along into the actor's own fields.
func (p *plugin) accept(m message) {
	p.intend(m)
	if m.begun != nil {
		m.begun.objective = p.objective
		digest := m.begun.proc.PlanDigest()
		if p.state.Swap.isOf(m.event) {
			p.swap.run = m.begun
		} else {
			p.run, p.draining = m.begun, ""
			p.record.PlanDigest, p.record.UID = digest, 0
			p.record.Interpreters = runByNow(p.record, m.begun.proc)
		}
		if m.begun.caps != nil {
			m.begun.caps.Open(digest, p.decisions(p.record.Decisions))
		}
		p.publish()
	}
	if m.hit != nil {
		v := *m.hit
		p.hit, p.hitBy = &v, p.run
		if p.swap.run != nil && p.swap.run.number == m.event.Run {
			p.hitBy = p.swap.run
		}
		if p.hitBy != nil && p.hitBy.plan() != nil {
			violation.Explain(p.hit, p.hitBy.plan())
		}
		p.record.Violations = lastViolations(append(p.record.Violations, *p.hit))
	}
}

func lastViolations(vs []violation.Violation) []violation.Violation {
	from := max(0, len(vs)-store.MaxViolations)
	return slices.Clone(vs[from:])
}

// answer tells the operator of m, and those who waited for the plugin to settle.
func (p *plugin) answer(m message, err error) {
	if m.op != nil {
		if err != nil {
			m.op.done <- err
		} else {
			p.waiting = append(p.waiting, waiter{m.event.Kind, m.op})
		}
	}
	p.settleWaiters(nil)
}

// settleWaiters answers everyone whose wish has come to something; err, if not
// nil, to all who wait.
func (p *plugin) settleWaiters(err error) {
	p.waiting = slices.DeleteFunc(p.waiting, func(w waiter) bool {
		switch {
		case err != nil:
			w.op.done <- err
		case p.settles(w.kind):
			w.op.done <- p.outcome(w.kind)
		default:
			return false
		}
		return true
	})
}

// settles says whether nothing is under way any more of what kind asks for.
func (p *plugin) settles(kind eventKind) bool {
	if kind == evSwap {
		return p.state.Swap.Process == noProcess
	}
	return p.state.Phase != control.Starting && p.state.Phase != control.Stopping
}

// outcome says what the settled state means to one who asked for kind.
func (p *plugin) outcome(kind eventKind) error {
	if kind == evSwap {
		return p.swapOutcome()
	}
	if kind != evStart && kind != evRestart || p.state.Phase == control.Running {
		return nil
	}
	reason := p.state.Reason
	switch p.state.Phase {
	case control.Quarantined:
		return control.Errorf(ipc.CodeQuarantined, "cordon why "+p.name, "cannot start %s: it was quarantined: %s", p.name, reason)
	case control.Backoff:
		return control.Errorf(ipc.CodeInternal, "cordon logs "+p.name, "cannot start %s: %s; it will be tried again", p.name, reason)
	default:
		return control.Errorf(ipc.CodeInternal, "cordon logs "+p.name, "cannot start %s: %s", p.name, reason)
	}
}

// perform does the actions in order and returns the refusal, if there is one.
// An error of one is logged and never keeps the rest from being done.
func (p *plugin) perform(acts []action, m message) (refused error) {
	for _, a := range acts {
		switch a.Kind {
		case actPersist:
			p.persist()
		case actAudit:
			p.auditPhase(a.Name, m)
		case actPublish:
			p.publish()
		case actRecord:
			p.recordViolation()
		case actLaunch:
			p.launch()
		case actCancel:
			p.cancel()
			p.swap.cancelStart()
		case actContain:
			p.contain()
		case actEvidence:
			p.keepEvidence()
		case actGoodbye:
			p.goodbye()
		case actTerm:
			p.signal(syscall.SIGTERM)
		case actKill:
			p.kill()
		case actReap:
			p.reap()
		case actFree:
			p.free()
		case actArm:
			p.arm(a.Delay)
		case actRefuse:
			refused = p.refusal(m.event.Kind, a)
		case actForget:
			refused = p.forget(m)
		case actLaunchBeside, actSwitch, actTellSwap, actByeBeside, actTermBeside, actEndBeside, actFreeBeside:
			p.performSwap(a, m)
		}
	}
	return refused
}

func (p *plugin) refusal(kind eventKind, a action) error {
	verb := map[eventKind]string{evStart: "start", evStop: "stop", evRestart: "restart", evRelease: "release", evRemove: "remove", evSwap: "swap"}[kind]
	code := ipc.CodeConflict
	if p.state.Phase == control.Quarantined {
		code = ipc.CodeQuarantined
	}
	return control.Errorf(code, strings.ReplaceAll(a.Hint, "NAME", p.name), "cannot %s %s: %s", verb, p.name, a.Reason)
}

// updateRecord brings the record up to the state.
func (p *plugin) updateRecord() {
	r := &p.record
	r.State, r.Since, r.Reason, r.Restarts = p.state.Phase, p.state.Since, p.state.Reason, p.state.Restarts
	r.Step, r.Starts, r.Boot = p.state.Step, p.state.Starts[max(0, len(p.state.Starts)-maxStartsKept):], p.boot
	if r.State == control.Running || r.State == control.Failed || r.State == control.Quarantined {
		r.Held = false
	}
	switch {
	case p.state.Phase != control.Quarantined:
		r.Quarantine = nil
	case r.Quarantine == nil:
		r.Quarantine = &store.Quarantine{Time: p.state.Since}
		if p.hit != nil {
			r.Quarantine.Violation = *p.hit
		}
	}
}

// save writes the record and remembers if that failed.
func (p *plugin) save() {
	p.updateRecord()
	p.unsaved = true
	if err := p.put(p.record); err != nil {
		p.logger.Error("cannot save the state; it will be tried again", "plugin", p.name, "err", err)
		p.saveLater()
		return
	}
	p.unsaved = false
}

// saveLater makes one save a while from now, however often it is asked for.
func (p *plugin) saveLater() {
	p.unsaved = true
	if p.saving {
		return
	}
	p.saving = true
	p.clock.AfterFunc(saveEvery, func() {
		p.box.post(message{do: func() {
			p.saving = false
			if p.unsaved && p.state.Phase != removed {
				p.save()
			}
			p.auditMuted()
		}})
	})
}

// persist saves the state. While a quarantined plugin is only frozen, a disk
// that is slow or full must not keep it: then it is killed first.
func (p *plugin) persist() {
	if p.state.Phase != control.Quarantined || p.run == nil && p.swap.run == nil {
		p.save()
		return
	}
	done := make(chan struct{})
	stop := p.clock.AfterFunc(persistTime, func() { p.killLate(done) })
	p.save()
	close(done)
	stop()
	if p.unsaved {
		p.kill()
		return
	}
	p.logger.Info(quarantineSaved, "plugin", p.name)
}

// quarantineSaved is what the log says once a quarantine is on the disk.
const quarantineSaved = "the quarantine is saved"

// killLate kills from outside the actor, which still waits for the disk.
func (p *plugin) killLate(done <-chan struct{}) {
	select {
	case <-done:
		return
	default:
	}
	for _, run := range p.shown.Load().runs() {
		p.logger.Error("the quarantine takes long to be saved: killing first", "plugin", p.name)
		p.logFailure("kill", run.proc.Kill())
	}
}

func (p *plugin) logFailure(what string, err error) {
	if err != nil {
		p.logger.Error("cannot "+what, "plugin", p.name, "err", err)
	}
}

// publish shows the state to everyone else.
func (p *plugin) publish() {
	p.updateRecord()
	if p.plan != nil {
		p.objective.follow(p.plan.SLO)
	}
	r := p.record
	r.Violations = slices.Clone(r.Violations)
	now := &snapshot{
		record: r, plan: p.plan, run: p.run, draining: p.draining,
		ready:  p.state.Phase == control.Running && p.run != nil && p.draining == "",
		beside: p.swap.run, swapping: p.state.Swap.Process != noProcess,
	}
	before := p.shown.Swap(now)
	if before != nil && before.record.State != r.State {
		p.changed(change{p.name, before.record.State, r.State})
	}
	if before != nil {
		for _, run := range before.runs() {
			if !slices.Contains(now.runs(), run) {
				close(run.settled)
			}
		}
	}
	if before != nil && before.record.Quarantine == nil && r.Quarantine != nil {
		came := r.Quarantine.Evidence
		p.walking.Go(func() { p.tidyEvidence(came) }) // not while it was only frozen
	}
}

// auditPhase records that the plugin entered a phase.
func (p *plugin) auditPhase(name string, m message) {
	ev := control.Event{Plugin: p.name, Kind: name, Actor: "daemon", Text: p.name + " is " + string(p.state.Phase)}
	if m.op != nil {
		ev.Actor = m.op.by
	}
	if p.state.Reason != "" {
		ev.Text += ": " + p.state.Reason
	}
	switch {
	case p.state.Phase == control.Quarantined && p.record.Quarantine != nil:
		ev.Data = violationData(&p.record.Quarantine.Violation)
		ev.Data["evidence"] = p.record.Quarantine.Evidence
	case p.state.Phase == control.Running && p.run != nil:
		ev.Data = map[string]any{"pid": p.run.proc.PID(), "plan_digest": p.record.PlanDigest, "policy_digest": p.record.PolicyDigest}
		if by := runBy(p.record); len(by) > 0 {
			ev.Data["interpreters"] = by
		}
	}
	p.auditEvent(ev)
}

// auditEvent writes one audit record; failing to is logged, and the next start
// is refused as long as it lasts.
func (p *plugin) auditEvent(ev control.Event) {
	_, p.auditErr = p.audit.Append(ev)
	if p.auditErr != nil {
		p.logger.Error("cannot write the audit log", "plugin", p.name, "kind", ev.Kind, "err", p.auditErr)
	}
}

func violationData(v *violation.Violation) map[string]any {
	data := map[string]any{
		"id": v.ID, "wall": v.Wall, "what": violation.Escape(v.What, 512), "call": v.Call, "args": v.Args,
		"path": violation.Escape(v.Path, 1024), "action": v.Action, "pid": v.Where.PID, "rule": v.Rule,
		"policy_digest": v.PolicyDigest, "plan_digest": v.PlanDigest,
	}
	if v.NotEnforced { // a complaint is told from a refusal wherever it is read
		data["not_enforced"] = true
	}
	if v.Suppressed > 0 { // the calls before it that this record stands for, too
		data["suppressed"] = v.Suppressed
	}
	return data
}

// recordViolation keeps a violation that does not quarantine. A plugin can
// make thousands a second: the audit log gets so many, the disk one save.
func (p *plugin) recordViolation() {
	if p.hit == nil {
		return
	}
	p.saveLater()
	p.publish()
	if !p.budget.take(p.clock.Now()) {
		p.muted += hitsOf(p.hit)
		return
	}
	p.auditEvent(control.Event{
		Plugin: p.name, Kind: "violation", Actor: "plugin",
		Text: fmt.Sprintf("%s hit the wall %s: %s (%s)", p.name, p.hit.Wall, p.hit.What, answered(p.hit)),
		Data: violationData(p.hit),
	})
}

// answered is what was done about a violation.
func answered(v *violation.Violation) string {
	if v.NotEnforced {
		return "not enforced"
	}
	return string(v.Action)
}

// auditMuted says how many violations the audit log was spared.
func (p *plugin) auditMuted() {
	if p.muted == 0 {
		return
	}
	p.auditEvent(control.Event{
		Plugin: p.name, Kind: "violations-dropped", Actor: "daemon",
		Text: fmt.Sprintf("%d violations of %s came too fast to be recorded one by one", p.muted, p.name),
		Data: map[string]any{"count": p.muted},
	})
	p.muted = 0
}

// contain freezes; where that fails, it kills.
func (p *plugin) contain() {
	for _, run := range p.runs() {
		ctx, cancel := context.WithTimeout(context.Background(), freezeTime)
		if err := run.proc.Freeze(ctx); err != nil {
			p.logger.Warn("cannot freeze: killing at once", "plugin", p.name, "err", err)
			p.logFailure("kill; it will be tried again", run.proc.Kill())
		}
		cancel()
	}
}

// runs are the processes that there are: the one that hit a wall first.
func (p *plugin) runs() []*running {
	all := (&snapshot{run: p.run, beside: p.swap.run}).runs()
	if len(all) == 2 && all[1] == p.hitBy {
		slices.Reverse(all)
	}
	return all
}

// keepEvidence keeps what it can within its bounds; see evidence.
func (p *plugin) keepEvidence() {
	if p.record.Quarantine == nil {
		return
	}
	changed := *p.record.Quarantine // others may be reading what is published
	q := &changed
	p.record.Quarantine = q
	if q.Violation.Time.IsZero() {
		q.Violation.Time = p.state.Since
	}
	dir, err := evidenceDir(filepath.Join(p.stateDir, "evidence"), p.name, q.Violation)
	if err != nil {
		p.logFailure("keep evidence", err)
		return
	}
	q.Evidence = dir
	by, pl := p.run, p.plan
	if p.hitBy != nil {
		by, pl = p.hitBy, p.hitBy.plan()
	}
	e := evidence{
		plan: pl, violation: q.Violation, log: p.log.tail(evidenceLines),
		redact: newRedactor(pl, p.cabinet.redactions(), p.log.secrets()...), room: p.takeRoom(), core: p.cabinet.cores(),
	}
	if by != nil {
		e.proc, e.calls = by.proc, by.calls.list()
	}
	ctx, cancel := context.WithTimeout(context.Background(), evidenceTime)
	defer cancel()
	p.logFailure("keep evidence", e.collect(ctx, dir))
	p.saveLater()
}

// takeRoom reserves what one quarantine may write, until tidyEvidence counts
// what it did.
func (s *shared) takeRoom() int64 {
	left := s.room.Add(-evidenceSize) + evidenceSize
	return min(max(left, evidenceLeast), evidenceSize)
}

// tidyEvidence makes room for the next evidence, once that in the directory came
// is complete, if any.
func (s *shared) tidyEvidence(came string) {
	room, err := s.cabinet.prune(came)
	if err != nil {
		s.logger.Error("cannot remove old evidence", "err", err)
	}
	s.room.Store(room)
}

func (p *plugin) goodbye() { p.sayGoodbye(p.run) }

func (p *plugin) sayGoodbye(run *running) {
	if run == nil || run.conn == nil {
		return
	}
	p.loosen(run)
	p.walking.Go(func() {
		ctx, cancel := context.WithTimeout(run.ctx, goodbyeMax)
		defer cancel()
		if err := run.conn.Goodbye(ctx); err != nil {
			p.logger.Debug("goodbye was not taken", "plugin", p.name, "err", err)
		}
	})
}

func (p *plugin) signal(s syscall.Signal) {
	if p.run != nil {
		p.logFailure("signal", p.run.proc.Signal(s))
	}
}

func (p *plugin) kill() {
	p.swap.cancelStart()
	for _, run := range p.runs() {
		p.logFailure("kill; it will be tried again", run.proc.Kill())
	}
}

// reap waits for the end of what was killed. Its exit is handled when it is
// reported.
func (p *plugin) reap() {
	for _, run := range p.runs() {
		p.waitGone(run)
	}
}

// waitGone waits, bounded, for the end of a process that was killed, and says
// whether it came.
func (p *plugin) waitGone(r *running) bool {
	late := make(chan struct{})
	stop := p.clock.AfterFunc(reapTime, func() { close(late) })
	defer stop()
	select {
	case <-r.proc.Done():
		return true
	case <-late:
		p.logger.Error("killed, but not gone yet", "plugin", p.name)
		return false
	}
}

// free gives back what the ended process held.
func (p *plugin) free() {
	if p.run == nil {
		return
	}
	p.discard(p.run)
	p.run = nil
	if p.state.Swap.Process == noProcess {
		p.closeData()
	}
}

// discard ends a run whatever its state.
func (p *plugin) discard(r *running) {
	r.cancel()
	closeSession(r.caps)
	p.loosen(r)
	if r.conn != nil {
		p.logFailure("close connection", r.conn.Close())
	}
	select {
	case <-r.proc.Done():
	default:
		p.logFailure("kill", r.proc.Kill())
		if !p.waitGone(r) {
			return // the launcher ends it when it closes
		}
	}
	p.logFailure("release process", r.proc.Release())
}

// arm sets the one timer to d.
func (p *plugin) arm(d time.Duration) {
	p.stopTimer()
	id := p.state.Timer
	p.stopTimer = p.clock.AfterFunc(d, func() {
		p.box.post(message{event: event{Kind: evTimer, Timer: id, Reason: p.stages.now()}})
	})
}

// forget removes the plugin and what belongs to it; evidence stays. The name
// is free for another only when nothing of this one is left under it.
func (p *plugin) forget(m message) error {
	logs := filepath.Join(p.stateDir, "logs", p.name+".log")
	err := errors.Join(volume.Remove(p.volume()), removeFile(logs), removeFile(logs+".1"), removeFile(p.pinPath(p.name)))
	if p.broker != nil {
		err = errors.Join(err, p.broker.Forget(p.name))
	}
	if err == nil {
		err = p.store.Delete(p.name)
	}
	if err != nil {
		p.state.Phase = control.Stopped // the record is still there, so the plugin is
		return fmt.Errorf("cannot remove %s: %w", p.name, err)
	}
	ev := control.Event{Plugin: p.name, Kind: "removed", Actor: "daemon", Text: p.name + " and its data were removed"}
	if m.op != nil {
		ev.Actor = m.op.by
	}
	p.auditEvent(ev)
	p.logFailure("close log", p.log.close())
	p.forgotten(p.name)
	if err := p.discardBundle(p.record.Digest); err != nil {
		return fmt.Errorf("removed %s, but not its bundle: %w", p.name, err)
	}
	return nil
}

func (p *plugin) dataDir() string { return filepath.Join(p.stateDir, "data", p.name) }

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// tokens is a bucket that fills with time.
type tokens struct {
	rate, burst, have float64
	at                time.Time
}

func newTokens(rate, burst float64, now time.Time) tokens {
	return tokens{rate: rate, burst: burst, have: burst, at: now}
}

func (t *tokens) take(now time.Time) bool {
	t.have = min(t.burst, t.have+max(0, now.Sub(t.at).Seconds())*t.rate)
	t.at = now
	if t.have < 1 {
		return false
	}
	t.have--
	return true
}
