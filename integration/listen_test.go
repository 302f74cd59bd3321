package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cordonhq/cordon/supervisor/control"
)

// pythonServer is a server of the standard library that takes its socket as
// systemd hands it over. It knows nothing of us, and says how it looks to it.
const pythonServer = `import http.server, json, os, socket, socketserver, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            os._exit(3)
        self.send_response(200)
        self.end_headers()
        said = {"client": self.client_address[0], "port": self.client_address[1], "at": self.connection.getsockname()[0],
                "names": os.environ["LISTEN_FDNAMES"], "fds": os.environ["LISTEN_FDS"], "began": BEGAN}
        self.wfile.write(json.dumps(said).encode())
        if self.path == "/wait":
            time.sleep(3600)

BEGAN = str(time.monotonic())
assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_PID"]

class Server(http.server.ThreadingHTTPServer):
    def __init__(self):  # makes no socket of its own
        socketserver.BaseServer.__init__(self, None, Handler)
        self.socket = socket.socket(fileno=3)
        self.server_activate()

Server().serve_forever()
`

// nodeServer is the same for Node.js.
const nodeServer = `const http = require("http")
if (process.env.LISTEN_PID !== String(process.pid)) throw new Error(process.env.LISTEN_PID)
http.createServer((q, r) => r.end(JSON.stringify({
  client: q.socket.remoteAddress, port: q.socket.remotePort, at: q.socket.localAddress,
  names: process.env.LISTEN_FDNAMES, fds: process.env.LISTEN_FDS, began: "once",
}))).listen({ fd: 3 })
`

// seen is what such a server says.
type seen struct {
	Client string `json:"client"`
	Port   int    `json:"port"`
	At     string `json:"at"`
	Names  string `json:"names"`
	FDs    string `json:"fds"`
	Began  string `json:"began"`
}

// visitor asks servers over connections of its own.
type visitor struct {
	*testing.T
	http *http.Client
	from string // the client's end of the last connection
}

func newVisitor(t *testing.T) *visitor {
	t.Helper()
	v := &visitor{T: t}
	v.http = &http.Client{Timeout: patience(), Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, to)
		if err == nil {
			v.from = c.LocalAddr().String()
		}
		return c, err
	}}}
	return v
}

func (v *visitor) get(at, path string) (s seen, err error) {
	answer, err := v.http.Get("http://" + at + path)
	if err != nil {
		return s, err
	}
	defer answer.Body.Close()
	return s, json.NewDecoder(answer.Body).Decode(&s)
}

