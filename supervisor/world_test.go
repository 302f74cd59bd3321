package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/audit"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/store"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// modelProcess is a process that ends when the world says so, or when it is
// killed and the world lets it die.
type modelProcess struct {
	run     uint64
	done    chan struct{}
	once    sync.Once
	status  syscall.WaitStatus
	mu      sync.Mutex
	frozen  bool
	killed  bool
	undead  bool // it does not die when it is killed: the disk hangs, say
	freed   bool
	noFroze bool // it cannot be frozen
}

func (p *modelProcess) end(st syscall.WaitStatus) {
	p.once.Do(func() {
		p.status = st
		close(p.done)
	})
}

func (p *modelProcess) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *modelProcess) PID() int                           { return 1 << 22 } // never a process
func (p *modelProcess) PlanDigest() string                 { return "sha256:plan" }
func (p *modelProcess) Done() <-chan struct{}              { return p.done }
func (p *modelProcess) Exit() launch.Exit                  { return launch.Exit{Status: p.status} }
func (p *modelProcess) Signal(syscall.Signal) error        { return nil }
func (p *modelProcess) Memory() int64                      { return 0 }
func (p *modelProcess) Usage() (cgroups.Usage, error)      { return cgroups.Usage{}, nil }
func (p *modelProcess) Procs() ([]int, error)              { return nil, nil }
func (p *modelProcess) Enforced() (launch.Enforced, error) { return launch.Enforced{}, nil }
func (p *modelProcess) Adjust(*plan.Plan) error            { return nil }

func (p *modelProcess) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	if !p.undead {
		p.end(syscall.WaitStatus(syscall.SIGKILL))
	}
	return nil
}

func (p *modelProcess) Freeze(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.noFroze {
		return errors.New("cannot freeze")
	}
	p.frozen = true
	return nil
}

func (p *modelProcess) Release() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.freed = true
	return nil
}

// contained says that nothing of it runs.
func (p *modelProcess) contained() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.frozen || p.killed || p.ended()
}

// modelClock moves when the world moves it. Waiting for a killed process is
// over at once: what has not died by then is late. So is the life of what crashes
// in a loop: nobody else waits for it.
type modelClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[int]*fakeTimer
	next   int
}

func (c *modelClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *modelClock) AfterFunc(d time.Duration, fn func()) func() {
	if d == reapTime || d == loopTime {
		go fn()
		return func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	id := c.next
	c.timers[id] = &fakeTimer{at: c.now.Add(d), d: d, fn: fn}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, id)
	}
}

// fire runs the timer that is due first, if there is one.
func (c *modelClock) fire() bool {
	c.mu.Lock()
	first := 0
	for id, t := range c.timers {
		if first == 0 || t.at.Before(c.timers[first].at) || t.at.Equal(c.timers[first].at) && id < first {
			first = id
		}
	}
	t := c.timers[first]
	delete(c.timers, first)
	if t != nil && t.at.After(c.now) {
		c.now = t.at
	}
	c.mu.Unlock()
	if t != nil {
		t.fn()
	}
	return t != nil
}

