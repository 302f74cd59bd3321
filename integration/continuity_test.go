package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/audit"
	"github.com/cordonhq/cordon/supervisor/control"
)

// continuityRounds is how many kills and how many upgrades are a part of every
// test run; make continuity has ten times as many.
const continuityRounds = 10

// socketProgram speaks the plugin's socket: it answers the hello and every call,
// a "slow" one after a while, and has asked its host something before.
const socketProgram = `#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static char line[1 << 20], out[4096];
static void all(char *at, size_t n, int in) {
	while (n > 0) {
		ssize_t got = in ? read(3, at, n) : write(3, at, n);
		if (got <= 0) exit(0);
		at += got;
		n -= got;
	}
}
int main(void) {
	for (;;) {
		unsigned char head[4];
		all((char *)head, 4, 1);
		size_t n = (size_t)head[1] << 16 | head[2] << 8 | head[3];
		all(line, n, 1);
		line[n] = 0;
		char *id = strstr(line, "\"id\":");
		if (!id || strstr(line, "$/cancelRequest")) continue;
		id += 5;
		id[strcspn(id, ",}")] = 0;
		const char *rest = line + strlen(line) + 1;
		if (strstr(rest, "\"slow\"")) usleep(100000);
		n = (size_t)snprintf(out + 4, sizeof out - 4, "{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"api\":1,\"pid\":%d}}", id, getpid());
		out[0] = out[1] = 0;
		out[2] = (char)(n >> 8);
		out[3] = (char)n;
		all(out, n + 4, 0);
	}
}
`

// lastingPlugins are one on a socket and one on stdio.
var lastingPlugins = []string{"on-socket", "on-stdio"}

func continuityDaemon(t *testing.T) *daemon {
	t.Helper()
	d := startDaemon(t)
	for name, p := range map[string][2]string{"on-socket": {"cordon", socketProgram}, "on-stdio": {"jsonrpc", chaosProgram}} {
		dir := bundle(t, name, p[0], map[string]string{"main.c": p[1]}, "./main")
		if out, err := exec.Command("gcc", "-O1", "-static", "-o", dir+"/main", dir+"/main.c").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		d.must("install", dir, "--profile", "builtin:static")
		d.must("start", name)
	}
	return d
}

func (d *daemon) pids() map[string]int {
	d.t.Helper()
	var list []control.Status
	d.json(&list, "ps")
	pids := map[string]int{}
	for _, s := range list {
		if s.State == control.Running {
			pids[s.Name] = s.PID
		}
	}
	return pids
}

// callers calls plugins until it is told to end, each caller over connections of
// its own, and notes how that went.
type callers struct {
	socket string
	ctx    context.Context //nolint:containedctx // of the callers' own life
	cancel context.CancelFunc
	wait   sync.WaitGroup
	made   atomic.Int64

	mu     sync.Mutex
	failed []failedCall
}

// failedCall is a call that failed, and when it was made.
type failedCall struct {
	name string
	at   time.Time
	err  error
}

func (d *daemon) callers(n int, method string) *callers {
	c := &callers{socket: d.dir + "/run/cordon.sock"}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for i := range n {
		c.wait.Go(func() { c.work(lastingPlugins[i%len(lastingPlugins)], method) })
	}
	return c
}

func (c *callers) work(name, method string) {
	var client *control.Client
	defer func() {
		if client != nil {
			_ = client.Close()
		}
	}()
	for c.ctx.Err() == nil {
		if client == nil || client.Ended() {
			if client != nil {
				_ = client.Close()
			}
			var err error
			if client, err = control.Dial(c.ctx, c.socket); err != nil { // between two daemons: nothing was called
				client = nil
				<-time.After(time.Millisecond)
				continue
			}
		}
		began := time.Now()
		_, err := client.CallPlugin(c.ctx, control.CallParams{Name: name, Method: method, Timeout: time.Minute})
		c.made.Add(1)
		if err != nil && c.ctx.Err() == nil {
			c.mu.Lock()
			c.failed = append(c.failed, failedCall{name, began, err})
			c.mu.Unlock()
		}
	}
}

