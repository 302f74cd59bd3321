// Package cordon is what a plugin in Go is made of: handlers by method, and a
// connection to the host that keeps to the protocol. It needs the standard
// library alone.
//
//	func main() {
//		p := cordon.New("digest", "1.0.0")
//		cordon.Handle(p, "digest.sha256", sum)
//		p.Main()
//	}
package cordon

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
)

// Descriptor is where a plugin finds the socket to its host.
const Descriptor = 3

// Plugin is a table of handlers. Fill it before Serve; afterwards it is only
// read, and several connections may share it.
type Plugin struct {
	name, version string
	requests      map[string]handler
	notifications map[string]func(context.Context, json.RawMessage) error
	shutdown      func(context.Context) error
	// Log gets what the plugin has to say, by default as lines on standard
	// error, which the host keeps: cordon logs NAME.
	Log *slog.Logger
}

type handler func(context.Context, json.RawMessage) (any, error)

// New returns a plugin without handlers. The host shows name and version as
// the plugin's own claim.
func New(name, version string) *Plugin {
	return &Plugin{
		name: name, version: version,
		requests:      map[string]handler{},
		notifications: map[string]func(context.Context, json.RawMessage) error{},
		shutdown:      func(context.Context) error { return nil },
		Log:           slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
}

// Handle makes fn answer method. Its context ends at the caller's deadline,
// when the caller cancels, and with the connection. Requests are handled side
// by side, each in a goroutine of its own. Params that In cannot hold are
// answered with CodeInvalidParams; an *Error that fn returns goes to the
// caller, any other error only to the log.
func Handle[In, Out any](p *Plugin, method string, fn func(ctx context.Context, in In) (Out, error)) {
	p.requests[method] = func(ctx context.Context, params json.RawMessage) (any, error) {
		in, err := decode[In](params)
		if err != nil {
			return nil, err
		}
		return fn(ctx, in)
	}
}

// HandleNotification makes fn take the notifications of method, in the order in
// which they come. It runs in the reader: it must not wait for the host.
func HandleNotification[In any](p *Plugin, method string, fn func(ctx context.Context, in In)) {
	p.notifications[method] = func(ctx context.Context, params json.RawMessage) error {
		in, err := decode[In](params)
		if err != nil {
			return err
		}
		fn(ctx, in)
		return nil
	}
}

// OnShutdown makes fn run once all requests are answered and before the host is
// told that the plugin may be ended.
func (p *Plugin) OnShutdown(fn func(context.Context) error) { p.shutdown = fn }

// Main serves the host until it says goodbye, and exits: with status 1 when the
// connection broke.
func (p *Plugin) Main() {
	if err := p.Run(context.Background()); err != nil {
		p.Log.Error("cannot go on", "error", err)
		os.Exit(1) //nolint:forbidigo // it stands for the plugin's main
	}
}

// Serve serves the host over any stream, and closes it. It returns nil when the
// host has gone between two messages, and a *ProtocolError when it broke a rule.
func (p *Plugin) Serve(ctx context.Context, stream io.ReadWriteCloser) error {
	return newConn(stream, p).run(ctx)
}

type hostKey struct{}

// Host returns the connection that a handler's request came on, to call the
// host back. Outside of a handler it returns nil.
func Host(ctx context.Context) *Conn {
	c, _ := ctx.Value(hostKey{}).(*Conn)
	return c
}

// decode reads params; a json.RawMessage is nil without any.
func decode[In any](params json.RawMessage) (In, error) {
	var in In
	if raw, ok := any(&in).(*json.RawMessage); ok {
		*raw = params
		return in, nil
	}
	if params == nil {
		params = json.RawMessage("{}")
	}
	if err := json.Unmarshal(params, &in); err != nil {
		return in, Errorf(CodeInvalidParams, "cannot use these params: %v", err)
	}
	return in, nil
}
