package supervisor

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/control"
)

// requestNames names the calls of one daemon that their callers gave no name.
type requestNames struct {
	prefix string
	last   atomic.Uint64
}

func newRequestNames(random func() float64) *requestNames {
	return &requestNames{prefix: fmt.Sprintf("%08x-", uint32(random()*(1<<32)))}
}

func (n *requestNames) next() string { return n.prefix + strconv.FormatUint(n.last.Add(1), 10) }

// bits are 64 random ones, for ids that need to be different and no more.
func (s *shared) bits() uint64 {
	return uint64(s.random()*(1<<32))<<32 | uint64(s.random()*(1<<32))
}

// trace is what of a call's _meta goes on to the plugin: the trace of its
// caller, or a new one, and the name that the call has in every record.
type trace struct {
	ipc.Meta
	asked bool // its caller has a trace
}

func (s *shared) traced(m control.CallMeta) (trace, error) {
	if m.RequestID != "" && !ipc.ValidRequestID(m.RequestID) {
		return trace{}, control.Errorf(ipc.CodeInvalidParams, "1 to 64 letters, digits, '.', '_' and '-'", "cannot use the request_id %.80q", m.RequestID)
	}
	out := trace{asked: ipc.ValidTraceparent(m.Traceparent)}
	out.RequestID, out.Traceparent = m.RequestID, ipc.ChildTrace(m.Traceparent, s.bits)
	if out.RequestID == "" {
		out.RequestID = s.names.next()
	}
	return out, nil
}

type traceKey struct{}

// withTrace has a call carry t to the plugin.
func withTrace(ctx context.Context, t trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

func traceOf(ctx context.Context) trace {
	t, _ := ctx.Value(traceKey{}).(trace)
	return t
}
