package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// Service is what the daemon does for the control socket. Who may ask for what
// was decided before a method is called. Errors are an *Error where the caller
// can do something about it.
type Service interface {
	Install(ctx context.Context, by Caller, p InstallParams) (InstallResult, error)
	Remove(ctx context.Context, by Caller, p NameParams) error
	Start(ctx context.Context, by Caller, p NameParams) (Status, error)
	Stop(ctx context.Context, by Caller, p NameParams) (Status, error)
	Restart(ctx context.Context, by Caller, p NameParams) (Status, error)
	// Swap returns when the process before has ended, or the other was given up.
	Swap(ctx context.Context, by Caller, p SwapParams) (Status, error)
	Enable(ctx context.Context, by Caller, p NameParams) (Status, error)
	Disable(ctx context.Context, by Caller, p NameParams) (Status, error)
	Release(ctx context.Context, by Caller, p ReleaseParams) (Status, error)
	// Pin makes the tools that an MCP server lists now its contract.
	Pin(ctx context.Context, by Caller, p PinParams) (Pinned, error)
	List(ctx context.Context) ([]Status, error)
	Inspect(ctx context.Context, p NameParams) (Inspection, error)
	Call(ctx context.Context, p CallParams) (json.RawMessage, error)
	// CallFiles is Call with descriptors: files go along, and are closed in any
	// case; the caller closes those of the answer, p.Accept at most.
	CallFiles(ctx context.Context, p CallParams, files []*os.File) (ipc.Answer, error)
	Why(ctx context.Context, p NameParams) ([]violation.Violation, error)
	// Logs and Events return a Stream if Follow is set, which the caller closes.
	Logs(ctx context.Context, p LogsParams) ([]LogLine, Stream[LogLine], error)
	Events(ctx context.Context, p EventsParams) ([]Event, Stream[Event], error)
	AuditCheckpoint(ctx context.Context) (AuditCheckpoint, error)
	EvidenceList(ctx context.Context, p NameParams) ([]Evidence, error)
	EvidenceShow(ctx context.Context, p EvidenceParams) (EvidenceContent, error)
	// Reload reads configuration and profiles anew; on an error what held before
	// holds on.
	Reload(ctx context.Context, by Caller) (Reloaded, error)
	// Upgrade goes on as another program. It returns only if that failed, and then
	// nothing has changed.
	Upgrade(ctx context.Context, by Caller, p UpgradeParams) error
	// Capabilities gives the catalogue, and the grants of a plugin if one is named.
	Capabilities(ctx context.Context, p NameParams) (Capabilities, error)
	// Grant and Revoke hold when they return.
	Grant(ctx context.Context, by Caller, p GrantParams) (Granted, error)
	Revoke(ctx context.Context, by Caller, p GrantParams) (Granted, error)
	// Flags gives the feature flags; SetFlag holds, in all that follows from it, when
	// it returns.
	Flags(ctx context.Context) ([]Flag, error)
	SetFlag(ctx context.Context, by Caller, p FlagParams) (Flagged, error)
	// Serve takes functions of an application, which are there until withdraw is
	// called.
	Serve(ctx context.Context, by Caller, p ServeParams, call FunctionCaller) (withdraw func(), err error)
	// Attach joins a client to a running plugin. deliver gets the plugin's
	// messages, each valid until it returns, from several goroutines; it must not
	// wait, and an error from it ends the bridge. The caller closes the bridge.
	Attach(ctx context.Context, p NameParams, deliver func(json.RawMessage) error) (AttachResult, Bridge, error)
}

// Stream follows what happens from now on. A follower that is too slow is
// dropped: C is closed and Lost says so.
type Stream[T any] interface {
	C() <-chan T
	Lost() bool
	Close()
}

// Bridge is one client's way to a plugin.
type Bridge interface {
	// Send hands one message of the client to the plugin. An error ends the bridge.
	Send(ctx context.Context, message json.RawMessage) error
	// Done is closed when the plugin's side has ended.
	Done() <-chan struct{}
	Close()
}

// Caller is who asks, as the kernel says.
type Caller struct {
	UID, GID uint32
	PID      int32
	// Groups are the supplementary groups of the uid.
	Groups []uint32
}

// String names the caller for the audit log.
func (c Caller) String() string { return fmt.Sprintf("uid %d", c.UID) }

// Error is an answer that says what went wrong and what would mend it. Code is
// one of package ipc's.
type Error struct {
	Code    int
	Message string
	Hint    string
	// FromPlugin says that a plugin answered this, with Data. It can claim any
	// code and say anything.
	FromPlugin bool
	Data       json.RawMessage
	cause      error
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap returns what was behind it on this side of the socket.
func (e *Error) Unwrap() error { return e.cause }

// Errorf makes an Error; %w keeps the cause.
func Errorf(code int, hint, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Hint: hint, cause: errors.Unwrap(err)}
}
