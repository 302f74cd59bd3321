package ipc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestBadInput is the table of PROTOCOL.md, at the connection: what the peer
// writes, and what Run returns.
func TestBadInput(t *testing.T) {
	msg := func(s string) string { return length(uint32(len(s)), s) }
	for _, tt := range []struct {
		name string
		o    Options
		in   string
		want Breach
	}{
		{"another framing", Options{}, `{"jsonrpc":"2.0"}`, BreachFraming},
		{"negative length", Options{}, length(0xfffffff0, ""), BreachFraming},
		{"length zero", Options{}, length(0, ""), BreachFraming},
		{"over the limit", Options{}, length(4<<20+1, ""), BreachTooLarge},
		{"not JSON", Options{}, msg(`{`), BreachSyntax},
		{"two values", Options{}, msg(`{"jsonrpc":"2.0","method":"m"}{}`), BreachSyntax},
		{"batch", Options{}, msg(`[]`), BreachEnvelope},
		{"batch line", Options{Protocol: ProtocolMCP}, "[]\n", BreachEnvelope},
		{"no message", Options{}, msg(`{"jsonrpc":"2.0"}`), BreachEnvelope},
		{"bomb", Options{}, msg(call(strings.Repeat("[", 100000))), BreachDepth},
		{"duplicate", Options{}, msg(call(`{"a":1,"a":2}`)), BreachDuplicate},
		{"encoding", Options{}, msg(call("[\"\xff\"]")), BreachEncoding},
		{"lone surrogate", Options{}, msg(call(`["\ud800"]`)), BreachEncoding},
		{"big id", Options{}, msg(`{"jsonrpc":"2.0","id":9007199254740993,"method":"m"}`), BreachID},
		{"reply unasked", Options{}, msg(`{"jsonrpc":"2.0","id":1,"result":1}`), BreachUnasked},
		{"reply to zero", Options{}, msg(`{"jsonrpc":"2.0","id":0,"result":1}`), BreachUnasked},
		{"reply to a negative", Options{}, msg(`{"jsonrpc":"2.0","id":-1,"result":1}`), BreachUnasked},
		{"reply to a string", Options{}, msg(`{"jsonrpc":"2.0","id":"1","result":1}`), BreachUnasked},
		{"reply to nothing", Options{}, msg(`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"huh"}}`), BreachRefused},
		{"request before the hello", Options{Hello: true}, msg(call(`{}`)), BreachPhase},
		{"notification before the hello", Options{Hello: true}, msg(`{"jsonrpc":"2.0","method":"m"}`), BreachPhase},
		{"id in use", Options{Handler: waits}, msg(call(`{}`)) + msg(call(`{}`)), BreachID},
		{"strays", Options{Protocol: ProtocolMCP}, strings.Repeat("banner\n", 65), BreachStray},
		{"no strays allowed", Options{Protocol: ProtocolMCP, Limits: Limits{Strays: -1}}, "banner\n", BreachStray},
		{"nothing but blanks", Options{Protocol: ProtocolMCP}, strings.Repeat("\n", 100), ""},
		{"nothing", Options{}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host, peer := wired(t, tt.o)
				peer.drains()
				go func() {
					if tt.in != "" {
						_, _ = io.WriteString(peer, tt.in)
					}
					_ = peer.Close()
				}()
				if err := <-host.ended; code(err) != tt.want {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			})
		})
	}
}

func waits(ctx context.Context, _ *Request) (any, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestTruncated cuts a stream of two messages at every byte, in each framing.
func TestTruncated(t *testing.T) {
	for p := range map[Protocol]bool{ProtocolCordon: true, ProtocolMCP: true, ProtocolLSP: true} {
		one := appendFrame(nil, FramingOf(p), []byte(`{"jsonrpc":"2.0","method":"m"}`))
		two := slices.Concat(one, one)
		for i := range len(two) + 1 {
			synctest.Test(t, func(t *testing.T) {
				host, peer := wired(t, Options{Protocol: p})
				go func() {
					if i > 0 {
						_, _ = peer.Write(two[:i])
					}
					_ = peer.Close()
				}()
				want := BreachTruncated
				if i%len(one) == 0 {
					want = ""
				}
				if err := <-host.ended; code(err) != want {
					t.Errorf("%s cut at %d: got %v, want %q", p, i, err, want)
				}
			})
		}
	}
}

// TestSlowBytes sends a message one byte a second: the time runs from its first
// byte, and a new message has a new time.
func TestSlowBytes(t *testing.T) {
	for p := range map[Protocol]bool{ProtocolCordon: true, ProtocolMCP: true, ProtocolLSP: true} {
		synctest.Test(t, func(t *testing.T) {
			host, peer := wired(t, Options{Protocol: p})
			one := appendFrame(nil, FramingOf(p), []byte(`{"jsonrpc":"2.0","method":"m"}`))
			pass(time.Hour) // idle is allowed
			for range 3 {   // nine seconds each
				for i := range 9 {
					_, _ = peer.Write(one[i : i+1])
					pass(time.Second)
				}
				_, _ = peer.Write(one[9:])
			}
			synctest.Wait()
			if n := host.Stats().MessagesIn; n != 3 || host.Err() != nil {
				t.Fatalf("%s: %d messages, %v", p, n, host.Err())
			}
			start := time.Now()
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				for i := range one {
					if _, err := peer.Write(one[i : i+1]); err != nil {
						return
					}
					pass(time.Second)
				}
			}()
			if err := <-host.ended; code(err) != BreachHalfOpen || time.Since(start) != 10*time.Second {
				t.Errorf("%s: ended with %v after %v", p, err, time.Since(start))
			}
			<-stopped
		})
	}
}

