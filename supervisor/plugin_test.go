package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/store"
	"github.com/cordonhq/cordon/supervisor/violation"
)

var named = control.NameParams{Name: "p"}

func TestStartAndStop(t *testing.T) {
	b := newBench(t)
	proc, conn := b.start()
	st := b.status()
	if st.State != control.Running || st.PID != proc.PID() || st.Memory != 4096 {
		t.Errorf("after the start: %+v", st)
	}
	if got, err := b.Call(t.Context(), control.CallParams{Name: "p", Method: "ping"}); err != nil || string(got) != `"pong"` {
		t.Errorf("call: %s, %v", got, err)
	}
	if b.record().State != control.Running {
		t.Errorf("the disk says %s", b.record().State)
	}
	conn.bye = func() { proc.end(0) }
	st, err := b.Stop(t.Context(), operator, named)
	if err != nil || st.State != control.Stopped {
		t.Errorf("stop: %+v, %v", st, err)
	}
	if !proc.has("release") || proc.has("kill") {
		t.Errorf("a plugin that left by itself: %v", proc.list())
	}
	if _, err := b.Call(t.Context(), control.CallParams{Name: "p", Method: "ping"}); codeOf(err) != ipc.CodeNotReady {
		t.Errorf("call of a stopped plugin: %v", err)
	}
}

func codeOf(err error) int {
	var e *control.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestStopPressesOn(t *testing.T) {
	b := newBench(t)
	proc, _ := b.start()
	proc.stubborn = true
	done := make(chan error, 1)
	go func() {
		_, err := b.Stop(t.Context(), operator, named)
		done <- err
	}()
	b.clock.fire(time.Second) // the goodbye's quarter, at most a second
	b.clock.fire(7 * time.Second)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if want := []string{"signal terminated", "kill", "release"}; !slices.Equal(proc.list(), want) {
		t.Errorf("done: %v, want %v", proc.list(), want)
	}
}

func TestRequestHasItsOwnUID(t *testing.T) {
	b := newBench(t)
	if _, err := b.Install(t.Context(), operator, control.InstallParams{Dir: "/bundles/q", Profile: "strict"}); err != nil {
		t.Fatal(err)
	}
	uids := map[uint32]bool{}
	for _, name := range []string{"p", "q"} {
		if _, err := b.Start(t.Context(), operator, control.NameParams{Name: name}); err != nil {
			t.Fatal(err)
		}
		uid := (<-b.launcher.started).req.UID
		if uids[uid] || uids[uid+1] || uid%2 != 0 || uid < 1_900_000_000 {
			t.Errorf("%s got uid %d", name, uid)
		}
		uids[uid], uids[uid+1] = true, true
	}
}

func TestCrashIsRestartedWithBackoff(t *testing.T) {
	b := newBench(t)
	proc, _ := b.start()
	proc.end(exitStatus(3))
	if ev := b.await("backoff"); !strings.Contains(ev.Text, "status 3") {
		t.Errorf("the reason is %q", ev.Text)
	}
	b.clock.fire(testPolicy.RestartSec)
	b.await("started")
	if st := b.status(); st.State != control.Running || st.Restarts != 1 {
		t.Errorf("after the restart: %+v", st)
	}
}

// TestIdlePluginHasNoTimer: what bounds a start or a restart ends with it, and
// does not come back later to wake the daemon for nothing.
func TestIdlePluginHasNoTimer(t *testing.T) {
	b := newBench(t)
	idle := func(when string) {
		t.Helper()
		b.status() // asked after what the actor had still to do
		b.clock.mu.Lock()
		defer b.clock.mu.Unlock()
		for _, timer := range b.clock.timers {
			t.Errorf("%s a timer of %v is set", when, timer.d)
		}
	}
	proc, _ := b.start()
	idle("after the start")
	proc.end(exitStatus(3))
	b.await("backoff")
	b.clock.fire(testPolicy.RestartSec)
	b.await("started")
	idle("after the restart")
}

func TestFailedStartLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name, want string
		err        error
		state      control.State
	}{
		{"transient", "launch: cannot fork", errors.New("cannot fork"), control.Backoff},
		{"permanent", "launch: no such wall", &PermanentError{errors.New("no such wall")}, control.Failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			before := descriptors(t)
			b.launcher.set(func(*fakeProcess) error { return c.err })
			_, err := b.Start(t.Context(), operator, named)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v", err)
			}
			if st := b.status(); st.State != c.state || st.PID != 0 {
				t.Errorf("the state is %+v", st)
			}
			noneOpened(t, before)
		})
	}
}

