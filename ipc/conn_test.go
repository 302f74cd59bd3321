package ipc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// running is a connection whose Run is in progress.
type running struct {
	*Conn
	ended chan error
}

func run(c *Conn) *running {
	r := &running{Conn: c, ended: make(chan error, 1)}
	go func() { r.ended <- c.Run(context.Background()) }()
	return r
}

// wireEnd is the peer's end of a connection under test, read and written by
// hand. Time is the bubble's.
type wireEnd struct {
	t *testing.T
	net.Conn
	frames  *frameReader
	framing Framing
}

// wired returns a running connection over net.Pipe and the peer's raw end.
func wired(t *testing.T, o Options) (*running, *wireEnd) {
	t.Helper()
	a, b := net.Pipe()
	o = o.withDefaults()
	r := run(NewConn(Transport{R: a, W: a}, o))
	w := &wireEnd{t: t, Conn: b, frames: newFrames(b, o.Framing, frameCeiling), framing: o.Framing}
	t.Cleanup(func() { _, _ = r.Close(), b.Close() })
	return r, w
}

// say sends messages in their frames.
func (w *wireEnd) say(msgs ...string) {
	w.t.Helper()
	for _, m := range msgs {
		if _, err := w.Write(appendFrame(nil, w.framing, []byte(m))); err != nil {
			w.t.Fatalf("cannot say %s: %v", m, err)
		}
	}
}

// hears reads one message and compares it.
func (w *wireEnd) hears(want string) {
	w.t.Helper()
	fr, err := w.frames.next()
	if err != nil || string(fr.bytes) != want {
		w.t.Fatalf("heard %q, %v\nwant  %q", fr.bytes, err, want)
	}
}

// drains reads and drops everything from now on.
func (w *wireEnd) drains() { go func() { _, _ = io.Copy(io.Discard, w.Conn) }() }

// bothEnds returns two connections that talk to each other over net.Pipe.
func bothEnds(t *testing.T, o1, o2 Options) (host, plugin *running) {
	t.Helper()
	a, b := net.Pipe()
	host, plugin = run(NewConn(Transport{R: a, W: a}, o1)), run(NewConn(Transport{R: b, W: b}, o2))
	t.Cleanup(func() { _, _ = host.Close(), plugin.Close() })
	return host, plugin
}

func rpcCode(err error) int {
	var e *RPCError
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func echo(_ context.Context, r *Request) (any, error) { return r.Params, nil }

func TestCallsBothWays(t *testing.T) {
	for _, p := range []Protocol{ProtocolCordon, ProtocolMCP, ProtocolLSP, ProtocolJSONRPC} {
		t.Run(string(p), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				heard := make(chan string, 1)
				host, plugin := bothEnds(t,
					Options{Protocol: p, Handler: func(_ context.Context, r *Request) (any, error) {
						return nil, Errorf(CodeDenied, "no %s for you", r.Method)
					}},
					Options{Protocol: p, Handler: func(ctx context.Context, r *Request) (any, error) {
						_, err := r.Conn.Call(ctx, "secret", nil)
						return map[string]any{"params": r.Params, "code": rpcCode(err), "text": err.Error()}, nil
					}, OnNotify: func(method string, params json.RawMessage) { heard <- method + string(params) }})
				got, err := host.Call(t.Context(), "m", json.RawMessage("{\n\"a\": 1}"))
				want := `{"code":-32011,"params":{"a":1},"text":"no secret for you"}`
				if err != nil || string(got) != want {
					t.Errorf("got %s, %v; want %s", got, err, want)
				}
				if err := host.Notify("n", []int{1}); err != nil || <-heard != "n[1]" {
					t.Errorf("notification: %v", err)
				}
				_ = plugin.Close()
				if err := <-host.ended; err != nil {
					t.Errorf("host ended with %v", err)
				}
			})
		})
	}
}

