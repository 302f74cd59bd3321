package cordon

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
)

// Trace is what a request belongs to. Both may be empty.
type Trace struct {
	// Traceparent is a trace context (https://www.w3.org/TR/trace-context/), and
	// RequestID what the request is called in the host's records.
	Traceparent string `json:"traceparent,omitempty"`
	RequestID   string `json:"request_id,omitempty"`
}

type traceKey struct{}

// TraceOf returns what a handler's request belongs to. What the handler asks of
// the host with the same context says so too.
func TraceOf(ctx context.Context) Trace {
	t, _ := ctx.Value(traceKey{}).(Trace)
	return t
}

// WithTrace has calls with the context belong to t.
func WithTrace(ctx context.Context, t Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// Log returns the plugin's logger, with the name of the handler's request on
// each line.
func Log(ctx context.Context) *slog.Logger {
	c := Host(ctx)
	if c == nil {
		return slog.Default()
	}
	if id := TraceOf(ctx).RequestID; id != "" {
		return c.plugin.Log.With("request_id", id)
	}
	return c.plugin.Log
}

// withTrace reads the trace of a request's _meta.
func withTrace(ctx context.Context, meta []byte) context.Context {
	var t Trace
	if at, ok := lookup(meta, "traceparent"); ok {
		t.Traceparent = short(at.of(meta))
	}
	if at, ok := lookup(meta, "request_id"); ok {
		t.RequestID = short(at.of(meta))
	}
	if t == (Trace{}) {
		return ctx
	}
	return WithTrace(ctx, t)
}

// short is a string that needs no escapes and is not long; "" for all else.
func short(raw []byte) string {
	if len(raw) < 2 || len(raw) > 256 || raw[0] != '"' || strings.ContainsRune(string(raw), '\\') {
		return ""
	}
	return string(raw[1 : len(raw)-1])
}

// within gives params, as JSON, a _meta; what is no object, or has one, stays.
func (t Trace) within(params []byte) []byte {
	if t == (Trace{}) || len(params) == 0 {
		return params
	}
	meta, err := json.Marshal(map[string]Trace{"_meta": t})
	switch {
	case err != nil:
		return params
	case string(params) == "null", string(params) == "{}":
		return meta
	case params[0] != '{':
		return params
	}
	if _, has := lookup(params, "_meta"); has {
		return params
	}
	return append(append(meta[:len(meta)-1:len(meta)-1], ','), params[1:]...)
}
