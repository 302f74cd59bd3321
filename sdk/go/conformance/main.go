// Command conformance is the plugin that ../../conformance tests this package
// with.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	cordon "github.com/cordonhq/cordon/sdk/go"
)

type ask struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

func main() {
	if len(os.Args) > 1 { // "many"
		many()
		return
	}
	if end := ended(plugin().Run(context.Background())); end != failed {
		fmt.Fprintln(os.Stdout, "end:", end)
	}
}

const failed = "failed"

// ended is the breach that a connection ended for, "" for none.
func ended(err error) string {
	var broken *cordon.ProtocolError
	switch {
	case errors.As(err, &broken):
		return string(broken.Code)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return failed
	}
	return ""
}

// many serves, for each line "KEY PATH" of standard input, whoever listens
// there, and then prints "KEY BREACH".
func many() {
	var all sync.WaitGroup
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		key, path, _ := strings.Cut(lines.Text(), " ")
		all.Add(1)
		go func() {
			defer all.Done()
			fmt.Fprintf(os.Stdout, "%s %s\n", key, ended(serve(path)))
		}()
	}
	all.Wait()
}

// serve serves over a socket as descriptor 3 is one.
func serve(path string) error {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path})
	if err != nil {
		return err
	}
	f, err := c.File()
	if err = errors.Join(err, c.Close()); err != nil {
		return err
	}
	return plugin().ServeSocket(context.Background(), f)
}

func plugin() *cordon.Plugin {
	p := cordon.New("conformance", "1.0.0")
	cordon.Handle(p, "echo", func(_ context.Context, in json.RawMessage) (json.RawMessage, error) { return in, nil })
	cordon.Handle(p, "files", func(ctx context.Context, _ json.RawMessage) (int, error) {
		files := cordon.TakeFiles(ctx)
		for _, f := range files {
			_ = f.Close()
		}
		return len(files), nil
	})
	cordon.Handle(p, "sink", func(context.Context, json.RawMessage) (any, error) { return nil, nil })
	cordon.Handle(p, "fail", func(_ context.Context, in cordon.Error) (any, error) { return nil, &in })
	cordon.Handle(p, "crash", func(context.Context, json.RawMessage) (any, error) { panic("as asked") })
	cordon.HandleNotification(p, "crash", func(context.Context, json.RawMessage) { panic("as asked") })
	cordon.Handle(p, "wait", func(ctx context.Context, _ json.RawMessage) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	cordon.Handle(p, "big", func(_ context.Context, in struct{ Bytes int }) (string, error) {
		return strings.Repeat("x", in.Bytes), nil
	})
	cordon.Handle(p, "ask", func(ctx context.Context, in ask) (out json.RawMessage, err error) {
		return out, cordon.Host(ctx).Call(ctx, in.Method, in.Params, &out)
	})
	cordon.Handle(p, "tell", func(ctx context.Context, in ask) (any, error) {
		return nil, cordon.Host(ctx).Notify(in.Method, in.Params)
	})
	about(p)
	tasks(p)
	var mu sync.Mutex
	notes := []json.RawMessage{}
	for _, method := range []string{"note", "task.dropped", "task.lost"} {
		cordon.HandleNotification(p, method, func(_ context.Context, in json.RawMessage) {
			mu.Lock()
			defer mu.Unlock()
			if in == nil {
				in = json.RawMessage("null")
			}
			notes = append(notes, in)
		})
	}
	cordon.Handle(p, "notes", func(context.Context, json.RawMessage) ([]json.RawMessage, error) {
		mu.Lock()
		defer mu.Unlock()
		return notes, nil
	})
	return p
}

// about is what a request says of itself.
func about(p *cordon.Plugin) {
	type said struct {
		Traceparent *string `json:"traceparent"`
		RequestID   *string `json:"request_id"`
		Deadline    bool    `json:"deadline"`
	}
	cordon.Handle(p, "about", func(ctx context.Context, _ json.RawMessage) (s said, err error) {
		t := cordon.TraceOf(ctx)
		if t.Traceparent != "" {
			s.Traceparent = &t.Traceparent
		}
		if t.RequestID != "" {
			s.RequestID = &t.RequestID
		}
		_, s.Deadline = ctx.Deadline()
		return s, nil
	})
}

// tasks are what a plugin leaves to its host.
func tasks(p *cordon.Plugin) {
	type task struct {
		Method   string          `json:"method"`
		Params   json.RawMessage `json:"params"`
		Priority int             `json:"priority"`
		Within   int             `json:"within_ms"`
	}
	cordon.Handle(p, "submit", func(ctx context.Context, in task) (uint64, error) {
		t := cordon.Task{Method: in.Method, Priority: in.Priority, Within: time.Duration(in.Within) * time.Millisecond}
		if in.Params != nil {
			t.Params = in.Params
		}
		return cordon.Submit(ctx, t)
	})
	cordon.Handle(p, "drop", func(ctx context.Context, in struct{ Task uint64 }) (bool, error) {
		return cordon.CancelTask(ctx, in.Task)
	})
}
