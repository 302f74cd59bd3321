package ipc

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

type helloOutcome struct {
	info PluginInfo
	err  error
}

func sayHello(t *testing.T, c *Conn, h HostInfo) chan helloOutcome {
	t.Helper()
	out := make(chan helloOutcome, 1)
	go func() {
		info, err := Hello(t.Context(), c, h)
		out <- helloOutcome{info, err}
	}()
	return out
}

func TestHelloCordon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{Hello: true, Handler: echo})
		out := sayHello(t, host.Conn, HostInfo{Plugin: "acme.thumbs", Version: "0.1.0", Grease: "grease.x"})
		peer.hears(`{"jsonrpc":"2.0","id":1,"method":"cordon.hello","params":{"api":1,"api_min":1,"grease.x":true,` +
			`"host":{"name":"cordon","version":"0.1.0"},"limits":{"max_depth":64,"max_descriptors":8,"max_frame":4194304,"max_in_flight":64,"rate":10000},"plugin":"acme.thumbs"}}`)
		if host.Phase() != PhaseHello {
			t.Errorf("phase %d before the answer", host.Phase())
		}
		result := `{"api":1,"name":"thumbs","future":[]}`
		peer.say(`{"jsonrpc":"2.0","id":1,"result":` + result + `}`)
		got := <-out
		if got.err != nil || got.info.Name != "thumbs" || got.info.API != "1" || string(got.info.Raw) != result || host.Phase() != PhaseReady {
			t.Errorf("got %+v, phase %d", got, host.Phase())
		}
		peer.say(call(`[]`))
		peer.hears(`{"jsonrpc":"2.0","id":1,"result":[]}`)
	})
}

// TestGrease: two hellos carry different members without meaning.
func TestGrease(t *testing.T) {
	seen := map[string]bool{}
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			host, peer := wired(t, Options{Hello: true})
			out := sayHello(t, host.Conn, HostInfo{})
			fr, err := peer.frames.next()
			if err != nil {
				t.Fatal(err)
			}
			var m struct{ Params map[string]json.RawMessage }
			if err := json.Unmarshal(fr.bytes, &m); err != nil {
				t.Fatal(err)
			}
			for name := range m.Params {
				if strings.HasPrefix(name, "grease.") {
					seen[name] = true
				}
			}
			_ = peer.Close()
			if got := <-out; rpcCode(got.err) != CodePluginGone {
				t.Errorf("a peer that leaves: %v", got.err)
			}
		})
	}
	if len(seen) != 2 {
		t.Errorf("grease: %v", seen)
	}
}

func TestHelloAnswersThatMakeNoSense(t *testing.T) {
	for _, tt := range []struct {
		p      Protocol
		result string
	}{
		{ProtocolCordon, `null`},
		{ProtocolCordon, `[]`},
		{ProtocolCordon, `{}`},
		{ProtocolCordon, `{"api":0}`},
		{ProtocolCordon, `{"api":2}`},
		{ProtocolCordon, `{"api":"1"}`},
		{ProtocolCordon, `{"api":1.0}`},
		{ProtocolMCP, `{}`},
		{ProtocolMCP, `{"protocolVersion":"1999-01-01"}`},
		{ProtocolMCP, `{"protocolVersion":20250618}`},
		{ProtocolLSP, `{}`},
		{ProtocolLSP, `{"capabilities":null}`},
	} {
		synctest.Test(t, func(t *testing.T) {
			host, peer := wired(t, Options{Protocol: tt.p, Hello: true})
			out := sayHello(t, host.Conn, HostInfo{})
			if _, err := peer.frames.next(); err != nil {
				t.Fatal(err)
			}
			peer.say(`{"jsonrpc":"2.0","id":1,"result":` + tt.result + `}`)
			if got := <-out; code(got.err) != BreachHello || host.Phase() != PhaseHello {
				t.Errorf("%s %s: %v", tt.p, tt.result, got.err)
			}
		})
	}
}

func TestHelloTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{Hello: true, Limits: Limits{HelloTimeout: 3 * time.Second}})
		peer.drains()
		start := time.Now()
		if got := <-sayHello(t, host.Conn, HostInfo{}); rpcCode(got.err) != CodeDeadline || time.Since(start) != 3*time.Second {
			t.Errorf("got %v after %v", got.err, time.Since(start))
		}
	})
}

func TestHelloMCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{Protocol: ProtocolMCP, Hello: true})
		out := sayHello(t, host.Conn, HostInfo{Version: "0.1.0"})
		peer.hears(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"capabilities":{},"clientInfo":{"name":"cordon","version":"0.1.0"},"protocolVersion":"2025-11-25"}}`)
		peer.say(`{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"everything","version":"1"}}}`)
		peer.hears(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		if got := <-out; got.err != nil || got.info.Name != "everything" || got.info.API != "2025-06-18" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestHelloLSPAndGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{Protocol: ProtocolLSP, Hello: true})
		out := sayHello(t, host.Conn, HostInfo{RootURI: "file:///data"})
		peer.hears(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"capabilities":{},"clientInfo":{"name":"cordon","version":"0"},"processId":null,"rootUri":"file:///data"}}`)
		peer.say(`{"jsonrpc":"2.0","id":1,"result":{"capabilities":{}}}`)
		peer.hears(`{"jsonrpc":"2.0","method":"initialized","params":{}}`)
		if got := <-out; got.err != nil {
			t.Error(got.err)
		}
		bye := make(chan error, 1)
		go func() { bye <- Goodbye(t.Context(), host.Conn) }()
		peer.hears(`{"jsonrpc":"2.0","id":2,"method":"shutdown"}`)
		peer.say(`{"jsonrpc":"2.0","id":2,"result":null}`)
		peer.hears(`{"jsonrpc":"2.0","method":"exit"}`)
		if err := <-bye; err != nil {
			t.Error(err)
		}
	})
}

func TestGoodbyeCordon(t *testing.T) {
	for _, answer := range []string{`"result":{}`, `"error":{"code":-32601,"message":"method not found"}`} {
		synctest.Test(t, func(t *testing.T) {
			host, peer := wired(t, Options{})
			bye := make(chan error, 1)
			go func() { bye <- Goodbye(t.Context(), host.Conn) }()
			peer.hears(`{"jsonrpc":"2.0","id":1,"method":"cordon.shutdown"}`)
			peer.say(`{"jsonrpc":"2.0","id":1,` + answer + `}`)
			if err := <-bye; err != nil || host.Phase() != PhaseDraining {
				t.Errorf("%v, phase %d", err, host.Phase())
			}
		})
	}
}

// TestGoodbyeMCP closes the plugin's standard input, behind what was sent.
func TestGoodbyeMCP(t *testing.T) {
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	host := run(NewConn(PipeTransport(outR, inW), Options{Protocol: ProtocolMCP}))
	if err := host.Notify("last", nil); err != nil {
		t.Fatal(err)
	}
	if err := Goodbye(t.Context(), host.Conn); err != nil {
		t.Fatal(err)
	}
	got, err := all(newFrames(inR, FramingLines, 1000))
	if len(got) != 1 || code(err) != "eof" {
		t.Errorf("the plugin read %q, %v", got, err)
	}
	_ = outW.Close()
	if err := <-host.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if err := errors.Join(inR.Close()); err != nil {
		t.Error(err)
	}
}

// TestNoHello: a protocol without one is ready at once.
func TestNoHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, peer := wired(t, Options{Protocol: ProtocolJSONRPC, Hello: true, Handler: echo})
		if got := <-sayHello(t, host.Conn, HostInfo{}); got.err != nil || host.Phase() != PhaseReady {
			t.Errorf("%v, phase %d", got.err, host.Phase())
		}
		peer.say(call(`[]`))
		peer.hears(`{"jsonrpc":"2.0","id":1,"result":[]}`)
	})
}
