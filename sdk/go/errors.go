package cordon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// The error codes that a plugin meets. It may answer with any of its own.
const (
	CodeInvalidRequest = -32600
	CodeMethodNotFound = -32601
	CodeInvalidParams  = -32602
	CodeInternal       = -32603

	CodeDeadline     = -32001 // no answer before the deadline
	CodeCancelled    = -32003 // the caller gave up
	CodeOverloaded   = -32004 // too many requests; nothing was begun
	CodeShuttingDown = -32005 // nothing new is begun
	CodeTooLarge     = -32006 // a message over the frame limit
	CodePeerGone     = -32008 // the connection ended before the answer
	CodeDenied       = -32011 // not granted
	CodeUnsupported  = -32013
)

// Error is the answer to a request that failed: what a handler returns to be
// told to the caller, and what a call to the host returns.
type Error struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data,omitempty"`
	// Of a Client's errors: what would mend it, if that is known; whether the
	// plugin itself answered so; and what the call is called in the host's records.
	Hint       string `json:"-"`
	FromPlugin bool   `json:"-"`
	RequestID  string `json:"-"`
	cause      error
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap gives context.DeadlineExceeded or context.Canceled where one was
// behind an error made on this side.
func (e *Error) Unwrap() error { return e.cause }

// Errorf makes an Error for a handler to return.
func Errorf(code int, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// errInternal is all that a caller is told of a failure nobody meant it to see.
var errInternal = &Error{Code: CodeInternal, Message: "internal error"}

// toError maps a handler's error to what the caller is told.
func toError(err error) *Error {
	var e *Error
	switch {
	case errors.Is(err, context.Canceled):
		return &Error{Code: CodeCancelled, Message: "cancelled"}
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: CodeDeadline, Message: "deadline exceeded"}
	default:
		return errInternal
	}
}

// Breach names the rule of the protocol that the peer broke; PROTOCOL.md has
// the table.
type Breach string

// The rules a peer can break.
const (
	BreachFraming     Breach = "framing"
	BreachTooLarge    Breach = "too-large"
	BreachTruncated   Breach = "truncated"
	BreachSyntax      Breach = "syntax"
	BreachEncoding    Breach = "encoding"
	BreachDepth       Breach = "depth"
	BreachDuplicate   Breach = "duplicate"
	BreachEnvelope    Breach = "envelope"
	BreachID          Breach = "id"
	BreachUnasked     Breach = "unasked"
	BreachPhase       Breach = "phase"
	BreachHello       Breach = "hello"
	BreachRefused     Breach = "refused"
	BreachDescriptors Breach = "descriptors"
)

// ProtocolError is why a connection ended when the peer broke a rule.
type ProtocolError struct {
	Code Breach
	Msg  string
}

// Error implements error.
func (e *ProtocolError) Error() string { return "protocol broken (" + string(e.Code) + "): " + e.Msg }

func breach(code Breach, format string, args ...any) *ProtocolError {
	return &ProtocolError{Code: code, Msg: fmt.Sprintf(format, args...)}
}
