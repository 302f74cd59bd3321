package cordon

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
)

// limits are the host's, told in its hello.
type limits struct {
	MaxFrame    int `json:"max_frame"`
	MaxInFlight int `json:"max_in_flight"`
	MaxDepth    int `json:"max_depth"`
}

func (l limits) withDefaults() limits {
	d := limits{MaxFrame: 4 << 20, MaxInFlight: 64, MaxDepth: 64}
	if l.MaxFrame > 0 && l.MaxFrame < 1<<24 {
		d.MaxFrame = l.MaxFrame
	}
	if l.MaxInFlight > 0 {
		d.MaxInFlight = l.MaxInFlight
	}
	if l.MaxDepth > 0 && l.MaxDepth <= 1000 {
		d.MaxDepth = l.MaxDepth
	}
	return d
}

// leavingGrace is how long handlers may take to notice that the host has gone.
const leavingGrace = 2 * time.Second

// DefaultTimeout bounds a call whose context has no deadline.
const DefaultTimeout = 30 * time.Second

// Conn is a plugin's connection to its host. All methods may be used
// concurrently.
type Conn struct {
	plugin *Plugin
	stream io.ReadWriteCloser
	inlet  *inlet        // of stream
	in     *bufio.Reader // of inlet, the reader's
	limits limits
	scan   *scanner
	turn   turn
	life   context.Context //nolint:containedctx // of the connection itself
	// hosting makes it the host's end, in a Harness: it says hello.
	hosting bool

	writing sync.Mutex // one whole frame at a time
	silent  bool       // after the last word on a breach

	mu         sync.Mutex
	greeted    bool
	draining   bool
	served     map[string]*request // the peer's requests, by id as written
	unfinished int                 // requests whose answer is not out yet
	idle       chan struct{}       // closed when there is none; nil while nobody waits
	last       uint64
	calls      map[uint64]chan answer // this side's
	late       map[uint64]bool        // cancelled, and not answered yet
	places     chan struct{}
	closed     chan struct{}
	handlers   sync.WaitGroup
}

// request is one of the peer's, not answered yet.
type request struct {
	id     []byte
	cancel context.CancelFunc
}

type answer struct {
	result json.RawMessage
	files  []*os.File
	err    error
}

func newConn(stream io.ReadWriteCloser, p *Plugin) *Conn {
	inlet := newInlet(stream)
	c := &Conn{
		plugin: p, stream: stream, inlet: inlet, in: bufio.NewReaderSize(inlet, 32<<10),
		served: map[string]*request{}, calls: map[uint64]chan answer{}, late: map[uint64]bool{},
		closed: make(chan struct{}),
	}
	c.turn.ended, c.turn.quick = make(chan error, 1), map[string]int{}
	c.obey(limits{})
	return c
}

// obey takes the limits of the hello, before anything else runs.
func (c *Conn) obey(l limits) {
	c.limits = l.withDefaults()
	c.scan = newScanner(c.limits.MaxDepth)
	c.places = make(chan struct{}, c.limits.MaxInFlight)
}

// run reads until the connection ends.
func (c *Conn) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(context.WithValue(ctx, hostKey{}, c))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.stream.Close() })
	defer stop()
	c.life = ctx
	go c.readOn(ctx, 0)
	err := <-c.turn.ended
	var broken *ProtocolError
	if errors.As(err, &broken) {
		c.lastWord(broken)
	}
	close(c.closed)
	cancel()
	c.leave()
	_ = c.stream.Close() // nothing is lost: every frame was written whole
	c.inlet.clear()
	return err
}