// TestFlood: a flood is slowed down to the rate, and goes on for so long only.
func TestFlood(t *testing.T) {
	for name, in := range map[string]string{
		"notifications": `{"jsonrpc":"2.0","method":"m"}`,
		"blank lines":   ``,
		"cancellations": `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`,
	} {
		synctest.Test(t, func(t *testing.T) {
			const rate = 100
			host, peer := wired(t, Options{Protocol: ProtocolMCP, Limits: Limits{Rate: rate}})
			start, sent := time.Now(), 0
			for {
				if _, err := io.WriteString(peer, in+"\n"); err != nil {
					break
				}
				sent++
			}
			took := time.Since(start)
			if err := <-host.ended; code(err) != BreachRate || took < floodGrace || took > floodGrace+2*time.Second {
				t.Errorf("%s: ended with %v after %v", name, err, took)
			}
			if most := rate * int(2+took/time.Second); sent > most {
				t.Errorf("%s: %d messages taken in %v", name, sent, took)
			}
		})
	}
}

// TestBurst: a burst now and then is no flood, however often it comes.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{Limits: Limits{Rate: 100}})
		for range 30 {
			for range 150 {
				peer.say(`{"jsonrpc":"2.0","method":"m"}`)
			}
			pass(2 * time.Second)
		}
		if s := host.Stats(); host.Err() != nil || s.MessagesIn != 30*150 || s.Slowed == 0 {
			t.Errorf("%v, %+v", host.Err(), s)
		}
	})
}

// TestStrays are told, and the messages among them handled.
func TestStrays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		strays := make(chan string, 2)
		host, peer := wired(t, Options{Protocol: ProtocolMCP, OnStray: func(line []byte) {
			strays <- string(line)
			panic("the owner's own fault")
		}})
		_, _ = io.WriteString(peer, "Server v1\n\n{\"jsonrpc\":\"2.0\",\"method\":\"m\"}\r\nready\n")
		if a, b := <-strays, <-strays; a != "Server v1" || b != "ready" {
			t.Errorf("strays %q, %q", a, b)
		}
		synctest.Wait()
		if s := host.Stats(); s.MessagesIn != 1 || s.Strays != 2 || s.Panics != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// TestBeforeTheHello: other protocols' programs may log early, and are told
// that their requests are early.
func TestBeforeTheHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := make(chan string, 1)
		_, peer := wired(t, Options{Protocol: ProtocolLSP, Hello: true, OnNotify: func(m string, _ json.RawMessage) { heard <- m }})
		peer.say(`{"jsonrpc":"2.0","method":"window/logMessage","params":{}}`)
		if m := <-heard; m != "window/logMessage" {
			t.Error(m)
		}
		peer.say(`{"jsonrpc":"2.0","id":1,"method":"window/showMessageRequest"}`)
		peer.hears(`{"jsonrpc":"2.0","id":1,"error":{"code":-32002,"message":"the hello is not done"}}`)
	})
}

// TestFarewell: on our own protocol a peer is told what it did.
func TestFarewell(t *testing.T) {
	a, b := socketpair(t)
	host := run(NewConn(SocketTransport(a), Options{}))
	bad := run(NewConn(SocketTransport(b), Options{}))
	if err := bad.out.put(nil, []byte(`{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}`)); err != nil {
		t.Fatal(err)
	}
	if err := <-host.ended; code(err) != BreachDuplicate {
		t.Errorf("host ended with %v", err)
	}
	if err := <-bad.ended; code(err) != BreachRefused || !strings.Contains(err.Error(), "one key twice") {
		t.Errorf("the peer was told %v", err)
	}
}

