package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/audit"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/store"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// fakeClock stands still until it is moved.
type fakeClock struct {
	mu     sync.Mutex
	cond   *sync.Cond
	now    time.Time
	timers map[int]*fakeTimer
	made   map[time.Duration]int // how many of each
	next   int
}

type fakeTimer struct {
	at     time.Time
	d      time.Duration
	number int // among those of d
	fn     func()
}

func newFakeClock() *fakeClock {
	c := &fakeClock{now: epoch, timers: map[int]*fakeTimer{}, made: map[time.Duration]int{}}
	c.cond = sync.NewCond(&c.mu)
	return c
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) AfterFunc(d time.Duration, fn func()) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	id := c.next
	c.made[d]++
	c.timers[id] = &fakeTimer{at: c.now.Add(d), d: d, number: c.made[d], fn: fn}
	c.cond.Broadcast()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, id)
	}
}

// jump moves the clock alone.
func (c *fakeClock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fire waits until a timer of d is set, and moves the clock to its end.
func (c *fakeClock) fire(d time.Duration) { c.fireNumber(d, 0) }

// fireNumber waits for the one that was made as number n of those of d, where
// several are; 0 is any.
func (c *fakeClock) fireNumber(d time.Duration, n int) {
	c.mu.Lock()
	late := false
	bound := time.AfterFunc(time.Minute, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		late = true
		c.cond.Broadcast()
	})
	defer bound.Stop()
	var due *fakeTimer
	for due == nil {
		if late {
			panic(fmt.Sprintf("nobody set timer %d of %v within a minute", n, d))
		}
		for _, t := range c.timers {
			if t.d == d && (n == 0 || t.number == n) {
				due = t
			}
		}
		if due == nil {
			c.cond.Wait()
		}
	}
	if due.at.After(c.now) {
		c.now = due.at
	}
	var run []func()
	for id, t := range c.timers {
		if !t.at.After(c.now) {
			run = append(run, t.fn)
			delete(c.timers, id)
		}
	}
	c.mu.Unlock()
	for _, fn := range run {
		fn()
	}
}

// fakeProcess is a process that does what the test says, and keeps what was
// done to it.
type fakeProcess struct {
	req  launch.Request
	done chan struct{}
	exit launch.Exit

	mu       sync.Mutex
	deeds    []string
	stubborn bool  // SIGTERM and goodbye do nothing
	noFreeze error // what Freeze returns
	onDeed   func(string)
	once     sync.Once
}

func (p *fakeProcess) did(deed string) {
	p.mu.Lock()
	p.deeds = append(p.deeds, deed)
	fn := p.onDeed
	p.mu.Unlock()
	if fn != nil {
		fn(deed)
	}
}

func (p *fakeProcess) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.deeds)
}

func (p *fakeProcess) has(deed string) bool { return slices.Contains(p.list(), deed) }

// end lets the process exit with a wait status.
func (p *fakeProcess) end(status syscall.WaitStatus) {
	p.once.Do(func() {
		p.exit.Status = status
		close(p.done)
	})
}

func (p *fakeProcess) PID() int              { return os.Getpid() }
func (p *fakeProcess) PlanDigest() string    { return "sha256:plan" }
func (p *fakeProcess) Done() <-chan struct{} { return p.done }
func (p *fakeProcess) Exit() launch.Exit     { return p.exit }

func (p *fakeProcess) Kill() error {
	p.did("kill")
	p.end(syscall.WaitStatus(syscall.SIGKILL))
	return nil
}

func (p *fakeProcess) Freeze(context.Context) error {
	p.did("freeze")
	return p.noFreeze
}

func (p *fakeProcess) Signal(s syscall.Signal) error {
	p.did("signal " + s.String())
	if !p.stubborn {
		p.end(syscall.WaitStatus(s))
	}
	return nil
}

func (p *fakeProcess) Memory() int64                 { return 4096 }
func (p *fakeProcess) Usage() (cgroups.Usage, error) { return cgroups.Usage{MemoryCurrent: 4096}, nil }

func (p *fakeProcess) Adjust(next *plan.Plan) error {
	if next.Limits.MemoryMax != nil && *next.Limits.MemoryMax < 2<<20 {
		return errors.New("device or resource busy")
	}
	p.did("adjust")
	return nil
}

func (p *fakeProcess) Enforced() (launch.Enforced, error) {
	return launch.Enforced{Walls: []launch.Wall{{Name: "seccomp", State: "enforced"}}}, nil
}
func (p *fakeProcess) Procs() ([]int, error) { return []int{os.Getpid()}, nil }

