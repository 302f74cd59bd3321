// Command host is the application that ../../../../integration tests the client
// of this package with: it does what host.mjs and host.py do, and prints the same.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	cordon "github.com/cordonhq/cordon/sdk/go"
)

const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func main() {
	if err := check(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func say(what string, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(os.Stdout, what, string(raw))
}

func check(socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c, err := cordon.Dial(ctx, socket)
	if err != nil {
		return err
	}
	calls(ctx, c)
	if err := stream(ctx, c); err != nil {
		return err
	}
	if err := functions(ctx, c); err != nil {
		return err
	}
	say("away", nil)
	var result any
	if err := c.Call(ctx, "asker", "twice", map[string]any{"who": "go"}, &result, cordon.Idempotent()); err != nil {
		return err
	}
	say("back", result)
	return c.Close()
}

func calls(ctx context.Context, c *cordon.Client) {
	var result any
	traced := cordon.WithTrace(ctx, cordon.Trace{Traceparent: trace, RequestID: "req-7"})
	err := c.Call(traced, "asker", "about", map[string]any{"a": []int{1}}, &result)
	say("about", []any{result, told(err)})
	say("fail", told(c.Call(ctx, "asker", "fail", nil, nil)))
	say("nobody", told(c.Call(ctx, "nobody", "fail", nil, nil)))
	short, end := context.WithTimeout(ctx, 100*time.Millisecond)
	say("deadline", told(c.Call(short, "asker", "wait", nil, nil)))
	end()
	gone, leave := context.WithCancel(ctx)
	time.AfterFunc(100*time.Millisecond, leave)
	say("cancel", told(c.Call(gone, "asker", "wait", nil, nil)))
	for n := 0.0; n < 2; result, n = nil, 0 {
		if err := c.Call(ctx, "asker", "cancelled", nil, &n); err != nil || n >= 2 {
			say("cancelled", n)
			break
		}
	}
	var list []struct{ Name, State string }
	err = c.Do(ctx, "plugin.list", nil, &list)
	say("list", []any{list, told(err)})
}

// stream sends bytes over a stream of its own, and gets their sum in memory.
func stream(ctx context.Context, c *cordon.Client) error {
	ours, theirs, err := cordon.NewStream()
	if err != nil {
		return err
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := ours.Write(make([]byte, 3<<20))
		wrote <- errors.Join(err, ours.End())
	}()
	var result any
	files, err := c.CallFiles(ctx, "asker", "swallow", nil, []*os.File{theirs}, 1, &result)
	if err != nil {
		return err
	}
	memory := make([]byte, 100)
	n, err := files[0].ReadAt(memory, 0)
	say("stream", []any{result, string(memory[:n])})
	secret, opened := os.Open("/etc/hostname")
	if opened != nil {
		return opened
	}
	_, refused := c.CallFiles(ctx, "asker", "swallow", nil, []*os.File{secret}, 0, nil)
	say("hole", told(refused))
	_ = err // the end of the memory
	return errors.Join(<-wrote, files[0].Close(), ours.Close())
}

func functions(ctx context.Context, c *cordon.Client) error {
	serving, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Serve(serving, cordon.Function{
			Name: "shop.price", Params: json.RawMessage("true"), Result: json.RawMessage("true"),
			Call: func(ctx context.Context, plugin string, params json.RawMessage) (any, error) {
				return map[string]any{"plugin": plugin, "params": params, "request_id": cordon.TraceOf(ctx).RequestID}, nil
			},
		})
	}()
	watching, enough := context.WithCancel(ctx)
	seen := make(chan error, 1)
	go func() {
		seen <- c.Events(watching, "", func(e cordon.Event) error {
			if e.Kind == "serving" {
				enough()
			}
			return nil
		})
	}()
	say("events", told(<-seen))
	var result any
	err := c.Call(cordon.WithTrace(ctx, cordon.Trace{RequestID: "req-8"}), "asker", "price", map[string]any{"item": "tea"}, &result)
	say("served", []any{result, told(err)})
	stop()
	return <-ended
}

// told is an error as the three clients say it.
func told(err error) any {
	var e *cordon.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &e):
		return err.Error()
	}
	return map[string]any{"code": e.Code, "plugin": e.FromPlugin, "named": e.RequestID != "", "data": e.Data}
}
