package control

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/cordonhq/cordon/ipc"
)

// MethodServe declares the functions that this connection's application serves
// to plugins, while the connection lasts.
const MethodServe = "host.serve" // ServeParams -> nothing

// callFunction is what the daemon then asks of the application.
const callFunction = "host.function" // FunctionCall -> the function's result

// Function is one that an application serves.
type Function struct {
	Name string `json:"name"`
	Text string `json:"text,omitempty"`
	// Params and Result are JSON Schemas (2020-12).
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
}

// ServeParams are all functions of one application.
type ServeParams struct {
	Functions []Function `json:"functions"`
}

// FunctionCall is one call of a plugin.
type FunctionCall struct {
	Function string          `json:"function"`
	Plugin   string          `json:"plugin"`
	Params   json.RawMessage `json:"params"`
	// Meta is what the plugin says that the call belongs to.
	Meta CallMeta `json:"_meta,omitzero"`
}

// FunctionCaller calls a function of an application. What the application says
// is an *Error.
type FunctionCaller func(ctx context.Context, c FunctionCall) (json.RawMessage, error)

// serveFunctions makes the connection that of an application.
func serveFunctions(_ context.Context, s *session, raw json.RawMessage) (any, error) {
	p, err := decode[ServeParams](raw)
	if err != nil {
		return nil, err
	}
	if err := s.take(); err != nil {
		return nil, err
	}
	withdraw, err := s.server.service.Serve(s.ctx, s.caller, p, func(ctx context.Context, c FunctionCall) (json.RawMessage, error) {
		result, err := s.conn.Call(ctx, callFunction, c)
		var answer *ipc.RPCError
		if errors.As(err, &answer) && !answer.Local {
			return nil, fromWire(err)
		}
		return result, err
	})
	if err != nil {
		return nil, err
	}
	s.wait.Go(func() {
		<-s.ctx.Done()
		withdraw()
	})
	return struct{}{}, nil
}

// answerer answers the calls of an application's functions.
type answerer func(ctx context.Context, call FunctionCall) (any, error)

// Serve declares functions and answers their calls, each in a goroutine of its
// own, until the connection or ctx ends. The context of a call ends when the
// daemon no longer waits for it. It returns why it has ended: nil if ctx did.
// When the daemon becomes another program they are declared anew.
func (c *Client) Serve(ctx context.Context, functions []Function, answer func(ctx context.Context, call FunctionCall) (any, error)) error {
	own := answerer(answer)
	c.answer.Store(&own)
	for {
		l, _, err := c.call(ctx, MethodServe, ServeParams{functions})
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return c.Close()
		case <-l.conn.Done():
		}
		if !l.leaving.Load() {
			return Errorf(ipc.CodePluginGone, "", "the daemon has ended the connection")
		}
	}
}

// handle answers what the daemon asks of an application.
func (c *Client) handle(ctx context.Context, r *ipc.Request) (any, error) {
	answer := c.answer.Load()
	if answer == nil || r.Method != callFunction {
		return nil, ipc.Errorf(ipc.CodeMethodNotFound, "method not found")
	}
	var call FunctionCall
	if err := json.Unmarshal(r.Params, &call); err != nil {
		return nil, ipc.Errorf(ipc.CodeInvalidParams, "cannot read the call: %v", err)
	}
	return (*answer)(ctx, call)
}
