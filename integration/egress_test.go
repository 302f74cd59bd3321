package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/supervisor/control"
)

// granted is the name that the tests' plugins may reach. The host finds it in
// its own hosts file, which the tests mount over.
const granted = "granted.cordon.test"

// world is a test server in the host's network, and the hosts file that says
// where its name leads. Only this test's daemon sees that file.
type world struct {
	port  string
	roots string // PEM
	hosts string
}

// newWorld serves TLS at an address of this machine that is not loopback.
func newWorld(t *testing.T, handler http.Handler) *world {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: granted}, DNSNames: []string{granted},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.9:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return &world{
		port: strconv.Itoa(l.Addr().(*net.TCPAddr).Port), roots: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		hosts: t.TempDir() + "/hosts",
	}
}

// leads binds the granted name to addresses, for whoever looks it up from now
// on.
func (w *world) leads(t *testing.T, to ...string) {
	t.Helper()
	text := "127.0.0.1 localhost\n"
	for _, a := range to {
		text += a + " " + granted + "\n"
	}
	if err := os.WriteFile(w.hosts, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// startInWorld starts a daemon in a mount namespace of its own in which the
// hosts file is the world's.
func startInWorld(t *testing.T, w *world) *daemon {
	t.Helper()
	w.leads(t, "127.0.0.9")
	d := startDaemon(t)
	d.stop()
	d.wrap = []string{"unshare", "--mount", "--propagation", "slave", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, w.hosts}
	d.start()
	return d
}

const fetcher = `
const readline = require("readline")
readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const call = JSON.parse(line)
  let result
  try {
    const answer = await fetch(call.params.url)
    result = { text: await answer.text() }
  } catch (err) {
    result = { error: String(err.cause ? err.cause.code || err.cause : err) }
  }
  console.log(JSON.stringify({ jsonrpc: "2.0", id: call.id, result }))
})
`

const prober = `
import http.client, json, socket, ssl, sys, urllib.parse

def get(p):
    url = urllib.parse.urlsplit(p["url"])
    c = http.client.HTTPSConnection(url.hostname, url.port, timeout=30, context=ssl.create_default_context(cafile="/plugin/roots.pem"))
    c.request("GET", url.path)
    return c.getresponse().read().decode()

def tcp(p):
    with socket.create_connection((p["host"], p["port"]), timeout=30):
        return "connected"

def udp(p):
    family = socket.AF_INET6 if ":" in p["host"] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        s.connect((p["host"], p["port"]))
        s.send(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06secret\x07example\x03com\x00\x00\x10\x00\x01")
        return repr(s.recv(512))

def name(p):
    return repr(socket.getaddrinfo(p["host"], 443))

def raw(p):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        return "opened"

for line in sys.stdin:
    call = json.loads(line)
    try:
        result = {"text": globals()[call["method"]](call["params"])}
    except Exception as err:
        result = {"error": "%s %s" % (type(err).__name__, err)}
    print(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}), flush=True)
`

// said is what such a program answers.
type said struct {
	Text  string `json:"text"`
	Error string `json:"error"`
}

func (d *daemon) tell(name, method string, params map[string]any) said {
	d.t.Helper()
	text, err := json.Marshal(params)
	if err != nil {
		d.t.Fatal(err)
	}
	var s said
	if err := json.Unmarshal([]byte(d.must("call", name, method, string(text), "--timeout", "60s")), &s); err != nil {
		d.t.Fatal(err)
	}
	return s
}

func egressProfile(base, port string) string {
	return fmt.Sprintf("extends = [\"builtin:%s\"]\n[network]\negress = [\"%s:%s\"]\naddresses = [\"127.0.0.9/32\"]\n", base, granted, port)
}

// TestEgress: an unmodified Python program reaches the granted server by name,
// and nothing else in any way.
func TestEgress(t *testing.T) {
	w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "hello from outside") }))
	d := startInWorld(t, w)
	d.profile("prober", egressProfile("python", w.port))
	d.must("install", bundle(t, "prober", "jsonrpc", map[string]string{"main.py": prober, "roots.pem": w.roots}, "/usr/bin/python3", "main.py"), "--profile", "prober")
	d.must("start", "prober")
	url := map[string]any{"url": "https://" + granted + ":" + w.port + "/"}
	if s := d.tell("prober", "get", url); s.Text != "hello from outside" {
		t.Fatalf("by its name the server answers %+v; %s", s, d.log)
	}
	port, err := strconv.Atoi(w.port)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method string
		params map[string]any
		seen   string // in a violation; empty where Landlock refuses unseen
	}{
		{"tcp", map[string]any{"host": "127.0.0.9", "port": port}, ""}, // its own loopback, where nobody listens
		{"tcp", map[string]any{"host": "192.0.2.1", "port": port}, fmt.Sprintf("egress 192.0.2.1:%d", port)},
		{"tcp", map[string]any{"host": "169.254.169.254", "port": port}, fmt.Sprintf("egress 169.254.169.254:%d", port)},
		{"tcp", map[string]any{"host": "2001:db8::1", "port": port}, fmt.Sprintf("egress [2001:db8::1]:%d", port)},
		{"tcp", map[string]any{"host": granted, "port": port + 1}, ""},
		{"tcp", map[string]any{"host": "192.0.2.1", "port": 80}, ""},
		{"udp", map[string]any{"host": "192.0.2.53", "port": 53}, "egress udp:192.0.2.53:53"},
		{"udp", map[string]any{"host": granted, "port": port}, fmt.Sprintf("egress udp:%s:%d", granted, port)},
		{"udp", map[string]any{"host": "2001:db8::53", "port": 53}, "egress udp:[2001:db8::53]:53"},
		{"name", map[string]any{"host": "c2VjcmV0.tunnel.example.com"}, ""},
	} {
		if s := d.tell("prober", c.method, c.params); s.Error == "" {
			t.Errorf("%s %v: %+v", c.method, c.params, s)
		}
		if c.seen != "" {
			d.eventually("a violation says "+c.seen, func() bool { return strings.Contains(d.must("why", "prober"), "The grants refused "+c.seen+";") })
		}
	}
	for _, to := range []string{"127.0.0.1", "169.254.169.254", "10.0.0.1", "::1"} {
		w.leads(t, to)
		d.eventually("the name re-bound to "+to+" is refused", func() bool { // the host's resolver looks at its file again within seconds
			s := d.tell("prober", "get", url)
			return s.Error != "" && strings.Contains(d.must("why", "prober"), granted+" leads to "+to+", which is no public address")
		})
		if s := d.tell("prober", "get", url); s.Error == "" {
			t.Errorf("re-bound to %s the name answers %+v", to, s)
		}
	}
	w.leads(t, "127.0.0.1", "127.0.0.9") // what may be dialled is dialled, and only that
	d.eventually("one good address among bad ones is reached", func() bool { return d.tell("prober", "get", url).Text == "hello from outside" })
	if log := d.audited(); !strings.Contains(log, "prober used egress "+granted+":"+w.port+": ended") || !strings.Contains(log, `"address":"127.0.0.9:`+w.port+`"`) || !strings.Contains(log, "prober.toml:3") {
		t.Error("the audit log does not say what was reached, where and by which grant")
	}
	if out, err := d.cordon("call", "prober", "raw", "{}", "--timeout", "20s"); err == nil && !strings.Contains(out, "error") {
		t.Errorf("a raw socket: %s", out)
	}
}

