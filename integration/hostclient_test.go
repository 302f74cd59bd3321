package integration

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/control"
)

// servant is a plugin that applications call.
const servant = `import sys, threading
sys.path.insert(0, "/plugin")
import cordon
plugin = cordon.Plugin("asker", "1.0.0")
cancelled = 0
came = {}
lock = threading.Lock()

@plugin.method("about")
def about(params, ctx):
    ctx.log.warning("looking")
    return {"params": params, "trace": ctx.traceparent, "id": ctx.request_id, "deadline": ctx.deadline is not None}

@plugin.method("fail")
def fail(params, ctx):
    raise cordon.Error(-32008, "it says so", {"why": 7})

@plugin.method("wait")
def wait(params, ctx):
    global cancelled
    ctx.wait(60)
    with lock:
        cancelled += 1
    ctx.check()

@plugin.method("cancelled")
def count(params, ctx):
    with lock:
        return cancelled

@plugin.method("forget")
def forget(params, ctx):
    global cancelled
    with lock:
        cancelled = 0

@plugin.method("price")
def price(params, ctx):
    return ctx.call("host.call", {"function": "shop.price", "params": params})

@plugin.method("swallow")
def swallow(params, ctx):
    with ctx.take_stream() as stream:
        total = sum(map(len, stream))
    note = open("/tmp/note", "w+b", buffering=0)
    note.write(b"here")
    return cordon.WithFiles({"bytes": total}, [note])

@plugin.method("twice")
def twice(params, ctx):
    with lock:
        again = came.setdefault(params["who"], threading.Event())
        first = not hasattr(again, "called")
        again.called = True
    if first:
        ctx.log.warning("first of %s", params["who"])
        again.wait()
        return "nobody waits for this"
    again.set()
    return "again"

plugin.main()
`

// facts are what a client program says, by name.
type facts map[string]string

// told reads what a program prints up to a line of that name.
func (f facts) told(t *testing.T, lines *bufio.Scanner, last string) {
	t.Helper()
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if f[name] = value; name == last {
			return
		}
	}
	t.Fatalf("it ended before it said %q: it said %v", last, f)
}

