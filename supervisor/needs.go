package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/depend"
)

// relations are what plugins need of each other, and the one goroutine that
// brings a change of one to the others. Actors tell it and never wait for it; it
// tells actors and never waits for them.
type relations struct {
	mu    sync.Mutex
	graph *depend.Graph // nil when it is to be made anew
	queue []change
	// leaving are those that an operator is having stopped, with what needs them:
	// meanwhile nothing is started for which they are needed.
	leaving map[string]int
	over    bool
	wake    chan struct{} // room for one
	ended   chan struct{}
}

// change is a plugin that has gone from one state to another.
type change struct {
	name    string
	was, is control.State
}

func newRelations() *relations {
	return &relations{leaving: map[string]int{}, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

// redraw has the graph be made anew: a plugin came or went.
func (r *relations) redraw() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.graph = nil
}

// changed is told of every change of state.
func (r *relations) changed(c change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	r.queue = append(r.queue, c)
	r.ring()
}

// leave counts those that are being stopped up, or down again.
func (r *relations) leave(steps []depend.Step, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, step := range steps {
		if r.leaving[step.Name] += n; r.leaving[step.Name] == 0 {
			delete(r.leaving, step.Name)
		}
	}
}

func (r *relations) leaves(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leaving[name] > 0
}

func (r *relations) ring() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// close ends the goroutine; what comes later is nobody's business.
func (r *relations) close() {
	r.mu.Lock()
	r.over, r.queue = true, nil
	r.ring()
	r.mu.Unlock()
	<-r.ended
}

func (r *relations) take() (queue []change, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	queue, r.queue = r.queue, nil
	return queue, r.over
}

// graph gives what needs what, of all that is installed.
func (s *Supervisor) graph() *depend.Graph {
	s.relations.mu.Lock()
	defer s.relations.mu.Unlock()
	if s.relations.graph == nil {
		all := s.all()
		list := make([]depend.Plugin, len(all))
		for i, p := range all {
			r := p.shown.Load().record
			list[i] = depend.Plugin{Name: r.Name, Version: r.Version, Needs: r.Needs}
		}
		s.relations.graph = depend.New(list)
	}
	return s.relations.graph
}

// relate brings changes to those whom they concern, until relations are closed.
func (s *Supervisor) relate() {
	defer close(s.relations.ended)
	for range s.relations.wake {
		queue, over := s.relations.take()
		if over {
			return
		}
		for _, c := range queue {
			s.spread(c)
		}
	}
}

// spread brings one change to those whom it concerns.
func (s *Supervisor) spread(c change) {
	g := s.graph()
	for _, d := range g.Dependants(c.name) {
		q := s.plugin(d.Name)
		if q == nil || !d.Fits {
			continue
		}
		switch {
		case c.is == control.Running:
			q.tellOf(c.name, true)
		case c.was != control.Running:
		case d.WhenGone == manifest.GoneTell:
			q.tellOf(c.name, false)
		default:
			q.leaveFor(fmt.Sprintf("it needs %s, which is %s", c.name, inWords(c.is)), d.WhenGone == manifest.GoneDrain)
		}
	}
	switch c.is {
	case control.Running, control.Backoff:
		for _, name := range g.Above(c.name) {
			s.tryHeld(s.plugin(name))
		}
	case control.Stopped, control.Failed, control.Quarantined:
		for _, p := range s.all() { // also one that it conflicts with
			s.tryHeld(p)
		}
	case control.Starting, control.Stopping:
	}
}

// tryHeld starts a plugin that was held, if nothing keeps it any more.
func (s *Supervisor) tryHeld(p *plugin) {
	if p != nil && p.shown.Load().record.Held {
		p.box.post(message{do: p.startHeld})
	}
}

// plugin is get without words.
func (s *Supervisor) plugin(name string) *plugin {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.plugins[name]
}

// stands says how a plugin stands, for the graph.
func (s *Supervisor) stands(name string) depend.Stands {
	p := s.plugin(name)
	if p == nil {
		return depend.Stands{State: "not installed"}
	}
	snap := p.shown.Load()
	r := snap.record
	if s.relations.leaves(name) {
		return depend.Stands{State: "being stopped"}
	}
	return depend.Stands{Runs: snap.ready || r.State == control.Running && snap.run != nil, State: inWords(r.State), Waits: r.Held && r.State == control.Stopped}
}

// inWords is a state as it stands in a sentence.
func inWords(s control.State) string {
	if s == control.Backoff {
		return "waiting to be restarted"
	}
	return string(s)
}

// running says whether a plugin runs, or is about to.
func (s *Supervisor) running(name string) bool {
	p := s.plugin(name)
	if p == nil {
		return false
	}
	state := p.shown.Load().record.State
	return state == control.Running || state == control.Starting || state == control.Backoff
}

// unmetNow says what keeps a plugin from being started now; "" is nothing.
func (s *Supervisor) unmetNow(name string) string {
	if flag := s.flags.gate(name); flag != "" {
		return "the flag " + flag + " is off"
	}
	g := s.graph()
	if _, err := g.Start(name, func(other string) bool { return other != name && s.running(other) }); err != nil {
		return err.Error()
	}
	if r := g.Unready(name, s.stands); r != nil {
		return r.Error()
	}
	return ""
}

// awaitedNow is a plugin that this one wants and that is about to run; "" is none.
func (s *Supervisor) awaitedNow(name string) string {
	g := s.graph()
	for _, w := range g.Wants(name) {
		starting := func(other string) bool {
			p := s.plugin(other)
			return p != nil && p.shown.Load().record.State == control.Starting
		}
		if g.Comes(w.Name, s.stands, starting) {
			return w.Name
		}
	}
	return ""
}

// intend notes whether a plugin is to be started again by itself once what it
// needs runs: not after an operator has had a word.
func (p *plugin) intend(m message) {
	switch m.event.Kind { //nolint:exhaustive // nothing else says so
	case evStart, evRestart:
		p.record.Held = false
	case evStop:
		active := p.state.Phase == control.Starting || p.state.Phase == control.Running || p.state.Phase == control.Backoff ||
			p.state.Phase == control.Stopping && p.state.After != thenStop
		if active || !m.hold {
			p.record.Held = m.hold
		}
	case evShutdown:
		if p.draining != "" && p.state.Phase == control.Running { // it was about to leave, and to be started again
			p.record.Held = true
		}
	}
}

// hold has a plugin be started as soon as what it requires runs. It runs in the
// actor.
func (p *plugin) hold() {
	if p.state.Phase == control.Stopped && !p.record.Held {
		p.record.Held = true
		p.save()
		p.publish()
	}
}

// waits says what a plugin waits for that is to run and cannot.
func (p *plugin) waits() string {
	if why := p.unmet(p.name); why != "" {
		return why
	}
	if other := p.awaited(p.name); other != "" {
		return p.name + " wants " + other + ", which is to run first"
	}
	return ""
}

// reconcile has what was gone on with leave again if it may not run without what
// has not been.
func (s *Supervisor) reconcile() {
	g := s.graph()
	for _, p := range s.all() {
		if p.shown.Load().record.State != control.Running {
			continue
		}
		if flag := s.flags.gate(p.name); flag != "" {
			p.leaveFor("the flag "+flag+" is off", false)
		}
		for _, n := range g.Requires(p.name) {
			if st := s.stands(n.Name); !st.Runs && n.WhenGone != manifest.GoneTell {
				p.leaveFor(fmt.Sprintf("it needs %s, which is %s", n.Name, st.State), n.WhenGone == manifest.GoneDrain)
				break
			}
		}
	}
}

// startHeldOf holds plugins, and starts those that nothing keeps. It waits until
// all are held, so that what is wanted is known to come.
func (s *Supervisor) startHeldOf(list []*plugin) {
	for _, p := range list {
		done := make(chan struct{})
		if p.box.post(message{do: func() { p.hold(); close(done) }}) {
			select {
			case <-done:
			case <-p.ended:
			}
		}
	}
	for _, p := range list {
		p.box.post(message{do: p.startHeld})
	}
}

// startHeld starts what was held, if nothing keeps it any more. It runs in the
// actor.
func (p *plugin) startHeld() {
	if !p.record.Held || p.state.Phase != control.Stopped || p.unmet(p.name) != "" || p.awaited(p.name) != "" {
		return
	}
	p.handle(message{event: event{Kind: evStart, Again: p.again}})
}

// leaveFor has a plugin leave because of what it needs, to be started again when
// that runs: at once, or when its calls have been answered.
func (p *plugin) leaveFor(reason string, drain bool) {
	m := message{event: event{Kind: evStop, Reason: reason}, hold: true}
	if !drain {
		p.box.post(m)
		return
	}
	p.box.post(message{do: func() { p.drain(m) }})
}

// drain has no new call begin, and handles m when those that have begun are over,
// or timeout_stop_sec is. It runs in the actor.
func (p *plugin) drain(m message) {
	run := p.run
	if p.state.Phase != control.Running || run == nil {
		p.handle(m)
		return
	}
	if p.draining == "" {
		p.draining = m.event.Reason
		p.publish()
	}
	idle := run.flight.drained()
	late := make(chan struct{})
	stop := p.clock.AfterFunc(p.policy.StopTimeout, func() { close(late) })
	p.walking.Go(func() {
		defer stop()
		select {
		case <-idle:
		case <-late:
		case <-run.ctx.Done():
		}
		p.box.post(m)
	})
}

// teller is a Conn that can say to a plugin how another stands.
type teller interface {
	Tell(ctx context.Context, n Neighbour) error
}

// Neighbour is how a plugin that another named stands. Why is not said: what
// befell one plugin is none of the other's business.
type Neighbour struct {
	Name     string `json:"name"`
	Ready    bool   `json:"ready"`
	Degraded bool   `json:"degraded,omitempty"`
}

// tellOf tells a running plugin of another.
func (p *plugin) tellOf(name string, ready bool) { p.tell(Neighbour{Name: name, Ready: ready}) }

func (p *plugin) tell(n Neighbour) {
	snap := p.shown.Load()
	if snap.run == nil || !snap.ready {
		return
	}
	run := snap.run
	t, ok := run.conn.(teller)
	if !ok {
		return
	}
	go func() { // its socket may be full
		ctx, cancel := context.WithTimeout(run.ctx, goodbyeMax)
		defer cancel()
		if err := t.Tell(ctx, n); err != nil {
			p.logger.Debug("a plugin could not be told of another", "plugin", p.name, "of", n.Name, "err", err)
		}
	}()
}

// neighbourMethod is the notification by which a plugin is told of another.
func neighbourMethod(p ipc.Protocol) string {
	switch p {
	case ipc.ProtocolMCP:
		return "notifications/cordon/neighbour"
	case ipc.ProtocolLSP:
		return "$/cordon.neighbour"
	case ipc.ProtocolCordon, ipc.ProtocolJSONRPC:
		return "cordon.neighbour"
	default:
		return "cordon.neighbour"
	}
}

// Tell implements teller.
func (c *ipcConn) Tell(ctx context.Context, n Neighbour) error {
	return c.Conn.NotifyWait(ctx, neighbourMethod(c.Protocol()), n)
}

// startWith starts a plugin with all that it needs, in order, at once what may be.
func (s *Supervisor) startWith(ctx context.Context, by control.Caller, name string) (control.Status, error) {
	p, err := s.get(name)
	if err != nil {
		return control.Status{}, err
	}
	steps, err := s.graph().Start(name, func(other string) bool { return other != name && s.running(other) })
	if err != nil {
		return p.status(), control.Errorf(ipc.CodeConflict, hintFor(err), "cannot start %s: %w", name, err)
	}
	outcome := s.inOrder(steps, func(step depend.Step, before []error) error {
		for i, err := range before {
			if err != nil && s.requires(step.Name, step.After[i]) {
				return err
			}
		}
		if err := s.gated(step.Name, name); err != nil {
			return err
		}
		_, err := s.do(ctx, by, step.Name, evStart)
		return err
	})
	return p.status(), outcome[name]
}

// hintFor is what would mend a refusal.
func hintFor(err error) string {
	var r *depend.Refusal
	if !errors.As(err, &r) {
		return ""
	}
	switch r.Kind {
	case depend.Missing, depend.Mismatch:
		return "cordon ps lists what is installed; a plugin is named as it is installed (--as)"
	case depend.Conflict:
		return "stop one of the two"
	case depend.Circle, depend.NotReady:
	}
	return ""
}

func (s *Supervisor) requires(name, other string) bool {
	return slices.ContainsFunc(s.graph().Requires(name), func(n manifest.Need) bool { return n.Name == other })
}

// inOrder does something for each step once it has been done for those before,
// and is told what came of these; at once what may be.
func (s *Supervisor) inOrder(steps []depend.Step, do func(step depend.Step, before []error) error) map[string]error {
	done := map[string]chan struct{}{}
	for _, step := range steps {
		done[step.Name] = make(chan struct{})
	}
	var mu sync.Mutex
	out := map[string]error{}
	var wait sync.WaitGroup
	for _, step := range steps {
		wait.Go(func() {
			defer close(done[step.Name])
			before := make([]error, len(step.After))
			for i, name := range step.After {
				<-done[name]
				mu.Lock()
				before[i] = out[name]
				mu.Unlock()
			}
			err := do(step, before)
			mu.Lock()
			out[step.Name] = err
			mu.Unlock()
		})
	}
	wait.Wait()
	return out
}

// stopWith stops, or restarts, a plugin after those that leave when it does: they
// are started again when it runs again.
func (s *Supervisor) stopWith(ctx context.Context, by control.Caller, name string, kind eventKind) (control.Status, error) {
	p, err := s.get(name)
	if err != nil {
		return control.Status{}, err
	}
	steps := s.graph().Stop(name)
	s.relations.leave(steps, 1)
	outcome := s.inOrder(steps, func(step depend.Step, _ []error) error {
		if step.Name != name {
			s.stopFor(ctx, by, step.Name, name)
			return nil
		}
		_, err := s.do(ctx, by, name, kind)
		return err
	})
	s.relations.leave(steps, -1)
	for _, step := range steps {
		s.tryHeld(s.plugin(step.Name))
	}
	return p.status(), outcome[name]
}

// stopFor stops a plugin that needs another, which is to be stopped.
func (s *Supervisor) stopFor(ctx context.Context, by control.Caller, name, other string) {
	drain := slices.ContainsFunc(s.graph().Dependants(other), func(d depend.Dependant) bool {
		return d.Name == name && d.WhenGone == manifest.GoneDrain
	})
	p := s.plugin(name)
	if p == nil {
		return
	}
	m := message{event: event{Kind: evStop, Reason: fmt.Sprintf("it needs %s, which was stopped by an operator", other)}, hold: true}
	m.op = &operation{by: by.String(), done: make(chan error, 1)}
	asked := m
	if drain {
		asked = message{do: func() { p.drain(m) }}
	}
	if !p.box.post(asked) {
		return
	}
	select {
	case err := <-m.op.done:
		p.logFailure("stop for "+other, err)
	case <-p.ended:
	case <-ctx.Done():
	}
}

// flight counts the calls that a process has not answered.
type flight struct {
	mu    sync.Mutex
	calls int
	idle  chan struct{} // closed when there is none any more; nil if nobody waits
}

func (f *flight) begin() (end func()) {
	f.mu.Lock()
	f.calls++
	f.mu.Unlock()
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.calls--
		if f.calls == 0 && f.idle != nil {
			close(f.idle)
			f.idle = nil
		}
	}
}