func TestManyCallsAtOnce(t *testing.T) {
	a, b := socketpair(t)
	limits := Limits{Rate: 1e9}
	host := run(NewConn(SocketTransport(a), Options{Limits: limits, Handler: echo}))
	plugin := run(NewConn(SocketTransport(b), Options{Limits: limits, Handler: echo}))
	const callers, each = 100, 50
	failed := make(chan error, 2*callers)
	for i := range 2 * callers {
		c := []*running{host, plugin}[i%2]
		go func() {
			for j := range each {
				want := fmt.Sprintf(`[%d,%d,"%s"]`, i, j, strings.Repeat("x", i*j%3000))
				got, err := c.Call(t.Context(), "echo", json.RawMessage(want))
				if err != nil || string(got) != want {
					failed <- fmt.Errorf("got %.40s, %w", got, err)
					return
				}
			}
			failed <- nil
		}()
	}
	for range 2 * callers {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	if s := host.Stats(); s.MessagesIn != 2*callers*each || s.Breaches != 0 {
		t.Errorf("host counted %+v", s)
	}
	_ = host.Close()
	if err := <-plugin.ended; err != nil {
		t.Errorf("plugin ended with %v", err)
	}
}

func TestWireFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{Handler: func(_ context.Context, r *Request) (any, error) {
			switch r.Method {
			case "panic":
				panic("boom")
			case "fail":
				return nil, errors.New("secret of the host")
			case "nothing":
				return nil, nil
			default:
				return r.Params, nil
			}
		}})
		go func() { _, _ = host.Call(t.Context(), `a"b`, struct{}{}) }()
		peer.hears(`{"jsonrpc":"2.0","id":1,"method":"a\"b","params":{}}`)
		go func() { _ = host.Notify("é", nil) }()
		peer.hears(`{"jsonrpc":"2.0","method":"é"}`)
		for _, tt := range [][2]string{
			{`{"jsonrpc":"2.0","id":"x\u0079","method":"echo","params":[1, 2]}`, `{"jsonrpc":"2.0","id":"x\u0079","result":[1, 2]}`},
			{`{"jsonrpc":"2.0","id":2,"method":"nothing"}`, `{"jsonrpc":"2.0","id":2,"result":null}`},
			{`{"jsonrpc":"2.0","id":3,"method":"fail"}`, `{"jsonrpc":"2.0","id":3,"error":{"code":-32603,"message":"internal error"}}`},
			{`{"jsonrpc":"2.0","id":3,"method":"panic"}`, `{"jsonrpc":"2.0","id":3,"error":{"code":-32603,"message":"internal error"}}`},
			{`{"jsonrpc":"2.0","id":4,"method":"echo"}`, `{"jsonrpc":"2.0","id":4,"result":null}`},
		} {
			peer.say(tt[0])
			peer.hears(tt[1])
		}
		if s := host.Stats(); s.Panics != 1 {
			t.Errorf("%d panics counted", s.Panics)
		}
	})
}

func TestPeersError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{})
		failed := make(chan error, 1)
		go func() {
			_, err := host.Call(t.Context(), "m", nil)
			failed <- err
		}()
		peer.hears(`{"jsonrpc":"2.0","id":1,"method":"m"}`)
		peer.say(`{"jsonrpc":"2.0","id":1,"error":{"code":-32009,"message":"I am \"quarantined\"","data":[1]}}`)
		var e *RPCError
		if err := <-failed; !errors.As(err, &e) || e.Local || e.Code != CodeQuarantined || e.Message != `I am "quarantined"` || string(e.Data) != "[1]" {
			t.Errorf("got %#v", e)
		}
	})
}

