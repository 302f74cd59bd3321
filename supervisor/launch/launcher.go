package launch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/seccomp"
)

// Defaults of Config.
const (
	DefaultUIDBase    = 1900000000 // above every range that distributions and systemd assign
	DefaultUIDCount   = 65536
	DefaultRuntimeDir = "/run/cordon"
)

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// Launcher starts plugins on this host. Safe for concurrent use.
type Launcher struct {
	cfg      Config
	tree     *cgroups.Tree
	watcher  *cgroups.Watcher
	listener *seccomp.Listener
	deaths   deaths
	limits   map[string]cgroups.Feature // what this host can enforce, by cgroup v2 name
	// floodLimit is seccomp.FloodLimit if it is 0; tests set a smaller one.
	floodLimit int
	// tamper, if set, changes the steps of a start; tests have each fail.
	tamper    func([]namespaces.Step) []namespaces.Step
	abi       int  // of Landlock
	memfd     bool // vm.memfd_noexec is there
	users     userNamespaces
	templates templates
	networks  *networks
	spares    spares
	digests   fileDigests
	first     chan (<-chan network) // of Config.Once: what the first start takes
	early     sync.WaitGroup        // what Config.Once has in hand
	ready     *pool                 // nil without one
	parents   parentDirs
	settling  *time.Timer   // of Config.Settled; nil without
	unsettled atomic.Bool   // starts came, and Config.Settled was not called since
	turns     chan struct{} // one for each start under way

	mu     sync.Mutex
	keeper *namespaces.Keeper // nil until the first start, and after it has gone
	closed bool

	left     []*Left // by an earlier daemon
	tookOver bool    // they came from an earlier daemon's keeper
}

// maxStarts is how many starts are under way at a time, as many as the keeper
// takes; more wait in the order in which they came.
const maxStarts = 8

// settleTime is how long no start may come until starts are over.
const settleTime = 2 * time.Second

// begun is told of every start.
func (l *Launcher) begun() {
	if l.settling != nil && l.cfg.Begun != nil && l.unsettled.CompareAndSwap(false, true) {
		l.cfg.Begun()
	}
}

// started puts off that starts are over.
func (l *Launcher) started() {
	if l.settling != nil {
		l.settling.Reset(settleTime)
	}
}

// New prepares a launcher: it finds the host's cgroups, ends what an earlier
// one left there, and starts no process yet.
func New(cfg Config) (_ *Launcher, err error) {
	if cfg.UIDBase == 0 {
		cfg.UIDBase, cfg.UIDCount = DefaultUIDBase, DefaultUIDCount
	}
	if cfg.RuntimeDir == "" {
		cfg.RuntimeDir = DefaultRuntimeDir
	}
	if cfg.Refuses == nil {
		cfg.Refuses = profiles.DefaultCeiling().Followed(filepath.EvalSymlinks).Refuses
	}
	if cfg.Compile == nil || cfg.UIDCount < 8 || cfg.UIDBase < 1000 || uint64(cfg.UIDBase)+uint64(cfg.UIDCount) > 1<<32-2 {
		return nil, fmt.Errorf("cannot use %d uids from %d: want at least 8, none below 1000", cfg.UIDCount, cfg.UIDBase)
	}
	if err := refuseSuidDumpable(); err != nil {
		return nil, err
	}
	l := &Launcher{cfg: cfg, abi: namespaces.LandlockABI(), memfd: hasMemfdNoexec(), turns: make(chan struct{}, maxStarts)}
	l.networks = newNetworks()
	var back undo
	defer func() {
		if err != nil {
			err = errors.Join(err, back.run())
		}
	}()
	back.add(l.endEarly)
	if cfg.Once {
		l.beginEarly()
	}
	if l.tree, err = cgroups.Open(cfg.CgroupRoot, cfg.Form); err != nil {
		return nil, err
	}
	l.templates.max = cfg.Templates
	if cfg.Settled != nil {
		l.settling = time.AfterFunc(settleTime, func() {
			l.unsettled.Store(false)
			cfg.Settled()
		})
	}
	back.add(l.tree.Close)
	if err = l.takeOver(); err != nil {
		return nil, err
	}
	back.add(l.dropKeeper)
	if _, err = l.tree.Sweep(); err != nil {
		return nil, fmt.Errorf("cannot end what an earlier run left: %w", err)
	}
	l.limits = map[string]cgroups.Feature{}
	for _, f := range l.tree.Features() {
		l.limits[f.Name] = f
	}
	if l.watcher, err = cgroups.NewWatcher(); err != nil {
		return nil, err
	}
	back.add(l.watcher.Close)
	if l.listener, err = seccomp.NewListener(); err != nil {
		return nil, err
	}
	if !cfg.Once { // what it leaves its end takes away
		l.spares.keep()
	}
	l.deaths.begin()
	l.ready = newPool(l.tree, l.networks, cfg.Ready, cfg.ReadyFails)
	return l, nil
}

// beginEarly starts what the first start will ask for: the keeper at once, so
// that it sets itself up beside the rest. What fails is tried again, and its
// error told, when it is asked for.
func (l *Launcher) beginEarly() {
	l.first = make(chan (<-chan network), 1)
	l.first <- l.networks.order()
	if k, err := l.kept(); err == nil {
		l.early.Go(func() { _, _, _ = l.users.get(context.Background(), k, l.nobodyMap(), l.nobodyMap()) })
	}
}

