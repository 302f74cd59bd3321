package ipc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Breach names the rule of the protocol that a peer broke. PROTOCOL.md says
// for each what leads to it.
type Breach string

// The rules a peer can break.
const (
	BreachFraming     Breach = "framing"     // first byte, length or header is not what the framing says
	BreachTooLarge    Breach = "too-large"   // a message over MaxFrame
	BreachTruncated   Breach = "truncated"   // the stream ended inside a message; also how a killed peer looks
	BreachHalfOpen    Breach = "half-open"   // a message was started and not finished in time
	BreachStalled     Breach = "stalled"     // the peer does not read what is sent to it
	BreachOverdue     Breach = "overdue"     // no answer to a call that was cancelled at its deadline
	BreachRate        Breach = "rate"        // a flood that went on although it was slowed down
	BreachStray       Breach = "stray"       // too much on stdout that is no message
	BreachSyntax      Breach = "syntax"      // not JSON
	BreachEncoding    Breach = "encoding"    // invalid UTF-8 or a lone surrogate
	BreachDepth       Breach = "depth"       // nested deeper than MaxDepth
	BreachDuplicate   Breach = "duplicate"   // one key twice in one object
	BreachEnvelope    Breach = "envelope"    // JSON, but no JSON-RPC 2.0 message
	BreachID          Breach = "id"          // an id of a wrong type or size, or in use
	BreachUnasked     Breach = "unasked"     // a reply that nobody waits for
	BreachPhase       Breach = "phase"       // a message that its sender may not send yet
	BreachHello       Breach = "hello"       // a hello's answer that makes no sense
	BreachDescriptors Breach = "descriptors" // file descriptors where none are accepted
	BreachRefused     Breach = "refused"     // the peer says that it could not read us
)

// ProtocolError is what Run returns when the peer broke a rule. For a plugin
// it is a violation.
type ProtocolError struct {
	Code Breach
	// Msg is a sentence for people. It holds nothing that the peer wrote except
	// in quoted, escaped and capped form.
	Msg string
}

// Error implements error.
func (e *ProtocolError) Error() string { return "protocol broken (" + string(e.Code) + "): " + e.Msg }

func breach(code Breach, format string, args ...any) *ProtocolError {
	return &ProtocolError{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// The error codes of JSON-RPC 2.0, and ours in its range for servers. A peer
// can send any of them: see RPCError.Local.
const (
	CodeParse          = -32700 // the message is not JSON
	CodeInvalidRequest = -32600 // the message is no request
	CodeMethodNotFound = -32601
	CodeInvalidParams  = -32602
	CodeInternal       = -32603

	CodeDeadline     = -32001 // no answer before the deadline
	CodeNotReady     = -32002 // before the hello is done
	CodeCancelled    = -32003 // the caller gave up
	CodeOverloaded   = -32004 // too many requests, or no room; try again later
	CodeShuttingDown = -32005 // draining: no new requests
	CodeTooLarge     = -32006 // a message over the frame limit
	CodeContract     = -32007 // parameters or result break the contract
	CodePluginGone   = -32008 // the peer ended before it answered
	CodeQuarantined  = -32009
	CodeNotFound     = -32010 // no such plugin, path or object
	CodeDenied       = -32011 // the caller may not do this
	CodeConflict     = -32012 // not in this state
	CodeUnsupported  = -32013 // the host lacks what this needs
)

// RPCError is the answer to a request that failed.
type RPCError struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data,omitempty"`
	// Local is true when this side made the error (deadline, peer gone ...) and
	// false when the peer sent it: a plugin can claim any code.
	Local bool `json:"-"`
	cause error
}

// Error implements error.
func (e *RPCError) Error() string { return e.Message }

// Unwrap gives context.DeadlineExceeded, context.Canceled or what else was
// behind an error made on this side.
func (e *RPCError) Unwrap() error { return e.cause }

// Errorf makes an RPCError for a handler to return. With %w the cause can be
// unwrapped on this side; the peer sees only the text.
func Errorf(code int, format string, args ...any) *RPCError {
	err := fmt.Errorf(format, args...)
	return &RPCError{Code: code, Message: err.Error(), Local: true, cause: errors.Unwrap(err)}
}

// ErrClosed is the cause of every call on a connection that was closed or has
// ended.
var ErrClosed = errors.New("connection closed")

// ErrSlowPeer is returned by Notify when the peer does not read and the queue
// to it is full.
var ErrSlowPeer = errors.New("the peer does not read: its queue is full")

// toRPC maps a handler's error to what the peer is told. An error that is no
// RPCError is not shown to the peer.
func toRPC(err error) *RPCError {
	var e *RPCError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return &RPCError{Code: CodeDeadline, Message: "deadline exceeded"}
	case errors.Is(err, context.Canceled):
		return &RPCError{Code: CodeCancelled, Message: "cancelled"}
	default:
		return &RPCError{Code: CodeInternal, Message: "internal error"}
	}
}