func (p *fakeProcess) Release() error {
	p.did("release")
	return nil
}

// fakeLauncher makes fakeProcesses. next, if set, changes each before it is
// handed out, or fails the start.
type fakeLauncher struct {
	t       *testing.T
	started chan *fakeProcess
	mu      sync.Mutex
	next    func(*fakeProcess) error
	all     []*fakeProcess
	closed  bool
}

func (l *fakeLauncher) Start(_ context.Context, req launch.Request) (Process, error) {
	p := &fakeProcess{req: req, done: make(chan struct{})}
	l.mu.Lock()
	next := l.next
	l.mu.Unlock()
	if next != nil {
		if err := next(p); err != nil {
			return nil, err
		}
	}
	l.mu.Lock()
	l.all = append(l.all, p)
	l.mu.Unlock()
	l.started <- p
	return p, nil
}

func (l *fakeLauncher) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, p := range l.all {
		select {
		case <-p.done:
		default:
			l.t.Error("a process is alive although the supervisor has closed")
		}
		if !p.has("release") {
			l.t.Error("a process was not released")
		}
	}
	return nil
}

func (l *fakeLauncher) set(next func(*fakeProcess) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = next
}

// fakeConn is a connection that the test drives.
type fakeConn struct {
	t     ipc.Transport
	hello chan error // what Hello returns, one for each
	run   chan error // what Run returns
	call  func(ctx context.Context, method string) (json.RawMessage, error)
	bye   func()
	told  chan Neighbour // of others
	well  func(ctx context.Context) error
	once  sync.Once
}

func (c *fakeConn) Run(ctx context.Context) error {
	select {
	case err := <-c.run:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (c *fakeConn) Hello(ctx context.Context) (json.RawMessage, error) {
	select {
	case err := <-c.hello:
		return json.RawMessage(`{"name":"fake"}`), err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *fakeConn) Call(ctx context.Context, method string, _ json.RawMessage) (json.RawMessage, error) {
	return c.call(ctx, method)
}

func (c *fakeConn) Health(ctx context.Context) error {
	if c.well != nil {
		return c.well(ctx)
	}
	return nil
}

func (c *fakeConn) Goodbye(context.Context) error {
	if c.bye != nil {
		c.bye()
	}
	return nil
}

func (c *fakeConn) Tell(_ context.Context, n Neighbour) error {
	select {
	case c.told <- n:
	default:
	}
	return nil
}

func (c *fakeConn) Attach(func(json.RawMessage) error) (control.Bridge, error) {
	return nil, errors.New("no bridge")
}

func (c *fakeConn) Close() error {
	var err error
	c.once.Do(func() {
		err = c.t.R.Close()
		if any(c.t.R) != any(c.t.W) {
			err = errors.Join(err, c.t.W.Close())
		}
	})
	return err
}

// fakeConnector hands out fakeConns; hello is answered at once unless silent.
type fakeConnector struct {
	made   chan *fakeConn
	silent atomic.Bool
	bye    func(name string) // what each does at a goodbye
}

func (f *fakeConnector) Connect(t ipc.Transport, name string, _ *plan.Plan, _ ipc.Handler) (Conn, error) {
	c := &fakeConn{t: t, hello: make(chan error, 1), run: make(chan error, 1), told: make(chan Neighbour, 16)}
	c.call = func(context.Context, string) (json.RawMessage, error) { return json.RawMessage(`"pong"`), nil }
	if f.bye != nil {
		c.bye = func() { f.bye(name) }
	}
	if !f.silent.Load() {
		c.hello <- nil
	}
	f.made <- c
	return c, nil
}

// fakeSource has one bundle with a plan that the test can change.
type fakeSource struct {
	mu        sync.Mutex
	plan      plan.Plan
	err       error
	discarded []string
	// needs and versions are of bundles by name.
	needs    map[string]manifest.Needs
	versions map[string]string
}

func (s *fakeSource) Seal(dir string) (*Bundle, error) {
	name := filepath.Base(dir)
	b := &Bundle{Path: dir, Digest: "sha256:" + name, Name: name, Version: "1.0.0", Protocol: ipc.ProtocolMCP, Manifest: &manifest.Manifest{Needs: s.needs[name]}}
	if v := s.versions[name]; v != "" {
		b.Version = v
	}
	return b, nil
}

func (s *fakeSource) Open(digest string) (*Bundle, error) {
	return &Bundle{Path: "/sealed/" + digest, Digest: digest, Protocol: ipc.ProtocolMCP}, nil
}

func (s *fakeSource) Resolve(*Bundle, string) (*plan.Plan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pl := s.plan
	return &pl, s.err
}

func (s *fakeSource) Discard(digest string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.discarded = append(s.discarded, digest)
	return nil
}

func (s *fakeSource) change(fn func(*plan.Plan)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(&s.plan)
}

// bench is a supervisor on fakes, with one plugin "p" installed.
type bench struct {
	*Supervisor
	t         *testing.T
	dir       string
	clock     *fakeClock
	launcher  *fakeLauncher
	connector *fakeConnector
	source    *fakeSource
	store     *store.Store
	audit     *audit.Log
	events    *audit.Subscription
	ids       atomic.Int64
	closed    bool
}

var operator = control.Caller{UID: 0}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), clock: newFakeClock()}
	b.connector = &fakeConnector{made: make(chan *fakeConn, 64)}
	b.source = &fakeSource{plan: plan.Plan{
		Protocol: ipc.ProtocolMCP, Lifecycle: testPolicy,
		Violation: map[string]plan.Response{"ipc": {Action: "quarantine"}, "watchdog": {Action: "kill"}},
	}}
	b.open()
	if _, err := b.Install(t.Context(), operator, control.InstallParams{Dir: "/bundles/p", Profile: "strict"}); err != nil {
		t.Fatal(err)
	}
	return b
}

