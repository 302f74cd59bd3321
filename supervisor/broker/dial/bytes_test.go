package dial

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

// byCalls is a desk whose plugin takes no descriptors.
type byCalls struct {
	*desk
	capability capability.Capability
}

func newByCalls(target string) *byCalls {
	b := &byCalls{newDesk(target), New()}
	b.Takes = nil
	return b
}

// reply is everything that any of the methods answers.
type reply struct {
	Stream string `json:"stream"`
	Sent   int    `json:"sent"`
	Data   []byte `json:"data"`
	End    bool   `json:"end"`
}

// call is what the broker does, without the grant.
func (b *byCalls) call(t *testing.T, method string, params map[string]any) (r reply, err error) {
	t.Helper()
	for _, m := range b.capability.Methods {
		if m.Name != method {
			continue
		}
		c := *b.Call
		if c.Params, err = json.Marshal(params); err != nil {
			t.Fatal(err)
		}
		if c.Target, err = m.Target(c.Params); err != nil {
			return r, err
		}
		got, err := m.Serve(t.Context(), &c)
		if err != nil {
			return r, err
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		return r, json.Unmarshal(text, &r)
	}
	t.Fatalf("there is no %s", method)
	return r, nil
}

func (b *byCalls) open(t *testing.T) string {
	t.Helper()
	r, err := b.call(t, "net.dial.open", map[string]any{"to": b.Target})
	if err != nil {
		t.Fatal(err)
	}
	return r.Stream
}

// heard receives until so many bytes have come, or the end.
func (b *byCalls) heard(t *testing.T, id string, n int) (got string, end bool) {
	t.Helper()
	for late := time.Now().Add(wait); len(got) < n && time.Now().Before(late); {
		r, err := b.call(t, "net.dial.receive", map[string]any{"stream": id, "most": n - len(got)})
		if err != nil {
			t.Fatal(err)
		}
		if got += string(r.Data); r.End {
			return got, true
		}
	}
	return got, false
}

func TestByCalls(t *testing.T) {
	b := newByCalls(echo(t))
	id := b.open(t)
	if r, err := b.call(t, "net.dial.receive", map[string]any{"stream": id, "wait_ms": 0}); err != nil || len(r.Data) != 0 || r.End {
		t.Fatalf("before anything was sent it gets %+v, %v", r, err)
	}
	if r, err := b.call(t, "net.dial.send", map[string]any{"stream": id, "data": []byte("hello"), "end": true}); err != nil || r.Sent != 5 {
		t.Fatalf("%+v, %v", r, err)
	}
	if got, _ := b.heard(t, id, 2); got != "he" {
		t.Errorf("it hears %q", got)
	}
	if got, end := b.heard(t, id, 100); got != "llo" || !end {
		t.Errorf("then it hears %q, %t", got, end)
	}
	b.ended(t)
	if _, err := b.call(t, "net.dial.close", map[string]any{"stream": id}); err != nil {
		t.Error(err)
	}
	if _, err := b.call(t, "net.dial.receive", map[string]any{"stream": id}); err == nil || !strings.Contains(err.Error(), "no such stream") {
		t.Errorf("after it was closed: %v", err)
	}
	if got := strings.Join(b.notes, " "); got != "connected ended" {
		t.Errorf("noted is %q", got)
	}
}

// TestCutByCalls: after the cut neither way goes on.
func TestCutByCalls(t *testing.T) {
	b := newByCalls(echo(t))
	id := b.open(t)
	b.cut()
	b.ended(t)
	if r, err := b.call(t, "net.dial.receive", map[string]any{"stream": id}); err == nil && !r.End {
		t.Errorf("it receives %+v", r)
	}
	if _, err := b.call(t, "net.dial.send", map[string]any{"stream": id, "data": []byte("x")}); err == nil {
		t.Error("it sends")
	}
}

// TestOthersStreams are not found, and a plugin's end takes all of its own.
func TestOthersStreams(t *testing.T) {
	b := newByCalls(echo(t))
	id := b.open(t)
	b.Plugin = "other"
	for _, method := range []string{"net.dial.send", "net.dial.receive", "net.dial.close"} {
		_, err := b.call(t, method, map[string]any{"stream": id})
		var answer *ipc.RPCError
		if !errors.As(err, &answer) || answer.Code != ipc.CodeNotFound {
			t.Errorf("%s of another plugin: %v", method, err)
		}
	}
	b.Plugin = "p"
	if err := b.capability.Left(&capability.Env{DataSize: 1}); err != nil { // another process of the plugin
		t.Fatal(err)
	}
	if _, err := b.call(t, "net.dial.send", map[string]any{"stream": id, "data": []byte("x")}); err != nil {
		t.Errorf("after another process has ended: %v", err)
	}
	if err := b.capability.Left(b.Env); err != nil {
		t.Fatal(err)
	}
	b.ended(t)
	if _, err := b.call(t, "net.dial.send", map[string]any{"stream": id, "data": []byte("x")}); err == nil || !strings.Contains(err.Error(), "no such stream") {
		t.Errorf("after the run has ended: %v", err)
	}
}

// TestOpenedAtTheEnd: a stream that is opened while its run ends is closed.
func TestOpenedAtTheEnd(t *testing.T) {
	b := newByCalls(echo(t))
	done := make(chan struct{})
	b.Env.Done = done
	close(done)
	if _, err := b.call(t, "net.dial.open", map[string]any{"to": b.Target}); err == nil {
		t.Error("it was opened")
	}
	b.ended(t)
}

// TestWhoNeverReads holds up one send for a while, which says how much went.
func TestWhoNeverReads(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	b := newByCalls(l.Addr().String())
	id := b.open(t)
	piece := make([]byte, 1<<20)
	total := 0
	for range 64 {
		r, err := b.call(t, "net.dial.send", map[string]any{"stream": id, "data": piece})
		if err != nil {
			t.Fatal(err)
		}
		if total += r.Sent; r.Sent < len(piece) {
			break
		}
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.call(t, "net.dial.send", map[string]any{"stream": id, "end": true}); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, c); err != nil || n != int64(total) {
		t.Errorf("%d bytes came of %d: %v", n, total, err)
	}
	_ = c.Close()
}

// TestManyStreams: those that have ended and were not closed count.
func TestManyStreams(t *testing.T) {
	b := newByCalls(echo(t))
	b.Hold = func(func()) (func(), error) { return func() {}, nil }
	t.Cleanup(func() { _ = b.capability.Left(b.Env) })
	for range 256 {
		b.open(t)
	}
	_, err := b.call(t, "net.dial.open", map[string]any{"to": b.Target})
	var answer *ipc.RPCError
	if !errors.As(err, &answer) || answer.Code != ipc.CodeOverloaded {
		t.Errorf("one more: %v", err)
	}
}
