package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/supervisor/control"
)

// opener is a Python plugin that uses what it is handed as Python has it.
const opener = `import http.client, socket, ssl, sys, threading
sys.path.insert(0, "/plugin")
import cordon
plugin = cordon.Plugin("opener", "1.0.0")

def answered(f):
    def handler(params, ctx):
        try:
            return {"text": f(params, ctx)}
        except Exception as err:
            return {"error": "%s %s" % (type(err).__name__, err)}
    return handler

@plugin.method("get")
@answered
def get(p, ctx):
    host, _, port = p["to"].rpartition(":")
    c = http.client.HTTPSConnection(host, int(port), timeout=30)
    tls = ssl.create_default_context(cafile="/plugin/roots.pem")
    c.sock = tls.wrap_socket(ctx.dial(p["to"]), server_hostname=host)
    c.request("GET", p.get("path", "/"))
    return c.getresponse().read().decode()

@plugin.method("astray")
@answered
def astray(p, ctx):
    # What a TCP socket of the host would allow: away from its peer, and elsewhere.
    s = ctx.dial(p["to"])
    t = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=s.detach())
    try:
        t.connect((p["host"], p["port"]))
        t.sendall(b"escaped")
        return "connected"
    finally:
        t.close()

@plugin.method("listen")
@answered
def listen(p, ctx):
    s = ctx.listen(p["at"])
    def serve():
        while True:
            c, _ = s.accept()
            c.sendall(b"hello from inside")
            c.close()
    threading.Thread(target=serve, daemon=True).start()
    return "listening"

@plugin.method("read")
@answered
def read(p, ctx):
    with ctx.open(p["path"]) as f:
        return f.read().decode()

@plugin.method("secret")
@answered
def secret(p, ctx):
    return str(len(ctx.secret(p["name"])))

plugin.main()
`

