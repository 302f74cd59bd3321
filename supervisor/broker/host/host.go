// Package host is the capability host.call: functions that an application of
// the host serves. It declares them, with schemas, over the control socket, and
// they are there as long as its connection is.
package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
	"github.com/cordonhq/cordon/supervisor/contract"
	"github.com/cordonhq/cordon/supervisor/control"
)

// The bounds of applications and their functions.
const (
	maxFunctions = 256 // of all applications
	maxSchema    = 64 << 10
	maxText      = 1024
	// maxAtOnce is how many calls of one function may wait for its answer: one
	// that never answers takes so many of its application's 16, and no more.
	maxAtOnce = 4
	// answerTime is less than the broker gives a capability, for what is late is
	// the application's fault.
	answerTime = 8 * time.Second
)

// Functions are what applications serve now.
type Functions struct {
	mu sync.Mutex
	of map[string]*function
}

// NewFunctions is none.
func NewFunctions() *Functions { return &Functions{of: map[string]*function{}} }

type function struct {
	contract *contract.Contract
	call     control.FunctionCaller
	places   chan struct{}
}

// Serve adds the functions of one application, all or none. They are answered
// by call, until withdraw is called; a name that is served already is refused.
func (fs *Functions) Serve(list []control.Function, call control.FunctionCaller) (withdraw func(), err error) {
	made := map[string]*function{}
	for _, f := range list {
		if _, twice := made[f.Name]; twice {
			return nil, fmt.Errorf("the function %q is there twice", f.Name)
		}
		if made[f.Name], err = newFunction(f, call); err != nil {
			return nil, err
		}
	}
	if len(made) == 0 {
		return nil, errors.New("there is no function")
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for name := range made {
		if fs.of[name] != nil {
			return nil, fmt.Errorf("another application serves the function %q", name)
		}
	}
	if len(fs.of)+len(made) > maxFunctions {
		return nil, fmt.Errorf("more than %d functions", maxFunctions)
	}
	for name, f := range made {
		fs.of[name] = f
	}
	return sync.OnceFunc(func() {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		for name := range made {
			delete(fs.of, name)
		}
	}), nil
}

func newFunction(f control.Function, call control.FunctionCaller) (*function, error) {
	spec := grant.Spec{Name: "host.call", Kind: grant.Word}
	if err := spec.Check(f.Name); err != nil || f.Name[len(f.Name)-1] == '*' {
		return nil, fmt.Errorf("the function %.100q: expected a name of letters, digits, '.', '-', '_' and '/'", f.Name)
	}
	if len(f.Params) > maxSchema || len(f.Result) > maxSchema || len(f.Text) > maxText {
		return nil, fmt.Errorf("the function %q: its schemas have at most %d bytes each, and its text %d", f.Name, maxSchema, maxText)
	}
	if len(f.Params) == 0 || len(f.Result) == 0 {
		return nil, fmt.Errorf(`the function %q: it needs schemas of its params and its result; {"params": true} takes anything`, f.Name)
	}
	c, err := contract.Of(f.Name, string(f.Params), string(f.Result))
	if err != nil {
		return nil, fmt.Errorf("the function %q: %w", f.Name, err)
	}
	return &function{contract: c, call: call, places: make(chan struct{}, maxAtOnce)}, nil
}

// Names lists what is served now, sorted.
func (fs *Functions) Names() []string {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	out := make([]string, 0, len(fs.of))
	for name := range fs.of {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (fs *Functions) get(name string) *function {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.of[name]
}

// New makes the capability.
func New(fs *Functions) capability.Capability {
	return capability.Capability{
		Name: "host.call",
		Text: "Calls a function that an application of the host serves, by its name. Params and result are checked against the schemas that the application declared; one that has left, or does not answer in time, is an error.",
		Cost: capability.Memory, Phases: capability.Always(),
		Methods: []capability.Method{{
			Name: "host.call", Text: "gives what the function answers",
			Params: `{"type": "object", "properties": {"function": {"type": "string", "minLength": 1, "maxLength": 128}, "params": true, "_meta": {"type": "object"}}, "required": ["function"], "additionalProperties": false}`,
			Result: `true`,
			Target: target, Serve: fs.serve,
		}},
	}
}

type request struct {
	Function string          `json:"function"`
	Params   json.RawMessage `json:"params"`
}

func target(params json.RawMessage) (string, error) {
	var r request
	if err := json.Unmarshal(params, &r); err != nil {
		return "", err
	}
	if r.Function[len(r.Function)-1] == '*' {
		return "", errors.New("expected the name of one function")
	}
	return r.Function, nil
}

// serve asks the application. Whatever it does wrong is an answer, and no
// failure of the capability: it is not to rest because one application is ill.
func (fs *Functions) serve(ctx context.Context, c *capability.Call) (any, error) {
	var r request
	if err := json.Unmarshal(c.Params, &r); err != nil {
		return nil, err
	}
	f := fs.get(r.Function)
	if f == nil {
		return nil, ipc.Errorf(ipc.CodeNotFound, "no application serves %s now", r.Function)
	}
	if len(r.Params) == 0 {
		r.Params = json.RawMessage("null")
	}
	if err := f.contract.Params(r.Function, r.Params); err != nil {
		return nil, ipc.Errorf(ipc.CodeContract, "cannot call %s: its parameters break the contract: %w", r.Function, err)
	}
	select {
	case f.places <- struct{}{}:
		defer func() { <-f.places }()
	default:
		return nil, ipc.Errorf(ipc.CodeOverloaded, "%s is asked %d times at once: try again later", r.Function, maxAtOnce)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	result, err := f.call(ctx, control.FunctionCall{
		Function: r.Function, Plugin: c.Plugin, Params: r.Params,
		Meta: control.CallMeta{Traceparent: c.Meta.Traceparent, RequestID: c.Meta.RequestID},
	})
	if err != nil {
		return nil, said(ctx, r.Function, err)
	}
	if err := f.contract.Result(r.Function, result); err != nil {
		return nil, ipc.Errorf(ipc.CodeContract, "%s answered what breaks its own contract", r.Function)
	}
	return result, nil
}

// said is an application's error in words for the plugin: what it says itself,
// under the code of an application's error, or that it did not.
func said(ctx context.Context, name string, err error) error {
	var own *control.Error
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ipc.Errorf(ipc.CodeDeadline, "%s did not answer within %v", name, answerTime)
	case errors.As(err, &own):
		return ipc.Errorf(ipc.CodeInternal, "%s: %.512s", name, own.Message)
	}
	return ipc.Errorf(ipc.CodePluginGone, "the application that serves %s has left", name)
}
