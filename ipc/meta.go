package ipc

import (
	"encoding/json"
	"strconv"
	"time"
)

// WithDeadline returns params with how long the caller goes on waiting, as
// _meta.deadline_ms. It is a span, not a time: the peer's clock may be another.
// params must be nil or valid JSON; what is no object, or has a _meta of its
// own, stays as it is, since it would then have one key twice.
func WithDeadline(params json.RawMessage, left time.Duration) json.RawMessage {
	params = trimSpace(params)
	ms := strconv.AppendInt([]byte(`{"_meta":{"deadline_ms":`), max(1, left.Milliseconds()), 10)
	if len(params) == 0 || string(params) == "null" {
		return append(ms, "}}"...)
	}
	if params[0] != '{' {
		return params
	}
	if _, ok := lookup(params, "_meta"); ok {
		return params
	}
	rest := trimSpace(params[1:])
	if rest[0] == '}' {
		return append(append(ms, '}'), rest...)
	}
	return append(append(ms, "},"...), rest...)
}
