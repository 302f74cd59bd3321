package cordon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

type countParams struct {
	Text string `json:"text"`
}

func testPlugin() *Plugin {
	p := New("words", "1.0.0")
	p.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	Handle(p, "count", func(_ context.Context, in countParams) (map[string]int, error) {
		return map[string]int{"words": len(strings.Fields(in.Text))}, nil
	})
	return p
}

func start(t *testing.T, p, host *Plugin) *Harness {
	t.Helper()
	h, err := NewHarness(t.Context(), p, host)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func closed(t *testing.T, h *Harness) {
	t.Helper()
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

func TestTypedHandler(t *testing.T) {
	h := start(t, testPlugin(), nil)
	defer closed(t, h)
	var got map[string]int
	if err := h.Call(t.Context(), "count", countParams{"a b c"}, &got); err != nil || got["words"] != 3 {
		t.Errorf("got %v, %v", got, err)
	}
	var e *Error
	if err := h.Call(t.Context(), "count", map[string]int{"text": 1}, nil); !errors.As(err, &e) || e.Code != CodeInvalidParams {
		t.Errorf("params of a wrong type: %v", err)
	}
}

func TestDeadlineTravels(t *testing.T) {
	p := testPlugin()
	Handle(p, "deadline", func(ctx context.Context, _ json.RawMessage) (bool, error) {
		_, ok := ctx.Deadline()
		return ok, nil
	})
	Handle(p, "wait", func(ctx context.Context, _ json.RawMessage) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	h := start(t, p, nil)
	defer closed(t, h)
	var has bool
	if err := h.Call(t.Context(), "deadline", nil, &has); err != nil || has {
		t.Errorf("without one: %v, %v", has, err)
	}
	meta := map[string]any{"_meta": map[string]any{"deadline_ms": 60000}}
	if err := h.Call(t.Context(), "deadline", meta, &has); err != nil || !has {
		t.Errorf("with one: %v, %v", has, err)
	}
	meta["_meta"] = map[string]any{"deadline_ms": 1}
	var e *Error
	if err := h.Call(t.Context(), "wait", meta, nil); !errors.As(err, &e) || e.Code != CodeDeadline {
		t.Errorf("past it: %v", err)
	}
}

func TestCancelledCallEndsTheHandler(t *testing.T) {
	p := testPlugin()
	began, ended := make(chan struct{}), make(chan error, 1)
	Handle(p, "wait", func(ctx context.Context, _ json.RawMessage) (any, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	})
	h := start(t, p, nil)
	defer closed(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	if err := h.Call(ctx, "wait", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("the call: %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the handler: %v", err)
	}
}

func TestHostServesThePlugin(t *testing.T) {
	p, host := testPlugin(), New("host", "0")
	Handle(host, "kv.get", func(_ context.Context, in countParams) (string, error) { return "value of " + in.Text, nil })
	Handle(p, "look", func(ctx context.Context, in countParams) (out string, err error) {
		return out, Host(ctx).Call(ctx, "kv.get", in, &out)
	})
	h := start(t, p, host)
	defer closed(t, h)
	var got string
	if err := h.Call(t.Context(), "look", countParams{"x"}, &got); err != nil || got != "value of x" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestShutdownRunsOnceAllIsAnswered(t *testing.T) {
	p := testPlugin()
	var order []string
	began, release := make(chan struct{}), make(chan struct{})
	Handle(p, "slow", func(context.Context, json.RawMessage) (any, error) {
		close(began)
		<-release
		order = append(order, "answered")
		return nil, nil
	})
	p.OnShutdown(func(context.Context) error {
		order = append(order, "shut down")
		return nil
	})
	h := start(t, p, nil)
	done := make(chan error, 1)
	go func() { done <- h.Call(context.Background(), "slow", nil, nil) }()
	<-began
	go func() { close(release) }()
	closed(t, h)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if strings.Join(order, ", ") != "answered, shut down" {
		t.Errorf("the order was %v", order)
	}
}

// TestReaderInHandler: a request that comes alone is handled by the goroutine
// that reads, which must not keep what comes meanwhile waiting: a cancellation,
// further requests, the answers to calls of the handler's own.
func TestReaderInHandler(t *testing.T) {
	p := New("reader", "1")
	var slow atomic.Bool
	Handle(p, "wait", func(ctx context.Context, _ json.RawMessage) (any, error) {
		if !slow.Load() {
			return nil, nil
		}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	Handle(p, "back", func(ctx context.Context, in json.RawMessage) (out json.RawMessage, err error) {
		if !slow.Load() {
			return nil, nil
		}
		return out, Host(ctx).Call(ctx, "echo", in, &out)
	})
	Handle(p, "echo", func(_ context.Context, in json.RawMessage) (any, error) { return in, nil })
	Handle(p, "exit", func(context.Context, json.RawMessage) (any, error) {
		if slow.Load() {
			runtime.Goexit()
		}
		return nil, nil
	})
	host := New("host", "1")
	Handle(host, "echo", func(_ context.Context, in json.RawMessage) (any, error) { return in, nil })
	h, err := NewHarness(context.Background(), p, host)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 4*4*trusted; i++ { // so that the reader trusts them
		if err := h.Call(context.Background(), []string{"wait", "back", "echo", "exit"}[i%4], nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	slow.Store(true)
	for i := 0; i < 50; i++ {
		ctx, cancel := context.WithCancel(context.Background())
		waited := make(chan error, 1)
		go func() { waited <- h.Call(ctx, "wait", nil, nil) }()
		for _, method := range []string{"echo", "back"} {
			var got []int
			if err := h.Call(context.Background(), method, []int{i}, &got); err != nil || len(got) != 1 || got[0] != i {
				t.Fatalf("%s: %v, %v", method, got, err)
			}
		}
		cancel()
		var e *Error
		if err := <-waited; !errors.As(err, &e) || e.Code != CodeCancelled {
			t.Fatalf("got %v", err)
		}
	}
	lost, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_ = h.Call(lost, "exit", nil, nil) // has no answer
	if err := h.Call(context.Background(), "echo", nil, nil); err != nil {
		t.Errorf("after a handler's exit: %v", err)
	}
	_ = h.stream.Close() // Close would wait for the answer to exit
	<-h.plugin
}