// lastWord tells the peer what it broke, and nothing after that.
func (c *Conn) lastWord(e *ProtocolError) {
	if e.Code != BreachRefused {
		_ = c.reply([]byte("null"), nil, Errorf(CodeInvalidRequest, "%s", e.Error()))
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.silent = true
}

// leave waits for the handlers, which were cancelled, for a while.
func (c *Conn) leave() {
	done := make(chan struct{})
	go func() {
		c.handlers.Wait()
		close(done)
	}()
	grace := time.NewTimer(leavingGrace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
		c.plugin.Log.Warn("left with handlers that did not end when cancelled")
	}
}

// read reads until the connection has ended, or another goroutine than me is
// the reader.
func (c *Conn) read(ctx context.Context, me uint64) (err error, ended bool) { //nolint:revive // the error is that of the connection
	for {
		msg, err := c.frame()
		if errors.Is(err, io.EOF) || err != nil && ctx.Err() != nil {
			return ctx.Err(), true
		}
		if err != nil {
			return err, true
		}
		env, broken := c.scan.message(msg)
		if broken != nil {
			return broken, true
		}
		files, err := c.inlet.claim(env, msg, c.inlet.received-int64(c.in.Buffered()))
		if err != nil {
			return err, true
		}
		inline, err := c.dispatch(ctx, env, msg, files)
		if err != nil {
			return err, true
		}
		if inline == nil {
			continue
		}
		c.handleInline(ctx, inline)
		if !c.stillReads(me) {
			return nil, false
		}
	}
}

// frame reads one message. What a length announces is allocated as it comes.
func (c *Conn) frame() ([]byte, error) {
	var head [4]byte
	switch n, err := io.ReadFull(c.in, head[:]); {
	case n > 0 && head[0] != 0:
		return nil, breach(BreachFraming, "first byte %#02x is not 0x00 of a 4-byte length", head[0])
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, breach(BreachTruncated, "the stream ended inside a length")
	case err != nil:
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(head[:]))
	switch {
	case size == 0:
		return nil, breach(BreachFraming, "an empty message")
	case size > c.limits.MaxFrame:
		return nil, breach(BreachTooLarge, "a message of %d bytes, over the limit of %d", size, c.limits.MaxFrame)
	}
	msg := make([]byte, size)
	_, err := io.ReadFull(c.in, msg)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, breach(BreachTruncated, "the stream ended inside a message")
	}
	return msg, err
}

// dispatch handles one message. What it returns the reader runs itself.
func (c *Conn) dispatch(ctx context.Context, env envelope, msg []byte, files []*os.File) (inline func(), err error) {
	switch env.kind {
	case kindRequest:
		return c.request(ctx, env, msg, files)
	case kindNotification:
		if closeFiles(files); len(files) > 0 {
			return nil, breach(BreachDescriptors, "%d file descriptors came with a notification", len(files))
		}
		return nil, c.notified(ctx, env, msg)
	case kindResult, kindError:
		return nil, c.answered(env, msg, files)
	}
	return nil, nil
}

// request starts the handler of one request, leaves it to the reader where it
// came alone, or says why not.
func (c *Conn) request(ctx context.Context, env envelope, msg []byte, files []*os.File) (inline func(), err error) {
	ctx = withFiles(ctx, files)
	defer func() {
		if inline == nil && err != nil {
			closeFiles(TakeFiles(ctx))
		}
	}()
	id, method := env.id.of(msg), text(env.method.of(msg))
	var params json.RawMessage
	if env.params.present() {
		params = env.params.of(msg)
	}
	switch {
	case method == "cordon.hello" && !c.hosting:
		return nil, c.hello(id, params)
	case !c.greeted:
		return nil, breach(BreachPhase, "a request before the hello")
	}
	ctx, cancel := withMeta(ctx, params)
	r := &request{id: id, cancel: cancel}
	alone, refusal, err := c.admit(r, method)
	if refusal != nil || err != nil {
		cancel()
		closeFiles(TakeFiles(ctx))
		if err == nil {
			err = c.reply(id, nil, refusal)
		}
		return nil, err
	}
	c.handlers.Add(1)
	if alone && c.in.Buffered() == 0 && c.turn.isQuick(method) {
		return func() { c.serve(ctx, r, method, params) }, nil
	}
	go c.serve(ctx, r, method, params)
	return nil, nil
}

