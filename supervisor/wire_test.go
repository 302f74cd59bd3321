package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
)

// peer is a plugin in this process: it answers every request with its method.
func peer(t *testing.T, f *os.File) (ended <-chan error) {
	t.Helper()
	tr, err := ipc.FileTransport(f)
	if err != nil {
		t.Fatal(err)
	}
	c := ipc.NewConn(tr, ipc.Options{Handler: func(_ context.Context, r *ipc.Request) (any, error) {
		if r.Method == "cordon.hello" {
			return map[string]any{"api": 1, "name": "peer"}, nil
		}
		return map[string]any{"method": r.Method}, nil
	}})
	done := make(chan error, 1)
	go func() { done <- c.Run(t.Context()) }()
	return done
}

func TestRealConnection(t *testing.T) {
	w, err := newWires(ipc.ProtocolCordon)
	if err != nil {
		t.Fatal(err)
	}
	defer w.closePlugins()
	defer w.closeHosts()
	conn, err := IPC{Version: "test", Logger: slog.New(slog.DiscardHandler)}.Connect(w.transport, "p", &plan.Plan{Protocol: ipc.ProtocolCordon}, nil)
	if err != nil {
		t.Fatal(err)
	}
	socket := w.socket
	w.socket = nil
	ended := peer(t, socket)
	run := make(chan error, 1)
	go func() { run <- conn.Run(t.Context()) }()
	said, err := conn.Hello(t.Context())
	if err != nil || !strings.Contains(string(said), `"peer"`) {
		t.Fatalf("hello: %s, %v", said, err)
	}
	got, err := conn.Call(t.Context(), "ping", nil)
	if err != nil || string(got) != `{"method":"ping"}` {
		t.Errorf("call: %s, %v", got, err)
	}
	if err := conn.Goodbye(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the plugin's stream ended with %v", err)
	}
	<-run
}

func TestWiresOfStdio(t *testing.T) {
	w, err := newWires(ipc.ProtocolMCP)
	if err != nil {
		t.Fatal(err)
	}
	defer w.closeHosts()
	if w.socket != nil || len(w.logs) != 1 || w.logs[0].stream != "stderr" {
		t.Errorf("%+v", w)
	}
	if _, err := w.transport.W.Write([]byte("in")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2)
	if _, err := io.ReadFull(w.stdin, buf); err != nil || string(buf) != "in" {
		t.Errorf("the plugin reads %q, %v", buf, err)
	}
	w.closePlugins()
	if _, err := w.transport.R.Read(buf); !errors.Is(err, io.EOF) {
		t.Errorf("after the plugin's end: %v", err)
	}
}

func TestFailedWiresLeaveNothing(t *testing.T) {
	before := descriptors(t)
	for _, protocol := range []ipc.Protocol{ipc.ProtocolCordon, ipc.ProtocolLSP} {
		w, err := newWires(protocol)
		if err != nil {
			t.Fatal(err)
		}
		w.closePlugins()
		w.closeHosts()
	}
	noneOpened(t, before)
}

func TestBundles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: sealed bundles are root's")
	}
	src, home := t.TempDir(), filepath.Join(t.TempDir(), "bundles")
	text := "schema = 1\n[plugin]\nname = \"tiny\"\nversion = \"1.0.0\"\nexec = [\"/bin/true\"]\nprotocol = \"mcp\"\n"
	if err := os.WriteFile(filepath.Join(src, "plugin.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(home, ".tmp-123", "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := NewBundles(home, t.TempDir(), profiles.DefaultCeiling())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(home, ".tmp-123")); err == nil {
		t.Error("what was left half-sealed is still there")
	}
	sealed, err := b.Seal(src)
	if err != nil || sealed.Name != "tiny" || sealed.Protocol != ipc.ProtocolMCP {
		t.Fatalf("%+v, %v", sealed, err)
	}
	again, err := b.Open(sealed.Digest)
	if err != nil || again.Path != sealed.Path {
		t.Fatalf("%+v, %v", again, err)
	}
	pl, err := b.Resolve(again, "strict")
	if err != nil || pl.Protocol != ipc.ProtocolMCP {
		t.Errorf("%+v, %v", pl, err)
	}
	if _, err := b.Resolve(again, "stirct"); err == nil || !strings.Contains(err.Error(), "strict") {
		t.Errorf("a wrong name: %v", err)
	}
	if err := b.Discard(sealed.Digest); err != nil {
		t.Error(err)
	}
	if _, err := b.Open(sealed.Digest); err == nil {
		t.Error("a discarded bundle opens")
	}
}

func TestDigestsAreNoPaths(t *testing.T) {
	b := &Bundles{dir: "/somewhere"}
	for _, digest := range []string{"", "sha256:", "sha256:../../etc", "sha256:" + strings.Repeat("g", 64), strings.Repeat("a", 64)} {
		if err := b.Discard(digest); err == nil {
			t.Errorf("%q was taken for a digest", digest)
		}
	}
}

func TestHelloIsJSON(t *testing.T) {
	if got := helloOf(nil); got != nil {
		t.Errorf("without a process: %s", got)
	}
	r := &running{}
	raw := json.RawMessage(`{}`)
	r.hello.Store(&raw)
	if got := helloOf(r); string(got) != "{}" {
		t.Errorf("got %s", got)
	}
}
