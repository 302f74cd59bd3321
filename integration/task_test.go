package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// submitter leaves tasks to its host.
const submitter = `import sys, threading
sys.path.insert(0, "/plugin")
import cordon
plugin = cordon.Plugin("submitter", "1.0.0", workers=32)
lock = threading.Lock()
done, dropped, lost = [], [], 0
running, most = 0, 0
gate = threading.Event()

@plugin.method("submit")
def submit(params, ctx):
    try:
        return {"result": ctx.submit(params["method"], params.get("params"), params.get("priority", 0), params.get("within", 30))}
    except cordon.Error as err:
        return {"code": err.code, "message": err.message}

@plugin.method("fill")
def fill(params, ctx):
    n = 0
    try:
        while True:
            ctx.submit("held", {"n": n}, 0, 3600)
            n += 1
    except cordon.Error as err:
        return {"code": err.code, "result": n}

@plugin.method("cancel")
def cancel(params, ctx):
    return ctx.cancel_task(params["task"])

@plugin.method("held")
def held(params, ctx):
    global running, most
    with lock:
        running += 1
        most = max(most, running)
    while not gate.is_set() and not ctx.cancelled:
        gate.wait(0.01)
    with lock:
        running -= 1
        done.append(params["n"])

@plugin.method("gate")
def open_gate(params, ctx):
    (gate.set if params["open"] else gate.clear)()

@plugin.method("look")
def look(params, ctx):
    with lock:
        return {"done": done, "dropped": dropped, "lost": lost, "running": running, "most": most}

@plugin.notification("task.dropped")
def was_dropped(params, ctx):
    dropped.append([params["task"], params["why"]])

@plugin.notification("task.lost")
def were_lost(params, ctx):
    global lost
    lost += 1

plugin.main()
`

// looked is what the submitter says of itself.
type looked struct {
	Done    []int `json:"done"`
	Dropped []any `json:"dropped"`
	Lost    int   `json:"lost"`
	Running int   `json:"running"`
	Most    int   `json:"most"`
}

// TestTasks: a plugin leaves work to its host, which does so much of it at once,
// what is urgent first, drops what is late, bounds what waits, and serves another
// plugin meanwhile; after the daemon was killed the plugin knows what is gone.
func TestTasks(t *testing.T) {
	d := startDaemon(t)
	sdk, err := os.ReadFile("../sdk/python/cordon.py")
	if err != nil {
		t.Fatal(err)
	}
	dir := bundle(t, "submitter", "cordon", map[string]string{"cordon.py": string(sdk), "main.py": submitter}, "/usr/bin/python3", "main.py")
	for _, name := range []string{"one", "two"} {
		d.must("install", dir, "--as", name, "--profile", "builtin:python")
		d.must("start", name)
	}
	ask := func(name, method, params string, into any) {
		t.Helper()
		if err := json.Unmarshal([]byte(d.must("call", name, method, params)), into); err != nil {
			t.Fatal(err)
		}
	}
	look := func(name string) (l looked) { t.Helper(); ask(name, "look", "{}", &l); return l }
	var a struct {
		Code   int
		Result int
	}
	ask("one", "fill", "{}", &a)
	if a.Code != -32004 || a.Result < 256 || a.Result > 260 {
		t.Errorf("a queue that nobody bounds: %+v", a)
	}
	d.eventually("four of them run", func() bool { return look("one").Running == 4 })
	taken := a.Result
	ask("two", "submit", `{"method": "held", "params": {"n": 7}}`, &a)
	d.eventually("the other plugin has its turn", func() bool { return look("two").Running == 1 })
	var cancelled bool
	if ask("one", "cancel", `{"task": 100}`, &cancelled); !cancelled {
		t.Error("a task that waits was not cancelled")
	}
	d.must("call", "one", "gate", `{"open": true}`)
	d.eventually("all of them are done", func() bool { return len(look("one").Done) == taken-1 })
	if l := look("one"); l.Most != 4 || len(l.Dropped) != 0 {
		t.Errorf("%d ran at once, and %v were dropped", l.Most, l.Dropped)
	}
	before := len(look("one").Done)
	d.must("call", "one", "gate", `{"open": false}`)
	for _, params := range []string{
		`{"method": "held", "params": {"n": 1000}}`, `{"method": "held", "params": {"n": 1001}}`, `{"method": "held", "params": {"n": 1002}}`, `{"method": "held", "params": {"n": 1003}}`,
	} {
		ask("one", "submit", params, &a)
	}
	last := a.Result
	d.eventually("its places are taken", func() bool { return look("one").Running == 4 })
	ask("one", "submit", `{"method": "held", "params": {"n": 2000}, "priority": 1, "within": 0.05}`, &a)
	d.eventually("a task whose turn does not come is dropped", func() bool { return len(look("one").Dropped) == 1 })
	if ask("one", "cancel", fmt.Sprintf(`{"task": %d}`, last), &cancelled); !cancelled {
		t.Error("a task that runs was not cancelled")
	}
	d.eventually("the plugin is told of it", func() bool { return look("one").Running == 3 })
	for _, bad := range []string{
		`{"method": "held", "params": {"n": 0}, "priority": 10}`, `{"method": "held", "within": 90000}`, `{"method": ""}`, `{"method": "held", "within": -1}`,
	} {
		if ask("one", "submit", bad, &a); a.Code != -32602 {
			t.Errorf("%s: %+v", bad, a)
		}
	}
	d.kill()
	d.start()
	d.eventually("it knows that its tasks are gone", func() bool { return look("one").Lost == 1 })
	d.must("call", "one", "gate", `{"open": true}`)
	a.Code = 0
	if ask("one", "submit", `{"method": "held", "params": {"n": 3000}}`, &a); a.Code != 0 {
		t.Errorf("a task for the next daemon: %+v", a)
	}
	d.eventually("the next daemon runs tasks", func() bool {
		all := look("one").Done
		return len(all) > before && all[len(all)-1] == 3000
	})
	if log := d.must("logs", "one"); strings.Contains(log, "Traceback") {
		t.Errorf("it fell over:\n%s", log)
	}
}
