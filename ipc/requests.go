package ipc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
)

// requests are the peer's requests that are not answered yet. The zero value
// needs init.
type requests struct {
	mu       sync.Mutex
	max      int
	maxBytes int
	bytes    int
	open     map[string]*served
	empty    chan struct{} // closed when none is open; nil while nobody waits
	journal  *Journal
}

// served is one request of the peer.
type served struct {
	id        string // as the peer wrote it
	bytes     int
	cancel    context.CancelFunc // nil when a bridge's client answers it
	cancelled atomic.Bool
	settled   atomic.Bool     // it has its answer, or is about to
	ctx       context.Context //nolint:containedctx // of this request alone
	client    *Client
	among     *requests
	place     int // in the journal
}

// end removes the request and says whether it was open.
func (s *served) end() bool { return s.among != nil && s.among.end(s) }

func (t *requests) init(l Limits) {
	t.max, t.maxBytes = l.MaxInFlight, l.MaxQueue
	t.open = map[string]*served{}
}

// errBusy is returned when the peer has too many requests open.
var errBusy = errors.New("too many requests")

// begin notes a request. One with an id that is in use is a breach.
func (t *requests) begin(s *served) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.open[s.id]; ok {
		return breach(BreachID, "an id that is in use by another request")
	}
	if len(t.open) >= t.max || t.bytes+s.bytes > t.maxBytes && len(t.open) > 0 {
		return errBusy
	}
	t.open[s.id], s.among = s, t
	s.place = t.journal.note(s.id)
	t.bytes += s.bytes
	return nil
}

func (t *requests) end(s *served) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[s.id] != s { // its id may be in use again
		return false
	}
	delete(t.open, s.id)
	t.journal.answered(s.place)
	t.bytes -= s.bytes
	if len(t.open) == 0 && t.empty != nil {
		close(t.empty)
		t.empty = nil
	}
	return true
}

// cancel ends the context of a request that a handler works on.
func (t *requests) cancel(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.open[id]
	if !ok || s.cancel == nil {
		return false
	}
	s.cancelled.Store(true)
	s.cancel()
	return true
}

// get returns an open request.
func (t *requests) get(id string) (*served, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.open[id]
	return s, ok
}

// idle returns a channel that is closed once no request is open.
func (t *requests) idle() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.empty == nil {
		t.empty = make(chan struct{})
	}
	ch := t.empty
	if len(t.open) == 0 {
		close(ch)
		t.empty = nil
	}
	return ch
}

// request lets one request of the peer in, or answers why not.
func (c *Conn) request(m *incoming) error {
	switch p := c.Phase(); {
	case p == PhaseHello && c.o.Protocol == ProtocolCordon:
		return breach(BreachPhase, "a request before the answer to the hello")
	case p == PhaseHello:
		return c.refuse(m, CodeNotReady, "the hello is not done")
	case p >= PhaseDraining:
		return c.refuse(m, CodeShuttingDown, "the connection is draining")
	}
	s := &served{id: string(m.idBytes()), bytes: len(m.msg)}
	if len(m.files) > 0 {
		if full, err := c.takesFiles(m); full || err != nil {
			return c.admitted(m, errOr(err, errBusy))
		}
	}
	if b := c.bridge.Load(); b != nil {
		if taken, err := b.pluginAsks(s, m); taken {
			return c.admitted(m, err)
		}
	}
	return c.admitted(m, c.serve(s, m))
}

// takesFiles says whether a request may carry the descriptors that came with
// it, and whether handlers hold too many already.
func (c *Conn) takesFiles(m *incoming) (full bool, err error) {
	accepted := 0
	if c.o.AcceptFiles != nil {
		accepted = c.o.AcceptFiles(text(m.method.of(m.msg)))
	}
	if len(m.files) > accepted {
		return false, breach(BreachDescriptors, "%d file descriptors came with a request that may carry %d", len(m.files), accepted)
	}
	return c.box.held.Load()+int64(len(m.files)) > int64(c.box.max), nil
}

func errOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// admitted turns a full gate into an answer.
func (c *Conn) admitted(m *incoming, err error) error {
	if errors.Is(err, errBusy) {
		c.st.overloaded.Add(1)
		return c.refuse(m, CodeOverloaded, "too many requests at once")
	}
	return err
}

// refuse answers from the reader itself, which never waits.
func (c *Conn) refuse(m *incoming, code int, why string) error {
	parts := errorReply(m.idBytes(), &RPCError{Code: code, Message: why})
	if errors.Is(c.out.putNow(parts...), ErrSlowPeer) {
		return breach(BreachStalled, "requests go on and no answer is read")
	}
	return nil // other failures end the connection by themselves
}

func (c *Conn) serve(s *served, m *incoming) error {
	ctx, cancel := context.WithCancel(c.ctx)
	s.ctx, s.cancel = ctx, cancel
	if err := c.requests.begin(s); err != nil {
		cancel()
		return err
	}
	r := &Request{Method: text(m.method.of(m.msg)), Params: m.keep(m.params), Conn: c, Files: m.takeFiles(), s: s}
	c.box.held.Add(int64(len(r.Files)))
	c.handlers.Add(1)
	j := job{s: s, r: r, behind: c.comesBehind(c.o.Clock.Now())}
	if c.keeps {
		c.kept = j
		return nil
	}
	c.workers.do(c, j)
	c.lends = j.behind
	return nil
}

