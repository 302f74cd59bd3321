package ipc

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
)

// maxClients is how many clients one bridge takes.
const maxClients = 16

// Bridge lets many clients use one plugin's connection as if each were alone
// with it: whole messages go in and come out, verbatim but for ids. Clients are
// as hostile as plugins: each has the connection's limits, and a quarter of its
// places.
//
//	client            bridge                       plugin
//	initialize   ->   answered from the hello
//	initialized  ->   swallowed
//	request id   ->   id of the connection    ->   request
//	reply id     <-   the client's own id     <-   reply
//	notification ->                           ->   notification
//	cancel id    ->   id of the connection    ->   cancel
//	notification <-   to every client         <-   notification
//	request      <-   to the newest client    <-   request
//	shutdown     ->   answered; exit detaches (LSP)
type Bridge struct {
	c      *Conn
	hello  json.RawMessage
	places chan struct{} // of all clients together
	screen Screen

	mu      sync.Mutex
	closed  bool
	clients []*Client // oldest first
}

// NewBridge puts a bridge on c, which has one at most. hello is
// PluginInfo.Raw; without one, initialize goes to the plugin like any request.
// The bridge ends with the connection. Where its messages travel inside another
// connection's, that one needs a MaxFrame and MaxDepth with room for both.
func NewBridge(c *Conn, hello json.RawMessage) (*Bridge, error) {
	b := &Bridge{c: c, hello: hello, places: make(chan struct{}, max(1, c.o.Limits.MaxInFlight*3/4))}
	if !c.bridge.CompareAndSwap(nil, b) {
		return nil, errors.New("cannot bridge connection: it has a bridge")
	}
	select {
	case <-c.done: // end may have come before the swap
		b.close()
	default:
	}
	return b, nil
}

// Screen looks at what a client asks. An error is what the client gets instead
// of an answer; otherwise answered, if not nil, looks at the result, with the
// same consequence. Both see valid JSON that they must not keep, and must not
// wait: answered is called by the connection's reader.
type Screen func(method string, params json.RawMessage) (answered func(result json.RawMessage) error, err error)

// Screen has s look at what clients ask from now on. Call it before Attach.
func (b *Bridge) Screen(s Screen) { b.screen = s }

// Client is one client of a bridge.
type Client struct {
	b      *Bridge
	send   func(msg []byte) error
	places chan struct{}
	ctx    context.Context //nolint:containedctx // of the attachment's own life
	cancel context.CancelFunc
	scan   *scanner // Receive's own
	rate   rate

	mu   sync.Mutex
	gone bool
	err  error
	open map[string]*forwarded // by the client's own id, also those that wait
	line line
}

// forwarded is one request of a client, on its way.
type forwarded struct {
	cl *Client
	id string       // as the client wrote it
	pc *pendingCall // nil while it waits for a place
	// screened looks at its result; may be nil.
	screened func(result json.RawMessage) error
}

// Attach adds a client. send gets each message for it, valid until it returns;
// it is called from several goroutines and must not wait: an error from it
// detaches the client.
func (b *Bridge) Attach(send func(msg []byte) error) (*Client, error) {
	l := b.c.o.Limits
	cl := &Client{
		b: b, send: send, open: map[string]*forwarded{},
		places: make(chan struct{}, max(1, l.MaxInFlight/4)),
		scan:   newScanner(l.MaxDepth), rate: newRate(l.Rate),
	}
	cl.line.space = make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, Errorf(CodePluginGone, "cannot attach: %w", ErrClosed)
	}
	if len(b.clients) >= maxClients {
		return nil, Errorf(CodeOverloaded, "cannot attach: %d clients are attached already", maxClients)
	}
	cl.ctx, cl.cancel = context.WithCancel(context.Background())
	b.clients = append(b.clients, cl)
	return cl, nil
}

// Done is closed once the client is detached, by itself, by an error, or by the
// end of the plugin's connection.
func (cl *Client) Done() <-chan struct{} { return cl.ctx.Done() }

// Err returns why the client was detached, after Done: nil when it left by
// itself.
func (cl *Client) Err() error {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.err
}

// Detach takes the client off; what it asked for is cancelled. The plugin goes
// on.
func (cl *Client) Detach() { cl.detach(nil) }

func (cl *Client) detach(cause error) {
	cl.mu.Lock()
	if cl.gone {
		cl.mu.Unlock()
		return
	}
	cl.gone, cl.err = true, cause
	open := cl.open
	cl.open, cl.line.waiting = nil, nil
	cl.mu.Unlock()
	cl.cancel()
	cl.b.remove(cl)
	for _, f := range open {
		if f.pc != nil {
			cl.b.drop(f)
		}
	}
}

