// Command quotas measures what plugins that attack their quotas cost others: the
// latency of a neighbour's calls and the daemon's memory; and how long it takes
// from the kernel's OOM kill until the violation is on the disk, beside the
// kernel's own report of the kill and a bare fsync. make bench-quotas runs it,
// as root, from the top of the checkout.
//
// Quiet and attacked windows take turns, so that whatever else the machine does
// meets both alike. A line for each figure says
//
//	figure NAME VALUE TARGET ok|short
//
// with "-" for a figure that has no target. It ends with 1 if one is short.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cordonhq/cordon/integration/bench/machine"
	"github.com/cordonhq/cordon/supervisor/control"
)

func main() {
	kills := flag.Int("kills", 40, "OOM kills to measure")
	calls := flag.Int("calls", 500, "calls of a window")
	rounds := flag.Int("rounds", 12, "windows of each kind for each attack")
	only := flag.String("attack", "", "attacks to measure, by name, separated by commas, and no OOM kills; default: everything")
	bin := flag.String("bin", "bin", "where cordond is")
	console := flag.Bool("console", false, "let the kernel print its reports of kills on the console")
	flag.Parse()
	// The daemon dies with the thread that started it (Pdeathsig).
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b := &bench{out: os.Stdout, kills: *kills, calls: *calls, rounds: *rounds, console: *console}
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	if err := b.run(ctx, *bin); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "cannot measure:", err)
		os.Exit(1)
	}
}

// errShort says that a figure misses its target.
var errShort = errors.New("a figure is short of its target")

type bench struct {
	out                  io.Writer
	kills, calls, rounds int
	only                 []string // attacks; nil for all, and OOM kills
	console              bool     // leave the console as it is
	short                bool

	dir    string
	daemon *exec.Cmd
	client *control.Client
	saved  chan time.Time // when the daemon's log said that a quarantine is saved
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }

// figure prints one; target 0 is none. Less is better.
func (b *bench) figure(name string, value, target float64) {
	verdict, want := "ok", "-"
	if target != 0 {
		want = fmt.Sprintf("%.2f", target)
		if value > target {
			verdict, b.short = "short", true
		}
	}
	fmt.Fprintf(b.out, "figure %s %.3f %s %s\n", name, value, want, verdict)
}