// answer runs the handler and sends what it says.
func (c *Conn) answer(s *served, r *Request) {
	result, files, err := c.guarded(s.ctx, r)
	if !s.settled.CompareAndSwap(false, true) { // it was given up
		files.close()
		return
	}
	c.settle(s, r.Method, result, files, err)
}

// GiveUp answers the request with an error while its handler still works, whose
// context ends and whose own answer is dropped. The connection waits for that
// handler no longer, not even to end. It says whether there was no answer yet.
func (r *Request) GiveUp(err error) bool {
	if r.s == nil || !r.s.settled.CompareAndSwap(false, true) {
		return false
	}
	r.Conn.settle(r.s, r.Method, nil, nil, err)
	return true
}

// settle ends a request with its answer.
func (c *Conn) settle(s *served, method string, result json.RawMessage, files *parcel, err error) {
	defer c.handlers.Done()
	defer s.end()
	defer s.cancel()
	if s.cancelled.Load() && c.o.Protocol == ProtocolMCP { // which wants no answer then
		files.close()
		return
	}
	parts := c.replyParts(s, method, result, files, err)
	p := &patience{ctx: c.ctx}
	sent := c.out.putFor(p, s, files, parts)
	if errors.Is(sent, errTooLarge) {
		sent = c.out.putFor(p, s, nil, errorReply([]byte(s.id), &RPCError{Code: CodeTooLarge, Message: "the answer is a " + sent.Error()}))
	}
	if sent != nil && !errors.Is(sent, ErrClosed) && !errors.Is(sent, context.Canceled) {
		c.o.Log(fmt.Sprintf("cannot answer %.100q: %v", method, sent))
	}
}

func (c *Conn) replyParts(s *served, method string, result json.RawMessage, files *parcel, err error) [][]byte {
	if err == nil {
		return resultReply([]byte(s.id), result, files)
	}
	if s.cancelled.Load() && errors.Is(err, context.Canceled) {
		err = &RPCError{Code: cancelledCode(c.o.Protocol), Message: "cancelled"}
	}
	e := toRPC(err)
	if e.Code == CodeInternal {
		c.o.Log(fmt.Sprintf("cannot handle %.100q: %v", method, err))
	}
	return errorReply([]byte(s.id), e)
}

// cancelledCode is LSP's own RequestCancelled there.
func cancelledCode(p Protocol) int {
	if p == ProtocolLSP {
		return -32800
	}
	return CodeCancelled
}

// guarded runs the handler behind a fence.
func (c *Conn) guarded(ctx context.Context, r *Request) (raw json.RawMessage, files *parcel, err error) {
	defer c.release(r.Files)
	defer func() {
		if p := recover(); p != nil {
			c.st.panics.Add(1)
			c.o.Log(fmt.Sprintf("panic in handler of %.100q: %v\n%s", r.Method, p, debug.Stack()))
			raw, files, err = nil, nil, &RPCError{Code: CodeInternal, Message: "internal error"}
		}
	}()
	if c.o.Protocol == ProtocolMCP && r.Method == "ping" {
		return json.RawMessage("{}"), nil, nil
	}
	if c.o.Handler == nil {
		return nil, nil, &RPCError{Code: CodeMethodNotFound, Message: "method not found"}
	}
	result, err := c.o.Handler(ctx, r)
	if with, ok := result.(WithFiles); ok {
		result = with.Result
		r.pass(with.Files)
		if err != nil {
			closeFiles(with.Files)
			return nil, nil, err
		}
		if files, err = c.pack(with.Files); err != nil {
			return nil, nil, err
		}
	}
	if err != nil {
		return nil, nil, err
	}
	raw, err = marshal(result)
	if err != nil {
		files.close()
		return nil, nil, fmt.Errorf("cannot marshal the result: %w", err)
	}
	if len(raw) == 0 {
		raw = json.RawMessage("null")
	}
	return raw, files, nil
}

// release closes the descriptors that a handler did not take.
func (c *Conn) release(came []Descriptor) {
	if came != nil {
		CloseDescriptors(came)
		c.box.held.Add(-int64(len(came)))
	}
}

// pass takes those that go out again.
func (r *Request) pass(files []*os.File) {
	for i := range r.Files {
		if slices.Contains(files, r.Files[i].File) {
			r.Files[i].File = nil
		}
	}
}

var replyHead = []byte(`{"jsonrpc":"2.0","id":`)

func resultReply(id, result []byte, files *parcel) [][]byte {
	return [][]byte{replyHead, id, []byte(`,"result":`), result, files.member()}
}

func errorReply(id []byte, e *RPCError) [][]byte {
	body, err := json.Marshal(e)
	if err != nil { // Data is not JSON
		body, _ = json.Marshal(&RPCError{Code: e.Code, Message: e.Message})
	}
	return [][]byte{replyHead, id, []byte(`,"error":`), body, closeBrace}
}

// of returns the open requests that a bridge's client was asked.
func (t *requests) of(cl *Client) []*served {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*served
	for _, s := range t.open {
		if s.client == cl {
			all = append(all, s)
		}
	}
	return all
}
