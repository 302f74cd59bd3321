package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/control"
)

// echoPeer answers each request with its own id, in order; others it swallows.
type echoPeer struct {
	answers chan json.RawMessage
	got     []string
	end     error
}

func (p *echoPeer) Send(_ context.Context, message json.RawMessage) error {
	p.got = append(p.got, string(message))
	var h head
	if json.Unmarshal(message, &h) == nil && h.ID != nil {
		p.answers <- json.RawMessage(`{"jsonrpc":"2.0","id":` + string(h.ID) + `,"result":null}`)
	}
	return nil
}

func (p *echoPeer) Receive(ctx context.Context) (json.RawMessage, error) {
	if p.end != nil {
		return nil, p.end
	}
	select {
	case m := <-p.answers:
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestBridge(t *testing.T) {
	ask := func(id string) string { return `{"jsonrpc":"2.0","id":` + id + `,"method":"m"}` }
	note := `{"jsonrpc":"2.0","method":"n"}`
	tests := []struct {
		framing  ipc.Framing
		in, want string
	}{
		{
			ipc.FramingLines, ask("1") + "\n" + note + "\n" + ask(`"b"`) + "\n",
			`{"jsonrpc":"2.0","id":1,"result":null}` + "\n" + `{"jsonrpc":"2.0","id":"b","result":null}` + "\n",
		},
		{
			ipc.FramingHeaders, "Content-Length: 38\r\n\r\n" + ask("12"),
			"Content-Length: 39\r\n\r\n" + `{"jsonrpc":"2.0","id":12,"result":null}`,
		},
		{ipc.FramingLines, "", ""},
	}
	for _, tt := range tests {
		var out bytes.Buffer
		a := &app{in: strings.NewReader(tt.in), out: &out}
		// Without capacity Send waits for Receive, so answers come one by one.
		if err := a.bridge(t.Context(), &echoPeer{answers: make(chan json.RawMessage)}, tt.framing); err != nil {
			t.Errorf("%q: %v", tt.in, err)
		}
		if out.String() != tt.want {
			t.Errorf("%q:\n got %q\nwant %q", tt.in, out.String(), tt.want)
		}
	}
}

func TestBridgeErrors(t *testing.T) {
	a := &app{in: strings.NewReader("no message\n"), out: &bytes.Buffer{}}
	if err := a.bridge(t.Context(), &echoPeer{}, ipc.FramingLines); err == nil || !strings.Contains(err.Error(), "cannot read the client's message") {
		t.Errorf("a line that is no message: %v", err)
	}
	for end, want := range map[error]string{os.ErrClosed: "the plugin's side has ended", control.ErrLost: "faster than they were read"} {
		waits, _, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer waits.Close()
		a := &app{in: waits, out: &bytes.Buffer{}}
		var failed *failure
		if err := a.bridge(t.Context(), &echoPeer{end: end}, ipc.FramingLines); !errors.As(err, &failed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v", end, err)
		}
	}
}