func (b *bench) run(ctx context.Context, bin string) (err error) {
	if err := b.known(); err != nil {
		return err
	}
	b.say("machine: %s", machine.Name())
	b.say("counts: %d OOM kills; %d windows of %d calls quiet and as many attacked, for each attack, in turns", b.kills, b.rounds, b.calls)
	if !b.console {
		restore, err := quietConsole()
		if err != nil {
			return err
		}
		defer restore()
		b.say("console: the kernel prints no report of a kill there meanwhile (-console lets it)")
	}
	if b.dir, err = os.MkdirTemp("", "cordon-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.start(ctx, bin); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	began := machine.Now()
	if b.only == nil {
		if err := b.oomKills(ctx); err != nil {
			return err
		}
	}
	if err := b.neighbours(ctx); err != nil {
		return err
	}
	b.say("%s", machine.Now().Since(began))
	if b.short {
		return errShort
	}
	return nil
}

// printk is what of the kernel's log goes to the console, in its first number;
// Documentation/admin-guide/sysctl/kernel.rst.
const printk = "/proc/sys/kernel/printk"

// quietConsole keeps reports of kills from the console until restore. A serial
// one takes some milliseconds for a line, in which the processor that prints it
// does nothing else: that would be measured in place of what an attack costs.
// The log has them all the same.
func quietConsole() (restore func(), err error) {
	before, err := os.ReadFile(printk)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(printk, []byte("1"), 0o600); err != nil {
		return nil, fmt.Errorf("cannot keep the kernel's reports from the console: %w", err)
	}
	level, _, _ := strings.Cut(strings.TrimSpace(string(before)), "\t")
	return func() { _ = os.WriteFile(printk, []byte(level), 0o600) }, nil
}

// start runs a daemon with directories of its own.
func (b *bench) start(ctx context.Context, bin string) error {
	config := fmt.Sprintf("[daemon]\nstate_dir = %q\nruntime_dir = %q\nprofiles_dir = %q\ncgroup_root = \"cordon-it-bench-%d\"\nuid_base = %d\nuid_count = 4096\nlog_format = \"json\"\n",
		b.dir+"/state", b.dir+"/run", b.dir+"/profiles", os.Getpid(), 1950000000)
	if err := errors.Join(os.Chmod(b.dir, 0o755), os.WriteFile(b.dir+"/cordond.toml", []byte(config), 0o600), os.Mkdir(b.dir+"/profiles", 0o755)); err != nil {
		return err
	}
	b.daemon = exec.Command(bin+"/cordond", "--config", b.dir+"/cordond.toml")
	b.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	log, err := b.daemon.StderrPipe()
	if err != nil {
		return err
	}
	if err := b.daemon.Start(); err != nil {
		return fmt.Errorf("%w (make build)", err)
	}
	ready := make(chan struct{})
	b.saved = make(chan time.Time, 64)
	go b.readLog(log, ready)
	select {
	case <-ready:
	case <-time.After(time.Minute):
		return errors.New("the daemon does not come up")
	case <-ctx.Done():
		return ctx.Err()
	}
	b.client, err = control.Dial(ctx, b.dir+"/run/cordon.sock")
	return err
}

// readLog notes when the daemon says something, and shows its complaints.
func (b *bench) readLog(log io.Reader, ready chan struct{}) {
	for s := bufio.NewScanner(log); s.Scan(); {
		now, line := time.Now(), s.Text()
		switch {
		case strings.Contains(line, `"msg":"the quarantine is saved"`):
			b.saved <- now
		case strings.Contains(line, `"msg":"ready"`):
			close(ready)
		case strings.Contains(line, `"level":"ERROR"`):
			b.say("the daemon says: %s", line)
		}
	}
}

func (b *bench) stop() error {
	if b.client != nil {
		_ = b.client.Close()
	}
	_ = b.daemon.Process.Signal(syscall.SIGTERM)
	return b.daemon.Wait()
}

const profile = `extends = ["builtin:%s"]
[resources]
memory.max = "48M"
pids.max = 24
cpu.max = "50%%"
rlimit.nofile = 200
[tmp]
size = "128M"
[data]
size = "8M"
inodes = 300
[violation]
seccomp = "deny"
memory = %q
pids = %[2]q
[lifecycle]
restart = "always"
restart_sec = "50ms"
start_limit_burst = 10000
`

// prepare installs the neighbour and the plugins that attack.
func (b *bench) prepare(ctx context.Context) error {
	bundle := b.dir + "/abuse"
	manifest := "schema = 1\n[plugin]\nname = \"abuse\"\nversion = \"1.0.0\"\nexec = [\"./abuse\"]\nprotocol = \"jsonrpc\"\n"
	if err := errors.Join(os.Mkdir(bundle, 0o755), os.WriteFile(bundle+"/plugin.toml", []byte(manifest), 0o600),
		os.WriteFile(b.dir+"/profiles/once.toml", fmt.Appendf(nil, profile, "static", "quarantine"), 0o600),
		os.WriteFile(b.dir+"/profiles/on.toml", fmt.Appendf(nil, profile, "static", "log"), 0o600)); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "gcc", "-static", "-O1", "-o", bundle+"/abuse", "integration/testdata/abuse/abuse.c").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the attacks: %w: %s", err, out)
	}
	for name, profile := range map[string]string{"neighbour": "builtin:static", "once": b.dir + "/profiles/once.toml", "attacker": b.dir + "/profiles/on.toml"} {
		if _, err := b.client.Install(ctx, control.InstallParams{Dir: bundle, As: name, Profile: profile}); err != nil {
			return err
		}
	}
	if err := b.installStress(ctx); err != nil {
		return err
	}
	_, err := b.client.Start(ctx, "neighbour")
	return err
}

