package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// A circuit breaker keeps calls away from what does not answer: from one method
// of a plugin, and from the plugin as a whole. It opens after failures in a row,
// refuses at once while it is open, and then lets one call through (half-open),
// which decides. Each process begins with all circuits closed.
//
// A failure is a call that was not answered in time or for which the plugin had
// no room. What a plugin answers is none, whatever it says, and a caller that
// waited less than breakerPatience says nothing about the plugin: one caller
// must not be able to shut the others out.
const (
	methodFailures  = 5
	pluginFailures  = 15
	breakerPatience = time.Second
	breakerWait     = 10 * time.Second // before the first try; doubled each time
	breakerWaitMax  = 5 * time.Minute
	breakerMethods  = 256 // of the methods beyond only the plugin's circuit knows
)

// outcome is what a call says about the plugin.
type outcome int

const (
	unknown outcome = iota // the caller gave up, or it was refused
	good
	bad
)

// circuit is one breaker: a value that admit and settle make the next of.
type circuit struct {
	state    control.CircuitState
	failures int // in a row, while closed
	opened   int // times in a row
	until    time.Time
	probing  bool
	// turn counts the changes of state: a call that was let through before the
	// last one says nothing about now.
	turn   uint64
	reason string
}

// admit says whether a call may pass now.
func (c circuit) admit(now time.Time) (next circuit, ok bool) {
	switch c.state {
	case control.CircuitOpen:
		if now.Before(c.until) {
			return c, false
		}
		c.state, c.probing = control.CircuitHalfOpen, true
		c.turn++
		return c, true
	case control.CircuitHalfOpen:
		if c.probing {
			return c, false
		}
		c.probing = true
		return c, true
	case control.CircuitClosed:
		return c, true
	default:
		return c, true
	}
}

// settle takes the outcome of a call that was admitted in turn.
func (c circuit) settle(now time.Time, turn uint64, o outcome, limit int, reason string) circuit {
	if turn != c.turn {
		return c
	}
	switch o {
	case good:
		next := circuit{state: control.CircuitClosed, turn: c.turn}
		if c.state != control.CircuitClosed {
			next.turn++
		}
		return next
	case unknown:
		c.probing = false // another may try
		return c
	case bad:
	}
	c.failures++
	c.reason = reason
	if c.state == control.CircuitHalfOpen || c.failures >= limit {
		wait := min(breakerWait<<min(c.opened, 16), breakerWaitMax)
		c.state, c.until, c.probing, c.failures = control.CircuitOpen, now.Add(wait), false, 0
		c.opened++
		c.turn++
	}
	return c
}

// circuits are those of one process.
type circuits struct {
	mu      sync.Mutex
	whole   circuit
	methods map[string]circuit // only those that failed since they last succeeded
	// changed is told of each circuit that opens or closes; it must not wait.
	changed func(c control.Circuit)
}

func newCircuits(changed func(control.Circuit)) *circuits {
	return &circuits{whole: closedCircuit(), methods: map[string]circuit{}, changed: changed}
}

func closedCircuit() circuit { return circuit{state: control.CircuitClosed} }

// method returns a method's circuit.
func (cs *circuits) method(name string) circuit {
	if c, known := cs.methods[name]; known {
		return c
	}
	return closedCircuit()
}

// begin asks whether a call may pass. If so, done must be called at its end.
func (cs *circuits) begin(now time.Time, method string) (done func(now time.Time, o outcome, reason string), err error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	whole, ok := cs.whole.admit(now)
	if !ok {
		return nil, refusedBy(cs.whole, "the plugin", now)
	}
	one, ok := cs.method(method).admit(now)
	if !ok {
		return nil, refusedBy(cs.method(method), fmt.Sprintf("method %q", violation.Escape(method, 64)), now)
	}
	cs.whole = whole
	cs.keep(method, one)
	wholeTurn, oneTurn := whole.turn, one.turn
	return func(now time.Time, o outcome, reason string) {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		was := cs.whole
		cs.whole = was.settle(now, wholeTurn, o, pluginFailures, reason)
		cs.tell("", was, cs.whole)
		before := cs.method(method)
		after := before.settle(now, oneTurn, o, methodFailures, reason)
		cs.keep(method, after)
		cs.tell(method, before, after)
	}, nil
}

// keep stores a method's circuit, unless there is nothing to remember.
func (cs *circuits) keep(method string, c circuit) {
	_, known := cs.methods[method]
	switch {
	case c.state == control.CircuitClosed && c.failures == 0:
		delete(cs.methods, method)
	case known || len(cs.methods) < breakerMethods:
		cs.methods[method] = c
	}
}

