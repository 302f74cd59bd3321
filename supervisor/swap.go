package supervisor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/depend"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/store"
)

// How long what a swap replaced may go on with the calls that it has.
const (
	defaultDrain = 30 * time.Second
	maxDrain     = 10 * time.Minute
)

// swap is what a swap has beside the plugin's process. It belongs to the actor.
type swap struct {
	run    *running
	cancel context.CancelFunc // of its start walk; nil without one
	// to is the record as it will be when what comes is the plugin's process.
	to store.Record
	// share says that both may have the data that is kept, at once.
	share bool
	// before and cut tell of the process that was replaced: its id, and how many
	// calls it had when it was told to leave.
	before int
	cut    int64
	// freed is the bundle of the process that was beside and has ended.
	freed string
}

func (w *swap) cancelStart() {
	if w.cancel != nil {
		w.cancel()
	}
}

// uidNow is the host uid of what a record says is running.
func (s *shared) uidNow(r store.Record) uint32 {
	if r.UID != 0 {
		return r.UID
	}
	return s.uidOf(r.Slot)
}

// Swap implements control.Service: another process takes the place of the one
// that runs, without a call that fails. It returns when the one before has ended.
func (s *Supervisor) Swap(ctx context.Context, by control.Caller, params control.SwapParams) (control.Status, error) {
	drain := params.Drain
	if drain == 0 {
		drain = defaultDrain
	}
	if drain < 0 || drain > maxDrain {
		return control.Status{}, control.Errorf(ipc.CodeInvalidParams, "", "cannot swap %s: a drain of %v: expected at most %v", params.Name, drain, maxDrain)
	}
	if params.Profile != "" && strings.ContainsRune(params.Profile, '/') && !filepath.IsAbs(params.Profile) {
		return control.Status{}, control.Errorf(ipc.CodeInvalidParams, "", "cannot swap %s: the profile %q is neither a name nor an absolute path", params.Name, params.Profile)
	}
	p, err := s.get(params.Name)
	if err != nil {
		return control.Status{}, err
	}
	leave, err := s.admit("swap", params.Name)
	if err != nil {
		return control.Status{}, err
	}
	defer leave()
	to := p.shown.Load().record
	if params.Profile != "" {
		to.Profile = params.Profile
	}
	if params.Dir != "" {
		release, err := s.sealFor(p, &to, params.Dir)
		defer release()
		if err != nil {
			return control.Status{}, err
		}
	}
	return s.tell(ctx, by, params.Name, message{
		event: event{Kind: evSwap, Drain: drain}, swap: &swap{to: to, share: params.ShareData},
	})
}

// sealFor seals the bundle in dir and has to be of it. Until release is called
// nobody discards it.
func (s *Supervisor) sealFor(p *plugin, to *store.Record, dir string) (release func(), err error) {
	release = func() {}
	if !filepath.IsAbs(dir) {
		return release, control.Errorf(ipc.CodeInvalidParams, "", "cannot swap %s: %q is not an absolute path", p.name, dir)
	}
	s.installing.Lock()
	defer s.installing.Unlock()
	old, err := s.source.Open(to.Digest)
	if err != nil {
		return release, control.Errorf(ipc.CodeInternal, "", "cannot swap %s: %w", p.name, err)
	}
	b, err := s.source.Seal(dir)
	if err != nil {
		return release, control.Errorf(ipc.CodeInvalidParams, "", "cannot swap %s: %w", p.name, err)
	}
	s.wanted.add(b.Digest, 1)
	release = func() {
		s.wanted.add(b.Digest, -1)
		p.logFailure("discard a bundle", s.discardUnused(b.Digest))
	}
	if b.Name != old.Name {
		return release, control.Errorf(ipc.CodeInvalidParams, "cordon install", "cannot swap %s: %s is the plugin %s, and what runs is %s", p.name, dir, b.Name, old.Name)
	}
	to.Digest, to.Version, to.Protocol = b.Digest, b.Version, string(b.Protocol)
	if to.Needs = (manifest.Needs{}); b.Manifest != nil {
		to.Needs = b.Manifest.Needs
	}
	if err := s.fits(*to); err != nil {
		return release, control.Errorf(ipc.CodeConflict, "cordon ps", "cannot swap %s for version %s: %w", p.name, to.Version, err)
	}
	return release, nil
}

// fits says what of that which runs, and could be started now, could not be with a
// plugin as a record has it: for it needs other plugins then, or is of a version
// that others do not take.
func (s *Supervisor) fits(to store.Record) error {
	var list []depend.Plugin
	for _, p := range s.all() {
		r := p.shown.Load().record
		if r.Name == to.Name {
			r = to
		}
		list = append(list, depend.Plugin{Name: r.Name, Version: r.Version, Needs: r.Needs})
	}
	is, next := s.graph(), depend.New(list)
	for _, one := range list {
		if !s.running(one.Name) {
			continue
		}
		others := func(name string) bool { return name != one.Name && s.running(name) }
		if _, err := is.Start(one.Name, others); err != nil {
			continue
		}
		if _, err := next.Start(one.Name, others); err != nil {
			return err
		}
	}
	if r := next.Unready(to.Name, s.stands); r != nil {
		return r
	}
	return nil
}

