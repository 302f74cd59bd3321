package ipc

import (
	"encoding/json"
	"sync"
	"time"
)

// reply is how a call ended.
type reply struct {
	result json.RawMessage
	files  []Descriptor
	err    error
}

// pendingCall is one request of this side that has no answer yet.
type pendingCall struct {
	id    uint64
	reply chan reply // room for one; nil when forward is set
	// forward takes the answer to a bridge's client. It must not wait.
	forward *forwarded
	// early sees the result in the reader; nil where nobody is in such haste.
	early func(result []byte)
	// accept is how many descriptors its answer may carry.
	accept int
}

// remembered is how many cancelled calls are told apart from calls never made.
const remembered = 4096

// calls are this side's requests. The zero value needs init.
type calls struct {
	places chan struct{} // one token for each call in progress
	mu     sync.Mutex
	closed bool
	last   uint64
	open   map[uint64]*pendingCall
	// late are cancelled calls whose answer may still come. Where there are too
	// many, all ids up to forgot are taken for such.
	late   map[uint64]struct{}
	forgot uint64
	// overdue are the late ones whose deadline had passed, oldest first; somebody
	// watches them while there are any.
	overdue  []overdue
	watching bool
	pool     sync.Pool
	journal  *Journal
}

func (t *calls) init(inFlight int) {
	t.places = make(chan struct{}, inFlight)
	t.open = map[uint64]*pendingCall{}
	t.late = map[uint64]struct{}{}
	t.pool.New = func() any { return &pendingCall{reply: make(chan reply, 1)} }
}

// begin gives a new call its id: 1, 2, 3 ...
func (t *calls) begin(f *forwarded, x expected) (*pendingCall, error) {
	pc := &pendingCall{forward: f}
	if f == nil {
		pc = t.pool.Get().(*pendingCall) //nolint:forcetypeassert // the pool holds nothing else
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	t.last++
	t.journal.called(t.last)
	pc.id, pc.early, pc.accept = t.last, x.early, x.accept
	t.open[pc.id] = pc
	return pc, nil
}

// waiting says whether any call is open.
func (t *calls) waiting() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open) > 0
}

// recycle takes back a call whose reply was received.
func (t *calls) recycle(pc *pendingCall) { t.pool.Put(pc) }

// overdue is a call that was cancelled at its deadline.
type overdue struct {
	id    uint64
	until time.Time // when the peer must have answered
}

// awaitLate has the connection end, as a breach, if the peer does not answer a
// call that it was told to cancel: one that spins, or waits for ever, is told
// from one that is only late.
func (c *Conn) awaitLate(id uint64) {
	grace := c.o.Limits.CancelGrace
	if grace <= 0 || !answersCancelled(c.o.Protocol) {
		return
	}
	t := &c.calls
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || len(t.overdue) >= remembered {
		return
	}
	t.overdue = append(t.overdue, overdue{id, c.o.Clock.Now().Add(grace)})
	if !t.watching {
		t.watching = true
		go c.watchLate()
	}
}

// answersCancelled says whether a request must be answered though it was
// cancelled. Of plain JSON-RPC nobody knows.
func answersCancelled(p Protocol) bool { return p == ProtocolCordon || p == ProtocolLSP }

func (c *Conn) watchLate() {
	for {
		next, ok := c.calls.nextOverdue()
		if !ok {
			return
		}
		timer, stop := c.o.Clock.After(next.until.Sub(c.o.Clock.Now()))
		select {
		case <-timer:
		case <-c.done:
		}
		stop()
		if c.Phase() == PhaseClosed {
			return
		}
		if c.calls.isLate(next.id) {
			c.st.breaches.Add(1)
			c.end(breach(BreachOverdue, "a call that was cancelled at its deadline was not answered within %v", c.o.Limits.CancelGrace))
			return
		}
	}
}

// nextOverdue returns the first that is not answered yet.
func (t *calls) nextOverdue() (overdue, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.overdue) > 0 {
		next := t.overdue[0]
		t.overdue = t.overdue[1:]
		if _, late := t.late[next.id]; late {
			return next, true
		}
	}
	t.overdue, t.watching = nil, false
	return overdue{}, false
}

func (t *calls) isLate(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, late := t.late[id]
	return late
}