// descriptors counts what is open, by what it leads to: numbers are used again,
// and what other tests left to the collector goes whenever it likes.
func descriptors(t *testing.T) map[string]int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]int{}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			open[to]++
		}
	}
	return open
}

// noneOpened reports what is open now and was not before.
func noneOpened(t *testing.T, before map[string]int) {
	t.Helper()
	for to, n := range descriptors(t) {
		if n > before[to] {
			t.Errorf("%d descriptors of %s more than before", n-before[to], to)
		}
	}
}

func TestUnresolvablePlanIsNotRetried(t *testing.T) {
	b := newBench(t)
	b.source.err = errors.New("strict.toml:3:1: unknown key")
	_, err := b.Start(t.Context(), operator, named)
	if err == nil || !strings.Contains(err.Error(), "resolve: strict.toml:3:1") || b.status().State != control.Failed {
		t.Errorf("%v, state %s", err, b.status().State)
	}
}

func TestHelloTimesOut(t *testing.T) {
	b := newBench(t)
	b.connector.silent.Store(true)
	done := make(chan error, 1)
	go func() {
		_, err := b.Start(t.Context(), operator, named)
		done <- err
	}()
	proc := <-b.launcher.started
	b.clock.fireNumber(testPolicy.StartTimeout, 2) // the first ran until it was heard that there is a process
	if err := <-done; err == nil || !strings.Contains(err.Error(), "not ready within 30s") {
		t.Errorf("the error is %v", err)
	}
	if !proc.has("kill") || !proc.has("release") {
		t.Errorf("done: %v", proc.list())
	}
}

