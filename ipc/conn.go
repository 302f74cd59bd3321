package ipc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Handler answers one request of the peer. ctx ends when the peer cancels the
// request and when the connection closes. A result that is a json.RawMessage
// goes out as it is; an error that is no *RPCError goes out as "internal
// error". A panic becomes one internal error.
type Handler func(ctx context.Context, r *Request) (result any, err error)

// Request is one request of the peer.
type Request struct {
	Method string
	// Params is an object, an array, or nil. It belongs to the handler.
	Params json.RawMessage
	// Conn is the connection it came on, to call or notify the peer.
	Conn *Conn
	// Files are the descriptors that came along. The connection closes those that
	// the handler did not Take.
	Files []Descriptor

	s *served
}

// Take makes the handler the owner of the i-th descriptor, which it closes. It
// returns nil for one that is not there or was taken.
func (r *Request) Take(i int) *os.File {
	if i < 0 || i >= len(r.Files) {
		return nil
	}
	f := r.Files[i].File
	r.Files[i].File = nil
	return f
}

// Options say how a connection behaves. Zero fields have defaults.
type Options struct {
	// Protocol fixes handshake, cancellation and, unless Framing says otherwise,
	// framing. Default ProtocolCordon.
	Protocol Protocol
	Framing  Framing
	Limits   Limits
	// Hello makes the connection begin in PhaseHello, where the peer may not
	// send requests yet; one of the Hello functions ends it.
	Hello bool
	// Handler answers the peer's requests, each in a goroutine that handles
	// nothing else meanwhile, at most MaxInFlight at once. Without one every method is not found.
	Handler Handler
	// AcceptFiles says how many descriptors a request of the peer's may carry, by
	// method. More is a breach, as any is without it.
	AcceptFiles func(method string) int
	// PeerTakes is which descriptors the peer takes where no hello tells.
	PeerTakes []DescriptorKind
	// OnNotify gets the peer's notifications, in order, in the reader's
	// goroutine: it must not wait for this connection. params is nil or an
	// object or array, valid until it returns.
	OnNotify func(method string, params json.RawMessage)
	// OnStray gets lines on stdout that are no messages, valid until it returns.
	OnStray func(line []byte)
	// Log gets a line for the log now and then: a panic, a handler's error that
	// the peer is not shown. Peer-made text in it is quoted.
	Log   func(text string)
	Clock Clock
	// Journal, if set, is kept so that another process can go on with the
	// connection; with Resume this is that process, and there is no hello.
	Journal *Journal
	Resume  bool
}