// after waits for so many calls more.
func (c *callers) after(t *testing.T, n int64) {
	t.Helper()
	from := c.made.Load()
	eventually(t, "calls are made", func() bool { return c.made.Load() >= from+n })
}

func (c *callers) end() []failedCall {
	c.cancel()
	c.wait.Wait()
	return c.failed
}

// TestPluginsOutliveKilledDaemons kills the daemon again and again under load:
// plugins keep their processes, and only calls in flight fail, with one code.
func TestPluginsOutliveKilledDaemons(t *testing.T) {
	rounds := chaosNumber(t, "CORDON_CONTINUITY_ROUNDS", continuityRounds)
	d := continuityDaemon(t)
	before := d.pids()
	const callersAtOnce = 4
	for round := range rounds {
		load := d.callers(callersAtOnce, "ping")
		load.after(t, 10)
		d.kill()
		began := time.Now()
		d.start()
		back := time.Now() // until then nobody could answer a call, whatever its caller had noticed
		took := back.Sub(began)
		load.after(t, 10)
		failed := load.end()
		for _, f := range failed {
			var e *control.Error
			if f.at.After(back) || !errors.As(f.err, &e) || e.Code != ipc.CodePluginGone {
				t.Errorf("round %d: a call of %s, made %v before the next daemon answered, is not one in flight: %v", round, f.name, back.Sub(f.at), f.err)
			}
		}
		if now := d.pids(); fmt.Sprint(now) != fmt.Sprint(before) {
			t.Fatalf("round %d: the processes were %v and are %v\n%s", round, before, now, d.log)
		}
		t.Logf("round %d: %d calls failed, the next daemon answered after %v", round, len(failed), took)
	}
	if _, err := audit.VerifyFiles(d.dir+"/state/audit.jsonl", ""); err != nil {
		t.Error(err)
	}
}

// TestNobodyComesForKeptPlugins: without another daemon they end, in time. One that
// comes later in the same boot starts them anew.
func TestNobodyComesForKeptPlugins(t *testing.T) {
	d := newDaemon(t)
	d.configure("[continuity]\ngrace = \"1s\"\n")
	d.start()
	d.must("install", staticPlugin(t), "--profile", "builtin:static")
	d.must("start", "static")
	before := d.pids()["static"]
	d.kill()
	eventually(t, "nothing of the killed daemon is left", func() bool { return len(leftovers(d.root)) == 0 })
	d.start()
	d.eventually("it runs again", func() bool { return d.pids()["static"] != 0 })
	if now := d.pids()["static"]; now == before {
		t.Errorf("it is still the process %d", now)
	}
	d.stop()
}

// TestContainedStaysContained: a plugin that stood still when its daemon was
// killed, before that could write down why, is quarantined by the next.
func TestContainedStaysContained(t *testing.T) {
	d := continuityDaemon(t)
	pid := d.pids()["on-stdio"]
	d.kill()
	freeze(t, pid)
	d.start()
	d.quarantined("on-stdio")
	if now := d.pids(); now["on-socket"] == 0 {
		t.Errorf("the other one does not run: %v", now)
	}
	eventually(t, "the quarantined one has ended", func() bool { return syscall.Kill(pid, 0) != nil })
}

