package cordon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// DefaultSocket is where the daemon listens unless it is told otherwise.
const DefaultSocket = "/run/cordon/cordon.sock"

// The bounds of a client's connection: room for the largest message of a plugin
// inside one of its own, and as many calls at once as the daemon takes.
const (
	clientFrame    = 16<<20 - 1
	clientInFlight = 16
	clientDepth    = 128
	clientNotes    = 64
)

// Between the tries of a call that may be repeated.
const (
	retryFirst = 20 * time.Millisecond
	retryMost  = time.Second
)

// Client is an application's connection to the daemon, by which it calls
// plugins. Its methods may be used concurrently. A connection that ended is made
// anew by the next call.
type Client struct {
	path string
	ids  string
	last atomic.Uint64

	mu     sync.Mutex
	link   *clientLink
	closed bool
}

// clientLink is one connection.
type clientLink struct {
	*Conn
	ended   chan struct{}
	leaving atomic.Bool
	notes   chan clientNote
}

type clientNote struct {
	method string
	params json.RawMessage
}

// Dial connects to the daemon; path "" is DefaultSocket. The caller closes. The
// error says what would mend it.
func Dial(ctx context.Context, path string) (*Client, error) {
	if path == "" {
		path = DefaultSocket
	}
	c := &Client{path: path, ids: fmt.Sprintf("%08x-", rand.Uint32())} //nolint:gosec // names that differ, no secrets
	if _, err := c.connected(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends the connection. Calls that wait fail with CodePeerGone.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.link == nil {
		return nil
	}
	if err := c.link.stream.Close(); !errors.Is(err, net.ErrClosed) { // it may have ended by itself
		return err
	}
	return nil
}

// connected returns the connection, made anew if it has ended.
func (c *Client) connected(ctx context.Context) (*clientLink, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, &Error{Code: CodePeerGone, Message: "the client is closed", cause: net.ErrClosed}
	}
	if c.link != nil && !c.link.over() {
		return c.link, nil
	}
	l, err := dialLink(ctx, c.path, newHost())
	if err == nil {
		c.link = l
	}
	return l, err
}

// newHost is the table of what a client answers: nothing yet.
func newHost() *Plugin { return New("host", "0") }

func dialLink(ctx context.Context, path string, p *Plugin) (*clientLink, error) {
	stream, err := dialPatiently(ctx, path)
	if err != nil {
		return nil, dialError(path, err)
	}
	l := &clientLink{Conn: newConn(stream, p), ended: make(chan struct{}), notes: make(chan clientNote, clientNotes)}
	l.hosting, l.greeted = true, true
	l.obey(limits{MaxFrame: clientFrame, MaxInFlight: clientInFlight, MaxDepth: clientDepth})
	p.notifications["daemon.leaving"] = func(context.Context, json.RawMessage) error { l.leaving.Store(true); return nil }
	for _, method := range []string{"event", "stream.end"} {
		p.notifications[method] = func(ctx context.Context, params json.RawMessage) error { return l.noted(ctx, method, params) }
	}
	go func() {
		_ = l.run(context.WithoutCancel(ctx)) // every call says why it ended
		close(l.ended)
	}()
	return l, nil
}

// dialPatience is how long a connection waits for a place among those that the
// daemon has not yet accepted, unless its context ends before.
const dialPatience = 10 * time.Second