func (o Options) withDefaults() Options {
	if o.Protocol == "" {
		o.Protocol = ProtocolCordon
	}
	if o.Framing == 0 {
		o.Framing = FramingOf(o.Protocol)
	}
	if o.Clock == nil {
		o.Clock = systemClock{}
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	o.Limits = o.Limits.WithDefaults()
	return o
}

// Phase is how far a connection has come. It only ever moves on.
type Phase int32

// The phases of a connection.
const (
	PhaseHello    Phase = iota // the peer has not answered the hello
	PhaseReady                 // it has; nothing was asked of it yet
	PhaseServing               // calls go both ways
	PhaseDraining              // what was begun is finished, nothing new begins
	PhaseClosed
)

// Conn is one connection. All methods may be used concurrently.
type Conn struct {
	o     Options
	t     Transport
	out   *queue
	st    counters
	phase atomic.Int32

	ctx    context.Context //nolint:containedctx // of the connection's own life: handlers' contexts derive from it
	cancel context.CancelCauseFunc
	once   sync.Once
	done   chan struct{} // closed after cause is set

	calls    calls
	requests requests
	handlers sync.WaitGroup
	workers  workers
	bridge   atomic.Pointer[Bridge]
	takes    atomic.Uint32 // kinds of descriptors that the peer takes

	deadline readDeadline
	turn     turn
	halt     halt
	// readPlain reads, and notes nothing.
	readPlain func([]byte) (int, error)
	// unanswered are requests of the peer to the process before this one, unseen is
	// what that had read and not looked at.
	unanswered []string
	unseen     []byte

	// The reader's own, whoever has the turn.
	frames frameReader
	scan   *scanner
	rate   rate
	box    inbox
	sock   *socketReader // nil where it is none
	now    incoming      // the message that is being handled
	// lends says that it was an answer, or a request that will have its own at once:
	// what comes next may be somebody else's to read.
	lends bool
	// keeps has a request stay with who has read it, in kept.
	keeps bool
	kept  job
	cause error

	// prompt is when the newest answer to a request went, by the clock in
	// nanoseconds; 0 unless that took promptTime at most.
	prompt atomic.Int64
}

// NewConn makes a connection that owns t. Nothing is read before Run.
func NewConn(t Transport, o Options) *Conn {
	o = o.withDefaults()
	c := &Conn{o: o, t: t, done: make(chan struct{}), scan: newScanner(o.Limits.MaxDepth), rate: newRate(o.Limits.Rate)}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.out = newQueue(t, o, &c.st, c.writeFailed)
	c.turn.back = make(chan struct{}, 1)
	c.workers.jobs = make(chan job)
	c.calls.init(o.Limits.MaxInFlight)
	c.requests.init(o.Limits)
	if o.Protocol == ProtocolCordon {
		c.box.max = max(0, o.Limits.MaxDescriptors)
	}
	read, sock := t.reader(&c.st, &c.box, func() int64 { return c.frames.received })
	c.sock = sock
	c.frames = frameReader{read: read, framing: o.Framing, max: o.Limits.MaxFrame, partial: c.halfOpen}
	if !o.Hello {
		c.phase.Store(int32(PhaseReady))
	}
	if j := o.Journal; j != nil {
		c.readPlain, c.frames.read = c.frames.read, c.readNoted
		if o.Resume {
			c.unanswered = c.goOn(j)
		} else {
			j.begin(o.Framing)
		}
		c.calls.journal, c.requests.journal, c.out.journal = j, j, j
	}
	if !o.Resume { // else the journal knows what the hello said
		c.offered(o.PeerTakes)
	}
	return c
}

// Protocol returns the protocol that the connection speaks.
func (c *Conn) Protocol() Protocol { return c.o.Protocol }

// Limits returns the limits in force.
func (c *Conn) Limits() Limits { return c.o.Limits }

// Phase returns how far the connection has come.
func (c *Conn) Phase() Phase { return Phase(c.phase.Load()) }

// advance moves to p, and never back.
func (c *Conn) advance(p Phase) {
	for {
		now := c.phase.Load()
		if now >= int32(p) || c.phase.CompareAndSwap(now, int32(p)) {
			return
		}
	}
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended, after Done: as Run, and ErrClosed
// after Close.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		return c.cause
	default:
		return nil
	}
}

// Close ends the connection at once. Calls in progress fail with CodePluginGone.
func (c *Conn) Close() error {
	c.end(ErrClosed)
	return nil
}

// end closes everything, once.
func (c *Conn) end(cause error) {
	c.once.Do(func() {
		c.cause = cause
		c.phase.Store(int32(PhaseClosed))
		close(c.done)
		c.out.close(ErrClosed) // before handlers know: they have nothing to say any more
		c.cancel(ErrClosed)
		if err := c.t.close(); err != nil {
			c.o.Log(fmt.Sprintf("cannot close connection: %v", err))
		}
		c.calls.abandon()
		if b := c.bridge.Load(); b != nil {
			b.close()
		}
		spares.forget(c)
	})
}

// Run reads until the connection ends, and says why: nil when the peer has
// gone or closed its side between two messages, a *ProtocolError when it broke
// a rule, ErrClosed after Close, ctx's error when that ended it, or what failed
// here. It closes the connection and returns once every handler has, but those whose
// request was given up.
// BreachTruncated is also what a peer that was killed while writing looks like.
func (c *Conn) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.end(ctx.Err()) })
	defer stop()
	err := c.answerUnanswered()
	if err == nil {
		err = c.read()
	}
	var broken *ProtocolError
	if errors.As(err, &broken) {
		c.st.breaches.Add(1)
		c.farewell(broken)
	}
	c.end(err)
	c.awaitTurn()
	c.box.clear()
	CloseDescriptors(c.now.files)
	c.handlers.Wait()
	return c.cause
}

// answerUnanswered tells the peer that nobody works any more on what it asked
// the process before this one.
func (c *Conn) answerUnanswered() error {
	for _, id := range c.unanswered {
		if err := c.out.putNow(errorReply([]byte(id), &RPCError{Code: CodePluginGone, Message: "the host was restarted before it answered"})...); err != nil {
			return err
		}
	}
	c.unanswered = nil
	return nil
}