// drained is closed as soon as no call is under way.
func (f *flight) drained() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls == 0 {
		none := make(chan struct{})
		close(none)
		return none
	}
	if f.idle == nil {
		f.idle = make(chan struct{})
	}
	return f.idle
}

// warnings are what an operator should know of what a plugin needs, when it has
// been installed: what keeps it from being started, and whom it keeps.
func (s *Supervisor) warnings(name string) (out []string) {
	g := s.graph()
	if _, err := g.Start(name, func(string) bool { return false }); err != nil {
		out = append(out, "it cannot be started yet: "+err.Error())
	}
	for _, d := range g.Dependants(name) {
		if !d.Fits && d.Requires {
			_, err := g.Start(d.Name, func(string) bool { return false })
			out = append(out, fmt.Sprintf("%s cannot be started with it: %v", d.Name, err))
		}
	}
	return out
}

// circle says why a plugin that is to be installed could never be started.
func (s *Supervisor) circle(name, version string, needs manifest.Needs) error {
	if needs.Empty() {
		return nil
	}
	list := []depend.Plugin{{Name: name, Version: version, Needs: needs}}
	for _, p := range s.all() {
		if r := p.shown.Load().record; r.Name != name {
			list = append(list, depend.Plugin{Name: r.Name, Version: r.Version, Needs: r.Needs})
		}
	}
	var r *depend.Refusal
	_, err := depend.New(list).Start(name, func(string) bool { return false })
	if errors.As(err, &r) && r.Kind == depend.Circle {
		return control.Errorf(ipc.CodeConflict, "one of them has to do without the other, or want it ([[wants]])", "cannot install %s: %w", name, err)
	}
	return nil
}
