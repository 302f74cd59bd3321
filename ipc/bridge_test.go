package ipc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// attached is a client of a bridge, with what it was sent.
type attached struct {
	*Client
	got chan string
}

func attach(t *testing.T, b *Bridge) *attached {
	t.Helper()
	a := &attached{got: make(chan string, 100)}
	cl, err := b.Attach(func(msg []byte) error {
		select {
		case a.got <- string(msg):
			return nil
		default:
			return ErrSlowPeer
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	a.Client = cl
	return a
}

func (a *attached) says(t *testing.T, msg string) {
	t.Helper()
	if err := a.Receive(t.Context(), []byte(msg)); err != nil {
		t.Fatalf("cannot receive %s: %v", msg, err)
	}
}

func (a *attached) hears(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	select {
	case got := <-a.got:
		if got != want {
			t.Fatalf("client heard %s\nwant        %s", got, want)
		}
	default:
		t.Fatalf("client heard nothing, want %s", want)
	}
}

func (a *attached) hearsNothing(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case got := <-a.got:
		t.Fatalf("client heard %s", got)
	default:
	}
}

const helloResult = `{"protocolVersion":"2025-06-18","capabilities":{ "tools":{} }}`

func bridged(t *testing.T, o Options) (*running, *wireEnd, *Bridge) {
	t.Helper()
	host, peer := wired(t, o)
	b, err := NewBridge(host.Conn, json.RawMessage(helloResult))
	if err != nil {
		t.Fatal(err)
	}
	return host, peer, b
}

// TestBridgeTwoClients use the same ids at once, beside a call of the daemon's.
func TestBridgeTwoClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer, b := bridged(t, Options{Protocol: ProtocolMCP})
		one, two := attach(t, b), attach(t, b)
		for _, cl := range []*attached{one, two} {
			cl.says(t, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`)
			cl.hears(t, `{"jsonrpc":"2.0","id":1,"result":`+helloResult+`}`)
			cl.says(t, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		}
		one.says(t, `{ "method":"tools/list", "id": 1, "jsonrpc":"2.0", "params":{"id":1} }`)
		peer.hears(`{ "method":"tools/list", "id": 1, "jsonrpc":"2.0", "params":{"id":1} }`)
		two.says(t, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
		peer.hears(`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
		mine := make(chan string, 1)
		go func() {
			r, err := host.Call(t.Context(), "ping", nil)
			mine <- fmt.Sprint(string(r), err)
		}()
		peer.hears(`{"jsonrpc":"2.0","id":3,"method":"ping"}`)
		two.says(t, `{"jsonrpc":"2.0","id":"s\u0031","method":"tools/call"}`)
		peer.hears(`{"jsonrpc":"2.0","id":4,"method":"tools/call"}`)

		peer.say(`{"jsonrpc":"2.0","id":4,"error":{"code":1,"message":"no"}}`, `{"jsonrpc":"2.0","id":3,"result":{}}`,
			`{"result":{"id":2}, "jsonrpc":"2.0","id":2}`, `{"jsonrpc":"2.0","id":1,"result":{}}`)
		two.hears(t, `{"jsonrpc":"2.0","id":"s\u0031","error":{"code":1,"message":"no"}}`)
		two.hears(t, `{"result":{"id":2}, "jsonrpc":"2.0","id":1}`)
		one.hears(t, `{"jsonrpc":"2.0","id":1,"result":{}}`)
		if got := <-mine; got != "{}<nil>" {
			t.Errorf("the daemon's call: %s", got)
		}
		one.hearsNothing(t)
		two.hearsNothing(t)
		if n := len(host.calls.places) + len(b.places) + len(one.places) + len(two.places); n != 0 {
			t.Errorf("%d places are still taken", n)
		}
	})
}

// TestBridgeFromPlugin: notifications to all, requests to the newest.
func TestBridgeFromPlugin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer, b := bridged(t, Options{Protocol: ProtocolMCP})
		ask := `{"jsonrpc":"2.0","id":7,"method":"roots/list"}`
		peer.say(ask)
		peer.hears(`{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"method not found"}}`)
		peer.say(`{"jsonrpc":"2.0","id":7,"method":"ping"}`)
		peer.hears(`{"jsonrpc":"2.0","id":7,"result":{}}`)

		one, two := attach(t, b), attach(t, b)
		note := `{"jsonrpc":"2.0","method":"notifications/message","params":{"a" : 1}}`
		peer.say(note, ask)
		one.hears(t, note)
		two.hears(t, note)
		two.hears(t, ask)
		one.hearsNothing(t)

		one.says(t, `{"jsonrpc":"2.0","id":7,"result":"forged"}`) // it was not asked
		two.says(t, `{"jsonrpc":"2.0","id":7,"result":{"roots":[]}}`)
		peer.hears(`{"jsonrpc":"2.0","id":7,"result":{"roots":[]}}`)
		two.says(t, `{"jsonrpc":"2.0","id":7,"result":"again"}`)

		peer.say(`{"jsonrpc":"2.0","id":8,"method":"roots/list"}`, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":8}}`)
		two.hears(t, `{"jsonrpc":"2.0","id":8,"method":"roots/list"}`)
		two.hears(t, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":8}}`)
		one.hearsNothing(t)

		peer.say(`{"jsonrpc":"2.0","id":9,"method":"roots/list"}`)
		two.hears(t, `{"jsonrpc":"2.0","id":9,"method":"roots/list"}`)
		two.Detach()
		peer.hears(`{"jsonrpc":"2.0","id":9,"error":{"code":-32003,"message":"the client that was asked has gone"}}`)
		peer.say(ask)
		one.hears(t, ask)
		if s := host.Stats(); s.Unmatched != 2 || host.Err() != nil {
			t.Errorf("%+v, %v", s, host.Err())
		}
	})
}

func TestBridgeCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, peer, b := bridged(t, Options{Protocol: ProtocolLSP})
		one, two := attach(t, b), attach(t, b)
		one.says(t, `{"jsonrpc":"2.0","id":"a","method":"x"}`)
		peer.hears(`{"jsonrpc":"2.0","id":1,"method":"x"}`)
		two.says(t, `{"jsonrpc":"2.0","id":"a","method":"x"}`)
		peer.hears(`{"jsonrpc":"2.0","id":2,"method":"x"}`)
		two.says(t, `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{ "id" : "a" }}`)
		peer.hears(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{ "id" : 2 }}`)
		peer.say(`{"jsonrpc":"2.0","id":2,"error":{"code":-32800,"message":"cancelled"}}`)
		two.hears(t, `{"jsonrpc":"2.0","id":"a","error":{"code":-32800,"message":"cancelled"}}`)
		two.says(t, `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"a"}}`) // finished
		two.says(t, `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`)   // another client's, as the plugin knows it
		two.says(t, `{"jsonrpc":"2.0","method":"$/cancelRequest"}`)
		two.says(t, `{"jsonrpc":"2.0","method":"probe"}`)
		peer.hears(`{"jsonrpc":"2.0","method":"probe"}`) // and nothing before it
	})
}

// TestBridgeCancelMCP: no answer comes, and the place is free at once.
func TestBridgeCancelMCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer, b := bridged(t, Options{Protocol: ProtocolMCP, Limits: Limits{MaxInFlight: 4}})
		cl := attach(t, b) // with one place
		for i := 1; i <= 20; i++ {
			cl.says(t, `{"jsonrpc":"2.0","id":5,"method":"x"}`)
			peer.hears(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"x"}`, i))
			cl.says(t, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}`)
			peer.hears(fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}`, i))
		}
		peer.say(`{"jsonrpc":"2.0","id":1,"result":"late"}`)
		cl.hearsNothing(t)
		if host.Err() != nil {
			t.Error(host.Err())
		}
	})
}