// TestCancel: the peer is told, the caller has its error at once, a late answer
// is no breach, a second one is.
func TestCancel(t *testing.T) {
	for p, want := range map[Protocol]string{
		ProtocolCordon: `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`,
		ProtocolLSP:    `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`,
		ProtocolMCP:    `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"reason":"cancelled"}}`,
	} {
		synctest.Test(t, func(t *testing.T) {
			host, peer := wired(t, Options{Protocol: p})
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error, 1)
			go func() {
				_, err := host.Call(ctx, "m", nil)
				failed <- err
			}()
			peer.hears(`{"jsonrpc":"2.0","id":1,"method":"m"}`)
			cancel()
			if err := <-failed; rpcCode(err) != CodeCancelled || !errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v", p, err)
			}
			peer.hears(want)
			late := `{"jsonrpc":"2.0","id":1,"result":1}`
			peer.say(late)
			synctest.Wait()
			if s := host.Stats(); s.Late != 1 || s.Breaches != 0 {
				t.Errorf("%s: late answer counted as %+v", p, s)
			}
			go func() { _, _ = peer.Write(appendFrame(nil, peer.framing, []byte(late))) }()
			if err := <-host.ended; code(err) != BreachUnasked {
				t.Errorf("%s: late answer twice: %v", p, err)
			}
		})
	}
}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{Protocol: ProtocolMCP, Limits: Limits{CallTimeout: 7 * time.Second}})
		start := time.Now()
		failed := make(chan error, 1)
		go func() {
			_, err := host.Call(t.Context(), "m", nil)
			failed <- err
		}()
		peer.hears(`{"jsonrpc":"2.0","id":1,"method":"m"}`)
		err := <-failed
		if took := time.Since(start); rpcCode(err) != CodeDeadline || !errors.Is(err, context.DeadlineExceeded) || took != 7*time.Second {
			t.Errorf("got %v after %v", err, took)
		}
		peer.hears(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"reason":"deadline exceeded"}}`)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() {
			_, err := host.Call(ctx, "m", nil)
			failed <- err
		}()
		peer.hears(`{"jsonrpc":"2.0","id":2,"method":"m"}`)
		if err := <-failed; rpcCode(err) != CodeDeadline {
			t.Errorf("with a deadline of the caller's own: %v", err)
		}
	})
}

// TestOverdue: a call past its deadline is cancelled, and one that is not
// answered within the grace after that is a breach, whatever else the peer does.
func TestOverdue(t *testing.T) {
	for name, c := range map[string]struct {
		protocol Protocol
		grace    time.Duration
		answers  bool
		want     Breach
	}{
		"never answered":          {ProtocolCordon, 0, false, BreachOverdue},
		"answered late":           {ProtocolCordon, 0, true, ""},
		"never answered, LSP":     {ProtocolLSP, 0, false, BreachOverdue},
		"no answer is due, MCP":   {ProtocolMCP, 0, false, ""},
		"the profile has no such": {ProtocolCordon, -1, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host, peer := wired(t, Options{Protocol: c.protocol, Limits: Limits{CallTimeout: time.Second, CancelGrace: c.grace}})
				peer.drains()
				for range 3 {
					go func() { _, _ = host.Call(t.Context(), "m", nil) }()
				}
				pass(5 * time.Second)
				if c.answers {
					peer.say(`{"jsonrpc":"2.0","id":2,"error":{"code":-32003,"message":"cancelled"}}`, `{"jsonrpc":"2.0","id":1,"result":1}`,
						`{"jsonrpc":"2.0","id":3,"result":1}`)
				}
				peer.say(`{"jsonrpc":"2.0","method":"busy"}`)
				pass(5900 * time.Millisecond)
				if host.Err() != nil {
					t.Errorf("ended within the grace: %v", host.Err())
				}
				pass(time.Minute)
				if c.want == "" {
					if host.Err() != nil {
						t.Errorf("ended with %v", host.Err())
					}
					return
				}
				if err := <-host.ended; code(err) != c.want {
					t.Errorf("ended with %v", err)
				}
			})
		})
	}
}

// TestManyCancelledCalls: a slow but honest peer is never accused, whatever the
// number of calls it answers late.
func TestManyCancelledCalls(t *testing.T) {
	var cs calls
	cs.init(1)
	const n = 3*remembered + 7
	for range n {
		pc, err := cs.begin(nil, expected{})
		if err != nil || !cs.cancel(pc) {
			t.Fatal(err)
		}
	}
	if len(cs.late) > remembered {
		t.Errorf("%d cancelled calls remembered", len(cs.late))
	}
	for id := range uint64(n) {
		if _, fate := cs.take(id + 1); fate != fateLate {
			t.Fatalf("late answer to %d is %d", id+1, fate)
		}
	}
	if _, fate := cs.take(n + 1); fate != fateUnknown {
		t.Error("an id never used counts as late")
	}
}

// TestPeerCancels: the handler's context ends, and the answer is the protocol's.
func TestPeerCancels(t *testing.T) {
	for p, tt := range map[Protocol]struct{ cancel, answer string }{
		ProtocolCordon: {`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"a"}}`, `{"jsonrpc":"2.0","id":"a","error":{"code":-32003,"message":"cancelled"}}`},
		ProtocolLSP:    {`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"x":[{"id":1}],"id":"a"}}`, `{"jsonrpc":"2.0","id":"a","error":{"code":-32800,"message":"cancelled"}}`},
		ProtocolMCP:    {`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}`, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			host, peer := wired(t, Options{Protocol: p, Handler: func(ctx context.Context, _ *Request) (any, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}})
			peer.say(`{"jsonrpc":"2.0","id":"a","method":"wait"}`, tt.cancel)
			if tt.answer != "" {
				peer.hears(tt.answer)
			}
			synctest.Wait()
			peer.say(tt.cancel, strings.ReplaceAll(tt.cancel, `"a"`, `"never"`))
			synctest.Wait()
			if s := host.Stats(); s.LateCancels != 2 || s.Breaches != 0 {
				t.Errorf("%s: cancels of the finished and of the unknown counted as %+v", p, s)
			}
		})
	}
}

// TestPeerGone: calls in progress fail, handlers are told, Run returns nil.
func TestPeerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan error, 1)
		host, peer := wired(t, Options{Handler: func(ctx context.Context, _ *Request) (any, error) {
			<-ctx.Done()
			told <- ctx.Err()
			return nil, ctx.Err()
		}})
		failed := make(chan error, 1)
		go func() {
			_, err := host.Call(t.Context(), "m", nil)
			failed <- err
		}()
		peer.hears(`{"jsonrpc":"2.0","id":1,"method":"m"}`)
		peer.say(`{"jsonrpc":"2.0","id":1,"method":"wait"}`)
		_ = peer.Close()
		if err := <-failed; rpcCode(err) != CodePluginGone || !errors.Is(err, ErrClosed) {
			t.Errorf("call: %v", err)
		}
		if err := <-told; err == nil {
			t.Error("handler was not told")
		}
		if err := <-host.ended; err != nil {
			t.Errorf("run: %v", err)
		}
		if _, err := host.Call(t.Context(), "m", nil); rpcCode(err) != CodePluginGone {
			t.Errorf("call afterwards: %v", err)
		}
		if err := host.Notify("n", nil); !errors.Is(err, ErrClosed) {
			t.Errorf("notification afterwards: %v", err)
		}
	})
}

// TestGivenUp: a request whose handler never returns is answered by another, and
// once only; the connection ends without waiting for that handler.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, release, returned := make(chan *Request, 1), make(chan struct{}), make(chan error, 1)
		host, peer := wired(t, Options{Handler: func(ctx context.Context, r *Request) (any, error) {
			if r.Method == "short" {
				return 1, nil
			}
			asked <- r
			<-release
			returned <- ctx.Err()
			return 1, nil
		}})
		peer.say(`{"jsonrpc":"2.0","id":1,"method":"m"}`)
		r := <-asked
		if !r.GiveUp(Errorf(CodeDeadline, "late")) || r.GiveUp(Errorf(CodeDeadline, "later")) {
			t.Error("a request is given up once")
		}
		peer.hears(`{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"late"}}`)
		peer.say(`{"jsonrpc":"2.0","id":1,"method":"short"}`) // its id is free again
		peer.hears(`{"jsonrpc":"2.0","id":1,"result":1}`)
		_ = peer.Close()
		if err := <-host.ended; err != nil {
			t.Errorf("run: %v", err)
		}
		close(release)
		if err := <-returned; err == nil {
			t.Error("the handler was not told")
		}
	})
}

func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		ctx, cancel := context.WithCancel(t.Context())
		c := NewConn(Transport{R: a, W: a}, Options{})
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("after cancel: %v", err)
		}
		host, _ := wired(t, Options{})
		_ = host.Close()
		if err := <-host.ended; !errors.Is(err, ErrClosed) || !errors.Is(host.Err(), ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// TestInFlight: our own calls wait for a place, the peer's are refused beyond
// theirs.
func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places = 3
		var now atomic.Int32
		release := make(chan struct{})
		host, peer := wired(t, Options{Limits: Limits{MaxInFlight: places}, Handler: func(context.Context, *Request) (any, error) {
			now.Add(1)
			<-release
			return 1, nil
		}})
		for i := range places {
			peer.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"m"}`, i))
		}
		peer.say(`{"jsonrpc":"2.0","id":"more","method":"m"}`)
		peer.hears(`{"jsonrpc":"2.0","id":"more","error":{"code":-32004,"message":"too many requests at once"}}`)
		synctest.Wait()
		if now.Load() != places {
			t.Errorf("%d handlers at once", now.Load())
		}
		close(release)
		for range places {
			if _, err := peer.frames.next(); err != nil {
				t.Fatal(err)
			}
		}

		answered := make(chan error, places+1)
		for range places + 1 {
			go func() {
				_, err := host.Call(t.Context(), "m", nil)
				answered <- err
			}()
		}
		for range places {
			if _, err := peer.frames.next(); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := host.Stats().MessagesOut; n != 2*places+1 {
			t.Errorf("%d messages sent: a call did not wait for its place", n)
		}
		peer.say(`{"jsonrpc":"2.0","id":1,"result":1}`)
		peer.hears(`{"jsonrpc":"2.0","id":4,"method":"m"}`)
		if err := <-answered; err != nil {
			t.Error(err)
		}
	})
}

