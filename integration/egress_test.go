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
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/cordonhq/cordon/supervisor/control"
)

// granted is the name that the tests' plugins may reach. The host asks its name
// server for it, which is the test's.
const granted = "granted.cordon.test"

// under is what the tests' wildcard covers.
const under = "wild.cordon.test"

// world is a test server in the host's network, and the name server that says
// where its names lead. Only this test's daemon asks that one. (What a hosts file
// says holds for five seconds in Go's resolver, each time a name is re-bound.)
type world struct {
	port   string
	roots  string // PEM
	resolv string

	mu    sync.Mutex
	to    []netip.Addr // where granted and the names below under lead
	asked []string     // of the host's name server
}

// newWorld serves TLS at an address of this machine that is not loopback.
func newWorld(t *testing.T, handler http.Handler) *world {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: granted}, DNSNames: []string{granted, "*." + under},
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
	w := &world{
		port: strconv.Itoa(l.Addr().(*net.TCPAddr).Port), roots: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		resolv: t.TempDir() + "/resolv.conf",
	}
	w.nameServer(t)
	return w
}

// nameServer is the host's. It knows the world's names and remembers what it was
// asked.
func (w *world) nameServer(t *testing.T) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.9:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := os.WriteFile(w.resolv, []byte("nameserver 127.0.0.9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := w.answer(buf[:n]); answer != nil {
				_, _ = c.WriteTo(answer, from)
			}
		}
	}()
}

// answer is what the name server says to a message, nil if it is no question.
func (w *world) answer(message []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: h.ID, Response: true}, Questions: []dnsmessage.Question{q}}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, q.Name.String())
	if !slices.Contains([]string{granted + ".", "one." + under + ".", "two." + under + "."}, q.Name.String()) {
		m.RCode = dnsmessage.RCodeNameError
	} else {
		for _, a := range w.to {
			r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}}
			switch {
			case a.Is4() && q.Type == dnsmessage.TypeA:
				r.Body = &dnsmessage.AResource{A: a.As4()}
			case a.Is6() && q.Type == dnsmessage.TypeAAAA:
				r.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
			default:
				continue
			}
			m.Answers = append(m.Answers, r)
		}
	}
	answer, err := m.Pack()
	if err != nil {
		return nil
	}
	return answer
}

// wasAsked gives what the host's name server was asked for.
func (w *world) wasAsked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked)
}

// heardNothing fails if the host's name server was asked for anything but granted
// names.
func (w *world) heardNothing(t *testing.T) {
	t.Helper()
	for _, name := range w.wasAsked() {
		if name != granted+"." {
			t.Errorf("%s left by the host's name server", name)
		}
	}
}

// leads binds the names to addresses, for whoever looks them up from now on.
func (w *world) leads(to ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to = nil
	for _, a := range to {
		w.to = append(w.to, netip.MustParseAddr(a))
	}
}

// startInWorld starts a daemon in a mount namespace of its own in which the name
// server is the world's.
func startInWorld(t *testing.T, w *world) *daemon {
	t.Helper()
	w.leads("127.0.0.9")
	d := newDaemon(t)
	d.wrap = []string{"unshare", "--mount", "--propagation", "slave", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, w.resolv}
	d.start()
	t.Cleanup(func() { d.stop() })
	return d
}

