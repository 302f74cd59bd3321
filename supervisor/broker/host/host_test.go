package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
	"github.com/cordonhq/cordon/supervisor/control"
)

func declared(name string) control.Function {
	return control.Function{Name: name, Params: json.RawMessage(`{"type":"object","required":["n"]}`), Result: json.RawMessage(`{"type":"number"}`)}
}

// twice doubles.
func twice(_ context.Context, c control.FunctionCall) (json.RawMessage, error) {
	var p struct{ N float64 }
	err := json.Unmarshal(c.Params, &p)
	return json.RawMessage(fmt.Sprint(2 * p.N)), err
}

func (fs *Functions) ask(ctx context.Context, params string) (any, error) {
	return fs.serve(ctx, &capability.Call{Plugin: "p", Method: "host.call", Params: json.RawMessage(params)})
}

func code(err error) int {
	var e *ipc.RPCError
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestFunction(t *testing.T) {
	fs := NewFunctions()
	withdraw, err := fs.Serve([]control.Function{declared("math.twice")}, twice)
	if err != nil {
		t.Fatal(err)
	}
	got, err := fs.ask(t.Context(), `{"function":"math.twice","params":{"n":21}}`)
	if text, ok := got.(json.RawMessage); err != nil || !ok || string(text) != "42" {
		t.Fatalf("%s, %v", got, err)
	}
	if _, err := fs.ask(t.Context(), `{"function":"math.twice","params":{}}`); code(err) != ipc.CodeContract {
		t.Errorf("params against the contract: %v", err)
	}
	if _, err := fs.ask(t.Context(), `{"function":"math.thrice","params":{"n":1}}`); code(err) != ipc.CodeNotFound {
		t.Errorf("what nobody serves: %v", err)
	}
	if _, err := fs.Serve([]control.Function{declared("other"), declared("math.twice")}, twice); err == nil || slices.Contains(fs.Names(), "other") {
		t.Errorf("a name that is taken: %v, served are %q", err, fs.Names())
	}
	withdraw()
	withdraw()
	if _, err := fs.ask(t.Context(), `{"function":"math.twice","params":{"n":1}}`); code(err) != ipc.CodeNotFound {
		t.Errorf("after it has left: %v", err)
	}
}

// TestIllApplications: what an application does wrong is told to the plugin, and
// never as a failure of the capability, which would rest for all.
func TestIllApplications(t *testing.T) {
	fs := NewFunctions()
	for name, call := range map[string]control.FunctionCaller{
		"wrong": func(context.Context, control.FunctionCall) (json.RawMessage, error) {
			return json.RawMessage(`"no number"`), nil
		},
		"says": func(context.Context, control.FunctionCall) (json.RawMessage, error) {
			return nil, &control.Error{Code: 7, Message: "no"}
		},
		"gone": func(context.Context, control.FunctionCall) (json.RawMessage, error) { return nil, ipc.ErrClosed },
	} {
		if _, err := fs.Serve([]control.Function{declared(name)}, call); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]int{"wrong": ipc.CodeContract, "says": ipc.CodeInternal, "gone": ipc.CodePluginGone} {
		if _, err := fs.ask(t.Context(), `{"function":"`+name+`","params":{"n":1}}`); code(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	expired, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if err := said(expired, "late", context.DeadlineExceeded); code(err) != ipc.CodeDeadline {
		t.Errorf("one that is late: %v", err)
	}
}

// TestStuckFunction: one that never answers holds up so many calls of its own,
// and none of another.
func TestStuckFunction(t *testing.T) {
	fs := NewFunctions()
	begun := make(chan struct{})
	stuck := func(ctx context.Context, c control.FunctionCall) (json.RawMessage, error) {
		if c.Function == "fine" {
			return twice(ctx, c)
		}
		begun <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, err := fs.Serve([]control.Function{declared("stuck"), declared("fine")}, stuck); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range maxAtOnce {
		all.Go(func() { _, _ = fs.ask(ctx, `{"function":"stuck","params":{"n":1}}`) })
		<-begun
	}
	if _, err := fs.ask(ctx, `{"function":"stuck","params":{"n":1}}`); code(err) != ipc.CodeOverloaded {
		t.Errorf("one more: %v", err)
	}
	if _, err := fs.ask(ctx, `{"function":"fine","params":{"n":1}}`); err != nil {
		t.Errorf("another function: %v", err)
	}
	cancel()
	all.Wait()
}

func TestBadDeclarations(t *testing.T) {
	all := json.RawMessage("true")
	for name, f := range map[string]control.Function{
		"no name":      {Params: all, Result: all},
		"a wildcard":   {Name: "a.*", Params: all, Result: all},
		"no schema":    {Name: "a", Params: all},
		"no JSON":      {Name: "a", Params: json.RawMessage("{"), Result: all},
		"from outside": {Name: "a", Params: json.RawMessage(`{"$ref":"file:///etc/passwd"}`), Result: all},
		"too large":    {Name: "a", Params: json.RawMessage(`{"title":"` + strings.Repeat("x", maxSchema) + `"}`), Result: all},
	} {
		fs := NewFunctions()
		if _, err := fs.Serve([]control.Function{f}, twice); err == nil || len(fs.Names()) > 0 {
			t.Errorf("%s: %v, %q", name, err, fs.Names())
		}
	}
	fs := NewFunctions()
	if _, err := fs.Serve([]control.Function{declared("a"), declared("a")}, twice); err == nil {
		t.Error("one name twice")
	}
	var many []control.Function
	for i := range maxFunctions + 1 {
		many = append(many, declared(fmt.Sprint("f", i)))
	}
	if _, err := fs.Serve(many, twice); err == nil || len(fs.Names()) > 0 {
		t.Error("too many")
	}
}
