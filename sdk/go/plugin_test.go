package cordon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
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
