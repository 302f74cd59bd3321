package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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

// chaosPoints is how many points are a part of every test run; make chaos has
// ten times as many.
const chaosPoints = 200

// The plugins of the chaos; only the last one is ever told to attack.
var chaosPlugins = []string{"calm-0", "calm-1", "wild"}

// chaosProgram answers every line with a result; it attacks at once or soon after
// its answer, answers in two halves, or dozes before it reads on, as the line says.
const chaosProgram = `#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>
static char line[65536];
int main(void) {
	while (fgets(line, sizeof line, stdin)) {
		char *id = strstr(line, "\"id\":");
		int soon = strstr(line, "\"soon\"") != 0, half = strstr(line, "\"half\"") != 0;
		if (strstr(line, "\"attack\"")) mount("none", "/tmp", "tmpfs", 0, 0);
		if (strstr(line, "\"doze\"")) usleep(20000);
		if (!id || strstr(line, "$/cancelRequest")) continue;
		id += 5;
		id[strcspn(id, ",}\n")] = 0;
		printf("{\"jsonrpc\":\"2.0\",\"id\":");
		if (half) {
			fflush(stdout);
			usleep(5000);
		}
		printf("%s,\"result\":1}\n", id);
		fflush(stdout);
		if (soon) {
			usleep(3000);
			mount("none", "/tmp", "tmpfs", 0, 0);
		}
	}
	return 0;
}
`

// chaos is one run: a daemon under load to which one thing after another happens.
type chaos struct {
	*daemon
	rand  *rand.Rand
	point int
	disk  string // the state directory, as seen from here
	held  map[string]bool
	read  int64 // how much of the audit log was read
	seen  map[string]int
	last  string   // kind of point
	kinds []string // of points, that can be had here
	clock string   // the file that moves the daemon's clock, empty for none
	moved int64    // by so many seconds
	// adopted counts the plugins that a daemon went on with; fds what one holds
	// when nothing runs.
	adopted, fds int
	// swapped counts the processes that took another's place.
	swapped int
	// still says that the wild plugin was left standing still by nobody knows whom.
	still bool
}

// chaosPointKinds are what can happen, as often as they stand here. A name of a
// process is that it is killed; the others are in chaos_faults_test.go.
var chaosPointKinds = []string{
	"cordond", "cordond", "cordond", "cordond", "cordon-keeper", "cordon-keeper", "cordon-reaper", "cordon-reaper", "main", "main",
	"torn write", "torn write", "full disk", "no descriptors", "clock jump", "clock jump", "taken call", "taken call", "half a frame in", "half a frame out",
	"upgrade", "upgrade", "swap", "swap", "cordond and keeper", "standing still",
}

// TestChaos kills a process of a loaded daemon at a random point, or takes its
// disk or its descriptors away or sets its clock, again and again, and holds after each that every
// quarantine was kept, nothing runs unwatched or twice, the audit log verifies,
// nothing is left, and a fresh start succeeds. CORDON_CHAOS_SEED and CORDON_CHAOS_POINTS replay a run: the
// same kills after the same deeds, though the kernel schedules as it likes.
func TestChaos(t *testing.T) {
	seed := chaosNumber(t, "CORDON_CHAOS_SEED", uint64(time.Now().UnixNano()))
	points := chaosNumber(t, "CORDON_CHAOS_POINTS", chaosPoints)
	t.Logf("replay with CORDON_CHAOS_SEED=%d CORDON_CHAOS_POINTS=%d", seed, points)
	c := newChaos(t, rand.New(rand.NewPCG(seed, 0)), points)
	dir := bundle(t, "chaos", "jsonrpc", map[string]string{"main.c": chaosProgram}, "./main")
	if out, err := exec.Command("gcc", "-O1", "-static", "-o", dir+"/main", dir+"/main.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range chaosPlugins {
		c.must("install", dir, "--as", name, "--profile", "builtin:static")
	}
	c.wake()
	c.rest()
	c.fds = c.descriptors()
	for c.point = range int(points) {
		c.once()
		if c.point%100 == 99 {
			t.Logf("%d points", c.point+1)
		}
		if t.Failed() {
			t.Fatalf("at point %d of CORDON_CHAOS_SEED=%d", c.point, seed)
		}
	}
	t.Logf("what happened: %v; %d times a plugin was gone on with, %d times its process was replaced", c.seen, c.adopted, c.swapped)
	if c.seen["swap"] >= 20 && c.swapped == 0 {
		t.Error("no process ever took another's place")
	}
	if c.seen["cordond"] >= 20 && c.adopted == 0 {
		t.Error("no daemon ever went on with what another left")
	}
	// What the clients asked for last may still be under way; the clean stop that
	// ends the test is of a daemon at rest.
	c.rest()
	c.eventually("the daemon holds no more descriptors than at first", func() bool { return c.descriptors() <= c.fds+chaosSlack })
}

