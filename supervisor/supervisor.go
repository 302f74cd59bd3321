// Package supervisor keeps plugins: it starts them behind their walls, talks
// to them, restarts or quarantines them, and remembers what happened.
//
// Each plugin has an actor, one goroutine that owns its lifecycle. What an
// event leads to is decided by transition, a pure function; the actor does it.
// Everyone else reads the snapshot that the actor publishes, so calls never
// queue behind lifecycle.
package supervisor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/audit"
	"github.com/cordonhq/cordon/supervisor/broker"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/depend"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/store"
	"github.com/cordonhq/cordon/supervisor/tasks"
)

// maxStarting is how many plugins may be verified and launched at once.
const maxStarting = 8

// Config is what a Supervisor is made of. Once New has succeeded it owns the
// Launcher; the caller closes the store and the audit log after Close.
type Config struct {
	// StateDir is the absolute path below which plugins' data, logs and evidence
	// are kept, owned by root.
	StateDir  string
	Store     *store.Store
	Audit     *audit.Log
	Launcher  Launcher
	Source    Source
	Connector Connector
	// Broker serves capabilities; nil serves none.
	Broker *broker.Broker
	// Metrics are what a plugin has measured by the capability metric; may be nil.
	Metrics func(plugin string) map[string]float64
	// Functions takes what applications serve; may be nil.
	Functions Functions
	// UIDBase is the first host uid of the plugins' range.
	UIDBase uint32
	// Boot is the kernel's id of this boot; empty for unknown.
	Boot   string
	Logger *slog.Logger
	// Evidence bounds what is kept of quarantines.
	Evidence EvidenceRules
	// Flags are the feature flags of the configuration, checked.
	Flags []Flag
	// Reload reads the configuration anew, for the one who asks; nil is none.
	Reload func(ctx context.Context, by string) (control.Reloaded, error)
	// Upgrade goes on as another program, for the one who asks; see
	// control.Service. nil is none.
	Upgrade func(ctx context.Context, by, program string) error
	// Clock, Random (at least 0, below 1) and NewID have the system's as default.
	Clock  Clock
	Random func() float64
	NewID  func() string
}

// shared is what all actors use.
type shared struct {
	stateDir  string
	store     *store.Store
	put       func(store.Record) error // store.Put
	audit     *audit.Log
	launcher  Launcher
	source    Source
	connector Connector
	broker    *broker.Broker
	metrics   func(plugin string) map[string]float64
	functions Functions
	uidBase   uint32
	boot      string
	logger    *slog.Logger
	clock     Clock
	random    func() float64
	newID     func() string
	names     *requestNames // of calls
	tasks     *tasks.Scheduler
	cabinet   *cabinet
	room      *atomic.Int64 // for evidence, in bytes
	places    chan struct{} // one for each plugin that is being started
	lane      chan struct{} // one for each of those that nobody waits for
	loops     chan struct{} // one for each life of those that crash in loops
	asked     chan struct{} // one for each start that somebody waits for; see admit
	forgotten func(name string)
	flags     *flags
	// changed is told of every change of state; unmet says what keeps a plugin from
	// being started, awaited which one it waits for. See relations.
	changed        func(change)
	degraded       func(name string, yes bool)
	unmet, awaited func(name string) string
	redraw         func() // what plugins need has changed
	wanted         *wanted
	// discardBundle removes the sealed copy that no plugin uses any more.
	discardBundle func(digest string) error
}

// enter takes a place among those that are being started, which leave gives back.
// A restart of its own accord, of which a plugin may make one after the other, takes
// one of the lane as well: plugins that crash in loops leave the other half of the
// machine to calls, and to starts that somebody asked for.
func (s *shared) enter(ctx context.Context, restart bool) (leave func(), err error) {
	if restart {
		if err := take(ctx, s.lane); err != nil {
			return nil, err
		}
	}
	outOfLane := func() {
		if restart {
			<-s.lane
		}
	}
	if err := take(ctx, s.places); err != nil {
		outOfLane()
		return nil, err
	}
	return func() { <-s.places; outOfLane() }, nil
}