// admit notes a request that may begin, and says whether it is the only one.
func (c *Conn) admit(r *request, method string) (alone bool, refusal *Error, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, inUse := c.served[string(r.id)]
	switch {
	case inUse:
		return false, nil, breach(BreachID, "an id that is in use by another request")
	case c.draining:
		return false, Errorf(CodeShuttingDown, "the plugin is shutting down"), nil
	case len(c.served) >= c.limits.MaxInFlight && method != methodShutdown:
		return false, Errorf(CodeOverloaded, "too many requests at once"), nil
	}
	c.draining = method == methodShutdown
	if !c.draining {
		c.served[string(r.id)] = r
		c.unfinished++
	}
	return c.unfinished == 1 && !c.draining && !c.hosting, nil, nil
}

const methodShutdown = "cordon.shutdown"

// serve runs a handler and answers.
func (c *Conn) serve(ctx context.Context, r *request, method string, params json.RawMessage) {
	defer c.handlers.Done()
	defer r.cancel()
	defer func() { closeFiles(TakeFiles(ctx)) }()
	var result any
	var err error
	if method == methodShutdown {
		result, err = struct{}{}, c.drain(ctx)
	} else {
		began := time.Now()
		result, err = c.guarded(ctx, method, params)
		if _, known := c.plugin.requests[method]; known {
			c.turn.took(method, time.Since(began))
		}
	}
	var told *Error
	if err != nil {
		told = toError(err)
		if told == errInternal {
			c.plugin.Log.Error("cannot handle a request", "method", method, "error", err)
		}
	}
	if method != methodShutdown {
		defer c.finished()
		c.forgetRequest(r)
	}
	if err := c.replyWith(r.id, result, told); err != nil && ctx.Err() == nil {
		c.plugin.Log.Error("cannot answer", "method", method, "error", err)
	}
}

// forgetRequest makes room before the answer goes out: its reader may use the
// id again at once.
func (c *Conn) forgetRequest(r *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.served, string(r.id))
}

// finished is called once a request was answered.
func (c *Conn) finished() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unfinished--
	if c.unfinished == 0 && c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}