// freeAddress is one at which nobody listens now.
func freeAddress(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestListen: an unmodified Python server takes its listening socket as from
// systemd. It is reached at the host's address and sees who comes; what comes
// while it or the daemon is away is answered by who is there next; a revocation
// ends it at once.
func TestListen(t *testing.T) {
	d := startDaemon(t)
	at := freeAddress(t, "127.0.0.9")
	d.profile("server", fmt.Sprintf("extends = [\"builtin:python\"]\n[network]\nlisten = [\"web=%s\"]\n[lifecycle]\nrestart = \"always\"\nrestart_sec = \"1s\"\nstart_limit_burst = 100\n", at))
	d.must("install", bundle(t, "server", "jsonrpc", map[string]string{"main.py": pythonServer}, "/usr/bin/python3", "main.py"), "--profile", "server")
	d.must("start", "server")
	v := newVisitor(t)
	first, err := v.get(at, "/")
	if err != nil {
		t.Fatalf("%v; %s\n%s%s", err, d.log, d.must("logs", "server"), d.must("why", "server"))
	}
	if host, _, _ := net.SplitHostPort(at); first.At != host || first.Names != "web" || first.FDs != "1" || net.JoinHostPort(first.Client, fmt.Sprint(first.Port)) != v.from {
		t.Errorf("it sees %+v, and came from %s", first, v.from)
	}

	if _, err := v.get(at, "/crash"); err == nil {
		t.Fatal("it did not crash")
	}
	d.eventually("it waits to be restarted", func() bool { return !d.runs("server") })
	second, err := v.get(at, "/")
	if err != nil || second.Began == first.Began {
		t.Errorf("while it was away: %+v, %v", second, err)
	}

	d.eventually("it runs", func() bool { return d.runs("server") })
	pid := d.pids()["server"]
	d.kill()
	waiting := make(chan error, 1)
	go func() {
		third, err := newVisitor(t).get(at, "/")
		if err == nil && third.Began != second.Began {
			err = fmt.Errorf("another process answers: %+v", third)
		}
		waiting <- err
	}()
	d.start()
	if err := <-waiting; err != nil {
		t.Errorf("while there was no daemon: %v\n%s", err, d.log)
	}
	if now := d.pids()["server"]; now != pid {
		t.Errorf("its process was %d and is %d\n%s", pid, now, d.log)
	}

	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /wait HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	var cut control.Granted
	d.json(&cut, "revoke", "server", "listen", at)
	if _, err := net.Dial("tcp", at); err == nil {
		t.Error("somebody listens after the revocation")
	}
	if _, err := io.Copy(io.Discard, c); err == nil {
		t.Error("a connection outlived the revocation, or ended as if all was said")
	}
	d.must("restart", "server")
	if _, err := net.Dial("tcp", at); err == nil {
		t.Error("somebody listens after a restart")
	}
	if _, err := d.cordon("grant", "server", "listen", "0.0.0.0:80"); err == nil || !strings.Contains(err.Error(), "network.listen") {
		t.Errorf("a grant of what the profile does not have: %v", err)
	}
	d.must("grant", "server", "listen", at)
	if _, err := v.get(at, "/"); err != nil {
		t.Fatalf("after it was granted again: %v\n%s\n%s", err, d.log, d.audited())
	}

	d.profile("second", fmt.Sprintf("extends = [\"builtin:python\"]\n[network]\nlisten = [%q]\n", at))
	d.must("install", bundle(t, "second", "jsonrpc", map[string]string{"main.py": pythonServer}, "/usr/bin/python3", "main.py"), "--profile", "second")
	if _, err := d.cordon("start", "second"); err == nil || !strings.Contains(err.Error(), "cannot listen at "+at) {
		t.Errorf("at an address that another one has: %v", err)
	}
	if _, err := v.get(at, "/"); err != nil {
		t.Errorf("after another one tried: %v", err)
	}
	d.must("stop", "server")
	if _, err := net.Dial("tcp", at); err == nil {
		t.Error("somebody listens after the stop")
	}

	var who []touched
	d.json(&who, "audit", "who", "--plugin", "server")
	by := d.dir + "/profiles/server.toml:3"
	for _, want := range []string{"listening", "connected", "ended", "cut"} {
		found := false
		for _, have := range who {
			found = found || have.What == "listen" && have.Target == at && have.Outcome == want && have.Grant == by
		}
		if !found {
			t.Errorf("nobody knows that a connection was %s; there is\n%+v", want, who)
		}
	}
	if !strings.Contains(d.audited(), `"address":"127.0.0.1:`) {
		t.Error("the audit log does not say who connected")
	}
}

// runs says whether a plugin has a process.
func (d *daemon) runs(name string) bool { return d.pids()[name] != 0 }

// TestListenOfNode: an unmodified Node.js server, at two addresses of which it
// takes the first.
func TestListenOfNode(t *testing.T) {
	if _, err := exec.LookPath("/usr/bin/node"); err != nil {
		t.Skip("this host has no /usr/bin/node")
	}
	d := startDaemon(t)
	second := "[::1]"
	if l, err := net.Listen("tcp", "[::1]:0"); err != nil { // a host without IPv6
		second = "127.0.0.8"
	} else {
		_ = l.Close()
	}
	at, other := freeAddress(t, "127.0.0.9"), freeAddress(t, second)
	d.profile("server", fmt.Sprintf("extends = [\"builtin:node\"]\n[network]\nlisten = [\"web=%s\", \"six=%s\"]\n", at, other))
	d.must("install", bundle(t, "server", "jsonrpc", map[string]string{"main.js": nodeServer}, "/usr/bin/node", "main.js"), "--profile", "server")
	d.must("start", "server")
	v := newVisitor(t)
	s, err := v.get(at, "/")
	if err != nil {
		t.Fatalf("%v; %s\n%s%s", err, d.log, d.must("logs", "server"), d.must("why", "server"))
	}
	if s.Names != "web:six" || s.FDs != "2" || net.JoinHostPort(s.Client, fmt.Sprint(s.Port)) != v.from {
		t.Errorf("it sees %+v, and came from %s", s, v.from)
	}
	c, err := net.Dial("tcp", other) // nobody accepts there, and it waits
	if err != nil {
		t.Errorf("the other address: %v", err)
	} else {
		_ = c.Close()
	}
}

// TestSwapAnswersWhoHasConnected: a server of the standard library is replaced by
// another process while clients come and go. None of them fails, and a request
// that was half there before is answered by the process that has its first half.
func TestSwapAnswersWhoHasConnected(t *testing.T) {
	d := startDaemon(t)
	at := freeAddress(t, "127.0.0.9")
	d.profile("server", fmt.Sprintf("extends = [\"builtin:python\"]\n[network]\nlisten = [\"web=%s\"]\n[lifecycle]\ntimeout_stop_sec = \"20ms\"\n", at)) // who is asked to leave is gone at once
	d.must("install", bundle(t, "server", "jsonrpc", map[string]string{"main.py": pythonServer}, "/usr/bin/python3", "main.py"), "--profile", "server")
	d.must("start", "server")
	first, err := newVisitor(t).get(at, "/")
	if err != nil {
		t.Fatalf("%v; %s", err, d.log)
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	visits := make(chan error, 2)
	var made atomic.Int64
	for range cap(visits) {
		v := newVisitor(t)
		go func() {
			for ctx.Err() == nil {
				if _, err := v.get(at, "/"); err != nil {
					visits <- err
					return
				}
				made.Add(1)
			}
			visits <- nil
		}()
	}
	for round := range 2 {
		half, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(half, "GET / HTTP/1.0\r\n"); err != nil {
			t.Fatal(err)
		}
		before, pid := made.Load(), d.pids()["server"]
		d.eventually("clients come", func() bool { return made.Load() > before+3 })
		swapped := make(chan error, 1)
		go func() {
			_, err := d.cordon("swap", "server", "--drain", "10m")
			swapped <- err
		}()
		d.eventually("another process is the plugin's", func() bool { now := d.pids()["server"]; return now != pid && now != 0 })
		before = made.Load()
		d.eventually("clients come to the other", func() bool { return made.Load() > before+3 })
		if _, err := io.WriteString(half, "\r\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(half), nil)
		var s seen
		if err == nil {
			err = json.NewDecoder(answer.Body).Decode(&s)
		}
		if _ = half.Close(); err != nil || s.Began != first.Began {
			t.Fatalf("round %d: the request that was half there is answered %+v, %v\n%s", round, s, err, d.must("events", "server"))
		}
		if err := <-swapped; err != nil {
			t.Fatal(err)
		}
		if first, err = newVisitor(t).get(at, "/"); err != nil || first.Began == s.Began {
			t.Fatalf("after the swap %+v answers, %v", first, err)
		}
	}
	leave()
	for range cap(visits) {
		if err := <-visits; err != nil {
			t.Errorf("a client of %d: %v", made.Load(), err)
		}
	}
	if n := strings.Count(d.audited(), `"kind":"swap-done"`); n != 2 {
		t.Errorf("%d processes that were replaced have ended", n)
	}
}
