package supervisor

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

func requires(names ...string) manifest.Needs {
	var n manifest.Needs
	for _, name := range names {
		gone := manifest.GoneStop
		if other, drains := strings.CutPrefix(name, "~"); drains {
			name, gone = other, manifest.GoneDrain
		}
		name, version, _ := strings.Cut(name, " ")
		n.Requires = append(n.Requires, manifest.Need{Name: name, Version: version, WhenGone: gone})
	}
	return n
}

func wants(name string) manifest.Needs {
	return manifest.Needs{Wants: []manifest.Need{{Name: name, WhenGone: manifest.GoneTell}}}
}

// family is a bench with more plugins than p.
type family struct {
	*bench
	mu    sync.Mutex
	begun []string // the plugins, as they were launched
	procs map[string]*fakeProcess
}

func newFamily(t *testing.T, needs map[string]manifest.Needs, names ...string) *family {
	t.Helper()
	f := &family{bench: newBench(t), procs: map[string]*fakeProcess{}}
	f.source.needs = needs
	f.connector.bye = func(name string) { f.proc(name).end(0) }
	for _, name := range names {
		f.install(name)
	}
	f.watch()
	return f
}

func (f *family) watch() {
	f.launcher.set(func(p *fakeProcess) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.begun = append(f.begun, p.req.Name)
		f.procs[p.req.Name] = p
		return nil
	})
}

func (f *family) install(name string) control.InstallResult {
	f.t.Helper()
	r, err := f.Install(f.t.Context(), operator, control.InstallParams{Dir: "/bundles/" + name, Profile: "strict"})
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func (f *family) launched() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.begun, " ")
}

func (f *family) proc(name string) *fakeProcess {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.procs[name]
}

func (f *family) of(name string) control.Status {
	f.t.Helper()
	list, err := f.List(f.t.Context())
	at := slices.IndexFunc(list, func(s control.Status) bool { return s.Name == name })
	if err != nil || at < 0 {
		f.t.Fatal(name, err)
	}
	return list[at]
}

// until waits for a state of a plugin.
func (f *family) until(name string, state control.State) control.Status {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-time.After(time.Millisecond) {
		if st := f.of(name); st.State == state {
			return st
		}
	}
	f.t.Fatalf("%s is %+v and does not become %s", name, f.of(name), state)
	return control.Status{}
}

func (f *family) do(fn func(context.Context, control.Caller, control.NameParams) (control.Status, error), name string) {
	f.t.Helper()
	if _, err := fn(f.t.Context(), operator, control.NameParams{Name: name}); err != nil {
		f.t.Fatal(err)
	}
}

// TestStartBringsWhatIsNeeded: in order, and a stop takes along what needs it,
// first; when it is back they come again.
func TestStartBringsWhatIsNeeded(t *testing.T) {
	f := newFamily(t, map[string]manifest.Needs{"a": requires("b >=1"), "b": requires("c"), "d": wants("c")}, "a", "b", "c", "d")
	f.do(f.Start, "a")
	if got := f.launched(); got != "c b a" {
		t.Fatalf("started as %s", got)
	}
	f.do(f.Start, "d")

	f.do(f.Stop, "c")
	if a, b, c, d := f.of("a"), f.of("b"), f.of("c"), f.of("d"); a.State != control.Stopped || b.State != control.Stopped || c.State != control.Stopped || d.State != control.Running {
		t.Fatalf("after the stop: %+v %+v %+v %+v", a, b, c, d)
	}
	if got := f.of("a").Waits; got != "a requires b >=1, which requires c, which is stopped" {
		t.Errorf("a waits: %s", got)
	}
	f.do(f.Start, "c")
	f.until("a", control.Running)
	if got := f.launched(); got != "c b a d c b a" {
		t.Errorf("came back as %s", got)
	}
	// What an operator stopped stays so.
	f.do(f.Stop, "a")
	f.do(f.Restart, "c")
	f.until("b", control.Running)
	if st := f.of("a"); st.State != control.Stopped || st.Waits != "" {
		t.Errorf("a is %+v", st)
	}
}

// TestWhatIsNeededCrashes: a dependant leaves and comes back; of a quarantine it
// waits for the release.
func TestWhatIsNeededCrashes(t *testing.T) {
	f := newFamily(t, map[string]manifest.Needs{"a": requires("b")}, "a", "b")
	f.do(f.Start, "a")
	f.proc("b").end(exitStatus(1))
	st := f.until("a", control.Stopped)
	if st.Reason != "it needs b, which is waiting to be restarted" || st.Waits != "a requires b, which is waiting to be restarted" {
		t.Errorf("a: %+v", st)
	}
	f.clock.fire(testPolicy.RestartSec)
	f.until("a", control.Running)

	b := f.plugin("b")
	b.violated(b.shown.Load().run.number, hitBy(violation.Quarantine))
	if st := f.until("a", control.Stopped); st.Waits != "a requires b, which is quarantined" {
		f.until("b", control.Quarantined)
		if st := f.of("a"); st.Waits != "a requires b, which is quarantined" {
			t.Errorf("a: %+v", st)
		}
	}
	if _, err := f.Start(t.Context(), operator, control.NameParams{Name: "a"}); err == nil || !strings.Contains(err.Error(), "cannot start b: it is quarantined") {
		t.Errorf("a was started: %v", err)
	}
}