// TestOnlyWhatWouldRunIsGoneOnWith: a profile that changed while no daemon was
// there has its plugin started anew, under what it says now; the others run on.
func TestOnlyWhatWouldRunIsGoneOnWith(t *testing.T) {
	d := continuityDaemon(t)
	d.profile("mine", "extends = [\"builtin:static\"]\n")
	d.must("install", staticPlugin(t), "--profile", "mine")
	d.must("start", "static")
	before := d.pids()
	d.kill()
	d.profile("mine", "extends = [\"builtin:static\"]\n[resources]\npids.max = 7\n")
	d.start()
	d.eventually("it runs under what its profile says now", func() bool {
		var i control.Inspection
		d.json(&i, "inspect", "static")
		return i.Status.State == control.Running && i.Status.PID != before["static"] && i.Plan != nil && i.Plan.Limits.PidsMax != nil && *i.Plan.Limits.PidsMax == 7
	})
	for _, name := range lastingPlugins {
		if now := d.pids()[name]; now != before[name] {
			t.Errorf("%s was process %d and is %d", name, before[name], now)
		}
	}
	eventually(t, "what ran before has ended", func() bool { return syscall.Kill(before["static"], 0) != nil })
}

// freeze freezes the group of a process, as its daemon would have.
func freeze(t *testing.T, pid int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
			if err = os.WriteFile(filepath.Join(root, path, "cgroup.freeze"), []byte("1"), 0); err == nil {
				return
			}
		}
	}
	t.Fatalf("cannot freeze: %v", err)
}