// begin has an attack at work until end.
func (b *bench) begin(ctx context.Context, name string) (end func() error, err error) {
	plugin := "attacker"
	if _, isStress := stress[name]; isStress {
		plugin = name
	}
	if _, err := b.client.Start(ctx, plugin); err != nil {
		return nil, err
	}
	end = func() error {
		_, err := b.client.Stop(ctx, plugin)
		return err
	}
	if plugin == name {
		return end, b.awaitStress(ctx)
	}
	b.attack(ctx, plugin, name)
	return end, nil
}

// attack has a running plugin attack; it never answers.
func (b *bench) attack(ctx context.Context, plugin, name string) {
	_, _ = b.client.CallPlugin(ctx, control.CallParams{Name: plugin, Method: name, Params: json.RawMessage("{}"), Timeout: time.Millisecond})
}

// neighbours measures a neighbour's calls while each attack is at work.
func (b *bench) neighbours(ctx context.Context) error {
	var before, most int64
	var err error
	for _, name := range b.wanted() {
		var quiet, attacked []time.Duration
		for range b.rounds {
			if err := b.window(ctx, &quiet); err != nil {
				return err
			}
			end, err := b.begin(ctx, name)
			if err != nil {
				return err
			}
			if err := errors.Join(b.window(ctx, &attacked), end()); err != nil {
				return err
			}
		}
		b.say("%s: a neighbour's call takes p50 %v, p99 %v quiet; p50 %v, p99 %v attacked", name,
			quantile(quiet, 0.5), quantile(quiet, 0.99), quantile(attacked, 0.5), quantile(attacked, 0.99))
		b.figure("neighbour_p99_ratio_"+name, float64(quantile(attacked, 0.99))/float64(quantile(quiet, 0.99)), 3)
		if before == 0 { // by now everything has run once
			if before, err = b.atRest(ctx); err != nil {
				return err
			}
		}
		most = max(most, b.resident())
	}
	after, err := b.atRest(ctx)
	if err != nil {
		return err
	}
	b.say("the daemon: %d KiB at rest behind the first attack, %d KiB behind the last, %d KiB at most behind one", before>>10, after>>10, most>>10)
	b.figure("daemon_growth_mib", float64(after-before)/(1<<20), 8)
	return nil
}

// restTime is how long the daemon's memory has to stay as it is to be at rest: it
// gives back what it does not need some time after it has become calm.
const restTime = 15 * time.Second

// atRest is the daemon's memory once it changes no more, in bytes.
func (b *bench) atRest(ctx context.Context) (int64, error) {
	const most = 8
	now := b.resident()
	for range most {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(restTime):
		}
		last := now
		if now = b.resident(); max(now-last, last-now) < 256<<10 {
			return now, nil
		}
	}
	return 0, fmt.Errorf("the daemon's memory is not at rest %v behind an attack", most*restTime)
}

// window makes a window's calls, one after another.
func (b *bench) window(ctx context.Context, took *[]time.Duration) error {
	for range b.calls {
		began := time.Now()
		_, err := b.client.CallPlugin(ctx, control.CallParams{Name: "neighbour", Method: "ping", Params: json.RawMessage("{}"), Timeout: time.Minute})
		if err != nil {
			return err
		}
		*took = append(*took, time.Since(began))
	}
	return nil
}

// resident is the daemon's memory in bytes.
func (b *bench) resident() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.daemon.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	return 0
}

// quantile gives the smallest sample that so large a part does not exceed.
func quantile(samples []time.Duration, part float64) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[min(len(sorted)-1, int(part*float64(len(sorted))))]
}

// bareFsync is one small write to the disk that the state lives on.
func (b *bench) bareFsync() (time.Duration, error) {
	f, err := os.OpenFile(filepath.Join(b.dir, "fsync"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	began := time.Now()
	_, err = f.WriteAt(make([]byte, 4096), 0)
	err = errors.Join(err, f.Sync())
	return time.Since(began), err
}