// TestInFlightBytes: open requests are bounded by their bytes as well.
func TestInFlightBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{Limits: Limits{MaxFrame: 1000, MaxQueue: 1500}, Handler: func(ctx context.Context, _ *Request) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		large := `{"jsonrpc":"2.0","id":%d,"method":"m","params":["` + strings.Repeat("x", 800) + `"]}`
		peer.say(fmt.Sprintf(large, 1), fmt.Sprintf(large, 2))
		peer.hears(`{"jsonrpc":"2.0","id":2,"error":{"code":-32004,"message":"too many requests at once"}}`)
		if s := host.Stats(); s.Overloaded != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestPeerNeverReads: callers wait until their deadline, notifications fail,
// memory stays bounded, and in the end it is a breach.
func TestPeerNeverReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, _ := wired(t, Options{Limits: Limits{MaxFrame: 1000, MaxQueue: 4000, MaxInFlight: 100, CallTimeout: 5 * time.Second, WriteStall: 20 * time.Second, CancelGrace: -1}})
		start := time.Now()
		body := json.RawMessage(`["` + strings.Repeat("x", 500) + `"]`)
		failed := make(chan error, 50)
		for range cap(failed) {
			go func() {
				_, err := host.Call(t.Context(), "m", body)
				failed <- err
			}()
		}
		synctest.Wait()
		if err := host.Notify("n", body); !errors.Is(err, ErrSlowPeer) {
			t.Errorf("notification: %v", err)
		}
		host.out.mu.Lock()
		if held := cap(host.out.pending) + cap(host.out.active) + cap(host.out.spare); held > 4*4000 {
			t.Errorf("the queue holds %d bytes", held)
		}
		host.out.mu.Unlock()
		for range cap(failed) {
			if err := <-failed; rpcCode(err) != CodeDeadline {
				t.Errorf("call: %v", err)
			}
		}
		if err := <-host.ended; code(err) != BreachStalled || time.Since(start) != 20*time.Second {
			t.Errorf("ended with %v after %v", err, time.Since(start))
		}
	})
}