func (c *modelClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// worldDeeds are the kinds of steps; each has its weight.
var worldDeeds = []string{"operator", "launch", "hello", "exit", "violation", "unhealthy", "disconnect", "timer", "deliver", "time", "crash", "revive", "shutdown"}

var worldWeights = []int{12, 60, 60, 8, 4, 1, 3, 20, 80, 2, 2, 6, 1}

// world is everything around one actor.
type world struct {
	t     *testing.T
	r     *rand.Rand
	dir   string
	clock *modelClock
	store *store.Store
	audit *audit.Log
	heard *audit.Subscription
	s     *shared
	p     *plugin
	m     reference
	// main is the plugin's process, and beside the other one of a swap.
	main, beside *side
	made         *modelConn // the newest
	// launches are the start walks that wait for the world's word.
	launches chan *modelLaunch
	pending  []message // posted, and not handled yet
	told     string    // the last of "quarantined" and "released" that was audited
	ids      int
	trail    []string
	seen     map[string]int
	weights  []int // of this episode: some are calm, some are not
	bad      int   // of 12 launches fail
}

// side is one of the plugin's two processes.
type side struct {
	proc  *modelProcess // of the newest launch that succeeded
	conn  *modelConn
	waits *modelLaunch
}

func (s *side) live() bool { return s.proc != nil && !s.proc.ended() }

// sides are both.
func (w *world) sides() []*side { return []*side{w.main, w.beside} }

// of is the side of a launch; nil if it is neither's.
func (w *world) of(run uint64) *side {
	for _, s := range w.sides() {
		if s.proc != nil && s.proc.run == run {
			return s
		}
	}
	return nil
}

// some is one of them that is as asked, by chance; nil if none is.
func (w *world) some(is func(*side) bool) *side {
	both := w.sides()
	if w.r.IntN(2) == 0 {
		slices.Reverse(both)
	}
	if i := slices.IndexFunc(both, is); i >= 0 {
		return both[i]
	}
	return nil
}

// modelLaunch is a start walk that stands in the launcher.
type modelLaunch struct {
	run uint64
	ctx context.Context //nolint:containedctx // of the walk
	req launch.Request
	say chan error
	got *modelProcess
}

// modelConn answers the hello when the world says so.
type modelConn struct {
	transport ipc.Transport
	hello     chan error
	end       chan error
	greeting  bool // a hello waits
	serving   bool
	once      sync.Once
}

func (c *modelConn) Run(ctx context.Context) error {
	select {
	case err := <-c.end:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (c *modelConn) Hello(ctx context.Context) (json.RawMessage, error) {
	select {
	case err := <-c.hello:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *modelConn) Call(context.Context, string, json.RawMessage) (json.RawMessage, error) {
	return nil, nil
}
func (c *modelConn) Health(context.Context) error  { return nil }
func (c *modelConn) Goodbye(context.Context) error { return nil }
func (c *modelConn) Attach(func(json.RawMessage) error) (control.Bridge, error) {
	return nil, errors.New("no bridge")
}

func (c *modelConn) Close() (err error) {
	c.once.Do(func() { err = errors.Join(c.transport.R.Close(), c.transport.W.Close()) })
	return err
}

func newWorld(t *testing.T, r *rand.Rand, seen map[string]int) *world {
	t.Helper()
	w := &world{t: t, r: r, seen: seen, clock: &modelClock{now: epoch, timers: map[int]*fakeTimer{}}, launches: make(chan *modelLaunch, 1), main: &side{}, beside: &side{}}
	for _, weight := range worldWeights {
		w.weights = append(w.weights, weight*[]int{1, 10, 10, 30}[r.IntN(4)])
	}
	if r.IntN(3) == 0 { // a calm one, in which plugins run and are swapped
		w.weights = []int{60, 600, 600, 2, 8, 1, 2, 6, 2000, 2, 1, 6, 0}
	}
	w.bad = []int{1, 1, 8}[r.IntN(3)]
	base := "" // in memory where that can be: a million fsyncs show nothing new here
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		base = "/dev/shm"
	}
	var err error
	if w.dir, err = os.MkdirTemp(base, "cordon-test-model-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(w.dir) })
	if w.store, err = store.Open(filepath.Join(w.dir, "state.db"), 16); err != nil {
		t.Fatal(err)
	}
	if w.audit, err = audit.Open(filepath.Join(w.dir, "audit.jsonl"), w.clock.Now); err != nil {
		t.Fatal(err)
	}
	w.heard = w.audit.Subscribe(256)
	source := &fakeSource{plan: plan.Plan{Protocol: ipc.ProtocolMCP, Lifecycle: modelPolicy()}}
	w.s = sharedOf(Config{
		StateDir: w.dir, Store: w.store, Audit: w.audit, Launcher: w, Source: source, Connector: w, UIDBase: 1_900_000_000,
		Clock: w.clock, Random: func() float64 { return 0 }, NewID: w.newID,
	})
	w.s.cabinet = &cabinet{root: filepath.Join(w.dir, "evidence"), clock: w.clock, held: func(string) bool { return false }, rules: EvidenceRules{Keep: 2}.completed()}
	w.s.room.Store(1 << 40)
	w.s.forgotten = func(string) {}
	w.s.discardBundle = func(string) error { return nil }
	if err := makeDirs(w.dir); err != nil {
		t.Fatal(err)
	}
	w.install()
	return w
}

func (w *world) newID() string {
	w.ids++
	return "id" + strconv.Itoa(w.ids)
}

// Start implements Launcher: it waits for the world's word.
func (w *world) Start(ctx context.Context, req launch.Request) (Process, error) {
	l := &modelLaunch{ctx: ctx, req: req, say: make(chan error)}
	w.launches <- l
	if err := <-l.say; err != nil {
		return nil, err
	}
	return l.got, nil
}

// Close implements Launcher.
func (w *world) Close() error { return nil }

// Connect implements Connector.
func (w *world) Connect(t ipc.Transport, _ string, _ *plan.Plan, _ ipc.Handler) (Conn, error) {
	w.made = &modelConn{transport: t, hello: make(chan error, 1), end: make(chan error, 1)}
	return w.made, nil
}

// install makes the plugin anew, as an operator does.
func (w *world) install() {
	r, err := w.store.Create(store.Record{Name: "p", Digest: "sha256:p", State: control.Stopped, Since: w.clock.Now()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.told = ""
	w.wakeUp(r)
	w.m = reference{phase: control.Stopped}
}

// wakeUp makes the actor of a record.
func (w *world) wakeUp(r store.Record) {
	var err error
	if w.p, err = newPlugin(w.s, r); err != nil {
		w.t.Fatal(err)
	}
	w.p.policy = modelPolicy()
}

// step does one thing and looks.
func (w *world) step() {
	deed := w.pick()
	for !w.do(deed) { // there was nothing to do
		deed = w.pick()
	}
	w.seen[deed]++
	w.look()
}

// pick chooses a deed by its weight.
func (w *world) pick() string {
	n := 0
	for _, weight := range w.weights {
		n += weight
	}
	n = w.r.IntN(n)
	i := 0
	for n >= w.weights[i] {
		n -= w.weights[i]
		i++
	}
	return worldDeeds[i]
}

func (w *world) note(format string, args ...any) {
	w.trail = append(w.trail, fmt.Sprintf(format, args...))
	if len(w.trail) > 25 {
		w.trail = w.trail[1:]
	}
}

// do says whether there was anything to do.
func (w *world) do(deed string) bool {
	switch deed {
	case "operator":
		if w.m.phase == control.Running && w.r.IntN(2) == 0 {
			w.operate(evSwap)
			return true
		}
		w.operate([]eventKind{evStart, evStart, evStart, evStop, evRestart, evRelease, evRelease, evRelease, evStart, evStart, evRelease, evRemove, evSwap, evSwap}[w.r.IntN(14)])
	case "shutdown": // the daemon ends in order, and another begins
		w.operate(evShutdown)
		w.crash(-1)
	case "launch":
		s := w.some(func(s *side) bool { return s.waits != nil })
		return s != nil && w.launchOn(s)
	case "hello":
		s := w.some(func(s *side) bool { return s.live() && s.conn.greeting })
		return s != nil && w.greet(s)
	case "exit":
		s := w.some((*side).live)
		return s != nil && w.exit(s, []syscall.WaitStatus{0, exitStatus(1), syscall.WaitStatus(syscall.SIGSEGV)}[w.r.IntN(3)])
	case "disconnect":
		s := w.some(func(s *side) bool { return s.live() && s.conn.serving })
		return s != nil && w.disconnect(s)
	case "violation":
		w.violate()
	case "unhealthy":
		w.pending = append(w.pending, message{event: event{Kind: evUnhealthy, Run: w.anyRun(), Reason: "unwell"}})
	case "timer":
		fired := w.clock.fire()
		w.collect()
		return fired
	case "time":
		w.clock.pass(time.Duration(w.r.IntN(20)) * []time.Duration{time.Second, time.Second, time.Second, time.Minute}[w.r.IntN(4)])
	case "deliver":
		return len(w.pending) > 0 && w.deliver()
	case "revive": // what did not die when it was killed dies at last
		s := w.some(func(s *side) bool { return s.live() && s.proc.killed })
		return s != nil && w.exit(s, syscall.WaitStatus(syscall.SIGKILL))
	case "crash":
		w.crash(w.r.IntN(9))
	}
	return true
}

// anyRun is a launch's number: the plugin's own more often than not.
func (w *world) anyRun() uint64 {
	if w.r.IntN(3) == 0 {
		return w.m.swapRun
	}
	return w.m.run
}

// operate posts an operator's wish and handles it at once, as an empty mailbox
// does; its answer must come when the model says that it was refused.
func (w *world) operate(kind eventKind) {
	op := &operation{by: "uid 0", done: make(chan error, 1)}
	m := message{event: event{Kind: kind, Reason: "model", Drain: 20 * time.Second}, op: op}
	if kind == evSwap {
		m.swap = &swap{to: w.p.record}
	}
	refused := w.handle(m)
	select {
	case err := <-op.done:
		if (err != nil) != refused && kind != evStart && kind != evRestart && kind != evSwap {
			w.t.Errorf("%s was answered %v; refused by the model: %v", eventNames[kind], err, refused)
		}
		if refused && err == nil {
			w.t.Errorf("%s was not refused", eventNames[kind])
		}
	default:
		if refused {
			w.t.Errorf("%s waits instead of being refused", eventNames[kind])
		}
	}
	if w.p.state.Phase == removed {
		w.bury()
		w.install()
	}
}

// handle gives the actor one message, and the model the same event.
func (w *world) handle(m message) (refused bool) {
	current := m.event.Kind == evTimer && m.event.Timer == w.p.state.Timer
	if m.do == nil {
		ev := m.event
		ev.Time = w.clock.Now()
		before := w.m.phase
		refused = w.m.next(ev, current)
		w.note("%s -> %s (run %d of %d and %d, proc %d and %d)", eventName(ev), w.m.phase, ev.Run, w.m.run, w.m.swapRun, w.m.proc, w.m.swap)
		w.seen[fmt.Sprintf("phase %s", before)]++
	}
	w.p.handle(m)
	w.after()
	return refused
}

// after takes up what the actor has begun.
func (w *world) after() {
	w.changePlaces()
	if w.m.beside {
		w.m.beside = false
		w.awaitLaunch(w.beside, w.m.swapRun)
	}
	if w.m.launched {
		w.m.launched = false
		if w.p.state.Run != w.m.run {
			w.t.Errorf("the actor made %d launches, the model %d", w.p.state.Run, w.m.run)
			return
		}
		w.awaitLaunch(w.main, w.m.run)
	}
	w.collect()
}

// changePlaces follows a switch.
func (w *world) changePlaces() {
	if w.m.switched {
		w.m.switched = false
		w.main, w.beside = w.beside, w.main
		w.seen["swapped"]++
	}
}

// awaitLaunch waits until the walk of a new launch stands in the launcher, or
// has given up before.
func (w *world) awaitLaunch(s *side, run uint64) {
	if err := w.p.mayStart(); err != nil {
		w.t.Errorf("cannot start: %v", err)
		return
	}
	s.waits = <-w.launches
	s.waits.run, s.conn = run, w.made
}

// launchOn ends the launch one way or the other.
func (w *world) launchOn(s *side) bool {
	l := s.waits
	s.waits = nil
	n := w.r.IntN(12)
	switch {
	case n < w.bad:
		l.say <- errors.New("no luck")
	case n == 11:
		l.say <- &PermanentError{errors.New("never")}
	default:
		l.got = &modelProcess{run: l.run, done: make(chan struct{}), undead: w.r.IntN(8) == 0, noFroze: w.r.IntN(8) == 0}
		s.proc = l.got
		l.say <- nil
	}
	w.await(func(m message) bool {
		return m.event.Run == l.run && (m.event.Kind == evSpawned || m.event.Kind == evStartFailed)
	})
	if l.got != nil {
		s.conn.greeting, s.conn.serving = true, true
	}
	w.note("launch %d: %v", l.run, l.got != nil)
	return true
}

func (w *world) greet(s *side) bool {
	s.conn.greeting = false
	kind, err := evReady, error(nil)
	if w.r.IntN(5) == 0 {
		kind, err = evStartFailed, errors.New("no hello")
	}
	s.conn.hello <- err
	run := s.proc.run
	w.await(func(m message) bool { return m.event.Kind == kind && m.event.Run == run })
	return true
}

// exit ends the process; its connection and a hello that waits end with it.
func (w *world) exit(s *side, st syscall.WaitStatus) bool {
	s.proc.end(st)
	w.ended(s)
	return true
}

// ended waits for all that the end of the process lets the actor's goroutines
// say.
func (w *world) ended(s *side) {
	run := s.proc.run
	w.await(func(m message) bool { return m.event.Kind == evExited && m.event.Run == run })
	if s.conn.serving {
		s.conn.serving = false
		w.await(func(m message) bool { return m.event.Kind == evDisconnected && m.event.Run == run })
	}
	if s.conn.greeting {
		s.conn.greeting = false
		w.await(func(m message) bool { return m.event.Kind == evStartFailed && m.event.Run == run })
	}
}

func (w *world) disconnect(s *side) bool {
	s.conn.serving = false
	s.conn.end <- nil
	run := s.proc.run
	w.await(func(m message) bool { return m.event.Kind == evDisconnected && m.event.Run == run })
	return true
}

func (w *world) violate() {
	a := []violation.Action{violation.Log, violation.Deny, violation.Deny, violation.Kill, violation.Quarantine, "unknown"}[w.r.IntN(6)]
	w.p.violated(w.anyRun(), violation.Violation{Kind: "violation", Wall: violation.IPC, What: "x", Action: a, Time: w.clock.Now()})
	w.collect()
}

// await collects messages until one of them is what was expected.
func (w *world) await(is func(message) bool) {
	for {
		if w.collect(); slices.ContainsFunc(w.pending, is) {
			return
		}
		select {
		case <-w.p.box.wake:
		case <-time.After(time.Minute):
			w.t.Fatalf("the actor's goroutines said nothing; the last steps were:\n  %s", strings.Join(w.trail, "\n  "))
		}
	}
}

// collect takes what was posted; nothing is handled.
func (w *world) collect() {
	queue, _ := w.p.box.take()
	w.pending = append(w.pending, queue...)
}

// deliver handles one message that waits: of those of one launch the oldest
// evSpawned comes before all else, as it was posted before the others could.
func (w *world) deliver() bool {
	i := w.r.IntN(len(w.pending))
	for j, m := range w.pending[:i] {
		if m.event.Kind == evSpawned && m.event.Run == w.pending[i].event.Run {
			i = j
		}
	}
	m := w.pending[i]
	w.pending = slices.Delete(w.pending, i, i+1)
	w.handle(m)
	if s := w.of(m.event.Run); m.begun != nil && s != nil && s.proc.ended() {
		w.ended(s) // it was killed at once
	}
	return true
}

// crash ends the daemon between two actions of the next event and starts it
// again; below 0 the daemon ended in order and nothing is under way.
func (w *world) crash(after int) {
	var acts []action
	old := w.m.phase
	if after >= 0 && w.r.IntN(2) == 0 {
		w.pending = append([]message{{hit: &violation.Violation{Wall: violation.IPC}, event: event{Kind: evViolation, Run: w.m.run, Action: violation.Quarantine, Reason: "crash"}}}, w.pending...)
	}
	if after >= 0 && len(w.pending) > 0 {
		m := w.pending[0]
		if m.do == nil {
			w.p.accept(m)
			ev := m.event
			ev.Time = w.clock.Now()
			current := ev.Kind == evTimer && ev.Timer == w.p.state.Timer
			w.m.next(ev, current)
			w.note("crash after %d actions of %s -> %s", after, eventName(ev), w.m.phase)
			w.p.state, acts = transition(w.p.state, ev, w.p.policy)
			acts = acts[:min(after, len(acts))]
			_ = w.p.perform(acts, m)
			w.changePlaces()
			if w.m.launched && has(acts, actLaunch) {
				w.awaitLaunch(w.main, w.m.run)
			}
			if w.m.beside && has(acts, actLaunchBeside) {
				w.awaitLaunch(w.beside, w.m.swapRun)
			}
		}
	}
	contained := true // before the hand-over the launcher contains
	for _, run := range w.p.runs() {
		contained = contained && w.of(run.number).proc.contained()
	}
	w.listen()
	w.bury()
	records, err := w.store.List()
	if err != nil {
		w.t.Fatal(err)
	}
	if len(records) == 0 {
		w.install()
		return
	}
	onDisk := records[0].State
	if persisted := has(acts, actPersist); persisted && onDisk != w.m.phase || !persisted && onDisk != old {
		w.t.Errorf("crash: the disk has %s; it was %s and became %s, persisted: %v", onDisk, old, w.m.phase, persisted)
	}
	if (has(acts, actContain) || has(acts, actPersist)) && w.m.phase == control.Quarantined && !contained {
		w.t.Error("crash: it was to be quarantined, persisted perhaps, and ran on")
	}
	if (w.told == "quarantined") != (onDisk == control.Quarantined) && w.told != "" && !has(acts, actPersist) {
		w.t.Errorf("crash: %s was told, and the disk has %s", w.told, onDisk)
	}
	if w.told == "quarantined" && onDisk != control.Quarantined && w.m.phase != control.Stopped {
		w.t.Errorf("crash: the quarantine was told and lost: the disk has %s", onDisk)
	}
	if onDisk == control.Quarantined {
		w.told = "quarantined" // or was persisted a moment before it could be told
	} else {
		w.told = ""
	}
	w.wakeUp(records[0])
	w.m.crashed(onDisk)
}

// bury ends the actor without its doing anything more, and what was below it
// as the keeper does.
func (w *world) bury() {
	w.p.stopTimer()
	w.p.cancel()
	w.p.swap.cancelStart()
	for _, s := range w.sides() {
		if s.waits != nil {
			s.waits.say <- context.Canceled
			s.waits = nil
		}
		if s.proc != nil {
			s.proc.undead = false
			_ = s.proc.Kill()
		}
	}
	w.collect()
	for _, m := range w.pending { // what was spawned and never handed over
		if m.begun != nil {
			w.p.discard(m.begun)
		}
	}
	w.p.freeBeside()
	if w.p.run != nil {
		w.p.free()
	}
	w.p.walking.Wait()
	w.p.box.close()
	w.p.unsaved = false
	_ = w.p.log.close()
	w.clock.mu.Lock()
	clear(w.clock.timers)
	w.clock.mu.Unlock()
	w.main, w.beside, w.pending = &side{}, &side{}, nil
}

// listen takes what the audit log says.
func (w *world) listen() {
	for {
		select {
		case ev := <-w.heard.C:
			if ev.Kind == "quarantined" || ev.Kind == "released" {
				w.told = ev.Kind
			}
		default:
			return
		}
	}
}

// look holds what must be true after every step.
func (w *world) look() {
	w.listen()
	p, m := w.p, w.m
	if int(p.state.Swap.Process) != m.swap || m.swap != 0 && []string{"coming", "draining", "leaving"}[p.state.Swap.Part] != m.part {
		w.t.Errorf("the actor has %d beside (%d), the model %d (%s)", p.state.Swap.Process, p.state.Swap.Part, m.swap, m.part)
	}
	if m.swap != 0 && p.state.Swap.Failed != "" {
		w.seen["swap given up"]++
	}
	if p.state.Phase != m.phase || int(p.state.Process) != m.proc {
		w.t.Errorf("the actor is %s with process state %d, the model %s with %d", p.state.Phase, p.state.Process, m.phase, m.proc)
	}
	records, err := w.store.List()
	if err != nil || len(records) != 1 {
		w.t.Errorf("%d records, %v", len(records), err)
		return
	}
	r := records[0]
	if r.State != m.phase || (r.Quarantine != nil) != (m.phase == control.Quarantined) {
		w.t.Errorf("the disk has %s (quarantine %v), the model %s", r.State, r.Quarantine != nil, m.phase)
	}
	if shown := p.shown.Load().record.State; shown != m.phase {
		w.t.Errorf("%s is shown, the model has %s", shown, m.phase)
	}
	if w.told != "" && (w.told == "quarantined") != (m.phase == control.Quarantined) {
		w.t.Errorf("%s was told, the model has %s", w.told, m.phase)
	}
	w.lookAtProcess()
	armed := 0
	for _, t := range w.clock.timers {
		if t.d != saveEvery && t.d != persistTime {
			armed++
		}
	}
	waits := m.phase == control.Starting || m.phase == control.Stopping || m.phase == control.Backoff || m.swap != 0
	queued := slices.ContainsFunc(w.pending, func(msg message) bool { return msg.event.Kind == evTimer && msg.event.Timer == p.state.Timer })
	if armed > 1 || waits && armed == 0 && !queued {
		w.t.Errorf("%s with %d timers", m.phase, armed)
	}
}

// lookAtProcess: nothing runs that is not watched, nothing runs in quarantine,
// and nothing is kept of what has ended.
func (w *world) lookAtProcess() {
	w.lookAtSide(w.main, w.m.proc, w.m.run)
	w.lookAtSide(w.beside, w.m.swap, w.m.swapRun)
	if w.p.state.Closing != w.m.closing || (w.p.run != nil) != (w.m.proc == 2) || (w.p.swap.run != nil) != (w.m.swap == 2) {
		w.t.Errorf("closing %v and %v; the actor has a process: %v, beside: %v, the model's states are %d and %d",
			w.p.state.Closing, w.m.closing, w.p.run != nil, w.p.swap.run != nil, w.m.proc, w.m.swap)
	}
	if snap := w.p.shown.Load(); snap.ready && (snap.run != w.p.run || w.m.phase != control.Running || w.p.run.number != w.m.run) {
		w.t.Errorf("calls are taken by another process than launch %d", w.m.run)
	}
}

func (w *world) lookAtSide(s *side, state int, run uint64) {
	if s.proc == nil || slices.ContainsFunc(w.pending, func(m message) bool { return m.event.Kind == evSpawned && m.event.Run == s.proc.run }) {
		return
	}
	switch {
	case state == 0 && (!s.proc.ended() || !s.proc.freed):
		w.t.Errorf("%s, and its process runs or was not released", w.m.phase)
	case state == 2 && run != s.proc.run:
		w.t.Errorf("the actor watches launch %d, and %d runs", run, s.proc.run)
	case w.m.phase == control.Quarantined && !s.proc.contained():
		w.t.Error("it runs in quarantine")
	case w.m.phase != control.Running && s == w.beside && state == 2 && !s.proc.contained():
		w.t.Errorf("%s, and what a swap had beside it runs on", w.m.phase)
	}
}

func (w *world) close() {
	w.bury()
	w.heard.Close()
	if err := errors.Join(w.store.Close(), w.audit.Close(), os.RemoveAll(w.dir)); err != nil {
		w.t.Error(err)
	}
}
