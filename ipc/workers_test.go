package ipc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// stillClock moves by a microsecond each time it is looked at: every request is
// answered at once. What waits for it waits until passed is closed.
type stillClock struct {
	passed chan struct{}
	began  time.Time
	looks  atomic.Int64
}

func newStillClock() *stillClock {
	return &stillClock{passed: make(chan struct{}), began: time.Now()}
}

func (c *stillClock) Now() time.Time {
	return c.began.Add(time.Duration(c.looks.Add(1)) * time.Microsecond)
}

func (c *stillClock) After(time.Duration) (<-chan time.Time, func()) {
	at := make(chan time.Time, 1)
	go func() {
		<-c.passed
		at <- c.Now()
	}()
	return at, func() {}
}

// asking gives the host's end and the plugin's of a connection on which the
// plugin asks.
func asking(t *testing.T, clock Clock, handler Handler) (host, plugin *running) {
	t.Helper()
	a, b := socketpair(t)
	host = run(NewConn(SocketTransport(a), Options{Clock: clock, Limits: Limits{Rate: 1e9}, Handler: handler}))
	plugin = run(NewConn(SocketTransport(b), Options{
		Limits:  Limits{Rate: 1e9, CallTimeout: time.Minute},
		Handler: func(_ context.Context, r *Request) (any, error) { return r.Params, nil },
	}))
	t.Cleanup(func() { _ = errors.Join(host.Close(), plugin.Close()) })
	if _, err := host.Call(context.Background(), "hello", nil); err != nil { // then it is serving
		t.Fatal(err)
	}
	return host, plugin
}

// turns is how often somebody else than Run has read.
func (c *Conn) turns() uint64 {
	c.turn.mu.Lock()
	defer c.turn.mu.Unlock()
	return c.turn.round
}

// askUntil has the plugin ask one request behind the other until a worker has read
// so many of them itself.
func askUntil(t *testing.T, host, plugin *running, turns uint64) {
	t.Helper()
	for until := time.Now().Add(time.Minute); host.turns() < turns; {
		if _, err := plugin.Call(context.Background(), "echo", nil); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(until) {
			t.Fatalf("a worker has read %d requests itself", host.turns())
		}
	}
}

// TestWorkersReadOn has a plugin ask, from one place and from several, while it is
// asked, too: whoever reads, each gets its own answer.
func TestWorkersReadOn(t *testing.T) {
	clock := newStillClock()
	defer close(clock.passed)
	host, plugin := asking(t, clock, func(ctx context.Context, r *Request) (any, error) {
		if r.Method == "back" {
			return r.Conn.Call(ctx, "echo", r.Params)
		}
		return r.Params, nil
	})
	askUntil(t, host, plugin, 20)
	var all sync.WaitGroup
	for i, end := range []*running{plugin, host, plugin, host} {
		all.Go(func() {
			for j := range 500 {
				method := []string{"echo", "echo", "back"}[j%3]
				want := fmt.Sprintf("[%d,%d]", i, j)
				got, err := end.Call(context.Background(), method, json.RawMessage(want))
				if err != nil || string(got) != want {
					t.Errorf("%s: got %s, %v", method, got, err)
					return
				}
			}
		})
	}
	all.Wait()
	askUntil(t, host, plugin, host.turns()+20)
}

// TestAWorkerThatReadsHoldsNobodyUp: while a worker that reads on works on what it
// read, the next request and a cancellation are read by Run.
func TestAWorkerThatReadsHoldsNobodyUp(t *testing.T) {
	clock := newStillClock()
	defer close(clock.passed)
	release := make(chan struct{})
	host, plugin := asking(t, clock, func(ctx context.Context, r *Request) (any, error) {
		switch r.Method {
		case "wait":
			select {
			case <-release:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		case "release":
			release <- struct{}{}
		}
		return r.Params, nil
	})
	for range 20 {
		askUntil(t, host, plugin, host.turns()+3)
		waited := make(chan error, 1)
		go func() {
			_, err := plugin.Call(context.Background(), "wait", nil)
			waited <- err
		}()
		if _, err := plugin.Call(context.Background(), "release", nil); err != nil {
			t.Fatal(err)
		}
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
		askUntil(t, host, plugin, host.turns()+3)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		_, err := plugin.Call(ctx, "wait", nil)
		cancel()
		var e *RPCError
		if !errors.As(err, &e) || e.Code != CodeDeadline {
			t.Fatalf("got %v", err)
		}
		host.handledAll(t)
	}
}

// handledAll waits until no request is open.
func (r *running) handledAll(t *testing.T) {
	t.Helper()
	select {
	case <-r.requests.idle():
	case <-time.After(time.Minute):
		t.Fatal("a request that was cancelled is still open")
	}
}

// TestAWorkerLeavesAQuietStream: one that reads on and gets nothing to read gives
// the stream back, and ends.
func TestAWorkerLeavesAQuietStream(t *testing.T) {
	clock := newStillClock()
	host, plugin := asking(t, clock, func(_ context.Context, r *Request) (any, error) { return r.Params, nil })
	askUntil(t, host, plugin, 20)
	close(clock.passed) // all patience is over
	for until := time.Now().Add(time.Minute); ; <-time.After(time.Millisecond) {
		host.turn.mu.Lock()
		free := host.turn.free || host.turn.taken
		host.turn.mu.Unlock()
		if !free {
			break
		}
		if time.Now().After(until) {
			t.Fatal("somebody else than Run still reads")
		}
	}
	if _, err := plugin.Call(context.Background(), "echo", nil); err != nil {
		t.Fatal(err)
	}
}

// TestSlowRequestsLeaveTheStreamToRun: only what is answered at once is worth not
// reading meanwhile.
func TestSlowRequestsLeaveTheStreamToRun(t *testing.T) {
	host, plugin := asking(t, nil, func(_ context.Context, r *Request) (any, error) {
		<-time.After(2 * promptTime)
		return r.Params, nil
	})
	before := host.turns()
	for range 50 {
		if _, err := plugin.Call(context.Background(), "echo", nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := host.turns() - before; n > 0 {
		t.Errorf("workers read %d times", n)
	}
}