// drain waits until everything that was begun is answered.
func (c *Conn) drain(ctx context.Context) error {
	c.mu.Lock()
	idle := make(chan struct{})
	if c.unfinished == 0 {
		close(idle)
	} else {
		c.idle = idle
	}
	c.mu.Unlock()
	select {
	case <-idle:
		return c.plugin.shutdown(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// guarded runs a handler behind a fence: its panic is its own.
func (c *Conn) guarded(ctx context.Context, method string, params json.RawMessage) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	fn, ok := c.plugin.requests[method]
	if !ok {
		return nil, Errorf(CodeMethodNotFound, "cannot find method %q", method)
	}
	return fn(ctx, params)
}

func (c *Conn) notified(ctx context.Context, env envelope, msg []byte) (err error) {
	if !c.greeted {
		return breach(BreachPhase, "a notification before the hello")
	}
	method := text(env.method.of(msg))
	var params json.RawMessage
	if env.params.present() {
		params = env.params.of(msg)
	}
	if method == "$/cancelRequest" {
		c.cancelled(params)
		return nil
	}
	fn, ok := c.plugin.notifications[method]
	if !ok {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			c.plugin.Log.Error("cannot handle a notification", "method", method, "error", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	if err := fn(ctx, params); err != nil {
		c.plugin.Log.Error("cannot handle a notification", "method", method, "error", err)
	}
	return nil
}

// cancelled ends the context of a request. The unknown and the finished are
// ignored: the cancellation crossed the answer.
func (c *Conn) cancelled(params json.RawMessage) {
	at, ok := lookup(params, "id")
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.served[string(at.of(params))]; ok {
		r.cancel()
	}
}

// withMeta gives a request's context what travels in _meta: deadline and trace.
func withMeta(ctx context.Context, params json.RawMessage) (context.Context, context.CancelFunc) {
	if meta, ok := lookup(params, "_meta"); ok {
		ctx = withTrace(ctx, meta.of(params))
		if at, ok := lookup(meta.of(params), "deadline_ms"); ok {
			if ms, ok := parseInt(at.of(meta.of(params))); ok && ms > 0 && ms < int64(time.Hour*24*365/time.Millisecond) {
				return context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
			}
		}
	}
	return context.WithCancel(ctx)
}

// replyWith answers one request, with descriptors if it is a WithFiles.
func (c *Conn) replyWith(id []byte, result any, e *Error) error {
	with, ok := result.(WithFiles)
	if !ok {
		return c.reply(id, result, e)
	}
	defer closeFiles(with.Files)
	if e != nil {
		return c.reply(id, nil, e)
	}
	member, fds, err := announce(with.Files)
	if err != nil {
		c.plugin.Log.Error("cannot answer", "error", err)
		return c.reply(id, nil, errInternal)
	}
	return c.replyFDs(id, with.Result, nil, member, fds)
}

// reply answers one request.
func (c *Conn) reply(id []byte, result any, e *Error) error {
	return c.replyFDs(id, result, e, nil, nil)
}

func (c *Conn) replyFDs(id []byte, result any, e *Error, member []byte, fds []int) error {
	body := []byte("null")
	if e == nil && result != nil {
		raw, err := marshal(result)
		if err != nil {
			c.plugin.Log.Error("cannot marshal a result", "error", err)
			e = errInternal
		} else if len(raw) > 0 {
			body = raw
		}
	}
	name := `,"result":`
	if e != nil {
		name, member, fds = `,"error":`, nil, nil
		var err error
		if body, err = json.Marshal(e); err != nil {
			return err
		}
	}
	err := c.write(fds, []byte(`{"jsonrpc":"2.0","id":`), id, []byte(name), body, member, []byte("}"))
	if errors.Is(err, errTooLarge) && (e == nil || e.Code != CodeTooLarge) {
		return c.reply(id, nil, Errorf(CodeTooLarge, "the answer is over the limit of %d bytes", c.limits.MaxFrame))
	}
	return err
}

var errTooLarge = errors.New("message over the frame limit")

// write sends one message, whole, and descriptors along with it.
func (c *Conn) write(fds []int, parts ...[]byte) error {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size > c.limits.MaxFrame {
		return errTooLarge
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+size), uint32(size))
	for _, p := range parts {
		frame = append(frame, p...)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.silent {
		return errGone
	}
	if len(fds) > 0 {
		sent, err := c.writeFDs(frame, fds)
		if err != nil {
			return err
		}
		if frame = frame[sent:]; len(frame) == 0 { // an empty write can fail
			return nil
		}
	}
	_, err := c.stream.Write(frame)
	return err
}

// writeFDs writes some of a frame, with descriptors.
func (c *Conn) writeFDs(frame []byte, fds []int) (sent int, err error) {
	sock, ok := c.stream.(descriptors)
	if !ok {
		return 0, Errorf(CodeUnsupported, "descriptors travel over a unix socket alone")
	}
	sent, _, err = sock.WriteMsgUnix(frame, syscall.UnixRights(fds...), nil)
	return max(sent, 0), err
}

// marshal is json.Marshal, which takes long to copy what is JSON already.
func marshal(v any) ([]byte, error) {
	raw, ok := v.(json.RawMessage)
	if !ok {
		return json.Marshal(v)
	}
	if len(raw) == 0 {
		return []byte("null"), nil
	}
	s := newScanner(deepest)
	s.data = raw
	s.space()
	if err := s.value(1); err != nil {
		return nil, err
	}
	s.space()
	if s.pos != len(raw) {
		return nil, errors.New("more than one value")
	}
	return raw, nil
}

// deepest is how deep a result may nest; the host has a limit of its own.
const deepest = 1000
