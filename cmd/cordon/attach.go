package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/control"
)

// farewell is how long answers are waited for once the client has closed its
// end.
const farewell = 30 * time.Second

func attachVerb(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "attach NAME", Short: "Speak to a running MCP or LSP plugin over standard input and output",
		Long: `Join standard input and output to a running plugin, in the plugin's own protocol:
lines of JSON for MCP and JSON-RPC, headers with Content-Length for LSP. It is what
a client starts in place of the server: the plugin goes on when the client leaves,
and initialize is answered by the daemon.

When standard input ends, answers that are still due are waited for (30 seconds at
most).`,
		Example: `  cordon attach bash-language-server
  claude mcp add files -- cordon attach filesystem`,
		GroupID: groupLook, Args: takes("NAME"), ValidArgsFunction: a.completeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			plugin, err := c.Attach(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.bridge(cmd.Context(), plugin, ipc.FramingOf(ipc.Protocol(plugin.Protocol)))
		},
	}
}

// peer is the plugin's side of a bridge.
type peer interface {
	Send(ctx context.Context, message json.RawMessage) error
	Receive(ctx context.Context) (json.RawMessage, error)
}

var _ peer = (*control.Attachment)(nil)

// attachLimits are those of the control socket less what wraps a message there.
func attachLimits() ipc.Limits { return ipc.Limits{MaxFrame: 15 << 20} }

// bridge carries messages both ways until one side ends.
func (a *app) bridge(ctx context.Context, plugin peer, framing ipc.Framing) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	due := &pending{ids: map[string]bool{}, none: make(chan struct{}, 1)}
	go func() {
		err := a.forward(ctx, plugin, framing, due)
		if err == nil {
			due.wait(ctx)
			err = io.EOF
		}
		cancel(err)
	}()
	return ended(ctx, a.deliver(ctx, plugin, framing, due))
}

// ended tells how a bridge ended: the client's end is no error, nor is an
// interrupt.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, context.Canceled):
		return nil
	case errors.Is(err, control.ErrLost):
		return &failure{errors.New("the plugin's messages came faster than they were read"), "attach again, and read faster", exitFailure}
	case errors.Is(err, os.ErrClosed):
		return &failure{errors.New("the plugin's side has ended"), "see cordon ps", exitFailure}
	}
	return err
}

// forward hands the client's messages to the plugin until the client ends.
func (a *app) forward(ctx context.Context, plugin peer, framing ipc.Framing, due *pending) error {
	messages := ipc.NewMessageReader(a.in, framing, attachLimits())
	for {
		message, err := messages.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("cannot read the client's message: %w", err)
		}
		due.asked(message)
		if err := plugin.Send(ctx, message); err != nil {
			return err
		}
	}
}

// deliver writes the plugin's messages for the client.
func (a *app) deliver(ctx context.Context, plugin peer, framing ipc.Framing, due *pending) error {
	for {
		message, err := plugin.Receive(ctx)
		if err != nil {
			return err
		}
		frame, err := ipc.AppendFrame(nil, framing, ipc.Limits{MaxFrame: 16<<20 - 1}, message)
		if err != nil {
			return err
		}
		if _, err := a.out.Write(frame); err != nil {
			return fmt.Errorf("cannot write to the client: %w", err)
		}
		due.answered(message)
	}
}

// maxPending bounds the requests whose answers are waited for.
const maxPending = 1024

// pending are the requests of the client that have no answer yet.
type pending struct {
	mu   sync.Mutex
	ids  map[string]bool
	over bool
	none chan struct{} // capacity 1; told when, after the end, none is left
}

// head is what tells requests from answers; JSON-RPC 2.0.
type head struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
}

func (p *pending) asked(message []byte) {
	var h head
	if json.Unmarshal(message, &h) != nil || h.ID == nil || h.Method == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ids) < maxPending {
		p.ids[string(h.ID)] = true
	}
}

func (p *pending) answered(message []byte) {
	var h head
	if json.Unmarshal(message, &h) != nil || h.ID == nil || h.Method != "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.ids, string(h.ID))
	p.tell()
}

// tell is called with the lock held.
func (p *pending) tell() {
	if p.over && len(p.ids) == 0 {
		select {
		case p.none <- struct{}{}:
		default:
		}
	}
}

// wait returns when no answer is due any more, or after the farewell.
func (p *pending) wait(ctx context.Context) {
	p.mu.Lock()
	p.over = true
	p.tell()
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	select {
	case <-p.none:
	case <-ctx.Done():
	}
}