// open opens the state and makes the supervisor, as a start of the daemon does.
func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.store, err = store.Open(filepath.Join(b.dir, "state.db"), 16); err != nil {
		b.t.Fatal(err)
	}
	if b.audit, err = audit.Open(filepath.Join(b.dir, "audit.jsonl"), b.clock.Now); err != nil {
		b.t.Fatal(err)
	}
	b.events = b.audit.Subscribe(4096)
	b.launcher = &fakeLauncher{t: b.t, started: make(chan *fakeProcess, 64)}
	b.Supervisor, err = New(Config{
		StateDir: b.dir, Store: b.store, Audit: b.audit, Launcher: b.launcher, Source: b.source, Connector: b.connector,
		UIDBase: 1_900_000_000, Clock: b.clock, Random: func() float64 { return 0 },
		NewID: func() string { return "id" + strconv.FormatInt(b.ids.Add(1), 10) },
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.closed = false
	b.t.Cleanup(b.close)
}

func (b *bench) close() {
	if b.closed {
		return
	}
	b.closed = true
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // kill: nobody moves the clock any more
	if err := errors.Join(b.Close(ctx), b.store.Close(), b.audit.Close()); err != nil {
		b.t.Error(err)
	}
}

// reopen ends the daemon and starts it again.
func (b *bench) reopen() {
	b.t.Helper()
	b.close()
	b.open()
}

// await waits for the audit record of a kind.
func (b *bench) await(kind string) control.Event {
	b.t.Helper()
	for ev := range b.events.C {
		if ev.Kind == kind {
			b.sync()
			return ev
		}
	}
	b.t.Fatalf("no %q before the log ended", kind)
	return control.Event{}
}

// sync waits until the actor of p has done what it is at.
func (b *bench) sync() {
	p, err := b.get("p")
	if err != nil {
		return
	}
	done := make(chan struct{})
	if p.box.post(message{do: func() { close(done) }}) {
		<-done
	}
}

// start starts p and returns its process and connection.
func (b *bench) start() (*fakeProcess, *fakeConn) {
	b.t.Helper()
	if _, err := b.Start(b.t.Context(), operator, control.NameParams{Name: "p"}); err != nil {
		b.t.Fatal(err)
	}
	return <-b.launcher.started, <-b.connector.made
}

func (b *bench) status() control.Status {
	b.t.Helper()
	list, err := b.List(b.t.Context())
	if err != nil || len(list) != 1 {
		b.t.Fatalf("%d plugins, %v", len(list), err)
	}
	return list[0]
}

// record reads what the disk has.
func (b *bench) record() store.Record {
	b.t.Helper()
	list, err := b.store.List()
	if err != nil || len(list) != 1 {
		b.t.Fatalf("%d records, %v", len(list), err)
	}
	return list[0]
}

func exitStatus(n int) syscall.WaitStatus { return syscall.WaitStatus(n << 8) }

func hitBy(a violation.Action) violation.Violation {
	return violation.Violation{Kind: "violation", Time: epoch, Wall: violation.Seccomp, What: "mount", Call: "mount", Action: a}
}