const fetcher = `
const dgram = require("dgram"), dns = require("dns"), net = require("net"), readline = require("readline")
const does = {
  fetch: async (p) => (await fetch(p.url)).text(),
  tcp: (p) => new Promise((done, failed) => {
    const s = net.connect(p.port, p.host, () => { s.destroy(); done("connected") })
    s.on("error", failed)
  }),
  udp: (p) => new Promise((done, failed) => {
    const s = dgram.createSocket(p.host.includes(":") ? "udp6" : "udp4")
    const end = (how, what) => { clearTimeout(late); s.close(); how(what) }
    const late = setTimeout(() => end(failed, new Error("no answer")), 5000)
    s.on("error", (err) => end(failed, err)).on("message", (m) => end(done, m.toString("hex")))
    s.connect(p.port, p.host, (err) => err ? end(failed, err) : s.send("ping"))
  }),
  txt: async (p) => JSON.stringify(await dns.promises.resolveTxt(p.host)),
  raw: async () => {
    try { process.dlopen({ exports: {} }, "/plugin/raw.node") } catch (err) {
      if (!process.env.RAW) throw err // it was not loaded; what is loaded registers nothing
    }
    if (process.env.RAW !== "opened") throw new Error(process.env.RAW)
    return process.env.RAW
  },
}
readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const call = JSON.parse(line)
  let result
  try {
    result = { text: await does[call.method](call.params) }
  } catch (err) {
    result = { error: String(err.cause ? err.cause.code || err.cause : err) }
  }
  console.log(JSON.stringify({ jsonrpc: "2.0", id: call.id, result }))
})
`

// rawAddon is what Node.js has for raw sockets: a library of somebody's. It tries
// as it is loaded, and says in the environment what came of it.
const rawAddon = `#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
__attribute__((constructor)) static void raw(void)
{
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	setenv("RAW", fd < 0 ? strerror(errno) : "opened", 1);
}
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

def mptcp(p):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262):
        return "opened"

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
		{"name", map[string]any{"host": "c2VjcmV0.tunnel.example.com"}, "egress dns:c2vjcmv0.tunnel.example.com"},
		{"mptcp", map[string]any{}, ""}, // Multipath TCP, of which Landlock knows nothing
	} {
		if s := d.tell("prober", c.method, c.params); s.Error == "" {
			t.Errorf("%s %v: %+v", c.method, c.params, s)
		}
		if c.seen != "" {
			d.eventually("a violation says "+c.seen, func() bool { return strings.Contains(d.must("why", "prober"), "The grants refused "+c.seen+";") })
		}
	}
	// A question of any type to the answerer itself is refused there, and goes no further.
	if s := d.tell("prober", "udp", map[string]any{"host": "127.77.255.53", "port": 53}); !strings.HasPrefix(s.Text, `b'\x124\x81\x05`) && !strings.HasPrefix(s.Text, `b'\x124\x81\x85`) {
		t.Errorf("a question for TXT records is answered %+v", s)
	}
	d.eventually("a violation names the question", func() bool {
		return strings.Contains(d.must("why", "prober"), "The grants refused egress dns:secret.example.com;")
	})
	w.heardNothing(t)
	for _, to := range []string{"127.0.0.1", "169.254.169.254", "10.0.0.1", "::1"} {
		w.leads(to)
		d.eventually("the name re-bound to "+to+" is refused", func() bool {
			s := d.tell("prober", "get", url)
			return s.Error != "" && strings.Contains(d.must("why", "prober"), granted+" leads to "+to+", which is no public address")
		})
		if s := d.tell("prober", "get", url); s.Error == "" {
			t.Errorf("re-bound to %s the name answers %+v", to, s)
		}
	}
	w.leads("127.0.0.1", "127.0.0.9") // what may be dialled is dialled, and only that
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
	w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Connection", "close") // each fetch makes a connection: one that stands was judged when it was made
		fmt.Fprint(rw, "hello from outside")
	}))
	d := startInWorld(t, w)
	d.profile("fetcher", egressProfile("node", w.port)+"[environment]\nset = { NODE_EXTRA_CA_CERTS = \"/plugin/roots.pem\" }\n")
	dir := bundle(t, "fetcher", "jsonrpc", map[string]string{"main.js": fetcher, "roots.pem": w.roots, "raw.c": rawAddon}, "/usr/bin/node", "main.js")
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", dir+"/raw.node", dir+"/raw.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.must("install", dir, "--profile", "fetcher")
	d.must("start", "fetcher")
	if s := d.tell("fetcher", "fetch", map[string]any{"url": "https://" + granted + ":" + w.port + "/"}); s.Text != "hello from outside" {
		t.Fatalf("fetch by name: %+v", s)
	}
	port, err := strconv.Atoi(w.port)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method string
		params map[string]any
		seen   string // in a violation; empty where it is refused unseen
	}{
		{"fetch", map[string]any{"url": "https://127.0.0.9:" + w.port + "/"}, ""},
		{"fetch", map[string]any{"url": "https://" + granted + "/"}, ""}, // another port
		{"fetch", map[string]any{"url": "https://example.com/"}, "egress dns:example.com"},
		{"fetch", map[string]any{"url": "http://192.0.2.1:" + w.port + "/"}, "egress 192.0.2.1:" + w.port},
		{"fetch", map[string]any{"url": "http://[2001:db8::1]:" + w.port + "/"}, "egress [2001:db8::1]:" + w.port},
		{"tcp", map[string]any{"host": "169.254.169.254", "port": port}, "egress 169.254.169.254:" + w.port},
		{"tcp", map[string]any{"host": granted, "port": port + 1}, ""},
		{"udp", map[string]any{"host": granted, "port": port}, "egress udp:" + granted + ":" + w.port},
		{"udp", map[string]any{"host": "192.0.2.53", "port": 53}, "egress udp:192.0.2.53:53"},
		{"udp", map[string]any{"host": "2001:db8::53", "port": 53}, "egress udp:[2001:db8::53]:53"},
		{"txt", map[string]any{"host": "c2VjcmV0.tunnel.example.com"}, "egress dns:c2vjcmv0.tunnel.example.com"},
	} {
		if s := d.tell("fetcher", c.method, c.params); s.Error == "" {
			t.Errorf("%s %v: %+v", c.method, c.params, s)
		}
		if c.seen != "" {
			d.eventually("a violation says "+c.seen, func() bool { return strings.Contains(d.must("why", "fetcher"), "The grants refused "+c.seen+";") })
		}
	}
	for _, to := range []string{"127.0.0.1", "169.254.169.254"} {
		w.leads(to)
		d.eventually("the name re-bound to "+to+" is refused", func() bool {
			s := d.tell("fetcher", "fetch", map[string]any{"url": "https://" + granted + ":" + w.port + "/"})
			return s.Error != "" && strings.Contains(d.must("why", "fetcher"), granted+" leads to "+to+", which is no public address")
		})
	}
	w.heardNothing(t)
	if out, err := d.cordon("call", "fetcher", "raw", "{}", "--timeout", "20s"); err == nil && !strings.Contains(out, "error") {
		t.Errorf("a raw socket: %s", out)
	}
	d.eventually("a violation says that it was a raw socket", func() bool {
		return strings.Contains(d.must("why", "fetcher", "--json"), `"SOCK_RAW`)
	})
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

