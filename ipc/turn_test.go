package ipc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// talkative answers every call, and between times tells and asks its peer
// things that the caller who reads must leave to Run.
func talkative(t *testing.T) (c *Conn, told func() int) {
	t.Helper()
	a, b := socketpair(t)
	var mu sync.Mutex
	notes := 0
	c = NewConn(SocketTransport(a), Options{
		Limits:  Limits{Rate: 1e9, CallTimeout: time.Minute},
		Handler: func(_ context.Context, r *Request) (any, error) { return r.Params, nil },
		OnNotify: func(string, json.RawMessage) {
			mu.Lock()
			defer mu.Unlock()
			notes++
		},
	})
	plugin := NewConn(SocketTransport(b), Options{Limits: Limits{Rate: 1e9}, Handler: func(ctx context.Context, r *Request) (any, error) {
		switch r.Method {
		case "tell":
			return r.Params, r.Conn.Notify("note", nil)
		case "ask":
			return r.Conn.Call(ctx, "back", r.Params)
		case "wait":
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return r.Params, nil
	}})
	run(c)
	run(plugin)
	t.Cleanup(func() { _ = c.Close() })
	return c, func() int {
		mu.Lock()
		defer mu.Unlock()
		return notes
	}
}

// TestTurnsLoseNothing has callers one behind the other and side by side, with
// requests and notifications of the plugin in between: whoever reads, each gets
// its own answer.
func TestTurnsLoseNothing(t *testing.T) {
	for _, procs := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(procs, " processors"), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			c, told := talkative(t)
			var all sync.WaitGroup
			const callers, each = 3, 300
			for i := range callers {
				all.Go(func() {
					for j := range each {
						method := []string{"echo", "tell", "ask"}[(i+j)%3]
						want := fmt.Sprintf("[%d,%d]", i, j)
						got, err := c.Call(context.Background(), method, json.RawMessage(want))
						if err != nil || string(got) != want {
							t.Errorf("%s: got %s, %v", method, got, err)
							return
						}
						if i == 0 && j%50 == 0 {
							runtime.Gosched()
						}
					}
				})
			}
			all.Wait()
			for until := time.Now().Add(time.Minute); told() < each && time.Now().Before(until); {
				runtime.Gosched()
			}
			if got := told(); got != each {
				t.Errorf("told %d times, want %d", got, each)
			}
		})
	}
}

// TestTurnEndsWithItsCaller: a caller that reads leaves at its deadline or when
// it is cancelled, and the connection goes on.
func TestTurnEndsWithItsCaller(t *testing.T) {
	c, _ := talkative(t)
	for i := range 20 {
		if _, err := c.Call(context.Background(), "echo", nil); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		if i%2 == 0 {
			cancel()
			ctx, cancel = context.WithTimeout(context.Background(), 5*time.Millisecond)
		} else {
			time.AfterFunc(time.Millisecond, cancel)
		}
		_, err := c.Call(ctx, "wait", nil)
		cancel()
		var e *RPCError
		if !errors.As(err, &e) || e.Code != CodeDeadline && e.Code != CodeCancelled {
			t.Fatalf("got %v", err)
		}
	}
	// The limit of a call without a deadline of its own.
	c.o.Limits.CallTimeout = 5 * time.Millisecond
	for range 5 {
		_, _ = c.Call(context.Background(), "echo", nil)
		if _, err := c.Call(context.Background(), "wait", nil); err == nil || !strings.Contains(err.Error(), "no answer within") {
			t.Fatalf("got %v", err)
		}
	}
}

// TestTurnHearsOfTheEnd: the peer's end reaches a caller that reads, and Run.
func TestTurnHearsOfTheEnd(t *testing.T) {
	a, b := socketpair(t)
	c := NewConn(SocketTransport(a), Options{})
	ended := make(chan error, 1)
	go func() { ended <- c.Run(context.Background()) }()
	go func() {
		plugin := NewConn(SocketTransport(b), Options{Handler: func(_ context.Context, r *Request) (any, error) {
			if r.Method == "die" {
				return nil, r.Conn.Close()
			}
			return nil, nil
		}})
		_ = plugin.Run(context.Background())
	}()
	if _, err := c.Call(context.Background(), "echo", nil); err != nil {
		t.Fatal(err)
	}
	var e *RPCError
	if _, err := c.Call(context.Background(), "die", nil); !errors.As(err, &e) || e.Code != CodePluginGone {
		t.Errorf("got %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}