// configure adds to the configuration of a daemon that is not started yet.
func (d *daemon) configure(text string) {
	d.t.Helper()
	file := d.dir + "/cordond.toml"
	now, err := os.ReadFile(file)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(file, append(now, text...), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// upgrade has the running daemon become program.
func (d *daemon) upgrade(program string) (string, error) {
	d.t.Helper()
	out, err := exec.Command(program, "--config", d.dir+"/cordond.toml", "--upgrade").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return string(out), nil
}

// TestUpgradesFailNoCall has the daemon become another program again and again
// under load: plugins and the daemon keep their processes, and no call fails.
func TestUpgradesFailNoCall(t *testing.T) {
	rounds := chaosNumber(t, "CORDON_CONTINUITY_ROUNDS", continuityRounds)
	d := continuityDaemon(t)
	before := d.pids()
	load := d.callers(4, "ping")
	slow := d.callers(2, "slow")
	for round := range rounds {
		load.after(t, 10)
		began := time.Now()
		out, err := d.upgrade(d.program)
		if err != nil || !strings.Contains(out, "2 plugins run") {
			t.Fatalf("round %d: %q, %v\n%s", round, out, err, d.log)
		}
		t.Logf("round %d: %v", round, time.Since(began))
		if now := d.pids(); fmt.Sprint(now) != fmt.Sprint(before) {
			t.Fatalf("round %d: the processes were %v and are %v\n%s", round, before, now, d.log)
		}
	}
	load.after(t, 10)
	calls := load.made.Load() + slow.made.Load()
	if failed := append(load.end(), slow.end()...); len(failed) > 0 {
		t.Errorf("%d of %d calls failed: %v\n%s", len(failed), calls, failed, d.log)
	}
	t.Logf("%d calls, none failed", calls)
	if _, err := audit.VerifyFiles(d.dir+"/state/audit.jsonl", ""); err != nil {
		t.Error(err)
	}
}

// TestUpgradeThatCannotBe: what is no cordond, is of other forms, or is somebody
// else's is refused, and the daemon that runs goes on.
func TestUpgradeThatCannotBe(t *testing.T) {
	d := continuityDaemon(t)
	before, pid := d.pids(), d.cmd.Process.Pid
	client, err := control.Dial(t.Context(), d.dir+"/run/cordon.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	script := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(d.dir, name)
		if err := errors.Join(os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open := filepath.Join(d.dir, "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ program, want string }{
		{filepath.Join(d.dir, "none"), "no such file"},
		{script("other", "exit 3", 0o755), "exit status 3"},
		{script("later", `echo '{"keeper":1000,"book":1,"state":1}'`, 0o755), "of the forms"},
		{script("anybodys", "exit 0", 0o777), "can be changed by others"},
		{script("open/there", "exit 0", 0o755), "can be changed by others"},
		{d.dir, "is a link, or no file"},
	} {
		err := client.Call(t.Context(), control.MethodUpgrade, control.UpgradeParams{Program: c.program}, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.program, err, c.want)
		}
	}
	// One that fits and cannot be executed after all: the daemon has stood still.
	flighty := script("flighty", `if [ "$1" = can-succeed ]; then rm -- "$0"; exec `+d.program+` can-succeed; fi`, 0o755)
	if err := client.Call(t.Context(), control.MethodUpgrade, control.UpgradeParams{Program: flighty}, nil); err == nil || !strings.Contains(err.Error(), "cannot execute") {
		t.Errorf("%s: got %v", flighty, err)
	}
	for _, name := range lastingPlugins {
		d.must("call", name, "ping")
	}
	if now := d.pids(); fmt.Sprint(now) != fmt.Sprint(before) || d.cmd.Process.Pid != pid {
		t.Errorf("the processes were %v and are %v", before, now)
	}
}

// starts counts the times that the audit log says a plugin was started.
func (d *daemon) starts(name string) (n int) {
	d.t.Helper()
	if _, err := audit.Read(d.dir+"/state/audit.jsonl", "", func(e control.Event) {
		if e.Plugin == name && e.Kind == "starting" {
			n++
		}
	}); err != nil {
		d.t.Fatal(err)
	}
	return n
}

// TestBothKilledInOneBoot: what ran when daemon and keeper were killed is started
// again by the next daemon of the same boot, enabled or not, as systemd does with
// units; what an operator had stopped is not.
func TestBothKilledInOneBoot(t *testing.T) {
	d := continuityDaemon(t)
	d.must("install", staticPlugin(t), "--profile", "builtin:static")
	d.must("start", "static")
	d.must("stop", "static")
	before := d.pids()
	tree := below(d.cmd.Process.Pid)
	_ = syscall.Kill(d.cmd.Process.Pid, syscall.SIGSTOP) // or it would see the other go
	for _, p := range tree {
		if p.name == "cordon-keeper" {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	d.kill()
	d.start()
	eventually(t, "what ran before has ended", func() bool {
		return !slices.ContainsFunc(processes(), func(p process) bool {
			return slices.ContainsFunc(tree, func(old process) bool { return old.pid == p.pid && old.name == p.name })
		})
	})
	d.eventually("what ran runs again", func() bool { return len(d.pids()) == len(lastingPlugins) })
	for name, pid := range d.pids() {
		if pid == before[name] || name == "static" {
			t.Errorf("%s was process %d and is %d", name, before[name], pid)
		}
	}
	var i control.Inspection
	d.json(&i, "inspect", "on-stdio")
	if i.Status.Restarts != 1 {
		t.Errorf("it counts %d restarts", i.Status.Restarts)
	}
}

// TestWhatWasMissedIsMadeUpFor: a plugin that ended while there was no daemon is
// started again where its profile says so, and so is one that waited to be.
func TestWhatWasMissedIsMadeUpFor(t *testing.T) {
	d := continuityDaemon(t)
	d.profile("once", "extends = [\"builtin:static\"]\n[lifecycle]\nrestart = \"no\"\n")
	d.must("install", staticPlugin(t), "--profile", "once")
	d.must("start", "static")
	d.profile("later", "extends = [\"builtin:static\"]\n[lifecycle]\nrestart = \"always\"\nrestart_sec = \"1h\"\nrestart_max_delay_sec = \"1h\"\n")
	dir := bundle(t, "brief", "jsonrpc", map[string]string{"main.c": "int main(void) { return 1; }\n"}, "./main")
	if out, err := exec.Command("gcc", "-O1", "-static", "-o", dir+"/main", dir+"/main.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.must("install", dir, "--profile", "later")
	_, _ = d.cordon("start", "brief") // it ends at once
	state := func(name string) control.State {
		var i control.Inspection
		d.json(&i, "inspect", name)
		return i.Status.State
	}
	waits := func() bool { return state("brief") == control.Backoff }
	d.eventually("it waits to be restarted", waits)
	before, starts := d.pids(), d.starts("brief")
	d.kill()
	for _, name := range []string{"on-stdio", "static"} {
		if err := syscall.Kill(before[name], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, name+" has ended", func() bool { return syscall.Kill(before[name], 0) != nil })
	}
	d.start()
	d.eventually("what ended runs again", func() bool {
		now := d.pids()
		return now["on-stdio"] != 0 && now["on-stdio"] != before["on-stdio"] && now["on-socket"] == before["on-socket"]
	})
	d.eventually("what waited was started", func() bool { return d.starts("brief") > starts && waits() })
	if s := state("static"); s != control.Stopped && s != control.Failed {
		t.Errorf("what was to run once is %s", s)
	}
	starts = d.starts("brief")
	if out, err := d.upgrade(d.program); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.eventually("what waited was started after an upgrade", func() bool { return d.starts("brief") > starts })
}

// TestBudgetsCountOn: what a plugin has done against its budget before its daemon
// was upgraded counts.
func TestBudgetsCountOn(t *testing.T) {
	d := startDaemon(t)
	d.profile("strict", "extends = [\"builtin:static\"]\n[violation]\nseccomp = { action = \"deny\", budget = \"3/h\", then = \"quarantine\" }\n")
	dir := bundle(t, "wild", "jsonrpc", map[string]string{"main.c": chaosProgram}, "./main")
	if out, err := exec.Command("gcc", "-O1", "-static", "-o", dir+"/main", dir+"/main.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.must("install", dir, "--profile", "strict")
	d.must("start", "wild")
	pid := d.pids()["wild"]
	violations := func() int {
		var now control.Inspection
		d.json(&now, "inspect", "wild")
		return len(now.Violations)
	}
	attack := func() {
		t.Helper()
		before := violations()
		d.must("call", "wild", "attack")
		d.eventually("the attack is counted", func() bool { return violations() == before+1 })
	}
	attack()
	if out, err := d.upgrade(d.program); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	attack()
	if out, err := d.upgrade(d.program); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	attack()
	if now := d.pids()["wild"]; now != pid {
		t.Fatalf("it was process %d and is %d", pid, now)
	}
	if _, err := d.cordon("call", "wild", "attack"); err == nil {
		t.Error("the fourth attack was answered")
	}
	d.quarantined("wild")
}

// TestDegradedStaysDegraded: what a plugin owes of its objective is owed when its
// daemon was killed, and when it was upgraded.
func TestDegradedStaysDegraded(t *testing.T) {
	d := continuityDaemon(t)
	d.profile("promises", "extends = [\"builtin:static\"]\n[slo]\nobjective = \"90%\"\nlatency = \"1ms\"\nmin_calls = 5\nburn_rate = 2\nessential = [\"ping\"]\n")
	dir := bundle(t, "slow", "cordon", map[string]string{"main.c": socketProgram}, "./main")
	if out, err := exec.Command("gcc", "-O1", "-static", "-o", dir+"/main", dir+"/main.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.must("install", dir, "--profile", "promises")
	d.must("start", "slow")
	pid := d.pids()["slow"]
	for range 5 {
		d.must("call", "slow", "slow")
	}
	degraded := func(when string) {
		t.Helper()
		var i control.Inspection
		d.json(&i, "inspect", "slow")
		if i.Status.Degraded == nil || i.Status.Objective == nil || i.Status.Objective.Bad < 5 || i.Status.PID != pid {
			t.Errorf("%s: %+v, %+v, process %d after %d", when, i.Status.Degraded, i.Status.Objective, i.Status.PID, pid)
		}
		if _, err := d.cordon("call", "slow", "slow"); err == nil || !strings.Contains(err.Error(), "it is degraded, and serves only ping") {
			t.Errorf("%s it was called: %v", when, err)
		}
	}
	degraded("at first")
	d.kill()
	d.start()
	degraded("after a kill")
	if out, err := d.upgrade(d.program); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	degraded("after an upgrade")
}