// farewell tells a peer on our own protocol why it is cut off, if that needs no
// waiting.
func (c *Conn) farewell(e *ProtocolError) {
	if c.o.Protocol == ProtocolCordon && e.Code != BreachStalled && e.Code != BreachRefused {
		_ = c.out.putNow(errorReply([]byte("null"), &RPCError{Code: CodeInvalidRequest, Message: e.Error()})...)
	}
}

// read is the reader's loop.
func (c *Conn) read() error {
	for {
		fr, err := c.frames.next()
		if err != nil {
			return c.readFailed(err)
		}
		wait, ok := c.rate.take(c.o.Clock.Now())
		if err := c.slow(wait, ok); err != nil {
			return err
		}
		if err := c.handle(fr); err != nil {
			return err
		}
		for c.lends {
			c.lends = false
			if err := c.linger(); err != nil {
				return err
			}
		}
	}
}

func (c *Conn) readFailed(err error) error {
	switch {
	case isGone(err):
		return nil
	case isTimeout(err) && c.leaving(): // the peer closed its other side
		return nil
	case isTimeout(err):
		return breach(BreachHalfOpen, "a message was not finished within %v", c.o.Limits.HalfOpen)
	default:
		return err
	}
}

// halfOpen sets the deadline of a message that was begun, and takes it away.
func (c *Conn) halfOpen(begun bool) {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	c.deadline.half = time.Time{}
	if begun {
		c.o.Journal.reading(true)
		c.deadline.half = c.o.Clock.Now().Add(c.o.Limits.HalfOpen)
	}
	c.setDeadline()
}

// interrupt ends the read of a caller that has the turn, or takes that back.
func (c *Conn) interrupt(on bool) {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	c.deadline.interrupted = on
	c.setDeadline()
}

func (c *Conn) interrupted() bool {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	return c.deadline.interrupted
}

// setDeadline is called with the lock of c.deadline.
func (c *Conn) setDeadline() {
	at := c.deadline.half
	switch {
	case c.deadline.interrupted || c.deadline.halted:
		at = longPast
	case !c.deadline.leave.IsZero():
		at = c.deadline.leave
	}
	_ = c.t.R.SetReadDeadline(at) // fails only when it is closed, which the read will tell
}

// readDeadline guards the deadline of the reading end.
type readDeadline struct {
	sync.Mutex
	half        time.Time // of a message that was begun
	leave       time.Time // once writing failed: the last moment to read
	interrupted bool      // a caller that reads must stop
	halted      bool      // whoever reads must look whether to stand still
}

// writeFailed ends the connection when writing failed. A peer that closed its
// reading side may still have said something, replies among it: the reader gets
// a while to find the end by itself.
func (c *Conn) writeFailed(err error) {
	if !isGone(err) {
		c.end(err)
		return
	}
	c.deadline.Lock()
	defer c.deadline.Unlock()
	c.deadline.leave = c.o.Clock.Now().Add(c.o.Limits.HalfOpen)
	c.setDeadline()
}

func (c *Conn) leaving() bool {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	return !c.deadline.leave.IsZero()
}

// slow slows a peer down to its rate.
func (c *Conn) slow(wait time.Duration, ok bool) error {
	if !ok {
		return breach(BreachRate, "more than %d messages a second, for %v", c.o.Limits.Rate, floodGrace)
	}
	if wait == 0 {
		return nil
	}
	c.st.slowed.Add(1)
	timer, stop := c.o.Clock.After(wait)
	defer stop()
	select {
	case <-timer:
		return nil
	case <-c.done:
		return ErrClosed
	}
}

func (c *Conn) handle(fr frame) error {
	switch fr.kind {
	case frameBlank:
		return nil
	case frameStray:
		return c.stray(fr.bytes)
	case frameMessage:
	}
	m, err := c.parse(fr)
	if err != nil {
		return err
	}
	return c.dispatch(m)
}

// parse validates one message.
func (c *Conn) parse(fr frame) (m *incoming, err error) {
	c.st.messagesIn.Add(1)
	c.st.bytesIn.Add(uint64(len(fr.bytes)))
	env, broken := c.scan.message(fr.bytes)
	if broken != nil {
		return nil, broken
	}
	c.now = incoming{envelope: env, msg: fr.bytes, owned: fr.owned}
	if c.box.max > 0 {
		c.now.files, err = c.claim(env)
	}
	return &c.now, err
}