// chaosSlack is how many descriptors more the last daemon may hold at rest than
// the first did: what is made ahead for starts is a matter of the moment.
const chaosSlack = 8

// rest stops every plugin and waits until nothing of them is left.
func (c *chaos) rest() {
	c.t.Helper()
	for _, name := range chaosPlugins {
		c.must("stop", name)
	}
	c.eventually("every plugin has ended", func() bool {
		return len(c.running()) == 0 && !slices.ContainsFunc(processes(), func(p process) bool {
			return p.uid >= uidBase && p.uid < uidBase+uidCount
		})
	})
}

// descriptors is how many the daemon and its keeper hold.
func (c *chaos) descriptors() (n int) {
	c.t.Helper()
	for _, p := range processes() {
		if p.pid == c.cmd.Process.Pid || p.name == "cordon-keeper" && slices.ContainsFunc(below(c.cmd.Process.Pid), func(q process) bool { return q.pid == p.pid }) {
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
			if err != nil {
				c.t.Error(err)
			}
			n += len(open)
		}
	}
	return n
}

func chaosNumber(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// once is one point: bring all up, load, let it happen, look.
func (c *chaos) once() {
	c.t.Helper()
	c.wake()
	kind := c.kinds[c.rand.IntN(len(c.kinds))]
	c.seen[kind]++
	c.last = kind
	deeds, spin := int64(c.rand.IntN(60)), time.Duration(c.rand.IntN(2000))*time.Microsecond
	switch kind {
	case "full disk":
		c.fullDisk(deeds)
	case "no descriptors":
		c.noDescriptors(deeds)
	case "clock jump":
		c.clockJump(deeds)
	case "upgrade":
		c.amidUpgrade(deeds, 100*spin)
	case "swap":
		c.amidSwap(deeds, 20*spin)
	case "cordond and keeper":
		c.bothAtOnce(deeds, spin)
	case "standing still":
		c.standingStill(deeds)
	case "taken call", "half a frame in", "half a frame out":
		c.inTheMiddle(kind, spin)
	default:
		load := c.load()
		load.after(deeds, spin)
		if kind == "cordond" || kind == "torn write" {
			c.kill()
			load.end()
		} else {
			c.killOne(kind)
			load.end()
		}
	}
	if c.cmd == nil {
		if kind == "torn write" {
			c.tear()
		} else {
			c.verifyAudit()
		}
		c.start()
	}
	if c.still {
		c.quarantined("wild")
		c.held["wild"], c.still = true, false
	}
	c.eventually("after "+kind+", what runs is what is watched", c.settled)
	c.verifyAudit()
	c.keptQuarantines()
	c.noStrayFiles()
}

// running are the processes in the daemon's groups. An empty group may be left
// of a killed daemon; the next one sweeps it. What runs in others it goes on
// with, or ends before it answers.
func (c *chaos) running() (pids []int) {
	c.t.Helper()
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" || !strings.Contains(path, "/"+c.root+"/") {
			return nil //nolint:nilerr // groups come and go
		}
		text, _ := os.ReadFile(path)
		for _, word := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	slices.Sort(pids)
	return slices.Compact(pids)
}