// TestABadAnswerEndsNoCallBeforeTheConnection: who asked has nothing to say to a
// peer that broke a rule.
func TestABadAnswerEndsNoCallBeforeTheConnection(t *testing.T) {
	a, _ := socketpair(t)
	c := NewConn(SocketTransport(a), Options{})
	for _, bad := range []struct {
		answer string
		files  []Descriptor
	}{{answer: `{"jsonrpc":"2.0","id":1,"error":{"message":"m"}}`}, {answer: `{"jsonrpc":"2.0","id":2,"result":1}`, files: make([]Descriptor, 1)}} {
		pc, err := c.calls.begin(nil, expected{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.parse(frame{kind: frameMessage, bytes: []byte(bad.answer)})
		if err != nil {
			t.Fatal(err)
		}
		m.files = bad.files
		if err := c.reply(m); code(err) == "" {
			t.Fatalf("got %v", err)
		}
		select {
		case r := <-pc.reply:
			t.Errorf("%s ended the call with %v", bad.answer, r.err)
		default:
		}
		defer func() {
			if r := <-pc.reply; !errors.Is(r.err, ErrClosed) {
				t.Errorf("the connection's end ended it with %v", r.err)
			}
		}()
	}
	_ = c.Close()
}

// TestDescriptors: what comes along is closed, and is a breach.
func TestDescriptors(t *testing.T) {
	for _, n := range []int{1, 100, maxDescriptors} {
		a, b := socketpair(t)
		host := run(NewConn(SocketTransport(a), Options{}))
		before := descriptors(t)
		fds := slices.Repeat([]int{int(os.Stdin.Fd())}, n)
		_, _, err := b.WriteMsgUnix(appendFrame(nil, FramingLength, []byte(call(`{}`))), unix.UnixRights(fds...), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-host.ended; code(err) != BreachDescriptors {
			t.Errorf("%d descriptors: %v", n, err)
		}
		if got := host.Stats().Descriptors; got < 1 || got > uint64(min(n, 8)) { // what there was room for
			t.Errorf("%d descriptors counted, %d sent", got, n)
		}
		if after := descriptors(t); after > before { // the host's socket has gone
			t.Errorf("%d descriptors open, %d before", after, before)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// TestDescriptorsFlood: ten thousand, as fast as they can be sent.
func TestDescriptorsFlood(t *testing.T) {
	before := descriptors(t)
	for range 10000 / maxDescriptors {
		a, b := socketpair(t)
		host := run(NewConn(SocketTransport(a), Options{}))
		fds := slices.Repeat([]int{int(os.Stdin.Fd())}, maxDescriptors)
		for range 3 {
			if _, _, err := b.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil); err != nil {
				break // the host has closed
			}
		}
		if err := <-host.ended; code(err) != BreachDescriptors {
			t.Fatal(err)
		}
		_ = b.Close()
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

// TestClosedInput: a peer that closes its reading side still says its last
// words, and is gone then.
func TestClosedInput(t *testing.T) {
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	host := run(NewConn(PipeTransport(outR, inW), Options{Protocol: ProtocolMCP}))
	answered := make(chan error, 1)
	go func() {
		_, err := host.Call(t.Context(), "m", nil)
		answered <- err
	}()
	buf := make([]byte, 4096)
	if _, err := inR.Read(buf); err != nil {
		t.Fatal(err)
	}
	_ = inR.Close()
	_ = host.Notify("n", nil) // the end of the pipe may show here or a moment later
	if err := host.Flush(t.Context()); err == nil {
		t.Error("flushed into a closed pipe")
	}
	if _, err := host.Call(t.Context(), "m", nil); rpcCode(err) != CodePluginGone {
		t.Errorf("call after the end of the pipe: %v", err)
	}
	if _, err := outW.WriteString(`{"jsonrpc":"2.0","id":1,"result":1}` + "\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("last words: %v", err)
	}
	_ = outW.Close()
	if err := <-host.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestClosedInputWaits: a peer that closes its reading side and says nothing
// more does not keep the connection for ever.
func TestClosedInputWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		start := time.Now()
		host := run(NewConn(Transport{R: a, W: brokenPipe{}}, Options{}))
		_ = host.Notify("n", nil)
		synctest.Wait()
		msg := appendFrame(nil, FramingLength, []byte(`{"jsonrpc":"2.0","method":"m"}`))
		_, _ = b.Write(msg[:9]) // a message begun and finished moves no deadline
		pass(time.Second)
		_, _ = b.Write(msg[9:])
		if err := <-host.ended; err != nil || time.Since(start) != 10*time.Second {
			t.Errorf("ended with %v after %v", err, time.Since(start))
		}
	})
}

// brokenPipe is a writing end whose other side is closed.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error)        { return 0, unix.EPIPE }
func (brokenPipe) Close() error                     { return nil }
func (brokenPipe) SetWriteDeadline(time.Time) error { return nil }

// TestHalfOpenManyCostNothing: connections that announce a lot and send nothing
// keep small buffers.
func TestHalfOpenManyCostNothing(t *testing.T) {
	const n = 200
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	hosts := make([]*running, n)
	for i := range hosts {
		a, b := socketpair(t)
		hosts[i] = run(NewConn(SocketTransport(a), Options{}))
		if _, err := io.WriteString(b, length(4<<20, "{")); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n; each > 32<<10 {
		t.Errorf("%d bytes for each connection", each)
	}
	for _, h := range hosts {
		_ = h.Close()
		if err := <-h.ended; err == nil {
			t.Error(fmt.Errorf("ended without a cause"))
		}
	}
}
