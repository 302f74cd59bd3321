package ipc

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// says are what the peer of FuzzPhases can send, by the number in a script.
var says = []string{
	`{"jsonrpc":"2.0","id":1,"result":{"api":1}}`,
	`{"jsonrpc":"2.0","id":1,"result":{"api":9}}`,
	`{"jsonrpc":"2.0","id":1,"error":{"code":-32013,"message":"no"}}`,
	`{"jsonrpc":"2.0","id":7,"method":"echo","params":[1]}`,
	`{"jsonrpc":"2.0","id":"a","method":"wait"}`,
	`{"jsonrpc":"2.0","id":"b","method":"call back"}`,
	`{"jsonrpc":"2.0","method":"note"}`,
	`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"a"}}`,
	`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":99}}`,
	`{"jsonrpc":"2.0","id":2,"result":null}`,
	`{"jsonrpc":"2.0","id":3,"error":{"code":1,"message":"x"}}`,
	`{"jsonrpc":"2.0","id":4,"result":[]}`,
	`{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"x"}}`,
	`{"jsonrpc":"2.0","id":5,"method":"cordon.hello","params":{}}`,
	`{"jsonrpc":"2.0","id":6,"method":"panic"}`,
}

// FuzzPhases plays any script of what a peer sends and a host does. Whatever the
// order: the phase only moves on, every call of the host's returns, and so does
// Run once the peer has gone.
func FuzzPhases(f *testing.F) {
	for _, script := range []string{
		"\x00\x03\x11\x09\x14", "\x01", "\x02", "\x03", "\x06", "\x00\x04\x07\x13\x04", "\x00\x05\x09\x13", "\x00\x11\x11\x09\x0a\x09\x12",
		"\x00\x0d\x0e", "\x00\x11\x15\x09", "\x00\x04\x12\x16\x07", "\x14", "\x00\x10\x0c",
	} {
		f.Add([]byte(script))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) { playPhases(t, script[:min(len(script), 64)]) })
	})
}

func playPhases(t *testing.T, script []byte) {
	host, peer := wired(t, Options{Hello: true, Limits: Limits{MaxInFlight: 4}, Handler: func(ctx context.Context, r *Request) (any, error) {
		switch r.Method {
		case "wait":
			<-ctx.Done()
			return nil, ctx.Err()
		case "call back":
			return r.Conn.Call(ctx, "m", nil)
		case "panic":
			panic("as asked")
		}
		return r.Params, nil
	}})
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		_, _ = io.Copy(io.Discard, peer.Conn)
	}()
	acts := []func(){
		func() { _, _ = host.Call(t.Context(), "m", nil) },
		func() { _ = Goodbye(t.Context(), host.Conn) },
		func() { _, _ = HelloCordon(t.Context(), host.Conn, HostInfo{Plugin: "p"}) },
		func() { _ = host.Notify("n", nil) },
		func() { _ = host.Close() },
		func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_, _ = host.Call(ctx, "m", nil)
		},
		func() { pass(11 * time.Second) }, // past every short timeout
	}
	began, returned := 1, make(chan struct{}, len(script)+1)
	begin := func(act func()) { go func() { act(); returned <- struct{}{} }() }
	begin(acts[2])
	phase := host.Phase()
	for _, b := range script {
		synctest.Wait()
		switch i := int(b) % (len(says) + len(acts)); {
		case i < len(says):
			_, _ = peer.Write(appendFrame(nil, FramingLength, []byte(says[i]))) // it may be closed
		default:
			began++
			begin(acts[i-len(says)])
		}
		synctest.Wait()
		if now := host.Phase(); now < phase {
			t.Fatalf("the phase went from %d back to %d", phase, now)
		} else {
			phase = now
		}
	}
	_ = peer.Close()
	for range began {
		<-returned // or the bubble says that all sleep for ever
	}
	<-host.ended
	<-heard
	if host.Phase() != PhaseClosed {
		t.Errorf("it ended in phase %d", host.Phase())
	}
}