// TestQuarantineWalk holds the order: contained, then on the disk, then
// evidence, then dead, then told.
func TestQuarantineWalk(t *testing.T) {
	b := newBench(t)
	proc, _ := b.start()
	var mu sync.Mutex
	atKill := control.State("")
	var evidenceAtKill []string
	proc.onDeed = func(deed string) {
		if deed != "kill" {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		atKill = b.record().State
		evidenceAtKill, _ = filepath.Glob(filepath.Join(b.dir, "evidence", "p", "*", "*"))
	}
	proc.req.OnViolation(hitBy(violation.Quarantine))
	ev := b.await("quarantined")
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(proc.list()[:2], []string{"freeze", "kill"}) {
		t.Errorf("done: %v", proc.list())
	}
	if atKill != control.Quarantined {
		t.Errorf("when it was killed the disk said %q", atKill)
	}
	if len(evidenceAtKill) == 0 {
		t.Error("when it was killed there was no evidence")
	}
	if ev.Data["call"] != "mount" || ev.Data["evidence"] == "" {
		t.Errorf("the record is %+v", ev)
	}
	if st := b.status(); st.State != control.Quarantined || !strings.Contains(st.Reason, "mount") {
		t.Errorf("the state is %+v", st)
	}
}

func TestEvidence(t *testing.T) {
	b := newBench(t)
	proc, _ := b.start()
	proc.req.OnViolation(hitBy(violation.Quarantine))
	ev := b.await("quarantined")
	dir, _ := ev.Data["evidence"].(string)
	for _, name := range []string{"violation.json", "plan.json", "log.json", "usage.json"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !json.Valid(data) {
			t.Errorf("%s: %v", name, err)
		}
	}
	maps, _ := filepath.Glob(filepath.Join(dir, "proc-*-maps"))
	if len(maps) != 1 {
		t.Errorf("maps of the processes: %v", maps)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

func TestQuarantineSurvivesAndOnlyReleaseEndsIt(t *testing.T) {
	b := newBench(t)
	if _, err := b.Enable(t.Context(), operator, named); err != nil {
		t.Fatal(err)
	}
	proc, _ := b.start()
	proc.req.OnViolation(hitBy(violation.Quarantine))
	b.await("quarantined")
	b.reopen()
	b.StartEnabled()
	if st := b.status(); st.State != control.Quarantined {
		t.Fatalf("after the daemon's restart it is %s", st.State)
	}
	for name, err := range map[string]error{
		"start":   second(b.Start(t.Context(), operator, named)),
		"restart": second(b.Restart(t.Context(), operator, named)),
		"remove":  b.Remove(t.Context(), operator, named),
		"call":    second(b.Call(t.Context(), control.CallParams{Name: "p", Method: "ping"})),
	} {
		if codeOf(err) != ipc.CodeQuarantined {
			t.Errorf("%s in quarantine: %v", name, err)
		}
	}
	why, err := b.Why(t.Context(), named)
	if err != nil || len(why) != 1 || why[0].Call != "mount" {
		t.Errorf("why: %+v, %v", why, err)
	}
	st, err := b.Release(t.Context(), control.Caller{UID: 7}, control.ReleaseParams{Name: "p", Reason: "looked at it"})
	if err != nil || st.State != control.Stopped || b.record().Quarantine != nil {
		t.Errorf("release: %+v, %v", st, err)
	}
	if ev := b.await("released"); ev.Actor != "uid 7" || !strings.Contains(ev.Text, "looked at it") {
		t.Errorf("the record is %+v", ev)
	}
	b.start()
}

func second[T any](_ T, err error) error { return err }

func TestViolationBeforeTheLauncherReturned(t *testing.T) {
	b := newBench(t)
	b.launcher.set(func(p *fakeProcess) error {
		p.req.OnViolation(hitBy(violation.Quarantine))
		b.await("quarantined")
		return nil
	})
	_, err := b.Start(t.Context(), operator, named)
	if codeOf(err) != ipc.CodeQuarantined {
		t.Errorf("the start says %v", err)
	}
	proc := <-b.launcher.started
	<-proc.done
	b.reopen()
	if b.status().State != control.Quarantined {
		t.Errorf("it is %s", b.status().State)
	}
}

func TestPluginThatCannotBeFrozenIsKilledFirst(t *testing.T) {
	b := newBench(t)
	proc, _ := b.start()
	proc.noFreeze = errors.New("no freezer")
	var state control.State
	proc.onDeed = func(deed string) {
		if deed == "kill" && state == "" {
			state = b.record().State
		}
	}
	proc.req.OnViolation(hitBy(violation.Quarantine))
	b.await("quarantined")
	if state != control.Running {
		t.Errorf("the first kill came when the disk said %q", state)
	}
	if b.record().State != control.Quarantined {
		t.Error("and the quarantine was not saved")
	}
}

func TestKillIsAFailureOfTheRestartPolicy(t *testing.T) {
	b := newBench(t)
	proc, _ := b.start()
	proc.req.OnViolation(hitBy(violation.Kill))
	b.await("backoff")
	if !proc.has("kill") {
		t.Errorf("done: %v", proc.list())
	}
	if got := b.record().Violations; len(got) != 1 {
		t.Errorf("the disk has %d violations", len(got))
	}
}

func TestRefusalsAreRecordedAndBounded(t *testing.T) {
	b := newBench(t)
	proc, _ := b.start()
	for range 3000 {
		proc.req.OnViolation(hitBy(violation.Deny))
	}
	if _, err := b.Enable(t.Context(), operator, named); err != nil { // waits for the actor
		t.Fatal(err)
	}
	if st := b.status(); st.State != control.Running {
		t.Fatalf("refusals alone made it %s", st.State)
	}
	count := 0
	for _, ev := range b.audit.Recent(0, "p") {
		if ev.Kind == "violation" {
			count++
		}
	}
	if count == 0 || count > auditBurst {
		t.Errorf("%d audit records, want some and at most %d", count, auditBurst)
	}
	b.clock.fire(saveEvery)
	if ev := b.await("violations-dropped"); !strings.Contains(ev.Text, "came too fast") {
		t.Errorf("the record is %q", ev.Text)
	}
	if n := len(b.record().Violations); n == 0 || n > 50 {
		t.Errorf("the disk has %d violations", n)
	}
}

func TestBrokenProtocolIsAViolation(t *testing.T) {
	b := newBench(t)
	proc, conn := b.start()
	conn.run <- &ipc.ProtocolError{Code: ipc.BreachTooLarge, Msg: "5 MiB\x1b[2J"}
	b.await("quarantined")
	v := b.record().Quarantine.Violation
	if v.Wall != violation.IPC || !strings.Contains(v.What, "too-large (max_frame)") || strings.Contains(v.What, "\x1b") {
		t.Errorf("the violation is %+v", v)
	}
	if !slices.Equal(proc.list()[:2], []string{"freeze", "kill"}) {
		t.Errorf("done: %v", proc.list())
	}
}

func TestCutOffMessageIsNone(t *testing.T) {
	b := newBench(t)
	proc, conn := b.start()
	conn.run <- &ipc.ProtocolError{Code: ipc.BreachTruncated, Msg: "ended in a message"}
	b.await("stopping")
	proc.end(exitStatus(1))
	b.await("backoff")
	if n := len(b.record().Violations); n != 0 {
		t.Errorf("%d violations", n)
	}
}

func TestClosedConnectionThenCleanExit(t *testing.T) {
	b := newBench(t)
	proc, conn := b.start()
	conn.run <- nil
	b.await("stopping")
	proc.end(0)
	b.await("stopped")
	if st := b.status(); st.Restarts != 0 || !strings.Contains(st.Reason, "closed its connection") {
		t.Errorf("the state is %+v", st)
	}
}

func TestCallsDoNotWaitForLifecycle(t *testing.T) {
	b := newBench(t)
	b.start()
	p, err := b.get("p")
	if err != nil {
		t.Fatal(err)
	}
	busy, release := make(chan struct{}), make(chan struct{})
	p.box.post(message{do: func() { close(busy); <-release }})
	<-busy // the actor is stuck now
	if _, err := b.Call(t.Context(), control.CallParams{Name: "p", Method: "ping"}); err != nil {
		t.Error(err)
	}
	if st := b.status(); st.State != control.Running {
		t.Errorf("the state is %s", st.State)
	}
	close(release)
}

func TestDaemonRestartStartsEnabled(t *testing.T) {
	b := newBench(t)
	if _, err := b.Enable(t.Context(), operator, named); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.reopen()
	b.StartEnabled()
	b.await("started")
	if st := b.status(); st.State != control.Running || !st.Enabled {
		t.Errorf("the state is %+v", st)
	}
}

// TestRestored holds what each state on the disk becomes, for a daemon that
// was killed cannot have said goodbye.
func TestRestored(t *testing.T) {
	b := newBench(t)
	r := b.record()
	for state, want := range map[control.State]control.State{
		control.Stopped: control.Stopped, control.Failed: control.Failed, control.Quarantined: control.Quarantined,
		control.Starting: control.Stopped, control.Running: control.Stopped, control.Stopping: control.Stopped,
		control.Backoff: control.Stopped, "nonsense": control.Quarantined, "": control.Quarantined,
	} {
		r.State = state
		if got := restored(r, epoch).Phase; got != want {
			t.Errorf("%q becomes %q, want %q", state, got, want)
		}
	}
}

func TestRemove(t *testing.T) {
	b := newBench(t)
	b.source.change(func(pl *plan.Plan) { pl.Data.Persistent = true })
	proc, conn := b.start()
	if err := b.Remove(t.Context(), operator, named); codeOf(err) != ipc.CodeConflict {
		t.Errorf("removing a running plugin: %v", err)
	}
	data := filepath.Join(b.dir, "data", "p")
	var st syscall.Stat_t
	if err := syscall.Stat(data, &st); err != nil || st.Uid != proc.req.UID || st.Mode&0o777 != 0o700 || proc.req.Data != data {
		t.Fatalf("data: %v, uid %d, mode %o", err, st.Uid, st.Mode)
	}
	conn.bye = func() { proc.end(0) }
	if _, err := b.Stop(t.Context(), operator, named); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(t.Context(), operator, named); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{data, filepath.Join(b.dir, "logs", "p.log")} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there", path)
		}
	}
	if !slices.Equal(b.source.discarded, []string{"sha256:p"}) {
		t.Errorf("discarded: %v", b.source.discarded)
	}
	if _, err := b.Start(t.Context(), operator, named); codeOf(err) != ipc.CodeNotFound {
		t.Errorf("starting it: %v", err)
	}
	if _, err := b.Install(t.Context(), operator, control.InstallParams{Dir: "/bundles/p", Profile: "strict"}); err != nil {
		t.Errorf("installing it again: %v", err)
	}
}

func TestBundleInUseIsKept(t *testing.T) {
	b := newBench(t)
	if _, err := b.Install(t.Context(), operator, control.InstallParams{Dir: "/bundles/p", As: "twin", Profile: "strict"}); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(t.Context(), operator, control.NameParams{Name: "twin"}); err != nil {
		t.Fatal(err)
	}
	if len(b.source.discarded) != 0 {
		t.Errorf("discarded: %v", b.source.discarded)
	}
}

func TestInstallRefuses(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		params control.InstallParams
		code   int
		want   string
	}{
		{control.InstallParams{Dir: "bundles/q"}, ipc.CodeInvalidParams, "not an absolute path"},
		{control.InstallParams{Dir: "/bundles/q", As: "../q"}, ipc.CodeInvalidParams, "lower-case letters"},
		{control.InstallParams{Dir: "/bundles/p"}, ipc.CodeConflict, "already installed"},
	} {
		_, err := b.Install(t.Context(), operator, c.params)
		if codeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.params, err)
		}
	}
	if len(b.source.discarded) != 0 {
		t.Errorf("the bundle of the plugin that is there was discarded: %v", b.source.discarded)
	}
}

