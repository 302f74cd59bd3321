package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// DefaultSocket is where the daemon listens unless it is told otherwise.
const DefaultSocket = "/run/cordon/cordon.sock"

// The notifications of a stream, besides those of the methods' own.
const (
	noteEvent  = "event"
	noteLog    = "log"
	noteEnd    = "stream.end"     // params: streamEnd
	noteAttach = "attach.message" // params: the message
)

// streamEnd says why a stream ended.
type streamEnd struct {
	// Lost says that the follower was too slow.
	Lost bool `json:"lost"`
}

// wireLimits are those of the control socket: room for the largest message of
// a plugin inside one of ours.
func wireLimits() ipc.Limits {
	return ipc.Limits{MaxFrame: 16<<20 - 1, MaxInFlight: 16, MaxDepth: 128}
}

// ErrLost is returned by Follow when this side was too slow.
var ErrLost = errors.New("some were lost: this side was too slow")

// Client is the command line's end of a control connection. Call may be used
// concurrently; a connection carries one stream or one bridge.
type Client struct {
	path   string
	answer atomic.Pointer[answerer] // of an application

	mu     sync.Mutex
	link   *link // the connection, replaced when the daemon becomes another program
	closed bool
}

// link is one connection to the daemon.
type link struct {
	conn    *ipc.Conn
	notes   chan note
	leaving atomic.Bool
}

// note is one notification of the daemon.
type note struct {
	method string
	params json.RawMessage
}

// Dial connects to the daemon's control socket at path. The caller closes.
func Dial(ctx context.Context, path string) (*Client, error) {
	u, err := dial(ctx, path)
	if err != nil {
		return nil, err
	}
	return newClient(path, u), nil
}

func dial(ctx context.Context, path string) (*net.UnixConn, error) {
	c, err := dialPatiently(ctx, path)
	if err != nil {
		return nil, dialError(path, err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("cannot connect to %s: not a unix socket", path), c.Close())
	}
	return u, nil
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
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		hint = "is cordond running? start it as root: cordond"
	case errors.Is(err, fs.ErrPermission):
		hint = "the socket is for root and the group cordon: use sudo, or join the group"
	}
	return Errorf(ipc.CodePluginGone, hint, "cannot reach the daemon at %s: %w", path, err)
}

func newClient(path string, u *net.UnixConn) *Client {
	c := &Client{path: path}
	c.link = newLink(u, c.handle)
	return c
}

func newLink(u *net.UnixConn, handler ipc.Handler) *link {
	c := &link{notes: make(chan note, 64)}
	c.conn = ipc.NewConn(ipc.SocketTransport(u), ipc.Options{Limits: wireLimits(), Handler: handler, OnNotify: c.noted})
	go func() {
		_ = c.conn.Run(context.Background()) // every call says why it ended
		close(c.notes)
	}()
	return c
}

func (c *Client) current() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

// noted queues a notification; while the queue is full nothing more is read,
// which the daemon notices.
func (c *link) noted(method string, params json.RawMessage) {
	if method == noteLeaving {
		c.leaving.Store(true)
		return
	}
	select {
	case c.notes <- note{method, append(json.RawMessage(nil), params...)}:
	case <-c.conn.Done():
	}
}

// Ended says whether the daemon has ended the connection, and did not say that
// one may come again.
func (c *Client) Ended() bool {
	l := c.current()
	select {
	case <-l.conn.Done():
		return !l.leaving.Load()
	default:
		return false
	}
}

// Close ends the connection.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.link.conn.Close()
}

// Call makes one request and decodes its result into result, which may be nil.
// What the daemon or a plugin answers with is an *Error. Without a deadline of
// ctx's own it waits as long as the daemon takes. While the daemon becomes
// another program a call waits for that.
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	_, raw, err := c.call(ctx, method, params)
	if err != nil {
		return err
	}
	return decodeResult(method, raw, result)
}

// call makes the call and gives the connection that it was answered on.
func (c *Client) call(ctx context.Context, method string, params any) (*link, json.RawMessage, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 24*time.Hour) // ipc would use its own, which is short
		defer cancel()
	}
	for {
		l := c.current()
		raw, err := l.conn.Call(ctx, method, params)
		if err == nil {
			return l, raw, nil
		}
		if !l.again(err) || c.reconnect(ctx, l) != nil {
			return l, nil, fromWire(err)
		}
		if c.current() == l { // closed by its owner
			return l, nil, fromWire(err)
		}
	}
}