func (cs *circuits) tell(method string, before, after circuit) {
	if before.state != after.state {
		cs.changed(after.shown(method))
	}
}

func (c circuit) shown(method string) control.Circuit {
	out := control.Circuit{Method: method, State: c.state, Failures: c.failures, Reason: c.reason}
	if c.state == control.CircuitOpen {
		out.Until = c.until
	}
	return out
}

// list shows the circuits that are not simply closed.
func (cs *circuits) list() []control.Circuit {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	var out []control.Circuit
	if cs.whole.state != control.CircuitClosed || cs.whole.failures > 0 {
		out = append(out, cs.whole.shown(""))
	}
	for _, name := range slices.Sorted(maps.Keys(cs.methods)) {
		if c := cs.methods[name]; c.state != control.CircuitClosed || c.failures > 0 {
			out = append(out, c.shown(name))
		}
	}
	return out
}

// keptCircuit is a circuit as a daemon writes it down for the next.
type keptCircuit struct {
	Method   string    `json:"method,omitempty"`
	Open     bool      `json:"open,omitempty"`
	Until    time.Time `json:"until,omitzero"`
	Failures int       `json:"failures,omitempty"`
	Opened   int       `json:"opened,omitempty"`
	Reason   string    `json:"reason,omitempty"`
}

// kept are the circuits that are not simply closed. The call by which a half-open
// one is tried ends with its daemon: the next lets another try.
func (cs *circuits) kept() []keptCircuit {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	var out []keptCircuit
	add := func(method string, c circuit) {
		if c.state != control.CircuitClosed || c.failures > 0 {
			out = append(out, keptCircuit{method, c.state != control.CircuitClosed, c.until, c.failures, c.opened, violation.Escape(c.reason, 200)})
		}
	}
	add("", cs.whole)
	for _, name := range slices.Sorted(maps.Keys(cs.methods)) {
		if c := cs.methods[name]; c.state != control.CircuitClosed && len(name) <= maxKeptMethod && len(out) < maxKeptCircuits {
			add(name, c)
		}
	}
	return out
}

// What is written down of circuits has its place in a book: that of the plugin,
// and those of methods that are open.
const (
	maxKeptCircuits = 64
	maxKeptMethod   = 128 // bytes
)

// restore goes on with what an earlier daemon wrote down.
func (cs *circuits) restore(list []keptCircuit) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for _, k := range list {
		c := closedCircuit()
		if k.Open {
			c.state = control.CircuitOpen
		}
		c.until, c.failures, c.opened, c.reason = k.Until, k.Failures, k.Opened, k.Reason
		if k.Method == "" {
			cs.whole = c
		} else {
			cs.keep(k.Method, c)
		}
	}
}

// refusedBy is the error of a caller whom an open circuit refuses.
func refusedBy(c circuit, what string, now time.Time) error {
	when := "one call is being tried"
	if c.state == control.CircuitOpen {
		when = "it is tried again in " + violation.Span(max(c.until.Sub(now), time.Second).Round(time.Second))
	}
	return control.Errorf(ipc.CodeOverloaded, "cordon inspect shows the circuits, cordon restart closes them",
		"cannot call: the circuit of %s is %s after failures in a row (%s); %s", what, c.state, c.reason, when)
}

// judgeCall says what the end of a call says about the plugin.
func judgeCall(err error, took time.Duration) (o outcome, reason string) {
	var answer *ipc.RPCError
	late := errors.Is(err, context.DeadlineExceeded)
	full := false
	switch {
	case err == nil:
		return good, ""
	case errors.As(err, &answer) && !answer.Local:
		return good, ""
	case answer != nil:
		late, full = late || answer.Code == ipc.CodeDeadline, answer.Code == ipc.CodeOverloaded
	}
	switch {
	case late && took >= breakerPatience:
		return bad, "no answer within " + violation.Span(took.Round(time.Millisecond))
	case full:
		return bad, "it takes no more calls"
	}
	return unknown, ""
}

// circuitChanged records that a circuit of a run opened or closed.
func (p *plugin) circuitChanged(c control.Circuit) {
	p.box.post(message{do: func() {
		p.writeBooks()
		if !p.budget.take(p.clock.Now()) {
			return
		}
		what := "all methods"
		if c.Method != "" {
			what = "method " + violation.Escape(c.Method, 64)
		}
		text := fmt.Sprintf("the circuit of %s of %s is %s", what, p.name, c.State)
		if c.Reason != "" {
			text += ": " + c.Reason
		}
		p.auditEvent(control.Event{Plugin: p.name, Kind: "circuit-" + string(c.State), Actor: "daemon", Text: text})
	}})
}