// TestHandedSockets: what an SDK hands to a plugin is a socket that Python's own
// libraries use; it reaches the granted place and no other, and ends with its
// grant.
func TestHandedSockets(t *testing.T) {
	released := make(chan struct{})
	defer close(released)
	w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, "hello from outside")
		if r.URL.Path != "/wait" {
			return
		}
		rw.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-released:
		}
	}))
	d := startInWorld(t, w)
	free, err := net.Listen("tcp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/f"
	if err := os.WriteFile(file, []byte("bits"), 0o644); err != nil {
		t.Fatal(err)
	}
	to := granted + ":" + w.port
	grants := fmt.Sprintf("[[capability]]\nname = \"net.dial\"\ntarget = [%q]\n[[capability]]\nname = \"net.listen\"\ntarget = [%q]\n[[capability]]\nname = \"fs.open\"\ntarget = [%q]\n", to, at, "r:"+file)
	d.profile("opener", "extends = [\"builtin:python\"]\n[network]\naddresses = [\"127.0.0.9/32\"]\n"+grants)
	sdk, err := os.ReadFile("../sdk/python/cordon.py")
	if err != nil {
		t.Fatal(err)
	}
	dir := bundle(t, "opener", "cordon", map[string]string{"main.py": opener, "cordon.py": string(sdk), "roots.pem": w.roots}, "/usr/bin/python3", "main.py")
	manifest, err := os.ReadFile(dir + "/plugin.toml")
	if err != nil {
		t.Fatal(err)
	}
	asks := strings.ReplaceAll(grants, "]\n", "]\nwhy = \"a test\"\n")
	asks = strings.ReplaceAll(asks, "[[capability]]\nwhy = \"a test\"\n", "[[capability]]\n")
	if err := os.WriteFile(dir+"/plugin.toml", append(manifest, asks...), 0o644); err != nil {
		t.Fatal(err)
	}
	d.must("install", dir, "--profile", "opener")
	d.must("start", "opener")

	if s := d.tell("opener", "get", map[string]any{"to": to}); s.Text != "hello from outside" {
		t.Fatalf("by the socket it was handed: %+v; %s", s, d.log)
	}
	if s := d.tell("opener", "read", map[string]any{"path": file}); s.Text != "bits" {
		t.Errorf("a file: %+v", s)
	}
	if s := d.tell("opener", "get", map[string]any{"to": "example.com:443"}); !strings.Contains(s.Error, "not granted") {
		t.Errorf("what is not granted: %+v", s)
	}
	other, err := net.Listen("tcp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	if s := d.tell("opener", "astray", map[string]any{"to": to, "host": "127.0.0.9", "port": other.Addr().(*net.TCPAddr).Port}); s.Error == "" {
		t.Errorf("a socket that was handed over leads elsewhere: %+v", s)
	}

	if s := d.tell("opener", "listen", map[string]any{"at": at}); s.Text != "listening" {
		t.Fatalf("listening: %+v", s)
	}
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello from inside" {
		t.Errorf("%q, %v", got, err)
	}
	_ = c.Close()
	if s := d.tell("opener", "listen", map[string]any{"at": "0.0.0.0:80"}); !strings.Contains(s.Error, "not granted") {
		t.Errorf("an address that is not granted: %+v", s)
	}
	var g control.Granted
	d.json(&g, "revoke", "opener", "net.listen")
	if g.Cut != 1 {
		t.Errorf("%d were cut", g.Cut)
	}
	d.eventually("nobody listens any more", func() bool {
		c, err := net.Dial("tcp", at)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	w.leads("169.254.169.254")
	d.eventually("a name that was re-bound is refused", func() bool {
		s := d.tell("opener", "get", map[string]any{"to": to})
		return s.Error != "" && strings.Contains(d.must("why", "opener"), granted+" leads to 169.254.169.254")
	})
	for _, want := range []string{"opener used net.dial " + to + ": ended", "opener used net.listen " + at + ": listening", "opener.toml:"} {
		if !strings.Contains(d.audited(), want) {
			t.Errorf("the audit log does not say %s", want)
		}
	}
}

// nodeOpener is a Node.js plugin that uses what the host serves as Node.js has
// it: over calls, for it takes no descriptors.
const nodeOpener = `import http from "node:http"
import https from "node:https"
import { readFileSync } from "node:fs"
import { text } from "node:stream/consumers"
import { Plugin } from "./cordon.mjs"

const plugin = new Plugin("opener", "1.0.0")
const answered = (f) => async (params, ctx) => {
  try {
    return { text: await f(params, ctx) }
  } catch (err) {
    return { error: String(err) }
  }
}
const server = http.createServer((q, r) => r.end("hello from inside, " + q.url))
plugin
  .method("get", answered(({ to, path = "/" }, ctx) => new Promise((resolve, reject) => {
    const [host, port] = to.split(":")
    https.get({ host, port, path, agent: ctx.httpsAgent({ ca: readFileSync("/plugin/roots.pem") }) }, (answer) => text(answer).then(resolve, reject)).on("error", reject)
  })))
  .method("listen", answered(async ({ at }, ctx) => (await ctx.serve(at, server)).address))
  .method("read", answered(({ path }, ctx) => ctx.open(path).readFile("utf8")))
  .method("write", answered(({ path, data }, ctx) => ctx.open(path).writeFile(data)))
await plugin.main()
`

// TestServedByCalls: the same by calls, for a plugin that takes no descriptors:
// Node.js's own agents and server use it, and it ends with its grant.
func TestServedByCalls(t *testing.T) {
	if _, err := exec.LookPath("/usr/bin/node"); err != nil {
		t.Skip("this host has no /usr/bin/node")
	}
	begun, released := make(chan struct{}), make(chan struct{})
	defer close(released)
	big := strings.Repeat("0123456789", 200_000)
	w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			fmt.Fprint(rw, big)
		case "/wait":
			fmt.Fprint(rw, "begun")
			rw.(http.Flusher).Flush()
			close(begun)
			select {
			case <-r.Context().Done():
			case <-released:
			}
		default:
			fmt.Fprint(rw, "hello from outside")
		}
	}))
	d := startInWorld(t, w)
	at, files := freeAddress(t, "127.0.0.9"), t.TempDir()
	to := granted + ":" + w.port
	grants := fmt.Sprintf("[[capability]]\nname = \"net.dial\"\ntarget = [%q]\n[[capability]]\nname = \"net.listen\"\ntarget = [%q]\n[[capability]]\nname = \"fs.open\"\ntarget = [%q]\n", to, at, "rw:"+files)
	d.profile("opener", "extends = [\"builtin:node\"]\n[network]\naddresses = [\"127.0.0.9/32\"]\n"+grants)
	sdk, err := os.ReadFile("../sdk/node/cordon.mjs")
	if err != nil {
		t.Fatal(err)
	}
	dir := bundle(t, "opener", "cordon", map[string]string{"main.mjs": nodeOpener, "cordon.mjs": string(sdk), "roots.pem": w.roots}, "/usr/bin/node", "main.mjs")
	manifest, err := os.ReadFile(dir + "/plugin.toml")
	if err != nil {
		t.Fatal(err)
	}
	asks := strings.ReplaceAll(grants, "]\n", "]\nwhy = \"a test\"\n")
	asks = strings.ReplaceAll(asks, "[[capability]]\nwhy = \"a test\"\n", "[[capability]]\n")
	if err := os.WriteFile(dir+"/plugin.toml", append(manifest, asks...), 0o644); err != nil {
		t.Fatal(err)
	}
	d.must("install", dir, "--profile", "opener")
	d.must("start", "opener")

	if s := d.tell("opener", "get", map[string]any{"to": to}); s.Text != "hello from outside" {
		t.Fatalf("by its agent: %+v; %s\n%s", s, d.log, d.must("logs", "opener"))
	}
	if s := d.tell("opener", "get", map[string]any{"to": to, "path": "/big"}); s.Text != big {
		t.Errorf("of %d bytes came %d: %s", len(big), len(s.Text), s.Error)
	}
	if s := d.tell("opener", "get", map[string]any{"to": "example.com:443"}); !strings.Contains(s.Error, "not granted") {
		t.Errorf("what is not granted: %+v", s)
	}
	if s := d.tell("opener", "write", map[string]any{"path": files + "/f", "data": "bits"}); s.Error != "" {
		t.Errorf("writing: %+v", s)
	}
	if s := d.tell("opener", "read", map[string]any{"path": files + "/f"}); s.Text != "bits" {
		t.Errorf("reading: %+v", s)
	}
	if s := d.tell("opener", "listen", map[string]any{"at": at}); s.Text != at {
		t.Fatalf("listening: %+v", s)
	}
	answer, err := http.Get("http://" + at + "/path")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(answer.Body)
	if _ = answer.Body.Close(); err != nil || string(got) != "hello from inside, /path" {
		t.Errorf("%q, %v", got, err)
	}

	ended := make(chan said, 1)
	go func() { ended <- d.tell("opener", "get", map[string]any{"to": to, "path": "/wait"}) }()
	select {
	case <-begun: // a connection that is counted could be an earlier one's that has yet to end
	case s := <-ended:
		t.Fatalf("what was to wait has ended: %+v", s)
	case <-time.After(time.Minute):
		t.Fatal("the server was not asked")
	}
	d.eventually("a connection is open", func() bool {
		var list control.Capabilities
		d.json(&list, "capability", "list", "opener")
		return slices.ContainsFunc(list.Grants, func(u control.Use) bool { return u.Capability == "net.dial" && u.Active > 0 })
	})
	d.must("revoke", "opener", "net.dial")
	if s := <-ended; s.Error == "" {
		t.Errorf("what was under way is answered %+v", s)
	}
	if s := d.tell("opener", "get", map[string]any{"to": to}); !strings.Contains(s.Error, "revoked by") {
		t.Errorf("after the revocation: %+v", s)
	}
	d.must("revoke", "opener", "net.listen")
	d.eventually("nobody listens any more", func() bool {
		c, err := net.Dial("tcp", at)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	for _, want := range []string{"opener used net.dial.open " + to + ": ended", "opener used net.dial.open " + to + ": cut", "opener used net.listen.open " + at + ": listening", "opener used fs.read r:" + files + "/f: served"} {
		if !strings.Contains(d.audited(), want) {
			t.Errorf("the audit log does not say %s", want)
		}
	}
}