// TestPeerAsksAndNeverReads: the reader never waits for the writer.
func TestPeerAsksAndNeverReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{Limits: Limits{MaxFrame: 1000, MaxQueue: 2000}, Handler: nil})
		go func() {
			for i := 0; ; i++ {
				msg := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"m"}`, i)
				if _, err := peer.Write(appendFrame(nil, FramingLength, []byte(msg))); err != nil {
					return
				}
			}
		}()
		if err := <-host.ended; code(err) != BreachStalled {
			t.Errorf("ended with %v", err)
		}
	})
}

// TestSlowReader reads a byte a second: that is slow, but progress.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{})
		if err := host.Notify("n", []string{strings.Repeat("x", 200)}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1)
		for range 200 {
			pass(time.Second)
			if _, err := peer.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
		if err := host.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestTooLargeToSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{Limits: Limits{MaxFrame: 1024}, Handler: func(context.Context, *Request) (any, error) {
			return strings.Repeat("x", 1024), nil
		}})
		if _, err := host.Call(t.Context(), "m", []string{strings.Repeat("x", 1024)}); rpcCode(err) != CodeTooLarge {
			t.Errorf("call: %v", err)
		}
		if err := host.Notify("m", []string{strings.Repeat("x", 1024)}); err == nil {
			t.Error("notified")
		}
		if _, err := host.Call(t.Context(), "m", 1); rpcCode(err) != CodeInvalidParams {
			t.Errorf("scalar params: %v", err)
		}
		peer.say(`{"jsonrpc":"2.0","id":1,"method":"m"}`)
		fr, err := peer.frames.next()
		if err != nil || !strings.Contains(string(fr.bytes), `"code":-32006`) {
			t.Errorf("heard %s, %v", fr.bytes, err)
		}
	})
}

// TestAnsweredBeforeSeen: when the peer can see an answer, its request does not
// count any more, or a peer that keeps to the limit would be refused.
func TestAnsweredBeforeSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, _ := wired(t, Options{})
		s := &served{id: "1"}
		if err := host.requests.begin(s); err != nil {
			t.Fatal(err)
		}
		if err := host.out.putFor(nil, s, nil, resultReply([]byte("1"), []byte("1"), nil)); err != nil || s.end() {
			t.Errorf("queued with %v, and still open", err)
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		host, peer := wired(t, Options{Handler: func(context.Context, *Request) (any, error) {
			<-release
			return 1, nil
		}})
		peer.say(`{"jsonrpc":"2.0","id":1,"method":"m"}`)
		synctest.Wait()
		drained := make(chan error, 1)
		go func() { drained <- host.Drain(t.Context()) }()
		synctest.Wait()
		if _, err := host.Call(t.Context(), "m", nil); rpcCode(err) != CodeShuttingDown {
			t.Errorf("call while draining: %v", err)
		}
		peer.say(`{"jsonrpc":"2.0","id":2,"method":"m"}`)
		peer.hears(`{"jsonrpc":"2.0","id":2,"error":{"code":-32005,"message":"the connection is draining"}}`)
		close(release)
		peer.hears(`{"jsonrpc":"2.0","id":1,"result":1}`)
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}

// pass lets d go by on the clock of a synctest bubble, which takes no time.
func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // the bubble's clock is injected