func (b *Bridge) remove(cl *Client) {
	b.mu.Lock()
	b.clients = slices.DeleteFunc(b.clients, func(x *Client) bool { return x == cl })
	b.mu.Unlock()
	for _, s := range b.c.requests.of(cl) {
		b.forsake(s)
	}
}

// drop gives up a request whose client has left.
func (b *Bridge) drop(f *forwarded) {
	if b.c.calls.cancel(f.pc) {
		b.c.sendCancel(strconv.AppendUint(nil, f.pc.id, 10), context.Canceled)
	}
	b.release(f.cl)
}

func (b *Bridge) release(cl *Client) {
	<-b.c.calls.places
	<-b.places
	<-cl.places
}

// close detaches everyone, for the plugin has gone.
func (b *Bridge) close() {
	b.mu.Lock()
	b.closed = true
	clients := slices.Clone(b.clients)
	b.mu.Unlock()
	for _, cl := range clients {
		cl.detach(ErrClosed)
	}
}

// Receive takes one whole message of the client, of any framing, without its
// frame. It waits for room towards the plugin until ctx ends, which is the
// client's back-pressure. Only one goroutine may call it. An error means that
// the client is detached: a *ProtocolError when it broke a rule.
func (cl *Client) Receive(ctx context.Context, msg []byte) error {
	err := cl.receive(ctx, msg)
	if err != nil {
		cl.detach(err)
	}
	return err
}

func (cl *Client) receive(ctx context.Context, msg []byte) error {
	if cl.ctx.Err() != nil {
		return ErrClosed
	}
	if err := cl.pace(ctx); err != nil {
		return err
	}
	if limit := cl.b.c.o.Limits.MaxFrame; len(msg) > limit {
		return breach(BreachTooLarge, "a message of %d bytes, over the limit of %d", len(msg), limit)
	}
	env, err := cl.scan.message(msg)
	if err != nil {
		return err
	}
	m := &incoming{envelope: env, msg: msg}
	switch m.kind {
	case kindRequest:
		return cl.request(ctx, m)
	case kindNotification:
		return cl.notification(ctx, m)
	case kindResult, kindError:
		return cl.reply(ctx, m)
	default:
		return nil
	}
}

func (cl *Client) pace(ctx context.Context) error {
	c := cl.b.c
	wait, ok := cl.rate.take(c.o.Clock.Now())
	if !ok {
		return breach(BreachRate, "more than %d messages a second, for %v", c.o.Limits.Rate, floodGrace)
	}
	if wait == 0 {
		return nil
	}
	timer, stop := c.o.Clock.After(wait)
	defer stop()
	select {
	case <-timer:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-cl.ctx.Done():
		return ErrClosed
	}
}

func (cl *Client) request(ctx context.Context, m *incoming) error {
	b := cl.b
	method := text(m.method.of(m.msg))
	switch {
	case method == "initialize" && b.hello != nil:
		return cl.answer(resultReply(m.idBytes(), b.hello, nil))
	case method == "shutdown" && b.c.o.Protocol == ProtocolLSP:
		return cl.answer(resultReply(m.idBytes(), []byte("null"), nil))
	case b.c.Phase() >= PhaseDraining:
		return cl.answer(errorReply(m.idBytes(), &RPCError{Code: CodeShuttingDown, Message: "the plugin is stopping"}))
	}
	var screened func(json.RawMessage) error
	if b.screen != nil {
		var err error
		if screened, err = b.screen(method, m.peek(m.params)); err != nil {
			return cl.answer(errorReply(m.idBytes(), contractError(err)))
		}
	}
	b.c.advance(PhaseServing)
	return cl.ask(ctx, m, screened)
}

func contractError(err error) *RPCError {
	var e *RPCError
	if errors.As(err, &e) {
		return e
	}
	return &RPCError{Code: CodeContract, Message: err.Error()}
}

func (cl *Client) answer(parts [][]byte) error { return cl.send(appendAll(nil, parts)) }

// untrack says whether f was still the client's to finish.
func (cl *Client) untrack(f *forwarded) bool {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.open[f.id] != f {
		return false
	}
	delete(cl.open, f.id)
	return true
}

// answered brings the plugin's reply to the client, under the client's own id.
// It runs in the connection's reader.
func (f *forwarded) answered(m *incoming) {
	if !f.cl.untrack(f) {
		return
	}
	f.cl.b.release(f.cl)
	if f.screened != nil && m.kind == kindResult {
		if err := f.screened(m.result.of(m.msg)); err != nil {
			f.cl.give(appendAll(nil, errorReply([]byte(f.id), contractError(err))))
			return
		}
	}
	f.cl.give(appendAll(nil, [][]byte{m.msg[:m.id.start], []byte(f.id), m.msg[m.id.end:]}))
}