// endEarly ends the keeper and the networks, for a launcher that never was one.
func (l *Launcher) endEarly() error {
	var err error
	if k := l.shut(); k != nil {
		err = k.Close()
	}
	l.early.Wait()
	l.dropFirst()
	l.networks.close()
	return errors.Join(err, l.users.close())
}

// shut has no keeper started any more, and gives the one that was.
func (l *Launcher) shut() *namespaces.Keeper {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keeper
	l.keeper, l.closed = nil, true
	return k
}

// takeFirst is the network that was begun for the first start; nil for others.
func (l *Launcher) takeFirst() <-chan network {
	select {
	case n := <-l.first:
		return n
	default:
		return nil
	}
}

// dropFirst is for one that no start took.
func (l *Launcher) dropFirst() {
	n := l.takeFirst()
	if n == nil {
		return
	}
	if made := <-n; made.file != nil {
		_ = made.file.Close() // nobody is in it
	}
}

// unsupported names those of the limits that this host cannot enforce, with
// what it would need; sorted.
func (l *Launcher) unsupported(limits cgroups.Limits) []cgroups.Feature {
	var missing []cgroups.Feature
	for name := range limits.Values() {
		if f, ok := l.limits[name]; ok && !f.Have {
			missing = append(missing, f)
		}
	}
	slices.SortFunc(missing, func(a, b cgroups.Feature) int { return strings.Compare(a.Name, b.Name) })
	return missing
}

// refuseSuidDumpable: between its setresuid and its exec a plugin has what the
// keeper had in memory; with 1 anything of the same uid could look at it.
func refuseSuidDumpable() error {
	b, err := os.ReadFile("/proc/sys/fs/suid_dumpable")
	if err != nil {
		return fmt.Errorf("cannot read fs.suid_dumpable: %w", err)
	}
	if v := strings.TrimSpace(string(b)); v != "0" && v != "2" {
		return fmt.Errorf("cannot launch with fs.suid_dumpable = %s: set it to 0 or 2 (sysctl -w fs.suid_dumpable=0)", v)
	}
	return nil
}

// kept gives the running keeper, or starts one: the first, or the next after
// one that ended.
func (l *Launcher) kept() (*namespaces.Keeper, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.New("cannot start: the launcher is closed")
	}
	if l.keeper != nil {
		select {
		case <-l.keeper.Gone():
			_ = l.keeper.Close()
			l.keeper = nil
		default:
			return l.keeper, nil
		}
	}
	k, err := namespaces.StartKeeper()
	if err != nil {
		return nil, err
	}
	if c := l.cfg.Continuity; c.Grace > 0 {
		if err := k.KeepFor(c.Grace, c.Socket); err != nil {
			return nil, errors.Join(err, k.Close())
		}
	}
	l.keeper = k
	return k, nil
}

// dropKeeper has what was taken over from an earlier daemon end with the keeper.
func (l *Launcher) dropKeeper() error {
	if l.keeper == nil || l.cfg.Continuity.Socket == "" {
		return nil
	}
	return l.keeper.KeepFor(0, "")
}

// Close ends every plugin, whatever it does, and leaves no process, group or
// descriptor. Processes are Done then and must still be released.
func (l *Launcher) Close() error {
	k := l.shut()
	if l.settling != nil {
		l.settling.Stop()
	}
	l.dropFirst()
	var errs []error
	if k != nil {
		if l.cfg.Continuity.Grace > 0 { // this end is meant; an error is that it has ended
			_ = k.KeepFor(0, "")
		}
		errs = append(errs, k.Close())
	}
	if socket := l.cfg.Continuity.Socket; socket != "" {
		if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("cannot remove the keeper's socket: %w", err))
		}
	}
	l.early.Wait()
	errs = append(errs, together(l.ready.close, l.listener.Close, l.deaths.close, l.watcher.Close, l.users.close, l.templates.close, l.parents.close, l.spares.close))
	if _, err := l.tree.Sweep(); err != nil {
		errs = append(errs, err)
	}
	l.networks.close()
	return errors.Join(append(errs, l.tree.Close())...)
}

// together does them beside each other: several wait for the kernel, which lets
// go of an inotify descriptor, say, when every reader of its lists has gone by.
func together(closers ...func() error) error {
	var wait sync.WaitGroup
	errs := make([]error, len(closers))
	for i, f := range closers {
		wait.Go(func() { errs[i] = f() })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// parentDirs are the directories that groups stand in, opened once.
type parentDirs struct {
	mu   sync.Mutex
	open map[string]*os.File
}

func (d *parentDirs) get(path string) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.open[path]; f != nil {
		return f, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the group's parent: %w", err)
	}
	if d.open == nil {
		d.open = map[string]*os.File{}
	}
	d.open[path] = f
	return f, nil
}

func (d *parentDirs) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for path, f := range d.open {
		errs = append(errs, f.Close())
		delete(d.open, path)
	}
	return errors.Join(errs...)
}

func mapLine(inside, outside uint32) string { return itoa(inside) + " " + itoa(outside) + " 1\n" }
