package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cordonhq/cordon/ipc"
)

// The bounds of what is remembered of calls.
const (
	callsKept     = 32
	callParamsMax = 4 << 10 // bytes; of longer ones only the size is kept
	shapeDepth    = 4
	shapeMembers  = 32
)

// callRecord is one call of a plugin as evidence has it: what was asked, and
// how it went, without what was said.
type callRecord struct {
	Time     time.Time     `json:"time"`
	Method   string        `json:"method"`
	Bytes    int           `json:"params_bytes"`
	Shape    any           `json:"params,omitempty"`
	Duration time.Duration `json:"duration_ns,omitempty"`
	Outcome  string        `json:"outcome"`
	// RequestID and Traceparent are those that the plugin got.
	RequestID   string `json:"request_id,omitempty"`
	Traceparent string `json:"traceparent,omitempty"`

	params json.RawMessage
}

// callBook keeps the newest calls of one process.
type callBook struct {
	mu    sync.Mutex
	calls []callRecord // at most callsKept, then a ring
	next  int
}

// begin notes a call and returns what notes its end.
func (b *callBook) begin(now time.Time, method string, params json.RawMessage, m ipc.Meta) (end func(now time.Time, err error)) {
	c := callRecord{Time: now.UTC(), Method: method, Bytes: len(params), Outcome: "not answered", RequestID: m.RequestID, Traceparent: m.Traceparent}
	if len(params) <= callParamsMax {
		c.params = params
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	at := b.next
	b.next++
	if at < callsKept {
		b.calls = append(b.calls, c)
	} else {
		b.calls[at%callsKept] = c
	}
	return func(now time.Time, err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.next-at > callsKept {
			return // forgotten meanwhile
		}
		b.calls[at%callsKept].Duration = now.Sub(c.Time)
		b.calls[at%callsKept].Outcome = outcomeOf(err)
	}
}

// list returns the calls, oldest first, with the shapes of their parameters.
func (b *callBook) list() []callRecord {
	b.mu.Lock()
	var out []callRecord
	for i := max(0, b.next-callsKept); i < b.next; i++ {
		out = append(out, b.calls[i%callsKept])
	}
	b.mu.Unlock()
	for i := range out {
		out[i].Shape = shapeOf(out[i].params)
	}
	return out
}

func outcomeOf(err error) string {
	var answer *ipc.RPCError
	switch {
	case err == nil:
		return "answered"
	case errors.As(err, &answer):
		return fmt.Sprintf("error %d", answer.Code) // the text may be anything
	default:
		return "failed"
	}
}

// shapeOf says what kinds of values parameters have, and how long they are.
func shapeOf(params json.RawMessage) any {
	var v any
	if len(params) == 0 || json.Unmarshal(params, &v) != nil {
		return nil
	}
	return shape(v, shapeDepth)
}

func shape(v any, depth int) any {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("string(%d)", len(v))
	case float64:
		return "number"
	case bool:
		return "boolean"
	case []any:
		if depth == 0 || len(v) == 0 {
			return fmt.Sprintf("array(%d)", len(v))
		}
		return []any{fmt.Sprintf("array(%d)", len(v)), shape(v[0], depth-1)}
	case map[string]any:
		if depth == 0 || len(v) > shapeMembers {
			return fmt.Sprintf("object(%d)", len(v))
		}
		out := make(map[string]any, len(v))
		for key, value := range v {
			out[key] = shape(value, depth-1)
		}
		return out
	default:
		return "null"
	}
}
