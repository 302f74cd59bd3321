package broker

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
	"github.com/cordonhq/cordon/supervisor/control"
)

// wait is a bound for what does happen; the tests wait for conditions.
const wait = time.Minute

// handClock moves when it is told to.
type handClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[*handTimer]struct{}
}

type handTimer struct {
	at time.Time
	fn func()
}

func newClock() *handClock {
	return &handClock{now: time.Unix(1_000_000, 0), timers: map[*handTimer]struct{}{}}
}

func (c *handClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) AfterFunc(d time.Duration, fn func()) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	timer := &handTimer{c.now.Add(d), fn}
	c.timers[timer] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, timer)
	}
}

// pass moves the clock and runs what is due.
func (c *handClock) pass(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	var due []func()
	for timer := range c.timers {
		if !timer.at.After(c.now) {
			due = append(due, timer.fn)
			delete(c.timers, timer)
		}
	}
	c.mu.Unlock()
	for _, fn := range due {
		fn()
	}
}

func (c *handClock) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.timers)
}

// notebook keeps what is audited.
type notebook struct {
	mu     sync.Mutex
	events []control.Event
}

func (n *notebook) Queue(ev control.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, ev)
}

func (n *notebook) texts() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, ev := range n.events {
		out = append(out, ev.Text)
	}
	return strings.Join(out, "\n")
}

// rig is one session of a catalogue that has one capability, under a name that
// the grammar knows.
type rig struct {
	*Session
	clock  *handClock
	notes  *notebook
	mu     sync.Mutex
	denied []Denial
	policy Policy
	broken error
}

func (r *rig) denials() []Denial {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Denial(nil), r.denied...)
}

