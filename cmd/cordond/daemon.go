package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/seccomp/compile"
	"github.com/cordonhq/cordon/supervisor"
	"github.com/cordonhq/cordon/supervisor/audit"
	"github.com/cordonhq/cordon/supervisor/broker"
	"github.com/cordonhq/cordon/supervisor/broker/host"
	"github.com/cordonhq/cordon/supervisor/broker/kv"
	"github.com/cordonhq/cordon/supervisor/broker/metric"
	"github.com/cordonhq/cordon/supervisor/broker/secret"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/store"
)

// stopTime bounds a graceful stop of all plugins; what is left then is killed.
const stopTime = 60 * time.Second

// options is the command line.
type options struct {
	configFile string
	explicit   bool // --config was given
	logFormat  string
	errs       io.Writer
}

// daemon is everything that one run of cordond holds, released in reverse.
type daemon struct {
	options    options
	config     config
	log        *slog.Logger
	store      *store.Store
	audit      *audit.Log
	bundles    *supervisor.Bundles
	supervisor *supervisor.Supervisor
	server     *control.Server
	functions  *host.Functions
	secrets    atomic.Pointer[map[string]secret.Source]
	socket     *control.Socket
	upgrading  sync.Mutex
	undo       []func() error
}

// leastRunning is how many goroutines may run at a time at least. Many calls of a
// start (cgroups, namespaces, the disk) take the kernel a while, in which Go's
// scheduler takes the caller's place to be busy: on two processors, two of them
// would keep a reply waiting until sysmon looks, up to 10 ms.
const leastRunning = 4

func useProcessors() {
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < leastRunning {
		runtime.GOMAXPROCS(leastRunning)
	}
}