func take(ctx context.Context, places chan<- struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// restartsAtOnce is the lane's width on a machine of so many processors.
func restartsAtOnce(processors int) int { return min(max(processors/2, 1), maxStarting) }

// Supervisor keeps all plugins of one state directory. It implements
// control.Service.
type Supervisor struct {
	*shared
	reload     func(ctx context.Context, by string) (control.Reloaded, error)
	upgrade    func(ctx context.Context, by, program string) error
	installing sync.Mutex // one install, or removal of a bundle, at a time
	mu         sync.RWMutex
	plugins    map[string]*plugin
	closing    bool
	relations  *relations
}

// New makes the actors of all plugins in the store. Nothing starts before
// StartEnabled. What ran when the last daemon ended is gone on with, or stopped;
// what was quarantined is so still.
func New(c Config) (*Supervisor, error) {
	s := &Supervisor{shared: sharedOf(c), reload: c.Reload, upgrade: c.Upgrade, plugins: map[string]*plugin{}, relations: newRelations()}
	s.degraded = s.spreadDegraded
	s.changed, s.unmet, s.awaited, s.redraw = s.relations.changed, s.unmetNow, s.awaitedNow, s.relations.redraw
	s.forgotten = s.forgetPlugin
	s.cabinet = &cabinet{root: filepath.Join(c.StateDir, "evidence"), clock: s.clock, held: s.holdsEvidence, rules: c.Evidence.completed()}
	s.discardBundle = s.discardUnused
	if err := makeDirs(c.StateDir); err != nil {
		return nil, err
	}
	records, err := c.Store.List()
	if err != nil {
		return nil, fmt.Errorf("cannot read the state: %w", err)
	}
	s.flags.since = s.clock.Now().UTC()
	if s.flags.flips, err = c.Store.Flips(); err != nil {
		return nil, fmt.Errorf("cannot read the flags: %w", err)
	}
	wanted, lost := s.inherit(records)
	go s.relate()
	for _, r := range records {
		if err := s.heir(r, wanted[r.Name], lost[r.Name]); err != nil {
			s.stopAll(context.Background())
			return nil, err
		}
	}
	s.tidyEvidence("")
	return s, nil
}

func sharedOf(c Config) *shared {
	s := &shared{
		stateDir: c.StateDir, store: c.Store, put: c.Store.Put, audit: c.Audit, launcher: c.Launcher, source: c.Source,
		connector: c.Connector, broker: c.Broker, metrics: c.Metrics, functions: c.Functions, uidBase: c.UIDBase, boot: c.Boot, logger: c.Logger, clock: c.Clock, random: c.Random, newID: c.NewID,
		places: make(chan struct{}, maxStarting), lane: make(chan struct{}, restartsAtOnce(runtime.NumCPU())), loops: make(chan struct{}, restartsAtOnce(runtime.NumCPU())), asked: make(chan struct{}, maxAsked), room: new(atomic.Int64), wanted: new(wanted),
		flags:    &flags{list: slices.Clone(c.Flags)},
		degraded: func(string, bool) {},
		changed:  func(change) {}, redraw: func() {}, unmet: func(string) string { return "" }, awaited: func(string) string { return "" },
	}
	if s.clock == nil {
		s.clock = SystemClock{}
	}
	if s.random == nil {
		s.random = mathrand.Float64
	}
	s.names, s.tasks = newRequestNames(s.random), tasks.New(s.clock)
	if s.newID == nil {
		s.newID = randomID
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	return s
}

func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails; crypto/rand
	return hex.EncodeToString(b[:])
}

// makeDirs makes the directories below the state directory, 0700.
func makeDirs(root string) error {
	for _, name := range []string{"data", "volumes", "logs", "evidence"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o700); err != nil {
			return fmt.Errorf("cannot make the state directory: %w", err)
		}
	}
	return nil
}

// add makes the actor of a record and starts it.
func (s *Supervisor) add(r store.Record) error { return s.heir(r, nil, nil) }