func (c *Conn) claim(env envelope) ([]Descriptor, error) {
	if !env.fds.present() {
		return c.box.claim(nil, c.frames.consumed)
	}
	return c.box.claim(c.now.peek(env.fds), c.frames.consumed)
}

// stray counts a line that is no message. Programs that print a banner to
// their standard output are common; a program that goes on is refused.
func (c *Conn) stray(line []byte) error {
	if n := c.st.strays.Add(1); n > uint64(max(c.o.Limits.Strays, 0)) {
		return breach(BreachStray, "more than %d lines that are no message", max(c.o.Limits.Strays, 0))
	}
	if c.o.OnStray != nil {
		c.fenced("stray", func() { c.o.OnStray(line) })
	}
	return nil
}

// incoming is one validated message.
type incoming struct {
	envelope
	msg   []byte
	owned bool
	files []Descriptor // until somebody takes them
}

// keep returns a part of the message that outlives the read buffer.
func (m *incoming) keep(s span) []byte {
	switch {
	case !s.present():
		return nil
	case m.owned:
		return s.of(m.msg)
	default:
		return append([]byte(nil), s.of(m.msg)...)
	}
}

func (m *incoming) idBytes() []byte { return m.id.of(m.msg) }

// closeFiles closes the descriptors that nobody took.
func (m *incoming) closeFiles() {
	if m.files != nil {
		CloseDescriptors(m.files)
		m.files = nil
	}
}

// takeFiles makes the caller their owner.
func (m *incoming) takeFiles() []Descriptor {
	files := m.files
	m.files = nil
	return files
}

// peek returns a part that is valid only while the message is handled.
func (m *incoming) peek(s span) []byte {
	if !s.present() {
		return nil
	}
	return s.of(m.msg)
}

// dispatch is the table of what a peer may send: by kind, once.
func (c *Conn) dispatch(m *incoming) error {
	defer m.closeFiles()
	switch m.kind {
	case kindRequest:
		return c.request(m)
	case kindNotification:
		return c.notification(m)
	case kindResult, kindError:
		c.lends = true
		return c.reply(m)
	default:
		return breach(BreachEnvelope, "no known kind of message")
	}
}

func (c *Conn) notification(m *incoming) error {
	if len(m.files) > 0 {
		return breach(BreachDescriptors, "%d file descriptors came with a notification", len(m.files))
	}
	method := text(m.method.of(m.msg))
	if c.Phase() == PhaseHello && c.o.Protocol == ProtocolCordon {
		return breach(BreachPhase, "a notification before the answer to the hello")
	}
	params := m.peek(m.params)
	if member, ok := cancelMember(c.o.Protocol, method); ok {
		c.peerCancels(params, member, m)
		return nil
	}
	if c.o.OnNotify != nil {
		c.fenced("notification", func() { c.o.OnNotify(method, params) })
	}
	if b := c.bridge.Load(); b != nil {
		b.broadcast(m.msg)
	}
	return nil
}

// cancelMember returns which member of a cancellation's params names the
// request, if method is the protocol's cancellation.
func cancelMember(p Protocol, method string) (string, bool) {
	if p == ProtocolMCP {
		return "requestId", method == "notifications/cancelled"
	}
	return "id", method == "$/cancelRequest"
}

// peerCancels ends a request of the peer. What is unknown or finished already
// is no error: the cancellation crossed the reply.
func (c *Conn) peerCancels(params []byte, member string, m *incoming) {
	at, ok := lookup(params, member)
	if !ok {
		return
	}
	if c.requests.cancel(string(at.of(params))) {
		return
	}
	if b := c.bridge.Load(); b == nil || !b.pluginCancels(string(at.of(params)), m.msg) {
		c.st.lateCancels.Add(1)
	}
}

// fenced runs a callback of the owner so that its panic stays its own.
func (c *Conn) fenced(what string, fn func()) {
	defer func() {
		if p := recover(); p != nil {
			c.st.panics.Add(1)
			c.o.Log(fmt.Sprintf("panic in handler of a %s: %v\n%s", what, p, debug.Stack()))
		}
	}()
	fn()
}