// gone answers a request whose plugin has ended.
func (f *forwarded) gone() {
	if !f.cl.untrack(f) {
		return
	}
	f.cl.b.release(f.cl)
	e := &RPCError{Code: CodePluginGone, Message: "the plugin ended before it answered"}
	f.cl.give(appendAll(nil, errorReply([]byte(f.id), e)))
}

// give sends to the client, or detaches it.
func (cl *Client) give(msg []byte) {
	if err := cl.send(msg); err != nil {
		cl.detach(err)
	}
}

func (cl *Client) notification(ctx context.Context, m *incoming) error {
	c := cl.b.c
	method := text(m.method.of(m.msg))
	switch {
	case method == "initialized" || method == "notifications/initialized":
		return nil
	case method == "exit" && c.o.Protocol == ProtocolLSP:
		cl.Detach()
		return nil
	case c.Phase() >= PhaseDraining:
		return nil
	}
	if member, ok := cancelMember(c.o.Protocol, method); ok {
		return cl.passCancel(ctx, m, member)
	}
	return cl.tell(ctx, m)
}

// passCancel passes a cancellation on under the connection's id. One of a finished
// or unknown request is dropped.
func (cl *Client) passCancel(ctx context.Context, m *incoming, member string) error {
	params := m.peek(m.params)
	at, ok := lookup(params, member)
	if !ok {
		return nil
	}
	mcp := cl.b.c.o.Protocol == ProtocolMCP // where no reply will come
	f, pc := cl.cancelled(string(at.of(params)), mcp)
	switch {
	case f == nil:
		cl.b.c.st.lateCancels.Add(1)
		return nil
	case pc == nil && mcp: // it was still waiting for its place
		return nil
	case pc == nil:
		return cl.answer(errorReply([]byte(f.id), &RPCError{Code: cancelledCode(cl.b.c.o.Protocol), Message: "cancelled"}))
	case mcp && cl.b.c.calls.cancel(pc):
		cl.b.release(cl)
	case mcp: // answered in this moment, but untracked here: nobody else releases it
		cl.b.release(cl)
		return nil
	}
	id := strconv.AppendUint(nil, pc.id, 10)
	from, to := m.params.start+at.start, m.params.start+at.end
	return cl.b.c.out.put(&patience{ctx: ctx}, m.msg[:from], id, m.msg[to:])
}

// cancelled finds an open request, and takes it from the client when it still
// waits for its place, or always.
func (cl *Client) cancelled(id string, always bool) (*forwarded, *pendingCall) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	f, ok := cl.open[id]
	if !ok {
		return nil, nil
	}
	if f.pc == nil || always {
		delete(cl.open, id)
	}
	return f, f.pc
}

// reply passes the client's answer to the plugin that asked. One that it was
// not asked for, or not any longer, is dropped.
func (cl *Client) reply(ctx context.Context, m *incoming) error {
	c := cl.b.c
	s, ok := c.requests.get(string(m.idBytes()))
	if !ok || s.client != cl || !s.end() {
		c.st.unmatched.Add(1)
		return nil
	}
	return c.out.put(&patience{ctx: ctx}, m.msg)
}

// broadcast brings a notification of the plugin's to everyone.
func (b *Bridge) broadcast(msg []byte) {
	b.mu.Lock()
	clients := slices.Clone(b.clients)
	b.mu.Unlock()
	for _, cl := range clients {
		cl.give(msg)
	}
}

// pluginAsks gives a request of the plugin to the newest client. It says false
// when there is none, and the connection's own handler is asked.
func (b *Bridge) pluginAsks(s *served, m *incoming) (taken bool, err error) {
	cl, err := b.assign(s)
	if cl != nil && err == nil {
		cl.give(m.msg)
	}
	return cl != nil, err
}

// assign notes a request as the newest client's. A client that leaves later
// finds it there, since it leaves the list under the same lock.
func (b *Bridge) assign(s *served) (*Client, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.clients) == 0 {
		return nil, nil //nolint:nilnil // nobody, which is no error
	}
	s.client = b.clients[len(b.clients)-1]
	return s.client, b.c.requests.begin(s)
}

// forsake answers a request of the plugin's whose client has left.
func (b *Bridge) forsake(s *served) {
	if s.end() {
		e := &RPCError{Code: CodeCancelled, Message: "the client that was asked has gone"}
		_ = b.c.out.putNow(errorReply([]byte(s.id), e)...) // a plugin that does not read gets no answer
	}
}

// pluginCancels passes on the cancellation of a request that a client works on.
func (b *Bridge) pluginCancels(id string, msg []byte) bool {
	s, ok := b.c.requests.get(id)
	if !ok || s.client == nil {
		return false
	}
	if b.c.o.Protocol == ProtocolMCP { // no reply will come
		s.end()
	}
	s.client.give(msg)
	return true
}
