package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"github.com/cordonhq/cordon/supervisor/control"
)

// defaultSocket is where the daemon listens, unless CORDON_SOCKET says
// otherwise.
func defaultSocket() string {
	if path := os.Getenv("CORDON_SOCKET"); path != "" {
		return path
	}
	return control.DefaultSocket
}

// dial connects to the daemon; the caller closes.
func (a *app) dial(ctx context.Context) (*control.Client, error) {
	c, err := control.Dial(ctx, a.socket)
	if err == nil {
		return c, nil
	}
	hint := ""
	var answer *control.Error
	if errors.As(err, &answer) {
		hint = answer.Hint
	}
	return nil, &failure{err, hint, exitNoDaemon}
}

// call makes one request of the daemon. The result may be nil.
func (a *app) call(ctx context.Context, method string, params, result any) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.Call(ctx, method, params, result)
}

// follow makes a request whose result is the past, has past print it, and, if
// it is to go on, each for every notification, until the stream ends or the
// user does.
func (a *app) follow(ctx context.Context, method string, params any, on bool, result any, past func() error, each func(json.RawMessage) error) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if !on {
		if err := c.Call(ctx, method, params, result); err != nil {
			return err
		}
		return past()
	}
	return c.Follow(ctx, method, params, result, past, each)
}