// Call sends a request and waits for its answer. params is marshalled, or sent
// as it is if it is a json.RawMessage; it must become an object or an array, or
// be nil. Without a deadline of ctx's own, Limits.CallTimeout is one. It waits
// for one of MaxInFlight places and for room in the queue. All errors are
// *RPCError; one with Local unset is the peer's answer. When ctx ends first the
// peer is told to cancel.
func (c *Conn) Call(ctx context.Context, method string, params any) (json.RawMessage, error) {
	a, err := c.CallFiles(ctx, method, params, nil, 0)
	return a.Result, err
}

// CallFiles is Call with descriptors. files go along with the request and are
// closed in any case; the peer must take their kinds. Its answer may carry up to
// accept descriptors: more is a breach.
func (c *Conn) CallFiles(ctx context.Context, method string, params any, files []*os.File, accept int) (Answer, error) {
	parcel, err := c.pack(files)
	if err != nil {
		return Answer{}, c.callError(err, &patience{}, method)
	}
	body, err := marshalParams(params)
	if err != nil {
		parcel.close()
		return Answer{}, Errorf(CodeInvalidParams, "cannot call %s: %w", method, err)
	}
	p := &patience{ctx: ctx}
	if _, ok := ctx.Deadline(); !ok {
		p.bound(c.o.Clock, c.o.Limits.CallTimeout)
		defer p.end()
	}
	r, err := c.call(p, method, body, parcel, accept)
	if err != nil {
		return Answer{}, c.callError(err, p, method)
	}
	return Answer{Result: r.result, Files: r.files}, nil
}

func (c *Conn) call(p *patience, method string, body []byte, files *parcel, accept int) (reply, error) {
	if c.Phase() >= PhaseDraining {
		files.close()
		return reply{}, c.refusal()
	}
	if method != helloMethod(c.o.Protocol) && c.Phase() == PhaseReady {
		c.advance(PhaseServing)
	}
	return c.exchange(p, method, body, expected{files: files, accept: accept})
}

// expected is what is particular to an exchange.
type expected struct {
	// early, if set, sees a result in the reader, before the message that follows
	// it is looked at.
	early  func(result []byte)
	files  *parcel // to go along
	accept int     // descriptors that may come back
}

// exchange is a call whatever the phase.
func (c *Conn) exchange(p *patience, method string, body []byte, x expected) (reply, error) {
	if err := c.acquire(p, c.calls.places); err != nil {
		x.files.close()
		return reply{}, err
	}
	defer func() { <-c.calls.places }()
	pc, err := c.calls.begin(nil, x)
	if err != nil {
		x.files.close()
		return reply{}, err
	}
	if err := c.sendRequest(p, pc.id, method, body, x.files); err != nil {
		c.calls.forget(pc)
		return reply{}, err
	}
	if x.early == nil {
		if round, ok := c.turn.take(p.until); ok {
			r, err := c.readOwn(p, pc, round)
			switch {
			case err == nil:
				c.calls.recycle(pc)
				return r, r.err
			case !errors.Is(err, errHandedOver):
				return c.giveUp(pc, err)
			}
		}
	}
	return c.await(p, pc)
}

// await waits for an answer that another goroutine reads.
func (c *Conn) await(p *patience, pc *pendingCall) (reply, error) {
	select {
	case r := <-pc.reply:
		c.calls.recycle(pc)
		return r, r.err
	case <-p.ctx.Done():
		return c.giveUp(pc, p.ctx.Err())
	case <-p.expired():
		return c.giveUp(pc, context.DeadlineExceeded)
	}
}

func (c *Conn) refusal() error {
	if c.Phase() == PhaseClosed {
		return ErrClosed
	}
	return &RPCError{Code: CodeShuttingDown, Message: "the connection is draining", Local: true}
}

// acquire waits for a place.
func (c *Conn) acquire(p *patience, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	default:
	}
	select {
	case places <- struct{}{}:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	case <-p.expired():
		return context.DeadlineExceeded
	case <-c.done:
		return ErrClosed
	}
}

// giveUp leaves a call whose caller does not wait any longer, unless the
// answer has just come.
func (c *Conn) giveUp(pc *pendingCall, cause error) (reply, error) {
	if !c.calls.cancel(pc) {
		r := <-pc.reply // taken out of the table already, so it is on its way
		c.calls.recycle(pc)
		return r, r.err
	}
	c.sendCancel(strconv.AppendUint(nil, pc.id, 10), cause)
	if errors.Is(cause, context.DeadlineExceeded) {
		c.awaitLate(pc.id)
	}
	return reply{}, cause
}