func TestDaemonThatCannotSaveStartsNothing(t *testing.T) {
	b := newBench(t)
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := b.Start(t.Context(), operator, named)
	if err == nil || !strings.Contains(err.Error(), "cannot be saved") {
		t.Errorf("the error is %v", err)
	}
	if len(b.launcher.started) != 0 {
		t.Error("it was launched")
	}
	if b.store, err = store.Open(filepath.Join(b.dir, "state.db"), 16); err != nil { // for the end of the bench
		t.Fatal(err)
	}
}

func TestShutdownWhileStarting(t *testing.T) {
	b := newBench(t)
	b.connector.silent.Store(true)
	done := make(chan error, 1)
	go func() {
		_, err := b.Start(t.Context(), operator, named)
		done <- err
	}()
	proc := <-b.launcher.started
	b.close()
	if err := <-done; err == nil {
		t.Error("the start was successful")
	}
	if !proc.has("kill") {
		t.Errorf("done: %v", proc.list())
	}
}

// TestViolationWhileTheDaemonEnds hits a wall at the last moment.
func TestViolationWhileTheDaemonEnds(t *testing.T) {
	b := newBench(t)
	proc, _ := b.start()
	proc.stubborn = true
	proc.onDeed = func(deed string) {
		if deed == "kill" {
			proc.onDeed = nil
			proc.req.OnViolation(hitBy(violation.Quarantine))
		}
	}
	b.reopen()
	if st := b.status(); st.State != control.Quarantined {
		t.Errorf("it is %s", st.State)
	}
}