// heir is add of one that an earlier daemon left, or lost.
func (s *Supervisor) heir(r store.Record, left *launch.Left, lost error) error {
	p, err := newHeir(s.shared, r, left, lost)
	if err != nil {
		return fmt.Errorf("cannot take up plugin %s: %w", r.Name, err)
	}
	s.mu.Lock()
	s.plugins[r.Name] = p
	s.mu.Unlock()
	s.relations.redraw()
	if p.run != nil {
		p.goOn()
		p.auditEvent(control.Event{
			Plugin: r.Name, Kind: "adopted", Actor: "daemon", Text: r.Name + " runs on under another cordond",
			Data: map[string]any{"pid": p.run.proc.PID(), "plan_digest": r.PlanDigest},
		})
	}
	go p.loop()
	return nil
}

func (s *Supervisor) forgetPlugin(name string) {
	s.mu.Lock()
	delete(s.plugins, name)
	s.mu.Unlock()
	s.relations.redraw()
}

// discardUnused removes the sealed copy of digest unless a plugin has it.
func (s *Supervisor) discardUnused(digest string) error {
	s.installing.Lock()
	defer s.installing.Unlock()
	return s.discardIfUnused(digest)
}

// discardIfUnused is discardUnused with s.installing held.
func (s *Supervisor) discardIfUnused(digest string) error {
	for _, p := range s.all() {
		if p.shown.Load().record.Digest == digest || p.swapsTo(digest) {
			return nil
		}
	}
	return s.source.Discard(digest)
}

// all returns the plugins by name.
func (s *Supervisor) all() []*plugin {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*plugin, 0, len(s.plugins))
	for _, p := range s.plugins {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *plugin) int { return strings.Compare(a.name, b.name) })
	return out
}

// get finds a plugin, or says which name was meant.
func (s *Supervisor) get(name string) (*plugin, error) {
	s.mu.RLock()
	p := s.plugins[name]
	s.mu.RUnlock()
	if p == nil {
		return nil, control.Errorf(ipc.CodeNotFound, "cordon ps lists what is installed", "no plugin %q is installed", name)
	}
	return p, nil
}

// StartEnabled starts every plugin that is stopped and enabled, or ran when the
// last daemon went and could not be gone on with, or waited for another; those
// that others need first. It does not wait for them.
func (s *Supervisor) StartEnabled() {
	s.reconcile()
	g := s.graph()
	var held []*plugin
	for _, p := range s.all() {
		r := p.shown.Load().record
		switch {
		case !r.Enabled && !p.again && !r.Held || r.State != control.Stopped:
		case r.Needs.Empty() && len(g.Dependants(p.name)) == 0 && s.unmet(p.name) == "":
			p.box.post(message{event: event{Kind: evStart, Again: p.again}})
		default:
			held = append(held, p)
		}
	}
	s.startHeldOf(held)
}

// Close stops all plugins, each within its own deadlines; when ctx ends first,
// they are killed. It returns when nothing of them is left, the Launcher closed.
func (s *Supervisor) Close(ctx context.Context) error {
	s.stopAll(ctx)
	return s.launcher.Close()
}

func (s *Supervisor) stopAll(ctx context.Context) {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	steps := s.graph().Leave()
	s.relations.close()
	s.inOrder(steps, func(step depend.Step, _ []error) error {
		if p := s.plugin(step.Name); p != nil {
			shut(ctx, p)
		}
		return nil
	})
	for _, p := range s.all() { // what was installed meanwhile
		shut(ctx, p)
	}
}

// shut ends one plugin and its actor. The actor goes on until its process has
// gone, for that may still hit a wall.
func shut(ctx context.Context, p *plugin) {
	op := &operation{by: "daemon", done: make(chan error, 1)}
	if p.box.post(message{event: event{Kind: evShutdown}, op: op}) && !p.settled(ctx, op) {
		p.box.post(message{do: p.kill})
		late, cancel := context.WithCancel(context.Background())
		stop := p.clock.AfterFunc(2*reapTime, cancel)
		p.settled(late, op)
		stop()
		cancel()
	}
	p.box.close()
	<-p.ended
}

// settled waits for the outcome of op and says whether it came before ctx ended.
func (p *plugin) settled(ctx context.Context, op *operation) bool {
	select {
	case err := <-op.done:
		p.logFailure("stop", err)
		return true
	case <-ctx.Done():
		return false
	}
}