// TestBridgeLeaves: a client's end is the client's alone.
func TestBridgeLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer, b := bridged(t, Options{Protocol: ProtocolLSP})
		one, two := attach(t, b), attach(t, b)
		one.says(t, `{"jsonrpc":"2.0","id":1,"method":"x"}`)
		peer.hears(`{"jsonrpc":"2.0","id":1,"method":"x"}`)
		one.says(t, `{"jsonrpc":"2.0","id":2,"method":"shutdown"}`)
		one.hears(t, `{"jsonrpc":"2.0","id":2,"result":null}`)
		one.says(t, `{"jsonrpc":"2.0","method":"exit"}`)
		<-one.Done()
		if one.Err() != nil {
			t.Error(one.Err())
		}
		peer.hears(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`)
		peer.say(`{"jsonrpc":"2.0","id":1,"result":"late"}`)
		two.says(t, `{"jsonrpc":"2.0","id":1,"method":"y"}`)
		peer.hears(`{"jsonrpc":"2.0","id":2,"method":"y"}`)
		_ = peer.Close()
		two.hears(t, `{"jsonrpc":"2.0","id":1,"error":{"code":-32008,"message":"the plugin ended before it answered"}}`)
		<-two.Done()
		if !errors.Is(two.Err(), ErrClosed) {
			t.Error(two.Err())
		}
		if _, err := b.Attach(func([]byte) error { return nil }); rpcCode(err) != CodePluginGone {
			t.Errorf("attached to the dead: %v", err)
		}
		if err := <-host.ended; err != nil {
			t.Error(err)
		}
	})
}

// TestBridgeBadClients are detached; plugin and neighbours go on.
func TestBridgeBadClients(t *testing.T) {
	for name, tt := range map[string]struct {
		msgs []string
		want Breach
	}{
		"not JSON":   {[]string{`{`}, BreachSyntax},
		"batch":      {[]string{`[]`}, BreachEnvelope},
		"duplicate":  {[]string{call(`{"a":1,"a":1}`)}, BreachDuplicate},
		"depth":      {[]string{call(strings.Repeat("[", 100))}, BreachDepth},
		"too large":  {[]string{call(`["` + strings.Repeat("x", 2000) + `"]`)}, BreachTooLarge},
		"big id":     {[]string{`{"jsonrpc":"2.0","id":9007199254740993,"method":"m"}`}, BreachID},
		"id in use":  {[]string{call(`{}`), call(`{}`)}, BreachID},
		"id in use+": {[]string{`{"jsonrpc":"2.0","id":"x","method":"m"}`, `{"jsonrpc":"2.0","id":"x","method":"m"}`}, BreachID},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, peer, b := bridged(t, Options{Protocol: ProtocolMCP, Limits: Limits{MaxFrame: 1024}})
				peer.drains()
				bad, good := attach(t, b), attach(t, b)
				var err error
				for _, m := range tt.msgs {
					err = bad.Receive(t.Context(), []byte(m))
				}
				if code(err) != tt.want || code(bad.Err()) != tt.want {
					t.Errorf("got %v and %v, want %s", err, bad.Err(), tt.want)
				}
				<-bad.Done()
				peer.say(`{"jsonrpc":"2.0","method":"m"}`)
				good.hears(t, `{"jsonrpc":"2.0","method":"m"}`)
				bad.hearsNothing(t)
			})
		})
	}
}

// TestBridgeGreedyClient waits for its own places; others have theirs, and the
// daemon has its.
func TestBridgeGreedyClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer, b := bridged(t, Options{Protocol: ProtocolMCP, Limits: Limits{MaxInFlight: 8}})
		peer.drains()
		for range 5 { // three of them fill what clients get together
			cl := attach(t, b)
			go func() {
				for i := 0; ; i++ {
					if cl.Receive(t.Context(), fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":"m"}`, i)) != nil {
						return
					}
				}
			}()
		}
		synctest.Wait()
		if n := host.Stats().MessagesOut; n != 6 {
			t.Errorf("%d of 8 places taken by clients", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := host.Call(ctx, "m", nil)
		if n := host.Stats().MessagesOut; rpcCode(err) != CodeDeadline || n != 8 { // sent, and cancelled
			t.Errorf("the daemon's call: %v, %d messages", err, n)
		}
		_ = host.Close()
	})
}

// TestBridgeSlowClient is detached when it does not take what it is sent.
func TestBridgeSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, peer, b := bridged(t, Options{Protocol: ProtocolMCP})
		slow := attach(t, b)
		for range cap(slow.got) + 1 {
			peer.say(`{"jsonrpc":"2.0","method":"m"}`)
		}
		<-slow.Done()
		if !errors.Is(slow.Err(), ErrSlowPeer) {
			t.Error(slow.Err())
		}
	})
}

func TestBridgeFloodingClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, peer, b := bridged(t, Options{Protocol: ProtocolMCP, Limits: Limits{Rate: 100}})
		peer.drains()
		cl := attach(t, b)
		start := time.Now()
		var err error
		for err == nil {
			err = cl.Receive(t.Context(), []byte(`{"jsonrpc":"2.0","method":"m"}`))
		}
		if code(err) != BreachRate || time.Since(start) < floodGrace {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestBridgeBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, _, b := bridged(t, Options{Protocol: ProtocolMCP})
		if _, err := NewBridge(host.Conn, nil); err == nil {
			t.Error("a second bridge")
		}
		for range maxClients {
			attach(t, b)
		}
		if _, err := b.Attach(func([]byte) error { return nil }); rpcCode(err) != CodeOverloaded {
			t.Errorf("one client more: %v", err)
		}
	})
}