// forget removes a call that was never sent.
func (t *calls) forget(pc *pendingCall) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, pc.id)
}

// cancel removes a call that was sent and says whether it was still open.
func (t *calls) cancel(pc *pendingCall) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.open[pc.id]; !ok {
		return false
	}
	delete(t.open, pc.id)
	if len(t.late) >= remembered {
		clear(t.late)
		t.forgot = t.last
	}
	t.late[pc.id] = struct{}{}
	return true
}

// fate is what a reply's id stands for.
type fate uint8

const (
	fateUnknown fate = iota
	fateOpen
	fateLate
)

// take removes the call that a reply answers.
func (t *calls) take(id uint64) (*pendingCall, fate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if pc, ok := t.open[id]; ok {
		delete(t.open, id)
		return pc, fateOpen
	}
	if _, ok := t.late[id]; ok {
		delete(t.late, id)
		return nil, fateLate
	}
	if id != 0 && id <= t.forgot {
		return nil, fateLate
	}
	return nil, fateUnknown
}

// untake has a call whose answer breaks a rule end with the connection, and not
// before: who asked could still say something to the peer.
func (t *calls) untake(pc *pendingCall) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		pc.reply <- reply{err: ErrClosed}
		return
	}
	t.open[pc.id] = pc
}

// abandon ends all calls, and lets none begin.
func (t *calls) abandon() {
	t.mu.Lock()
	t.closed = true
	open := t.open
	t.open = map[uint64]*pendingCall{}
	t.mu.Unlock()
	for _, pc := range open {
		if pc.forward == nil {
			pc.reply <- reply{err: ErrClosed}
		} else {
			pc.forward.gone()
		}
	}
}

// reply hands an answer to whoever asked.
func (c *Conn) reply(m *incoming) error {
	if string(m.idBytes()) == "null" {
		return breach(BreachRefused, "the peer could not read us: %.200q", m.errorText())
	}
	id, ok := parseInt(m.idBytes())
	if !ok || id <= 0 {
		c.st.unasked.Add(1)
		return breach(BreachUnasked, "a reply to an id that was never used")
	}
	pc, fate := c.calls.take(uint64(id))
	switch fate {
	case fateOpen:
	case fateLate:
		c.st.late.Add(1)
		return nil
	case fateUnknown:
		c.st.unasked.Add(1)
		return breach(BreachUnasked, "a reply to %d, which nobody waits for", id)
	}
	if pc.forward != nil {
		pc.forward.answered(m)
		return nil
	}
	return c.deliver(pc, m)
}

func (c *Conn) deliver(pc *pendingCall, m *incoming) error {
	if len(m.files) > pc.accept {
		c.calls.untake(pc)
		return breach(BreachDescriptors, "%d file descriptors came with an answer that may carry %d", len(m.files), pc.accept)
	}
	if m.kind == kindResult {
		if pc.early != nil {
			pc.early(m.result.of(m.msg))
		}
		pc.reply <- reply{result: m.keep(m.result), files: m.takeFiles()}
		return nil
	}
	e, err := parseError(m.errorSpan.of(m.msg))
	if err != nil {
		c.calls.untake(pc)
		return err
	}
	pc.reply <- reply{err: e}
	return nil
}

func (m *incoming) errorText() string {
	e, err := parseError(m.peek(m.errorSpan))
	if err != nil {
		return ""
	}
	return e.Message
}

// parseError reads the error object of a reply: code an integer, message a
// string, data anything.
func parseError(raw []byte) (*RPCError, error) {
	code, ok := lookup(raw, "code")
	if !ok {
		return nil, breach(BreachEnvelope, "an error without a code")
	}
	n, ok := parseInt(code.of(raw))
	if !ok {
		return nil, breach(BreachEnvelope, "an error whose code is no integer")
	}
	msg, ok := lookup(raw, "message")
	if !ok || raw[msg.start] != '"' {
		return nil, breach(BreachEnvelope, "an error without a message")
	}
	e := &RPCError{Code: int(n), Message: text(msg.of(raw))}
	if data, ok := lookup(raw, "data"); ok {
		e.Data = append(json.RawMessage(nil), data.of(raw)...)
	}
	return e, nil
}
