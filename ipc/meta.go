package ipc

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Meta is what travels with a request beside its parameters, as their member
// _meta.
type Meta struct {
	// Left is how long the caller goes on waiting; 0 says nothing of it. It is a
	// span, not a time: the peer's clock may be another.
	Left time.Duration
	// Traceparent is a trace context (https://www.w3.org/TR/trace-context/), and
	// RequestID what this request is called in logs. "" is none.
	Traceparent, RequestID string
}

// maxRequestID bounds a request's name, in bytes.
const maxRequestID = 64

// WithMeta returns params with m, whose texts must be valid. params must be nil
// or valid JSON; what is no object, or has a _meta of its own, stays as it is,
// since it would then have one key twice.
func WithMeta(params json.RawMessage, m Meta) json.RawMessage {
	params = trimSpace(params)
	none := len(params) == 0 || string(params) == "null"
	if !none {
		if params[0] != '{' {
			return params
		}
		if _, ok := lookup(params, "_meta"); ok {
			return params
		}
	}
	out := append(make([]byte, 0, 192+len(params)), `{"_meta":{`...)
	if m.Left != 0 {
		out = append(out, `"deadline_ms":`...)
		out = strconv.AppendInt(out, max(1, m.Left.Milliseconds()), 10)
	}
	out = appendText(out, `"traceparent":"`, m.Traceparent)
	out = appendText(out, `"request_id":"`, m.RequestID)
	out = append(out, '}')
	if none {
		return append(out, '}')
	}
	rest := trimSpace(params[1:])
	if rest[0] != '}' {
		out = append(out, ',')
	}
	return append(out, rest...)
}

// appendText appends a member whose value needs no escapes.
func appendText(out []byte, name, value string) []byte {
	if value == "" {
		return out
	}
	if out[len(out)-1] != '{' {
		out = append(out, ',')
	}
	out = append(out, name...)
	out = append(out, value...)
	return append(out, '"')
}

// MetaOf reads what the peer's valid params carry. What is not valid is left
// out: a trace context that makes no sense is to be ignored.
func MetaOf(params json.RawMessage) (m Meta) {
	at, ok := lookup(params, "_meta")
	if !ok {
		return m
	}
	meta := at.of(params)
	if at, ok := lookup(meta, "traceparent"); ok {
		if t := textOf(at.of(meta)); ValidTraceparent(t) {
			m.Traceparent = t
		}
	}
	if at, ok := lookup(meta, "request_id"); ok {
		if id := textOf(at.of(meta)); ValidRequestID(id) {
			m.RequestID = id
		}
	}
	return m
}

// textOf is a string without escapes, "" for any other value.
func textOf(raw []byte) string {
	if len(raw) < 2 || raw[0] != '"' || len(raw) > 256 {
		return ""
	}
	return string(raw[1 : len(raw)-1])
}

// The pieces of a traceparent: version, trace-id, parent-id, trace-flags.
const (
	traceparentLen = 55
	traceIDAt      = 3
	parentIDAt     = 36
	traceFlagsAt   = 53
)

// ValidTraceparent says whether s is a trace context of version 00.
func ValidTraceparent(s string) bool {
	if len(s) != traceparentLen || s[:traceIDAt] != "00-" || s[parentIDAt-1] != '-' || s[traceFlagsAt-1] != '-' {
		return false
	}
	trace, parent, flags := s[traceIDAt:parentIDAt-1], s[parentIDAt:traceFlagsAt-1], s[traceFlagsAt:]
	return isHex(trace) && isHex(parent) && isHex(flags) && strings.Trim(trace, "0") != "" && strings.Trim(parent, "0") != ""
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// ValidRequestID says whether s may name a request: 1 to 64 letters, digits,
// '.', '_' and '-', so that it can stand in any log.
func ValidRequestID(s string) bool {
	if s == "" || len(s) > maxRequestID {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// ChildTrace is the traceparent that a callee gets: of the same trace, with the
// caller's own span as its parent. Without a valid one a new trace begins,
// unsampled. random gives 64 bits.
func ChildTrace(parent string, random func() uint64) string {
	out := make([]byte, 0, traceparentLen)
	flags := "00"
	if ValidTraceparent(parent) {
		out, flags = append(out, parent[:parentIDAt]...), parent[traceFlagsAt:]
	} else {
		out = append(out, "00-"...)
		out = appendHex(out, random())
		out = append(appendHex(out, random()|1), '-') // all zeros is invalid
	}
	out = append(appendHex(out, random()|1), '-')
	return string(append(out, flags...))
}

// appendHex appends 16 digits.
func appendHex(out []byte, v uint64) []byte {
	for shift := 60; shift >= 0; shift -= 4 {
		out = append(out, "0123456789abcdef"[v>>shift&15])
	}
	return out
}