// TestHostClients: an application calls plugins with the clients for Go, Node.js
// and Python: results, errors, deadlines, cancellation, streams, events, functions
// of its own, traces; and a call that may be repeated outlives the daemon.
func TestHostClients(t *testing.T) {
	d := startDaemon(t)
	d.profile("asker", "extends = [\"builtin:python\"]\n[ipc]\nmax_descriptors = 4\n[[capability]]\nname = \"host.call\"\ntarget = [\"shop.*\"]\n")
	sdk, err := os.ReadFile("../sdk/python/cordon.py")
	if err != nil {
		t.Fatal(err)
	}
	dir := bundle(t, "asker", "cordon", map[string]string{"cordon.py": string(sdk), "main.py": servant}, "/usr/bin/python3", "main.py")
	asks, err := os.OpenFile(dir+"/plugin.toml", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := asks.WriteString("[[capability]]\nname = \"host.call\"\nwhy = \"prices\"\n"); err != nil {
		t.Fatal(err)
	}
	if err := asks.Close(); err != nil {
		t.Fatal(err)
	}
	d.must("install", dir, "--profile", "asker")
	d.must("start", "asker")
	for lang, program := range clientPrograms(t) {
		t.Run(lang, func(t *testing.T) {
			d.t = t
			d.must("call", "asker", "forget")
			oneClient(t, d, lang, program)
		})
	}
	d.t = t
}

// clientPrograms are the programs whose tools this machine has.
func clientPrograms(t *testing.T) map[string][]string {
	t.Helper()
	programs := map[string][]string{"python": {"/usr/bin/python3", "../sdk/conformance/host/host.py"}}
	if _, err := exec.LookPath("/usr/bin/node"); err == nil {
		programs["node"] = []string{"/usr/bin/node", "../sdk/conformance/host/host.mjs"}
	}
	if _, err := exec.LookPath("go"); err == nil {
		built := filepath.Join(t.TempDir(), "host")
		cmd := exec.Command("go", "build", "-o", built, "./conformance/host")
		cmd.Dir = "../sdk/go"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		programs["go"] = []string{built}
	}
	return programs
}

func oneClient(t *testing.T, d *daemon, lang string, program []string) {
	t.Helper()
	cmd := exec.Command(program[0], append(program[1:], d.dir+"/run/cordon.sock")...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	lines, f := bufio.NewScanner(out), facts{}
	f.told(t, lines, "away")
	f.check(t, lang)
	d.usedFor("req-8")
	d.eventually("the plugin has the call", func() bool { return strings.Contains(d.must("logs", "asker"), "first of "+lang) })
	d.kill()
	d.start()
	f.told(t, lines, "back")
	if f["back"] != `"again"` {
		t.Errorf("a call that may be repeated comes to %s", f["back"])
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// usedFor sees that the last use of a capability is recorded with the request
// that it was for.
func (d *daemon) usedFor(id string) {
	d.t.Helper()
	d.eventually("the use is recorded with its request and trace", func() bool {
		lines := strings.Split(strings.TrimSpace(d.must("events", "asker", "--json")), "\n")
		for _, line := range slices.Backward(lines) {
			var e control.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				d.t.Fatalf("%v: %s", err, line)
			}
			if e.Kind == "capability" {
				text, _ := e.Data["traceparent"].(string)
				return e.Data["what"] == "host.call" && e.Data["request_id"] == id && ipc.ValidTraceparent(text)
			}
		}
		return false
	})
}

// check holds what a program said before the daemon went against what is right.
func (f facts) check(t *testing.T, lang string) {
	t.Helper()
	var about []struct {
		Params   json.RawMessage
		Trace    string
		ID       string
		Deadline bool
	}
	if err := json.Unmarshal([]byte(f["about"]), &about); err != nil {
		t.Fatal(err)
	}
	a := about[0]
	if string(a.Params) != `{"a":[1]}` && string(a.Params) != `{"a": [1]}` || !a.Deadline || a.ID != "req-7" {
		t.Errorf("the plugin got %s", f["about"])
	}
	if !strings.HasPrefix(a.Trace, "00-4bf92f3577b34da6a3ce929d0e0e4736-") || !strings.HasSuffix(a.Trace, "-01") || strings.Contains(a.Trace, "00f067aa0ba902b7") {
		t.Errorf("the trace is %s: another trace, or the caller's own span", a.Trace)
	}
	want := map[string]any{
		"fail":      map[string]any{"code": -32008.0, "plugin": true, "named": true, "data": map[string]any{"why": 7.0}},
		"nobody":    map[string]any{"code": -32010.0, "plugin": false, "named": true, "data": nil},
		"cancel":    map[string]any{"code": -32003.0, "plugin": false, "named": true, "data": nil},
		"cancelled": 2.0, "events": nil,
		"list":   []any{[]any{map[string]any{"Name": "asker", "State": "running"}}, nil},
		"served": []any{map[string]any{"plugin": "asker", "params": map[string]any{"item": "tea"}, "request_id": "req-8"}, nil},
	}
	if lang != "node" { // which sends no descriptors
		want["stream"] = []any{map[string]any{"bytes": float64(3 << 20)}, "here"}
		want["hole"] = map[string]any{"code": -32011.0, "plugin": false, "named": true, "data": nil}
	}
	if !strings.Contains(f["deadline"], "-32001") { // whoever was first to say so
		t.Errorf("past the deadline: %s", f["deadline"])
	}
	for name, value := range want {
		expected, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		var got any
		if err := json.Unmarshal([]byte(f[name]), &got); err != nil {
			t.Errorf("%s: %q is %v", name, f[name], err)
			continue
		}
		if again, err := json.Marshal(got); err != nil || string(again) != string(expected) {
			t.Errorf("%s: got %s, want %s", name, again, expected)
		}
	}
}