// runDaemon starts the daemon, serves until it is told to end, and leaves
// nothing of it but its state.
func runDaemon(o options) error {
	useProcessors()
	if os.Geteuid() != 0 {
		return errors.New("cordond must run as root: it makes namespaces, cgroups and uids for plugins")
	}
	c, found, err := loadConfig(o.configFile, o.explicit)
	if err != nil {
		return err
	}
	log, err := newLogger(o, c.Daemon.LogFormat)
	if err != nil {
		return err
	}
	if !found {
		log.Info("no configuration file: the defaults hold", "file", o.configFile)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	d := &daemon{options: o, config: c, log: log}
	if err := d.start(); err != nil {
		return errors.Join(err, d.release())
	}
	d.serve(signals)
	return d.release()
}

func newLogger(o options, format string) (*slog.Logger, error) {
	if o.logFormat != "" {
		format = o.logFormat
	}
	if format == "" && !isTerminal(o.errs) {
		format = "json"
	}
	switch format {
	case "", "text":
		return slog.New(slog.NewTextHandler(o.errs, nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(o.errs, nil)), nil
	default:
		return nil, &usageError{fmt.Errorf("--log-format must be text or json, not %q", format)}
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// later notes what to release, last first.
func (d *daemon) later(fn func() error) { d.undo = append(d.undo, fn) }

// release gives everything back.
func (d *daemon) release() error {
	var errs []error
	for i := len(d.undo) - 1; i >= 0; i-- {
		errs = append(errs, d.undo[i]())
	}
	d.undo = nil
	return errors.Join(errs...)
}

// start brings everything up, in an order in which what cannot be had refuses
// before anything was touched that another daemon may own.
func (d *daemon) start() error {
	if err := os.MkdirAll(d.config.Daemon.StateDir, 0o700); err != nil {
		return fmt.Errorf("cannot make the state directory: %w", err)
	}
	for _, step := range []func() error{d.openState, d.bindSocket, d.openLauncher, d.serveControl} {
		if err := step(); err != nil {
			return err
		}
	}
	d.auditEvent("daemon-started", "daemon", "cordond "+version()+" started")
	d.supervisor.StartEnabled()
	d.later(giveBack())
	d.notify("READY=1")
	d.startWatchdog()
	d.log.Info("ready", "socket", d.config.Daemon.Socket, "version", version())
	return nil
}

func (d *daemon) openState() (err error) {
	dir := d.config.Daemon.StateDir
	if d.store, err = store.Open(filepath.Join(dir, "state.db"), d.config.Daemon.UIDCount/2); err != nil {
		return err
	}
	d.later(d.store.Close)
	if d.audit, err = audit.Open(filepath.Join(dir, "audit.jsonl"), now); err != nil {
		return err
	}
	d.later(d.audit.Close)
	return nil
}

// bindSocket takes the socket's place before anything is swept, so that two
// daemons can never share one runtime directory.
func (d *daemon) bindSocket() (err error) {
	if listener, lock, ok := handed(); ok {
		d.socket, err = control.Inherit(d.config.Daemon.Socket, listener, lock)
	} else {
		d.socket, err = control.Listen(d.config.Daemon.Socket, d.group())
	}
	if err != nil {
		return err
	}
	d.later(d.socket.Close)
	return nil
}

func (d *daemon) group() int { return control.LookupGroup("/etc/group", control.Group) }

// readyStarts is how many starts in a row find their network namespace and
// groups made: enough for a restart, or a rollout of a few, at once.
const readyStarts = 4

// keptTemplates is for how many plans a prepared mount namespace is kept; each
// is a descriptor and some 50 KiB of the kernel's.
const keptTemplates = 128

// startGarbage is what GOGC is while starts come, and calmGarbage otherwise; see
// runtime/debug.SetGCPercent. What a start leaves is garbage at once, and to look
// for it half as often halves what that takes. A thousand plugins have some 30 MiB.
const (
	startGarbage = 300
	calmGarbage  = 100
)

func startsBegin() { debug.SetGCPercent(startGarbage) }

func startsSettled() {
	debug.SetGCPercent(calmGarbage)
	debug.FreeOSMemory()
}

// readyFails tells of starts that take longer than they need.
func (d *daemon) readyFails(err error) {
	if err != nil {
		d.log.Warn("cannot make ahead what the next starts need: each makes its own until it works again", "err", err)
		return
	}
	d.log.Info("what the next starts need is made ahead again")
}

// openLauncher makes the launcher, which ends what an earlier daemon left, and
// the supervisor over it.
func (d *daemon) openLauncher() error {
	c := d.config.Daemon
	bundles, err := supervisor.NewBundles(filepath.Join(c.StateDir, "bundles"), c.ProfilesDir, &d.config.Ceiling)
	if err != nil {
		return err
	}
	d.bundles = bundles
	cache := filepath.Join(c.StateDir, "filters")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return fmt.Errorf("cannot make the cache of filters: %w", err)
	}
	launcher, err := launch.New(launch.Config{
		CgroupRoot: c.CgroupRoot, UIDBase: c.UIDBase, UIDCount: c.UIDCount, RuntimeDir: c.RuntimeDir,
		Form:       setForm,
		Compile:    seccomp.NewCache(cache, compile.Compile, compile.Version()).Program,
		Refuses:    bundles.Refuses,
		Continuity: launch.Continuity{Grace: time.Duration(d.config.Continuity.Grace), Socket: c.keeperSocket()},
		Ready:      readyStarts, ReadyFails: d.readyFails, Templates: keptTemplates,
		Begun: startsBegin, Settled: startsSettled,
	})
	if err != nil {
		return err
	}
	rules, err := d.config.Evidence.rules()
	if err != nil {
		return errors.Join(err, launcher.Close())
	}
	flags, err := d.config.flags()
	if err != nil {
		return errors.Join(err, launcher.Close())
	}
	served, metrics, err := d.newBroker()
	if err != nil {
		return errors.Join(err, launcher.Close())
	}
	d.supervisor, err = supervisor.New(supervisor.Config{
		Broker: served, Metrics: metrics.Values, Functions: d.functions,
		StateDir: c.StateDir, Store: d.store, Audit: d.audit, Launcher: supervisor.WithLauncher(launcher),
		Source: bundles, Connector: supervisor.IPC{Version: version(), Logger: d.log}, UIDBase: c.UIDBase, Boot: bootID(), Logger: d.log,
		Evidence: rules, Flags: flags, Reload: d.reload, Upgrade: d.upgrade, Clock: hostClock{},
	})
	if err != nil {
		return errors.Join(err, launcher.Close())
	}
	return nil
}

// bootID is the kernel's id of this boot; proc(5).
func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// hostClock tells the time by now.
type hostClock struct{ supervisor.SystemClock }

// Now implements supervisor.Clock.
func (hostClock) Now() time.Time { return now() }

// newBroker makes what serves capabilities to plugins.
func (d *daemon) newBroker() (*broker.Broker, *metric.Store, error) {
	stores, err := kv.Open(filepath.Join(d.config.Daemon.StateDir, "kv"))
	if err != nil {
		return nil, nil, err
	}
	secrets, err := d.config.secrets()
	if err != nil {
		return nil, nil, err
	}
	d.secrets.Store(&secrets)
	metrics := metric.NewStore()
	d.functions = host.NewFunctions()
	sockets, err := d.ownDirectory("net")
	if err != nil {
		return nil, nil, err
	}
	b, err := broker.New(hostClock{}, d.audit, broker.Catalogue(broker.Host{
		Stores: stores, Metrics: metrics, Run: sockets, Functions: d.functions,
		Secrets: func(name string) (secret.Source, bool) {
			s, ok := (*d.secrets.Load())[name]
			return s, ok
		},
	}))
	return b, metrics, err
}

// ownDirectory makes an empty directory in the runtime directory that root alone
// can enter. What an earlier daemon left in it leads nowhere any more.
func (d *daemon) ownDirectory(name string) (string, error) {
	dir := filepath.Join(d.config.Daemon.RuntimeDir, name)
	return dir, errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700))
}

func (d *daemon) serveControl() error {
	rules, err := d.config.roles()
	if err != nil {
		return err
	}
	d.server = control.NewServer(d.supervisor, d.group(), d.log)
	d.server.SetRules(rules)
	d.later(func() error { d.server.Close(); return nil })
	go d.server.Serve(d.socket.UnixListener)
	return nil
}

// serve waits for signals until the daemon is told to end, and stops the
// plugins: gracefully, or at once after a second signal.
func (d *daemon) serve(signals <-chan os.Signal) {
	for s := range signals {
		if s == syscall.SIGHUP {
			if _, err := d.reload(context.Background(), "daemon"); err != nil {
				d.log.Error("cannot reload: what held before holds on", "err", err)
			}
			continue
		}
		d.log.Info("stopping", "signal", s.String())
		break
	}
	d.notify("STOPPING=1")
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	go func() {
		for s := range signals {
			if s != syscall.SIGHUP {
				d.log.Warn("killing everything", "signal", s.String())
				cancel()
			}
		}
	}()
	d.stop(ctx)
}

// stop ends the plugins. The control socket answers until they have ended.
func (d *daemon) stop(ctx context.Context) {
	if err := d.supervisor.Close(ctx); err != nil {
		d.later(func() error { return fmt.Errorf("cannot stop cleanly: %w", err) })
	}
	d.auditEvent("daemon-stopped", "daemon", "cordond ended")
}

// reload reads [ceiling], [evidence], [[secret]] and the profiles of what runs
// anew, for by. The rest of the file holds from the next start.
func (d *daemon) reload(ctx context.Context, by string) (out control.Reloaded, err error) {
	c, _, err := loadConfig(d.options.configFile, d.options.explicit)
	if err != nil {
		return out, err
	}
	rules, err := c.Evidence.rules()
	if err != nil {
		return out, err
	}
	secrets, err := c.secrets()
	if err != nil {
		return out, err
	}
	roles, err := c.roles()
	if err != nil {
		return out, err
	}
	flags, err := c.flags()
	if err != nil {
		return out, err
	}
	out.Daemon = d.config.Daemon.changed(c.Daemon)
	d.server.SetRules(roles)
	d.bundles.SetCeiling(&c.Ceiling)
	d.supervisor.SetEvidenceRules(rules)
	d.secrets.Store(&secrets)
	d.supervisor.RenewGrants()
	d.supervisor.SetFlags(ctx, flags, by)
	d.auditEvent("daemon-reloaded", by, "[ceiling], [evidence], the roles, the flags and the profiles of what runs were read anew")
	out.Plugins = d.supervisor.Adjust(ctx, by)
	d.log.Info("reloaded", "file", d.options.configFile, "after_a_start_of_cordond", out.Daemon)
	for _, p := range out.Plugins {
		d.log.Info("reloaded", "plugin", p.Name, "changed", p.Changed, "after_a_restart", p.Restart, "err", p.Error)
	}
	return out, nil
}

func (d *daemon) auditEvent(kind, by, text string) {
	if _, err := d.audit.Append(control.Event{Kind: kind, Actor: by, Text: text}); err != nil {
		d.log.Error("cannot write the audit log", "err", err)
	}
}

// notify tells the service manager, if there is one; sd_notify(3).
func (d *daemon) notify(state string) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err == nil {
		_, err = c.Write([]byte(state))
		err = errors.Join(err, c.Close())
	}
	if err != nil {
		d.log.Warn("cannot notify the service manager", "err", err)
	}
}