// TestEgressOfNode: an unmodified Node.js program's fetch.
func TestEgressOfNode(t *testing.T) {
	if _, err := exec.LookPath("/usr/bin/node"); err != nil {
		t.Skip("this host has no /usr/bin/node")
	}
	w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "hello from outside") }))
	d := startInWorld(t, w)
	d.profile("fetcher", egressProfile("node", w.port)+"[environment]\nset = { NODE_EXTRA_CA_CERTS = \"/plugin/roots.pem\" }\n")
	d.must("install", bundle(t, "fetcher", "jsonrpc", map[string]string{"main.js": fetcher, "roots.pem": w.roots}, "/usr/bin/node", "main.js"), "--profile", "fetcher")
	d.must("start", "fetcher")
	if s := d.tell("fetcher", "fetch", map[string]any{"url": "https://" + granted + ":" + w.port + "/"}); s.Text != "hello from outside" {
		t.Fatalf("fetch by name: %+v", s)
	}
	for _, url := range []string{"https://127.0.0.9:" + w.port + "/", "http://192.0.2.1:" + w.port + "/", "https://example.com/", "http://[2001:db8::1]:" + w.port + "/"} {
		if s := d.tell("fetcher", "fetch", map[string]any{"url": url}); s.Error == "" {
			t.Errorf("%s: %+v", url, s)
		}
	}
}

// TestRevokeCutsATransfer that is running, and lets no other begin.
func TestRevokeCutsATransfer(t *testing.T) {
	released := make(chan struct{})
	defer close(released)
	w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(rw, "begun")
		rw.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-released:
		}
	}))
	d := startInWorld(t, w)
	d.profile("prober", egressProfile("python", w.port))
	d.must("install", bundle(t, "prober", "jsonrpc", map[string]string{"main.py": prober, "roots.pem": w.roots}, "/usr/bin/python3", "main.py"), "--profile", "prober")
	d.must("start", "prober")
	params, err := json.Marshal(map[string]any{"url": "https://" + granted + ":" + w.port + "/"})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin+"/cordon", "--socket", d.dir+"/run/cordon.sock", "call", "prober", "get", string(params), "--timeout", "60s")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.eventually("the transfer runs", func() bool { return strings.Contains(d.audited(), "egress "+granted+":"+w.port+": connected") })
	var g control.Granted
	d.json(&g, "revoke", "prober", "egress")
	if g.Cut != 1 {
		t.Errorf("%d connections were cut", g.Cut)
	}
	said, err := io.ReadAll(out)
	if err := errors.Join(err, cmd.Wait()); err != nil || !strings.Contains(string(said), `"error"`) {
		t.Errorf("the transfer came to %q, %v", said, err)
	}
	if s := d.tell("prober", "get", map[string]any{"url": "https://" + granted + ":" + w.port + "/"}); s.Error == "" {
		t.Errorf("after it was revoked: %+v", s)
	}
}