// enterRun gives the process that takes calls now, with its gate entered.
func (s *Supervisor) enterRun(name string) (*running, error) {
	for {
		run, err := s.ready(name)
		if err != nil {
			return nil, err
		}
		if run.gate.enter() {
			return run, nil
		}
		// It was replaced between the look and the entry: another is published.
	}
}

// performSwap does one of a swap's actions.
func (p *plugin) performSwap(a action, m message) {
	switch a.Kind {
	case actLaunchBeside:
		p.launchBeside(m)
	case actSwitch:
		p.switchRuns()
	case actTellSwap:
		p.tellSwap(a.Name, m)
	case actByeBeside:
		p.swap.cut = p.drained()
		p.sayGoodbye(p.swap.run)
	case actTermBeside:
		if p.swap.run != nil {
			p.logFailure("signal", p.swap.run.proc.Signal(syscall.SIGTERM))
		}
	case actEndBeside:
		p.swap.cancelStart()
		if p.swap.run != nil {
			p.logFailure("kill; it will be tried again", p.swap.run.proc.Kill())
		}
	case actFreeBeside:
		p.freeBeside()
	default:
	}
}

// drained is how many calls what was replaced still has.
func (p *plugin) drained() int64 {
	if p.swap.run == nil {
		return 0
	}
	return p.swap.run.gate.count()
}