// programs are the plugins' own processes among them.
func (c *chaos) programs() (pids []int) {
	c.t.Helper()
	for _, pid := range c.running() {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && string(name) == "main\n" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// wake starts every plugin; a quarantined one is released every other time.
func (c *chaos) wake() {
	c.t.Helper()
	client := c.client()
	defer func() { _ = client.Close() }()
	for _, s := range c.list() {
		if s.State == control.Quarantined {
			if c.rand.IntN(2) == 0 {
				continue
			}
			c.eventually("the quarantined plugin has ended", func() bool {
				_, err := client.Release(c.t.Context(), control.ReleaseParams{Name: s.Name, Reason: "chaos"})
				return err == nil
			})
			c.held[s.Name] = false
		}
		_, err := client.Start(c.t.Context(), s.Name)
		var refused *control.Error
		if errors.As(err, &refused) && refused.Code == ipc.CodeQuarantined {
			continue // it attacked late, for a client that has left
		}
		if err != nil {
			c.t.Fatalf("a fresh start after %s: %v\n%s\n%s", c.last, err, c.keepers(), c.log)
		}
	}
}

// keepers are the processes that may hold what a start needs.
func (c *chaos) keepers() (lines []string) {
	for _, p := range processes() {
		if p.name == "cordon-keeper" || p.uid >= uidBase && p.uid < uidBase+uidCount {
			lines = append(lines, fmt.Sprintf("%s: process %d below %d, uid %d", p.name, p.pid, p.parent, p.uid))
		}
	}
	return lines
}

func (c *chaos) client() *control.Client {
	c.t.Helper()
	client, err := control.Dial(c.t.Context(), c.dir+"/run/cordon.sock")
	if err != nil {
		c.t.Fatalf("%v\n%s", err, c.log)
	}
	return client
}

func (c *chaos) list() []control.Status {
	c.t.Helper()
	client := c.client()
	defer func() { _ = client.Close() }()
	list, err := client.List(c.t.Context())
	if err != nil {
		c.t.Fatalf("%v\n%s", err, c.log)
	}
	return list
}

// killOne kills one process of that name below the daemon, if there is one now,
// and waits until it and all below it have gone: then nobody can take what was
// for what is.
func (c *chaos) killOne(name string) {
	c.t.Helper()
	var found []process
	for _, p := range below(c.cmd.Process.Pid) {
		if p.name == name {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		return
	}
	victim := found[c.rand.IntN(len(found))].pid
	dying := below(victim)
	_ = syscall.Kill(victim, syscall.SIGKILL)
	eventually(c.t, "what was below the killed "+name+" has ended", func() bool {
		now := processes() // without those that only wait to be reaped
		return !slices.ContainsFunc(dying, func(p process) bool {
			return slices.ContainsFunc(now, func(q process) bool { return q.pid == p.pid && q.name == p.name })
		})
	})
}

// settled says that every plugin is in a state that lasts, and that there is
// one program for each that runs, and none else.
func (c *chaos) settled() bool {
	c.t.Helper()
	pids := map[int]bool{}
	for _, s := range c.list() {
		switch s.State {
		case control.Running:
			if pids[s.PID] {
				c.t.Errorf("two plugins have the process %d", s.PID)
			}
			pids[s.PID] = true
		case control.Stopped, control.Failed, control.Quarantined:
		case control.Starting, control.Stopping, control.Backoff:
			return false
		}
	}
	programs := c.programs()
	for _, pid := range programs {
		if !pids[pid] {
			return false
		}
	}
	return len(programs) == len(pids)
}

func (c *chaos) auditLog() string { return c.disk + "/audit.jsonl" }

func (c *chaos) verifyAudit() {
	c.t.Helper()
	if _, err := audit.VerifyFiles(c.auditLog(), ""); err != nil {
		c.t.Error(err)
	}
}

// keptQuarantines compares the states with what the log last said of each, and
// with what was ever shown.
func (c *chaos) keptQuarantines() {
	c.t.Helper()
	c.readAudit()
	for _, s := range c.list() {
		if c.held[s.Name] && s.State != control.Quarantined {
			c.t.Errorf("the quarantine of %s was lost: it is %s", s.Name, s.State)
		}
		c.held[s.Name] = s.State == control.Quarantined
	}
}

// readAudit notes what has been added to the log of quarantines and releases.
func (c *chaos) readAudit() {
	c.t.Helper()
	f, err := os.Open(c.auditLog())
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err == nil && st.Size() < c.read {
		c.read = 0 // it was put aside, and a new one begun
	}
	text, err := io.ReadAll(io.NewSectionReader(f, c.read, 1<<40))
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range bytes.Lines(text[:bytes.LastIndexByte(text, '\n')+1]) {
		c.read += int64(len(line))
		var e control.Event
		if err := json.Unmarshal(line, &e); err != nil {
			c.t.Fatal(err)
		}
		switch e.Kind {
		case "quarantined":
			c.held[e.Plugin] = true
		case "released":
			c.held[e.Plugin] = false
		case "adopted":
			c.adopted++
		case "swapped":
			c.swapped++
		}
	}
}

// noStrayFiles looks for what a killed daemon was in the middle of writing.
func (c *chaos) noStrayFiles() {
	c.t.Helper()
	for _, pattern := range []string{"/*.new", "/bundles/.tmp-*", "/filters/*tmp*"} {
		if left, err := filepath.Glob(c.disk + pattern); err != nil || len(left) > 0 {
			c.t.Errorf("left behind: %v (%v)", left, err)
		}
	}
}

// load is clients at work. Their errors are the point.
type load struct {
	t      *testing.T
	over   chan struct{} // closed when every client has left
	deeds  atomic.Int64
	tick   chan struct{}
	cancel context.CancelFunc
	wait   sync.WaitGroup
}

func (c *chaos) load() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: c.t, over: make(chan struct{}), tick: make(chan struct{}, 1), cancel: cancel}
	for range 3 {
		r := rand.New(rand.NewPCG(c.rand.Uint64(), 1))
		l.wait.Go(func() { l.work(ctx, c.dir+"/run/cordon.sock", r) })
	}
	go func() {
		l.wait.Wait()
		close(l.over)
	}()
	return l
}

// work does one deed after another until it is told to end or the daemon has.
func (l *load) work(ctx context.Context, socket string, r *rand.Rand) {
	client, err := control.Dial(ctx, socket)
	if err != nil {
		l.done()
		return
	}
	defer func() { _ = client.Close() }()
	for ctx.Err() == nil {
		name := chaosPlugins[r.IntN(len(chaosPlugins))]
		switch n := r.IntN(20); {
		case n == 0:
			_, _ = client.Restart(ctx, name)
		case n == 1 && name == "wild":
			_, _ = client.CallPlugin(ctx, control.CallParams{Name: name, Method: "attack", Timeout: 5 * time.Second})
		default:
			_, _ = client.CallPlugin(ctx, control.CallParams{Name: name, Method: "ping", Timeout: 5 * time.Second})
		}
		if l.done(); client.Ended() {
			return
		}
	}
}

func (l *load) done() {
	l.deeds.Add(1)
	select {
	case l.tick <- struct{}{}:
	default:
	}
}

// after waits for so many deeds, or until nobody is left to do any, and then a
// little, so that the kill may come in the middle of the next.
func (l *load) after(deeds int64, spin time.Duration) {
	l.t.Helper()
	late := time.After(patience())
	for over := false; !over && l.deeds.Load() < deeds; {
		select {
		case <-l.tick:
		case <-l.over:
			over = true
		case <-late:
			l.cancel()
			l.t.Fatalf("cannot wait any longer: %d of %d deeds are done", l.deeds.Load(), deeds)
		}
	}
	for began := time.Now(); time.Since(began) < spin; {
	}
}

func (l *load) end() {
	l.cancel()
	l.wait.Wait()
}