func decodeResult(method string, raw json.RawMessage, result any) error {
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return fmt.Errorf("cannot read the daemon's answer to %s: %w", method, err)
	}
	return nil
}

// Follow makes a request that asks to follow, decodes its result, calls past,
// and then calls each for the params of every notification, until either
// returns an error, ctx ends (nil), or the stream does: ErrLost if this side
// was too slow.
func (c *Client) Follow(ctx context.Context, method string, params, result any, past func() error, each func(json.RawMessage) error) error {
	l, raw, err := c.call(ctx, method, params)
	if err == nil {
		err = decodeResult(method, raw, result)
	}
	if err == nil {
		err = past()
	}
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case n, ok := <-l.notes:
			if !ok {
				return errors.New("the daemon has ended")
			}
			if n.method == noteEnd {
				return endOf(n.params)
			}
			if err := each(n.params); err != nil {
				return err
			}
		}
	}
}

func endOf(params json.RawMessage) error {
	var end streamEnd
	if err := json.Unmarshal(params, &end); err == nil && end.Lost {
		return ErrLost
	}
	return nil
}

// Attachment is a client's bridge to a plugin.
type Attachment struct {
	AttachResult
	l *link
}

// Attach makes the connection a bridge to a running plugin. The connection is
// used for nothing else afterwards.
func (c *Client) Attach(ctx context.Context, name string) (*Attachment, error) {
	l, raw, err := c.call(ctx, MethodAttach, NameParams{Name: name})
	if err != nil {
		return nil, err
	}
	a := &Attachment{l: l}
	return a, decodeResult(MethodAttach, raw, &a.AttachResult)
}

// Send hands one message to the plugin. It waits while the daemon does not read.
func (a *Attachment) Send(ctx context.Context, message json.RawMessage) error {
	return a.l.conn.NotifyWait(ctx, noteAttach, message)
}

// Receive waits for the next message of the plugin; io errors and the end of
// the bridge are an error, ErrLost if this side was too slow.
func (a *Attachment) Receive(ctx context.Context) (json.RawMessage, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case n, ok := <-a.l.notes:
			switch {
			case !ok:
				return nil, os.ErrClosed
			case n.method == noteEnd:
				return nil, errors.Join(os.ErrClosed, endOf(n.params))
			case n.method == noteAttach:
				return n.params, nil
			}
		}
	}
}

// wireData is the data member of an error on the wire.
type wireData struct {
	Hint string `json:"hint,omitempty"`
	// Plugin says that the error is a plugin's own answer, with its data.
	Plugin bool            `json:"plugin,omitempty"`
	Data   json.RawMessage `json:"data,omitempty"`
}

// fromWire makes an Error of what a call on the control connection returned.
func fromWire(err error) error {
	var e *ipc.RPCError
	if !errors.As(err, &e) {
		return err
	}
	out := &Error{Code: e.Code, Message: e.Message, cause: err}
	if e.Local {
		if e.Code == ipc.CodePluginGone {
			out.Message = "the daemon ended the connection"
		}
		return out
	}
	var data wireData
	if len(e.Data) > 0 && json.Unmarshal(e.Data, &data) == nil {
		out.Hint, out.FromPlugin, out.Data = data.Hint, data.Plugin, data.Data
	}
	return out
}

// toWire makes the answer of an error. What a plugin answered is marked as its
// own, for it can claim any code; an error of no kind we know is an internal
// error with its text, since only those whom the daemon serves can read it.
func toWire(err error) *ipc.RPCError {
	var own *Error
	var rpc *ipc.RPCError
	var data wireData
	out := &ipc.RPCError{Code: ipc.CodeInternal, Message: err.Error(), Local: true}
	switch {
	case errors.As(err, &own):
		out.Code, data.Hint = own.Code, own.Hint
	case errors.As(err, &rpc) && rpc.Local:
		out.Code = rpc.Code
	case errors.As(err, &rpc):
		out.Code, out.Message = rpc.Code, violation.Escape(rpc.Message, 4096)
		data.Plugin, data.Data = true, rpc.Data
	case errors.Is(err, context.DeadlineExceeded):
		out.Code = ipc.CodeDeadline
	case errors.Is(err, context.Canceled):
		out.Code = ipc.CodeCancelled
	}
	if raw, err := json.Marshal(data); err == nil && (data.Hint != "" || data.Plugin) {
		out.Data = raw
	}
	return out
}