// launchBeside begins the start walk of what is to take the plugin's place, as a
// uid, in a group and in namespaces of its own.
func (p *plugin) launchBeside(m message) {
	number := p.state.Swap.Run
	failed := func(err error) {
		p.box.post(message{event: event{Kind: evStartFailed, Run: number, Reason: err.Error()}})
	}
	if m.swap == nil {
		failed(errors.New("nothing says what it is to be swapped for"))
		return
	}
	p.swap = *m.swap
	p.wanted.add(p.swap.to.Digest, 1)
	if p.unsaved { // a violation that was only refused, perhaps: a later save is due
		p.save()
	}
	if err := p.mayStart(); err != nil {
		failed(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.swap.cancel = cancel
	p.walking.Go(func() {
		defer cancel()
		if err := p.swapWalk(ctx, number, *m.swap); err != nil {
			failed(err)
		}
	})
}

func (p *plugin) swapWalk(ctx context.Context, number uint64, w swap) error {
	leave, err := p.enter(ctx, false)
	if err != nil {
		return &stepError{"wait for a free place", err}
	}
	run, err := p.bringUp(ctx, number, w.to, &w)
	leave()
	if err != nil {
		return err
	}
	return p.greet(run, true)
}

// isWell asks what is to take another's place for its health before it gets its
// first call: what said hello may yet answer nothing. Time bounds it as it does
// the hello.
func (p *plugin) isWell(run *running) error {
	pl := run.plan()
	if pl.Protocol == ipc.ProtocolJSONRPC && pl.Lifecycle.Watchdog <= 0 { // it need not know any method
		return nil
	}
	if err := run.conn.Health(run.ctx); err != nil {
		return &stepError{"health", err}
	}
	return nil
}

// errSharesData: two processes that write one /data without knowing of each other
// are how data is lost.
var errSharesData = errors.New("its /data is kept, and two processes would have it at once: cordon restart NAME, or --share-data if the program is made for that")

// dataBeside is dataFor of what runs beside another process of the plugin: the
// same data, through a mount that shows its files as the new uid's. It refuses
// what two processes cannot have at once.
func (p *plugin) dataBeside(share bool, pl *plan.Plan) (string, error) {
	snap := p.shown.Load()
	switch {
	case snap.run != nil && !slices.Equal(pl.Network.Listen, snap.run.plan().Network.Listen):
		return "", errors.New("its network.listen has changed, and its sockets are the ones that it has from its start: cordon restart NAME")
	case !pl.Data.Persistent:
		return "", nil
	case snap.run == nil || !snap.run.data:
		return "", errors.New("its /data is to be kept, and that of the process that runs is not: cordon restart NAME")
	case !share:
		return "", errSharesData
	case pl.Data != snap.run.plan().Data:
		return "", errors.New("the bounds of its /data have changed, which is mounted: cordon restart NAME")
	}
	return p.dataDir(), nil
}

// commitSwap writes down that what has come up is the plugin's process now: from
// then on a successor of this daemon goes on with it. Where that cannot be
// written the swap has failed.
func (p *plugin) commitSwap(m message) message {
	w := p.state.Swap
	if m.event.Kind != evReady || !w.isOf(m.event) || w.Part != coming || p.state.Phase != control.Running || p.swap.run == nil {
		return m
	}
	if err := p.store.Put(p.swapped()); err != nil {
		m.event = event{Kind: evStartFailed, Run: m.event.Run, Reason: fmt.Sprintf("record: the state cannot be saved: %v", err)}
	}
	return m
}

// swapped is the record with what came in the place of what runs.
func (p *plugin) swapped() store.Record {
	r, to, run := p.record, p.swap.to, p.swap.run
	r.Version, r.Digest, r.Protocol, r.Profile, r.Needs = to.Version, to.Digest, to.Protocol, to.Profile, to.Needs
	r.UID = 0
	if u, ok := run.proc.(interface{ UID() uint32 }); ok && u.UID() != p.uidOf(r.Slot) {
		r.UID = u.UID()
	}
	r.PolicyDigest, r.PlanDigest = run.plan().PolicyDigest(), run.proc.PlanDigest()
	r.Interpreters = runByNow(r, run.proc)
	return r
}

// switchRuns lets what came take the calls, from the next that is made; the one
// before is told of when it has answered its last.
func (p *plugin) switchRuns() {
	if p.swap.run == nil || p.run == nil {
		return
	}
	p.record = p.swapped()
	old := p.run
	p.run, p.swap.run = p.swap.run, old
	p.swap.before = old.proc.PID()
	p.plan, p.policy = p.run.plan(), p.run.plan().Lifecycle
	old.listening.Retire()
	p.run.listening.Serve(connections{p.run.caps})
	p.publish() // before the gate closes: who finds it closed finds the other
	p.redraw()
	old.gate.close(func() { // who has connected to it is answered, too
		old.listening.Idle(func() { p.box.post(message{event: event{Kind: evDrained, Run: old.number}}) })
	})
}

// tellSwap records what has become of a swap.
func (p *plugin) tellSwap(name string, m message) {
	w := p.state.Swap
	ev := control.Event{Plugin: p.name, Kind: name, Actor: "daemon"}
	if m.op != nil {
		ev.Actor = m.op.by
	}
	switch name {
	case "swapping":
		ev.Text = p.name + " is to be replaced by another process"
	case "swapped":
		ev.Text = fmt.Sprintf("%s goes on as another process", p.name)
		ev.Data = map[string]any{"pid": p.run.proc.PID(), "before": p.swap.before, "version": p.record.Version, "profile": p.record.Profile, "digest": p.record.Digest, "plan_digest": p.record.PlanDigest}
	case "swap-failed":
		ev.Text = fmt.Sprintf("%s was not replaced by another process: %s", p.name, w.Failed)
	case "swap-done":
		ev.Text = fmt.Sprintf("the process of %s that was replaced has ended", p.name)
		ev.Data = map[string]any{"pid": p.swap.before, "calls_cut": p.swap.cut}
		if p.swap.cut > 0 {
			ev.Text += fmt.Sprintf(", after %v and with %d calls unanswered", w.Drain, p.swap.cut)
		}
	}
	p.auditEvent(ev)
	if w.Process == noProcess {
		p.endSwap()
	}
}

// endSwap forgets what was beside, and discards the bundle that nobody has.
func (p *plugin) endSwap() {
	if p.state.Process == noProcess {
		p.closeData()
	}
	if digest := p.swap.to.Digest; digest != "" {
		p.wanted.add(digest, -1)
	}
	if freed := p.swap.freed; freed != "" && freed != p.record.Digest {
		p.walking.Go(func() { p.logFailure("discard a bundle", p.discardBundle(freed)) })
	}
	p.swap = swap{}
}

// swapOutcome is what a swap that is over says to who asked for it.
func (p *plugin) swapOutcome() error {
	if why := p.state.Swap.Failed; why != "" {
		text := "the process before goes on"
		if p.state.Phase != control.Running {
			text = "the plugin is " + string(p.state.Phase)
		}
		return control.Errorf(ipc.CodeConflict, "cordon logs "+p.name, "cannot swap %s: %s; %s", p.name, strings.ReplaceAll(why, "NAME", p.name), text)
	}
	return nil
}

// freeBeside releases what was beside, whatever its state.
func (p *plugin) freeBeside() {
	if p.swap.run == nil {
		return
	}
	p.swap.freed = p.swap.run.digest
	p.discard(p.swap.run)
	p.swap.run = nil
}

// endSwaps tells of the processes that a swap had beside others when their daemon
// went. They have ended. Where the plugin's own is not among what was left either,
// that is why it is lost.
func (s *Supervisor) endSwaps(besides []*launch.Left, wanted map[string]*launch.Left, lost map[string]error) {
	for _, left := range besides {
		text := left.Name + " was being swapped when cordond ended: the process that the state does not name was ended"
		if wanted[left.Name] == nil && lost[left.Name] == nil {
			lost[left.Name] = fmt.Errorf("it runs as uid %d, which is not its own", left.UID())
			text = left.Name + " ran as a uid that is not its own"
		}
		if _, err := s.audit.Append(control.Event{Plugin: left.Name, Kind: "swap-failed", Actor: "daemon", Text: text, Data: map[string]any{"pid": left.PID()}}); err != nil {
			s.logger.Error("cannot write the audit log", "plugin", left.Name, "err", err)
		}
	}
}

// swapsTo says whether a swap of the plugin is about a bundle.
func (p *plugin) swapsTo(digest string) bool {
	return p.wanted.has(digest) || slices.ContainsFunc(p.shown.Load().runs(), func(r *running) bool { return r.digest == digest })
}