// TestBridgeConcurrent lets clients come, ask and go while the plugin answers
// and asks: for the race detector, and for places that leak.
func TestBridgeConcurrent(t *testing.T) {
	a, p := socketpair(t)
	limits := Limits{Rate: 1e9, MaxInFlight: 8}
	host := run(NewConn(SocketTransport(a), Options{Limits: limits}))
	plugin := run(NewConn(SocketTransport(p), Options{Limits: Limits{Rate: 1e9}, Handler: func(ctx context.Context, r *Request) (any, error) {
		if r.Method == "ask" {
			_, _ = r.Conn.Call(ctx, "client", nil)
		}
		_ = r.Conn.Notify("note", nil)
		return r.Params, nil
	}}))
	b, err := NewBridge(host.Conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 6)
	for i := range cap(done) {
		go func() { done <- clientLife(t.Context(), b, i) }()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := len(host.calls.places) + len(b.places); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
	_ = host.Close()
	<-plugin.ended
}

// clientLife attaches, asks, answers and leaves, several times.
func clientLife(ctx context.Context, b *Bridge, seed int) error {
	for life := range 20 {
		answers := make(chan []byte, 1000)
		cl, err := b.Attach(func(m []byte) error {
			answers <- append([]byte(nil), m...)
			return nil
		})
		if err != nil {
			return err
		}
		for i := range 10 {
			method := []string{"echo", "ask"}[(seed+i)%2]
			if err := cl.Receive(ctx, fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":%q,"params":[%d]}`, i, method, i)); err != nil {
				return err
			}
		}
		for open := 10 - (seed+life)%4; open > 0; { // leave some unanswered
			m := <-answers
			at, ok := lookup(m, "method")
			switch {
			case !ok: // a reply
				open--
			case text(at.of(m)) == "client":
				at, _ := lookup(m, "id")
				if err := cl.Receive(ctx, fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":1}`, at.of(m))); err != nil {
					return err
				}
			}
		}
		cl.Detach()
	}
	return nil
}

// TestBridgeReplyPassesTheLine: a client whose places are all taken by requests
// that wait for its own reply can give it, behind more requests.
func TestBridgeReplyPassesTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, peer, b := bridged(t, Options{Protocol: ProtocolLSP, Limits: Limits{MaxInFlight: 4}})
		cl := attach(t, b) // with one place
		cl.says(t, `{"jsonrpc":"2.0","id":"a","method":"first"}`)
		peer.hears(`{"jsonrpc":"2.0","id":1,"method":"first"}`)
		peer.say(`{"jsonrpc":"2.0","id":9,"method":"ask"}`)
		cl.hears(t, `{"jsonrpc":"2.0","id":9,"method":"ask"}`)
		cl.says(t, `{"jsonrpc":"2.0","id":"b","method":"second"}`)
		cl.says(t, `{"jsonrpc":"2.0","method":"note"}`)
		cl.says(t, `{"jsonrpc":"2.0","id":"c","method":"third"}`)
		cl.says(t, `{"jsonrpc":"2.0","id":"d","method":"fourth"}`)
		cl.says(t, `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"c"}}`)
		cl.hears(t, `{"jsonrpc":"2.0","id":"c","error":{"code":-32800,"message":"cancelled"}}`)
		cl.says(t, `{"jsonrpc":"2.0","id":9,"result":1}`)
		peer.hears(`{"jsonrpc":"2.0","id":9,"result":1}`)
		peer.say(`{"jsonrpc":"2.0","id":1,"result":1}`)
		cl.hears(t, `{"jsonrpc":"2.0","id":"a","result":1}`)
		peer.hears(`{"jsonrpc":"2.0","id":2,"method":"second"}`)
		peer.hears(`{"jsonrpc":"2.0","method":"note"}`)
		peer.say(`{"jsonrpc":"2.0","id":2,"result":1}`)
		cl.hears(t, `{"jsonrpc":"2.0","id":"b","result":1}`)
		peer.hears(`{"jsonrpc":"2.0","id":3,"method":"fourth"}`)
	})
}

// TestBridgeLineIsBounded: more requests than that are refused.
func TestBridgeLineIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer, b := bridged(t, Options{Protocol: ProtocolMCP, Limits: Limits{MaxInFlight: 1, MaxQueue: 4096}})
		peer.drains()
		cl := attach(t, b)
		for i := range 100 {
			cl.says(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"m"}`, i))
		}
		cl.mu.Lock()
		held := cl.line.bytes
		cl.mu.Unlock()
		if n := host.Stats().Overloaded; n < 80 || n > 95 || held > 4096+1000 {
			t.Errorf("%d refused, %d bytes held", n, held)
		}
		cl.Detach()
		synctest.Wait()
		if n := len(host.calls.places) + len(b.places); n != 0 {
			t.Errorf("%d places are still taken", n)
		}
	})
}