// TestRefusedStarts: with the chain, and nothing was launched.
func TestRefusedStarts(t *testing.T) {
	f := newFamily(t, map[string]manifest.Needs{
		"a": requires("b >=2"), "c": requires("x"), "e": {Conflicts: []manifest.Need{{Name: "p"}}},
	}, "b", "c", "e")
	if r := f.install("a"); !slices.Equal(r.Warnings, []string{"it cannot be started yet: a requires b >=2, but b 1.0.0 is installed"}) {
		t.Errorf("warnings: %q", r.Warnings)
	}
	f.do(f.Start, "p")
	for name, want := range map[string]string{
		"a": "cannot start a: a requires b >=2, but b 1.0.0 is installed",
		"c": "cannot start c: c requires x, which is not installed",
		"e": "cannot start e: e conflicts with p, and p 1.0.0 runs",
	} {
		if _, err := f.Start(t.Context(), operator, control.NameParams{Name: name}); err == nil || err.Error() != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := f.launched(); got != "p" {
		t.Errorf("launched: %s", got)
	}
	f.source.needs["x"] = requires("c")
	if _, err := f.Install(t.Context(), operator, control.InstallParams{Dir: "/bundles/x", Profile: "strict"}); err == nil || !strings.Contains(err.Error(), "cannot install x: x requires c, which requires x: a circle") {
		t.Errorf("a circle was installed: %v", err)
	}
}

// TestAfterARestartOfTheDaemon: what is enabled starts in order, also what only
// waited, and what cannot start says why and starts when it can.
func TestAfterARestartOfTheDaemon(t *testing.T) {
	f := newFamily(t, map[string]manifest.Needs{"a": requires("b"), "b": wants("c"), "z": requires("p")}, "a", "b", "c", "z")
	for _, name := range []string{"a", "b", "c", "z"} {
		f.do(f.Enable, name)
	}
	f.reopen()
	f.watch()
	f.mu.Lock()
	f.begun = nil
	f.mu.Unlock()
	f.StartEnabled()
	f.until("a", control.Running)
	if got := f.launched(); got != "c b a" {
		t.Errorf("started as %s", got)
	}
	if st := f.of("z"); st.State != control.Stopped || st.Waits != "z requires p, which is stopped" {
		t.Errorf("z: %+v", st)
	}
	f.reopen() // and it waits still
	f.watch()
	f.do(f.Disable, "z")
	f.StartEnabled()
	f.do(f.Start, "p")
	f.until("z", control.Running)
}

// TestDrained: a call under way is answered, no other begins, and then it leaves.
func TestDrained(t *testing.T) {
	f := newFamily(t, map[string]manifest.Needs{"a": requires("~b")}, "a", "b")
	f.do(f.Start, "a")
	<-f.connector.made
	conn := <-f.connector.made
	if f.proc("a") == nil {
		t.Fatal("a was not started")
	}
	began, answer := make(chan struct{}), make(chan struct{})
	conn.call = func(context.Context, string) (json.RawMessage, error) {
		close(began)
		<-answer
		return json.RawMessage(`1`), nil
	}
	done := make(chan error, 1)
	go func() {
		_, err := f.Call(context.Background(), control.CallParams{Name: "a", Method: "m"})
		done <- err
	}()
	<-began
	stopped := make(chan error, 1)
	go func() {
		_, err := f.Stop(context.Background(), operator, control.NameParams{Name: "b"})
		stopped <- err
	}()
	for end := time.Now().Add(time.Minute); f.of("a").Draining == "" && time.Now().Before(end); <-time.After(time.Millisecond) {
	}
	_, err := f.Call(t.Context(), control.CallParams{Name: "a", Method: "m"})
	if err == nil || !strings.Contains(err.Error(), "plugin a takes no more calls: it needs b, which was stopped by an operator") {
		t.Errorf("another call: %v", err)
	}
	if f.of("a").State != control.Running || f.of("b").State != control.Running {
		t.Error("it did not wait for the call")
	}
	close(answer)
	if err := <-done; err != nil {
		t.Errorf("the call that was under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if a, b := f.of("a"), f.of("b"); a.State != control.Stopped || b.State != control.Stopped {
		t.Errorf("a is %s, b is %s", a.State, b.State)
	}
}

// TestDrainedByTheDaemonsEnd: what answers its last calls because what it needs
// has crashed is started again with that, also if the daemon ends meanwhile.
func TestDrainedByTheDaemonsEnd(t *testing.T) {
	f := newFamily(t, map[string]manifest.Needs{"a": requires("~b")}, "a", "b")
	f.do(f.Start, "a")
	<-f.connector.made
	conn := <-f.connector.made
	began, answer := make(chan struct{}), make(chan struct{})
	conn.call = func(context.Context, string) (json.RawMessage, error) {
		close(began)
		<-answer
		return json.RawMessage(`1`), nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = f.Call(context.Background(), control.CallParams{Name: "a", Method: "m"})
	}()
	<-began
	f.proc("b").end(exitStatus(1))
	until(t, "a takes no more calls", func() bool { return f.of("a").Draining != "" })
	f.close()
	close(answer)
	<-done
	f.open()
	f.watch()
	f.StartEnabled()
	if st := f.of("a"); st.State != control.Stopped || !strings.Contains(st.Waits, "a requires b") {
		t.Errorf("a: %+v", st)
	}
	f.do(f.Start, "b")
	f.until("a", control.Running)
}

// TestDependantsLeaveFirst: when the daemon ends.
func TestDependantsLeaveFirst(t *testing.T) {
	f := newFamily(t, map[string]manifest.Needs{"a": requires("b"), "b": requires("c")}, "a", "b", "c")
	f.do(f.Start, "a")
	var left []string
	for _, name := range []string{"a", "b", "c"} {
		p := f.proc(name)
		p.mu.Lock()
		p.onDeed = func(deed string) {
			if deed == "release" {
				f.mu.Lock()
				left = append(left, name)
				f.mu.Unlock()
			}
		}
		p.mu.Unlock()
	}
	f.close()
	if got := strings.Join(left, " "); got != "a b c" {
		t.Errorf("they left as %s", got)
	}
}