// dialPatiently waits where others connect faster than the daemon accepts: a
// socket that blocks would, and the runtime's do not (EAGAIN, connect(2)).
func dialPatiently(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	end := time.Now().Add(dialPatience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		c, err := d.DialContext(ctx, "unix", path)
		if !errors.Is(err, syscall.EAGAIN) || time.Now().After(end) {
			return c, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dialError says what would mend it.
func dialError(path string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		hint = ": is cordond running?"
	case errors.Is(err, os.ErrPermission):
		hint = ": the socket is for root, the group cordon and whom a [[role]] names"
	}
	return &Error{Code: CodePeerGone, Message: fmt.Sprintf("cannot reach the daemon at %s: %v%s", path, err, hint), cause: err}
}

func (l *clientLink) over() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// noted queues a notification; while the queue is full nothing more is read,
// which the daemon notices.
func (l *clientLink) noted(ctx context.Context, method string, params json.RawMessage) error {
	select {
	case l.notes <- clientNote{method, append(json.RawMessage(nil), params...)}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// CallOption says more of one call.
type CallOption func(*callParams)

// Idempotent says that doing the call twice is as good as once: where the daemon
// or the plugin went away before it answered (CodePeerGone), the call is made
// again until its context ends.
func Idempotent() CallOption { return func(p *callParams) { p.again = true } }

// callParams are those of plugin.call.
type callParams struct {
	Name    string          `json:"name"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params,omitempty"`
	Timeout time.Duration   `json:"timeout_ns"`
	Meta    Trace           `json:"_meta"`
	Accept  int             `json:"accept_descriptors,omitempty"`

	again bool
	files []*os.File
}

// Call calls a method of a plugin and puts its result into result, unless that
// is nil. It ends with ctx, or after DefaultTimeout where ctx has no deadline; the
// plugin is then told to cancel. The call belongs to the Trace of ctx; without a
// RequestID there it gets one, which an error carries. Errors are *Error, with
// FromPlugin where the plugin itself answered.
func (c *Client) Call(ctx context.Context, plugin, method string, params, result any, options ...CallOption) error {
	files, err := c.callFiles(ctx, plugin, method, params, nil, 0, result, options)
	closeFiles(files)
	return err
}

// CallFiles is Call with descriptors: files, sealed memory or ends of streams,
// go along and are closed in any case. The answer may carry up to accept, 4 at
// most, which the caller closes.
func (c *Client) CallFiles(ctx context.Context, plugin, method string, params any, files []*os.File, accept int, result any) ([]*os.File, error) {
	return c.callFiles(ctx, plugin, method, params, files, accept, result, nil)
}

func (c *Client) callFiles(ctx context.Context, plugin, method string, params any, files []*os.File, accept int, result any, options []CallOption) ([]*os.File, error) {
	defer closeFiles(files)
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	p := callParams{Name: plugin, Method: method, Meta: TraceOf(ctx), Accept: accept, files: files}
	for _, option := range options {
		option(&p)
	}
	if p.Meta.RequestID == "" {
		p.Meta.RequestID = c.ids + strconv.FormatUint(c.last.Add(1), 10)
	}
	if params != nil {
		raw, err := marshal(params)
		if err != nil {
			return nil, Errorf(CodeInvalidParams, "cannot call %s of %s: %v", method, plugin, err)
		}
		p.Params = raw
	}
	a, err := c.try(ctx, p)
	if err != nil {
		return nil, fromDaemon(err, p.Meta.RequestID)
	}
	if result == nil {
		return a.files, nil
	}
	if err := json.Unmarshal(a.result, result); err != nil {
		closeFiles(a.files)
		return nil, Errorf(CodeInternal, "cannot use the answer of %s to %s: %v", plugin, method, err)
	}
	return a.files, nil
}

// try makes a call, again where that is allowed.
func (c *Client) try(ctx context.Context, p callParams) (answer, error) {
	gone := false
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		a, l, err := c.once(ctx, p)
		gone = gone || codeOf(err) == CodePeerGone
		switch {
		case err == nil:
			return a, nil
		case l != nil && l.leaving.Load() && l.over() && len(p.files) == 0: // it was never begun
		case p.again && gone && (codeOf(err) == CodePeerGone || codeOf(err) == codeConflict || codeOf(err) == codeNotReady): // or is not up again yet
		default:
			return answer{}, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return answer{}, err
		}
	}
}

// What a plugin that is being started again answers with, by its host.
const (
	codeNotReady = -32002
	codeConflict = -32012
)

func (c *Client) once(ctx context.Context, p callParams) (answer, *clientLink, error) {
	l, err := c.connected(ctx)
	if err != nil {
		return answer{}, nil, err
	}
	deadline, _ := ctx.Deadline()
	p.Timeout = max(time.Until(deadline), time.Millisecond)
	a, err := l.call(withoutTrace(ctx), "plugin.call", p, p.files)
	if err != nil {
		err = l.callError("plugin.call", err)
	}
	return a, l, err
}

// withoutTrace leaves the trace to the params of plugin.call, which have it.
func withoutTrace(ctx context.Context) context.Context { return WithTrace(ctx, Trace{}) }

func codeOf(err error) int {
	var e *Error
	if !errors.As(err, &e) || e.FromPlugin || fromPlugin(e) {
		return 0
	}
	return e.Code
}

// daemonData is the data of the daemon's errors.
type daemonData struct {
	Hint   string          `json:"hint"`
	Plugin bool            `json:"plugin"`
	Data   json.RawMessage `json:"data"`
}

func fromPlugin(e *Error) bool {
	var d daemonData
	return len(e.Data) > 0 && json.Unmarshal(e.Data, &d) == nil && d.Plugin
}

// fromDaemon makes the error that a caller sees.
func fromDaemon(err error, id string) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	out := &Error{Code: e.Code, Message: e.Message, RequestID: id, cause: e.cause}
	var d daemonData
	if len(e.Data) > 0 && json.Unmarshal(e.Data, &d) == nil {
		out.Hint, out.FromPlugin, out.Data = d.Hint, d.Plugin, d.Data
	}
	return out
}

// Do makes any request of the control socket, such as plugin.list or
// plugin.start, as far as the daemon lets this process.
func (c *Client) Do(ctx context.Context, method string, params, result any) error {
	l, err := c.connected(ctx)
	if err != nil {
		return err
	}
	return fromDaemon(l.Call(ctx, method, params, result), "")
}

// Event is one record of the audit log.
type Event struct {
	Seq    uint64          `json:"seq"`
	Time   time.Time       `json:"time"`
	Plugin string          `json:"plugin"`
	Kind   string          `json:"kind"`
	Actor  string          `json:"actor"`
	Text   string          `json:"text"`
	Data   json.RawMessage `json:"data"`
}

// ErrLost is the error of an Events that was too slow for what happened.
var ErrLost = errors.New("some events were lost: this side was too slow")

// Events calls each with every event of a plugin, or of all where plugin is "":
// those that are remembered, and then what happens, until each returns an error,
// which it returns, or ctx ends: nil. It has a connection of its own.
func (c *Client) Events(ctx context.Context, plugin string, each func(Event) error) error {
	l, err := dialLink(ctx, c.path, newHost())
	if err != nil {
		return err
	}
	defer func() { _ = l.stream.Close() }()
	var past []Event
	if err := l.Call(ctx, "events", map[string]any{"name": plugin, "follow": true}, &past); err != nil {
		return fromDaemon(err, "")
	}
	for _, e := range past {
		if err := each(e); err != nil {
			return err
		}
	}
	for {
		select {
		case n := <-l.notes:
			if err := n.event(each); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		case <-l.ended:
			return Errorf(CodePeerGone, "the daemon has ended the connection")
		}
	}
}

func (n clientNote) event(each func(Event) error) error {
	if n.method == "stream.end" {
		var end struct {
			Lost bool `json:"lost"`
		}
		if json.Unmarshal(n.params, &end) == nil && end.Lost {
			return ErrLost
		}
		return Errorf(CodePeerGone, "the daemon has ended the stream")
	}
	var e Event
	if err := json.Unmarshal(n.params, &e); err != nil {
		return Errorf(CodeInternal, "cannot read an event: %v", err)
	}
	return each(e)
}

// Function is one that an application serves to the plugins that were granted
// host.call of its name.
type Function struct {
	Name string `json:"name"`
	Text string `json:"text,omitempty"`
	// Params and Result are JSON Schemas (2020-12): the daemon checks both.
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	// Call answers. plugin is who asks, as the daemon knows it.
	Call func(ctx context.Context, plugin string, params json.RawMessage) (any, error) `json:"-"`
}

// Serve declares functions and answers their calls, side by side, until ctx ends:
// nil. Where the daemon goes away it declares them to the next, for as long as one
// comes within a minute. It has a connection of its own.
func (c *Client) Serve(ctx context.Context, functions ...Function) error {
	for {
		began, err := c.serve(ctx, functions)
		if err != nil || ctx.Err() != nil {
			return err
		}
		if err := c.awaitDaemon(ctx, began); err != nil {
			return err
		}
	}
}

// serveAgain bounds how long Serve waits for another daemon.
const serveAgain = time.Minute

func (c *Client) awaitDaemon(ctx context.Context, since time.Time) error {
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		l, err := dialLink(ctx, c.path, newHost())
		if err == nil {
			return l.stream.Close()
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end that was asked for
		}
		if time.Since(since) > serveAgain {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// serve serves over one connection, and returns when that has ended.
func (c *Client) serve(ctx context.Context, functions []Function) (ended time.Time, err error) {
	p := newHost()
	table := map[string]Function{}
	for _, f := range functions {
		table[f.Name] = f
	}
	type asked struct {
		Function string          `json:"function"`
		Plugin   string          `json:"plugin"`
		Params   json.RawMessage `json:"params"`
		Meta     Trace           `json:"_meta"`
	}
	Handle(p, "host.function", func(ctx context.Context, a asked) (any, error) {
		f, ok := table[a.Function]
		if !ok {
			return nil, Errorf(CodeMethodNotFound, "no function %q is served here", a.Function)
		}
		return f.Call(WithTrace(ctx, a.Meta), a.Plugin, a.Params)
	})
	l, err := dialLink(ctx, c.path, p)
	if err != nil {
		return time.Time{}, err
	}
	defer func() { _ = l.stream.Close() }()
	if err := l.Call(ctx, "host.serve", map[string]any{"functions": functions}, nil); err != nil {
		return time.Time{}, fromDaemon(err, "")
	}
	select {
	case <-ctx.Done():
	case <-l.ended:
	}
	return time.Now(), nil
}