func newRig(t *testing.T, serve func(ctx context.Context, c *capability.Call) (any, error), grants ...plan.Capability) *rig {
	t.Helper()
	r := &rig{clock: newClock(), notes: &notebook{}, policy: Policy{Grants: grants}}
	named := func(params json.RawMessage) (string, error) {
		var p struct {
			Name string `json:"name"`
		}
		err := json.Unmarshal(params, &p)
		return p.Name, err
	}
	b, err := New(r.clock, r.notes, []capability.Capability{{
		Name: "secret.read", Phases: []capability.Phase{capability.Serving},
		Methods: []capability.Method{{
			Name: "secret.read", Params: `{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}`, Result: `true`, Target: named, Serve: serve,
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.Session = b.Session(Options{
		Plugin: "p", Plan: &plan.Plan{Capabilities: grants},
		Policy: func() (Policy, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.policy, r.broken
		},
		Denied: func(d Denial) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.denied = append(r.denied, d)
		},
	})
	t.Cleanup(r.Close)
	return r
}

func (r *rig) ask(params string) (any, error) {
	return r.Handle(context.Background(), &ipc.Request{Method: "secret.read", Params: json.RawMessage(params)})
}

func code(err error) int {
	var e *ipc.RPCError
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func fine(context.Context, *capability.Call) (any, error) { return "it", nil }

func TestCallWalk(t *testing.T) {
	r := newRig(t, fine, granted("secret.read", "x.*"))
	r.Open("sha256:plan", nil)
	if got, err := r.ask(`{"name":"x.1"}`); err != nil || got != "it" {
		t.Fatalf("a granted call: %v, %v", got, err)
	}
	for _, c := range []struct {
		params string
		code   int
	}{
		{`{"name":"y"}`, ipc.CodeDenied}, {`{"name":1}`, ipc.CodeContract}, {`null`, ipc.CodeContract},
	} {
		if _, err := r.ask(c.params); code(err) != c.code {
			t.Errorf("%s is answered %d: %v", c.params, code(err), err)
		}
	}
	if d := r.denials(); len(d) != 1 || d[0].Target != "y" || d[0].Rule != "no grant of its profile covers it" {
		t.Errorf("denied are %+v", d)
	}
	if _, err := r.Handle(t.Context(), &ipc.Request{Method: "no.such"}); code(err) != ipc.CodeMethodNotFound {
		t.Errorf("an unknown method: %v", err)
	}
	if got := r.notes.texts(); got != "p used secret.read x.1: served" {
		t.Errorf("audited is %q", got)
	}
	if ev := r.notes.events[0]; ev.Data["grant"] != "test.toml:1" || ev.Data["plan_digest"] != "sha256:plan" {
		t.Errorf("the record has %v", ev.Data)
	}
}

// TestRecordsSayWhatFor: a record names the request that a use was for and its
// trace, as far as they are valid: the plugin could claim anything.
func TestRecordsSayWhatFor(t *testing.T) {
	r := newRig(t, fine, granted("secret.read", "x"))
	r.Open("", nil)
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for i, c := range []struct {
		meta        string
		trace, name any
	}{
		{`{"traceparent":"` + trace + `","request_id":"req-1"}`, trace, "req-1"},
		{`{"request_id":"req-2"}`, nil, "req-2"},
		{`{"traceparent":"01` + trace[2:] + `","request_id":"two words"}`, nil, nil},
		{`{"traceparent":7,"request_id":["x"]}`, nil, nil},
		{`"x"`, nil, nil},
	} {
		if _, err := r.ask(`{"name":"x","_meta":` + c.meta + `}`); err != nil {
			t.Fatalf("%s: %v", c.meta, err)
		}
		if ev := r.notes.events[i]; ev.Data["traceparent"] != c.trace || ev.Data["request_id"] != c.name {
			t.Errorf("%s is recorded as %v", c.meta, ev.Data)
		}
	}
}

func TestWrongPhaseIsRefused(t *testing.T) {
	r := newRig(t, fine, granted("secret.read", "x"))
	r.Open("", nil)
	m := r.b.methods["secret.read"]
	if _, err := r.call(t.Context(), m, query{phase: capability.Ready, params: json.RawMessage(`{"name":"x"}`)}, nil); code(err) != ipc.CodeNotReady {
		t.Fatalf("before it is served: %v", err)
	}
}

func TestNothingIsServedBeforeOpen(t *testing.T) {
	r := newRig(t, fine, granted("secret.read", "x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Handle(ctx, &ipc.Request{Method: "secret.read", Params: json.RawMessage(`{"name":"x"}`)}); !errors.Is(err, context.Canceled) {
		t.Fatalf("before Open: %v", err)
	}
	r.Open("", []Decision{{Capability: "secret.read", Revoked: true, By: "uid 0"}})
	if _, err := r.ask(`{"name":"x"}`); code(err) != ipc.CodeDenied {
		t.Fatalf("what was revoked before: %v", err)
	}
	if d := r.denials(); len(d) != 1 || !d[0].Standing {
		t.Fatalf("denied are %+v", d)
	}
}

// TestRevokedWhileItIsServed: an answer that was on its way is not given.
func TestRevokedWhileItIsServed(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	r := newRig(t, func(context.Context, *capability.Call) (any, error) {
		close(begun)
		<-finish
		return "it", nil
	}, granted("secret.read", "x"))
	r.Open("", nil)
	got := make(chan error, 1)
	go func() {
		_, err := r.ask(`{"name":"x"}`)
		got <- err
	}()
	<-begun
	r.Decide([]Decision{{Capability: "secret.read", Revoked: true, By: "uid 0"}})
	close(finish)
	select {
	case err := <-got:
		if code(err) != ipc.CodeDenied {
			t.Fatalf("it was answered: %v", err)
		}
	case <-time.After(wait):
		t.Fatal("no answer")
	}
}

// TestStalledCapability holds nobody up but the grant whose place it has.
func TestStalledCapability(t *testing.T) {
	forever := make(chan struct{})
	entered := make(chan struct{}, 8)
	r := newRig(t, func(_ context.Context, c *capability.Call) (any, error) {
		if c.Target == "stuck" {
			entered <- struct{}{}
			<-forever
		}
		return "it", nil
	}, granted("secret.read", "*"))
	r.Open("", nil)
	got := make(chan error, 1)
	returned := make(chan error, 1)
	go func() {
		_, err := r.call(context.Background(), r.b.methods["secret.read"], query{phase: capability.Serving, params: json.RawMessage(`{"name":"stuck"}`)},
			func(err error) bool { got <- err; return true })
		returned <- err
	}()
	<-entered
	if _, err := r.ask(`{"name":"x"}`); err != nil {
		t.Fatalf("a neighbour of one that is stuck: %v", err)
	}
	r.clock.pass(serveTime)
	select {
	case err := <-got:
		if code(err) != ipc.CodeDeadline {
			t.Fatalf("the stuck one: %v", err)
		}
	case <-time.After(wait):
		t.Fatal("the stuck one is never answered")
	}
	if u := r.Uses(); u[0].Active != 1 {
		t.Fatalf("the stuck one has no place any more: %+v", u)
	}
	if got := r.notes.texts(); got != "p used secret.read x: served\np used secret.read stuck: error -32001" {
		t.Fatalf("audited is %q", got)
	}
	close(forever)
	if err := <-returned; !errors.Is(err, errGivenUp) {
		t.Fatalf("the stuck one returns %v: it has had its answer", err)
	}
	if u := r.Uses(); u[0].Active != 0 {
		t.Fatalf("the stuck one keeps its place when it has ended: %+v", u)
	}
}

func TestFailingCapabilityRests(t *testing.T) {
	broken, calls := true, 0
	r := newRig(t, func(context.Context, *capability.Call) (any, error) {
		if calls++; broken && calls%2 == 0 {
			panic("it broke: secret text")
		} else if broken {
			return nil, errors.New("it broke: secret text")
		}
		return "it", nil
	}, granted("secret.read", "x"))
	r.Open("", nil)
	for range failuresMax {
		if _, err := r.ask(`{"name":"x"}`); code(err) != ipc.CodeInternal || strings.Contains(err.Error(), "secret text") {
			t.Fatalf("a failure is shown as %v", err)
		}
	}
	if _, err := r.ask(`{"name":"x"}`); code(err) != ipc.CodeUnsupported || calls != failuresMax {
		t.Fatalf("after %d failures it is called again: %v", calls, err)
	}
	r.clock.pass(failureRest)
	broken = false
	if _, err := r.ask(`{"name":"x"}`); err != nil {
		t.Fatalf("after its rest: %v", err)
	}
}

// TestPolicyIsAskedAgain: what the profile has lost is gone at the next
// renewal, and all of it when policy cannot be asked for the length of a lease.
func TestPolicyIsAskedAgain(t *testing.T) {
	r := newRig(t, fine, granted("secret.read", "x", "y"))
	r.Open("", nil)
	r.mu.Lock()
	r.policy = Policy{Grants: []plan.Capability{granted("secret.read", "x", "z")}}
	r.mu.Unlock()
	r.clock.pass(LeaseTime / 3)
	if _, err := r.ask(`{"name":"x"}`); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"y", "z"} { // z was not in the plan
		if _, err := r.ask(`{"name":"` + gone + `"}`); code(err) != ipc.CodeDenied {
			t.Fatalf("%s: %v", gone, err)
		}
	}
	r.mu.Lock()
	r.broken = errors.New("no profile")
	r.mu.Unlock()
	for range 2 {
		r.clock.pass(LeaseTime / 3)
	}
	if _, err := r.ask(`{"name":"x"}`); err != nil {
		t.Fatalf("within its lease: %v", err)
	}
	r.clock.pass(LeaseTime / 3)
	if _, err := r.ask(`{"name":"x"}`); code(err) != ipc.CodeDenied {
		t.Fatalf("after its lease: %v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	var cut sync.WaitGroup
	cut.Add(1)
	r := newRig(t, func(_ context.Context, c *capability.Call) (any, error) {
		_, err := c.Hold(cut.Done)
		return "it", err
	}, granted("secret.read", "x"))
	r.Open("", nil)
	if _, err := r.ask(`{"name":"x"}`); err != nil {
		t.Fatal(err)
	}
	r.Close()
	cut.Wait()
	if _, err := r.ask(`{"name":"x"}`); code(err) != ipc.CodeShuttingDown {
		t.Fatalf("after Close: %v", err)
	}
	if n := r.clock.waiting(); n != 0 {
		t.Fatalf("%d timers are left", n)
	}
}