// wildProfile grants a wildcard, and a time server.
func wildProfile(base, port, udp string) string {
	return fmt.Sprintf("extends = [\"builtin:%s\"]\n[network]\negress = [\"*.%s:%s\", \"udp:one.%s:%s\"]\naddresses = [\"127.0.0.9/32\"]\n", base, under, port, under, udp)
}

// TestEgressByWildcard: unmodified programs reach whatever is under the name, by
// TLS, and nothing beside it; what they ask of the answerer never leaves it.
func TestEgressByWildcard(t *testing.T) {
	w := newWorld(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "hello from "+r.Host) }))
	clock, err := net.ListenPacket("udp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = clock.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			_, from, err := clock.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = clock.WriteTo([]byte("noon"), from)
		}
	}()
	d := startInWorld(t, w)
	udp := clock.LocalAddr().(*net.UDPAddr).Port
	d.profile("prober", wildProfile("python", w.port, strconv.Itoa(udp)))
	d.must("install", bundle(t, "prober", "jsonrpc", map[string]string{"main.py": prober, "roots.pem": w.roots}, "/usr/bin/python3", "main.py"), "--profile", "prober")
	d.must("start", "prober")
	for _, host := range []string{"one." + under, "two." + under} {
		at := host + ":" + w.port
		if s := d.tell("prober", "get", map[string]any{"url": "https://" + at + "/"}); s.Text != "hello from "+at {
			t.Errorf("%s: %+v; %s", at, s, d.log)
		}
	}
	if s := d.tell("prober", "udp", map[string]any{"host": "one." + under, "port": udp}); s.Text != "b'noon'" {
		t.Errorf("the time server answers %+v", s)
	}
	d.fetching("fetcher", w, strconv.Itoa(udp))
	for _, c := range []struct {
		method string
		params map[string]any
		seen   string
	}{
		{"name", map[string]any{"host": under}, "egress dns:" + under},
		{"name", map[string]any{"host": "c2VjcmV0.tunnel.example.com"}, "egress dns:c2vjcmv0.tunnel.example.com"},
		{"udp", map[string]any{"host": "two." + under, "port": udp}, fmt.Sprintf("egress udp:two.%s:%d", under, udp)},
		{"udp", map[string]any{"host": "100::1", "port": 53}, "egress udp:"},
		{"tcp", map[string]any{"host": "127.0.0.9", "port": 53}, ""},
		{"tcp", map[string]any{"host": "127.77.255.53", "port": 53}, ""},
	} {
		if s := d.tell("prober", c.method, c.params); s.Error == "" {
			t.Errorf("%s %v: %+v", c.method, c.params, s)
		}
		if c.seen != "" {
			d.eventually("a violation says "+c.seen, func() bool { return strings.Contains(d.must("why", "prober"), "The grants refused "+c.seen) })
		}
	}
	// By the wildcard a name is asked for that the host does not know: that is the
	// grant's own meaning, and what the name server hears of it.
	if s := d.tell("prober", "get", map[string]any{"url": "https://nobody." + under + ":" + w.port + "/"}); s.Error == "" {
		t.Errorf("a name that nobody has: %+v", s)
	}
	w.leads("169.254.169.254")
	d.eventually("a name under the wildcard that is re-bound is refused", func() bool {
		s := d.tell("prober", "get", map[string]any{"url": "https://one." + under + ":" + w.port + "/"})
		return s.Error != "" && strings.Contains(d.must("why", "prober"), "one."+under+" leads to 169.254.169.254")
	})
	asked := w.wasAsked()
	if !slices.Contains(asked, "nobody."+under+".") {
		t.Errorf("the name server is not the host's: it was asked for %q", asked)
	}
	for _, name := range asked {
		if strings.Contains(name, "tunnel") || !strings.HasSuffix(name, "."+under+".") {
			t.Errorf("%s left by the host's name server", name)
		}
	}
	if log := d.audited(); !strings.Contains(log, "prober used egress two."+under+":"+w.port+": ended") || !strings.Contains(log, "prober used egress udp:one."+under) {
		t.Error("the audit log does not say what was reached under the wildcard")
	}
}

// fetching installs the fetcher with the wildcard, and has it fetch; without
// Node.js it does nothing.
func (d *daemon) fetching(name string, w *world, udp string) {
	d.t.Helper()
	if _, err := exec.LookPath("/usr/bin/node"); err != nil {
		d.t.Log("this host has no /usr/bin/node")
		return
	}
	d.profile(name, wildProfile("node", w.port, udp)+"[environment]\nset = { NODE_EXTRA_CA_CERTS = \"/plugin/roots.pem\" }\n")
	d.must("install", bundle(d.t, name, "jsonrpc", map[string]string{"main.js": fetcher, "roots.pem": w.roots}, "/usr/bin/node", "main.js"), "--profile", name)
	d.must("start", name)
	at := "two." + under + ":" + w.port
	if s := d.tell(name, "fetch", map[string]any{"url": "https://" + at + "/"}); s.Text != "hello from "+at {
		d.t.Errorf("fetch of %s: %+v", at, s)
	}
	for _, url := range []string{"https://" + under + ":" + w.port + "/", "https://two." + under + "/", "https://example.com/"} {
		if s := d.tell(name, "fetch", map[string]any{"url": url}); s.Error == "" {
			d.t.Errorf("%s: %+v", url, s)
		}
	}
}