// sendCancel tells the peer that nobody waits for this id any longer, if there
// is room to.
func (c *Conn) sendCancel(id []byte, cause error) {
	if c.o.Protocol == ProtocolMCP {
		reason := `,"reason":"cancelled"}}`
		if errors.Is(cause, context.DeadlineExceeded) {
			reason = `,"reason":"deadline exceeded"}}`
		}
		_ = c.out.put(nil, []byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`), id, []byte(reason))
		return
	}
	_ = c.out.put(nil, []byte(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":`), id, []byte(`}}`))
}

// callError gives every error of a call its code.
func (c *Conn) callError(err error, p *patience, method string) error {
	var e *RPCError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded) && p.limit > 0:
		return Errorf(CodeDeadline, "cannot call %s: no answer within %v: %w", method, p.limit, err)
	case errors.Is(err, context.DeadlineExceeded):
		return Errorf(CodeDeadline, "cannot call %s: no answer before the deadline: %w", method, err)
	case errors.Is(err, context.Canceled):
		return Errorf(CodeCancelled, "cannot call %s: %w", method, err)
	case errors.Is(err, errTooLarge):
		return Errorf(CodeTooLarge, "cannot call %s: %w", method, err)
	default:
		return Errorf(CodePluginGone, "cannot call %s: %w", method, err)
	}
}

func (c *Conn) sendRequest(p *patience, id uint64, method string, body []byte, files *parcel) error {
	var buf [192]byte
	head := append(buf[:0], `{"jsonrpc":"2.0","id":`...)
	head = strconv.AppendUint(head, id, 10)
	head = appendMethod(append(head, ','), method, body)
	return c.out.putFor(p, nil, files, [][]byte{head, body, files.member()})
}

var closeBrace = []byte("}")

func appendMethod(dst []byte, method string, body []byte) []byte {
	dst = append(dst, `"method":`...)
	dst = appendQuoted(dst, method)
	if body != nil {
		dst = append(dst, `,"params":`...)
	}
	return dst
}

// appendQuoted appends s as a JSON string.
func appendQuoted(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			b, _ := json.Marshal(s) // a string always marshals
			return append(dst, b...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

func marshalParams(params any) ([]byte, error) {
	body, err := marshal(params)
	switch {
	case err != nil:
		return nil, err
	case len(body) == 0 || string(body) == "null":
		return nil, nil
	case body[0] != '{' && body[0] != '[':
		return nil, errors.New("params must be an object or an array")
	default:
		return body, nil
	}
}

// marshal is json.Marshal, which leaves a json.RawMessage as it is.
func marshal(v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case json.RawMessage:
		return trimSpace(v), nil
	default:
		return json.Marshal(v)
	}
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t' || b[0] == '\r' || b[0] == '\n') {
		b = b[1:]
	}
	return b
}

// Notify sends a notification and never waits: a peer that does not read makes
// it fail with ErrSlowPeer. params is as in Call.
func (c *Conn) Notify(method string, params any) error {
	return c.notify(nil, method, params)
}

// NotifyWait is Notify that waits for room in the queue until ctx ends.
func (c *Conn) NotifyWait(ctx context.Context, method string, params any) error {
	return c.notify(&patience{ctx: ctx}, method, params)
}

func (c *Conn) notify(p *patience, method string, params any) error {
	body, err := marshalParams(params)
	if err == nil {
		var buf [192]byte
		head := appendMethod(append(buf[:0], `{"jsonrpc":"2.0",`...), method, body)
		err = c.out.put(p, head, body, closeBrace)
	}
	if err != nil {
		return fmt.Errorf("cannot notify %s: %w", method, err)
	}
	return nil
}

// Flush waits until all that was sent so far has been given to the kernel.
func (c *Conn) Flush(ctx context.Context) error {
	if err := c.out.flush(&patience{ctx: ctx}); err != nil {
		return fmt.Errorf("cannot flush connection: %w", err)
	}
	return nil
}

// Drain lets nothing new begin in either direction and waits until the peer's
// requests in progress are answered, or ctx ends.
func (c *Conn) Drain(ctx context.Context) error {
	c.advance(PhaseDraining)
	select {
	case <-c.requests.idle():
		return c.Flush(ctx)
	case <-ctx.Done():
		return fmt.Errorf("cannot drain connection: %w", ctx.Err())
	}
}