func TestInspect(t *testing.T) {
	b := newBench(t)
	in, err := b.Inspect(t.Context(), named)
	if err != nil || in.Plan == nil || len(in.Walls) != 0 {
		t.Errorf("stopped: %+v, %v", in, err)
	}
	b.start()
	in, err = b.Inspect(t.Context(), named)
	if err != nil || len(in.Walls) != 1 || in.PlanDigest != "sha256:plan" || string(in.Hello) != `{"name":"fake"}` {
		t.Errorf("running: %+v, %v", in, err)
	}
	if in.Observed["files"] != "enforced, not observed" {
		t.Errorf("observed: %v", in.Observed)
	}
}

func TestLogsOfStandardError(t *testing.T) {
	b := newBench(t)
	proc := make(chan *fakeProcess, 1)
	b.launcher.set(func(p *fakeProcess) error {
		_, err := p.req.Stderr.WriteString("hello\x1b[31m\nand more\n")
		proc <- p
		return err
	})
	b.start()
	_, f, err := b.Logs(t.Context(), control.LogsParams{Name: "p", Lines: 10, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := b.awaitLines(2)
	if lines[0].Text != `hello\x1b[31m` || lines[0].Stream != "stderr" || lines[1].Text != "and more" {
		t.Errorf("the log is %+v", lines)
	}
}

// awaitLines follows the log until it has n lines.
func (b *bench) awaitLines(n int) []control.LogLine {
	b.t.Helper()
	past, f, err := b.Logs(b.t.Context(), control.LogsParams{Name: "p", Lines: n, Follow: true})
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	for len(past) < n {
		past = append(past, <-f.C())
	}
	return past
}

func TestFollowEvents(t *testing.T) {
	b := newBench(t)
	past, stream, err := b.Events(t.Context(), control.EventsParams{Name: "p", Follow: true})
	if err != nil || len(past) != 1 || past[0].Kind != "installed" {
		t.Fatalf("%+v, %v", past, err)
	}
	b.start()
	for _, want := range []string{"starting", "started"} {
		if ev := <-stream.C(); ev.Kind != want {
			t.Errorf("got %q, want %q", ev.Kind, want)
		}
	}
	stream.Close()
}

func TestCallTimeout(t *testing.T) {
	b := newBench(t)
	_, conn := b.start()
	conn.call = func(ctx context.Context, _ string) (json.RawMessage, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	_, err := b.Call(t.Context(), control.CallParams{Name: "p", Method: "slow", Timeout: time.Nanosecond})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
