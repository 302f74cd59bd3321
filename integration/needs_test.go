package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cordonhq/cordon/supervisor/control"
)

// needing is a plugin of the static program under another name, with more in its
// manifest.
func needing(t *testing.T, program, name, more string) string {
	t.Helper()
	dir := bundle(t, name, "jsonrpc", map[string]string{}, "./main")
	data, err := os.ReadFile(filepath.Join(program, "main"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "main"), data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "plugin.toml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(more); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// plugin is one line of cordon ps.
func (d *daemon) plugin(name string) control.Status {
	d.t.Helper()
	var all []control.Status
	d.json(&all, "ps")
	at := slices.IndexFunc(all, func(s control.Status) bool { return s.Name == name })
	if at < 0 {
		d.t.Fatalf("%s is not installed", name)
	}
	return all[at]
}

func (d *daemon) becomes(name string, state control.State) {
	d.t.Helper()
	d.eventually(name+" is "+string(state), func() bool { return d.plugin(name).State == state })
}

// TestPluginsThatNeedEachOther: installed with a warning, started in order, and
// gone and back with what they need: at an operator's word, a crash, and over a
// killed daemon.
func TestPluginsThatNeedEachOther(t *testing.T) {
	d := startDaemon(t)
	program := staticPlugin(t)
	top := needing(t, program, "top", "[[requires]]\nname = \"store\"\nversion = \"^1\"\nwhy = \"it keeps things there\"\n")
	if out := d.must("install", top, "--profile", "builtin:static"); !strings.Contains(out, "warning: it cannot be started yet: top requires store ^1, which is not installed") {
		t.Errorf("no warning:\n%s", out)
	}
	if _, err := d.cordon("start", "top"); err == nil || !strings.Contains(err.Error(), "cannot start top: top requires store ^1, which is not installed") {
		t.Errorf("it was started: %v", err)
	}
	d.must("install", needing(t, program, "store", ""), "--profile", "builtin:static")
	circle := needing(t, program, "circle", "[[requires]]\nname = \"ring\"\nwhy = \"x\"\n")
	d.must("install", circle, "--profile", "builtin:static")
	ring := needing(t, program, "ring", "[[requires]]\nname = \"circle\"\nwhy = \"x\"\n")
	if _, err := d.cordon("install", ring, "--profile", "builtin:static"); err == nil || !strings.Contains(err.Error(), "ring requires circle, which requires ring: a circle") {
		t.Errorf("a circle was installed: %v", err)
	}

	d.must("start", "top")
	if st := d.plugin("store"); st.State != control.Running {
		t.Fatalf("what is required is %+v", st)
	}
	d.must("stop", "store")
	if st := d.plugin("top"); st.State != control.Stopped || st.Waits != "top requires store ^1, which is stopped" {
		t.Errorf("after the stop: %+v", st)
	}
	if out := d.must("why", "top"); !strings.Contains(out, "waits: top requires store ^1, which is stopped") {
		t.Errorf("why says:\n%s", out)
	}
	d.must("start", "store")
	d.becomes("top", control.Running)

	before := d.pidOf("top")
	if err := syscall.Kill(d.pidOf("store"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.eventually("top has left and come back", func() bool {
		st := d.plugin("top")
		return st.State == control.Running && st.PID != before
	})
	d.must("stop", "store")
	d.kill()
	d.start()
	if st := d.plugin("top"); st.State != control.Stopped || st.Waits == "" {
		t.Errorf("after a kill of the daemon: %+v", st)
	}
	d.must("start", "store")
	d.becomes("top", control.Running)
}

// TestDegradedPlugin: one that answers with errors of its own serves what is
// essential, and all again when an operator promises less.
func TestDegradedPlugin(t *testing.T) {
	d := startDaemon(t)
	d.profile("asker", "extends = [\"builtin:python\"]\n[slo]\nobjective = \"50%\"\nwindow = \"1h\"\nburn_rate = 2\nmin_calls = 3\nessential = [\"do\"]\n")
	d.must("install", asker(t, ""), "--profile", "asker")
	d.must("start", "asker")
	for range 3 { // without "text", which raises
		if _, err := d.cordon("call", "asker", "say", "{}"); err == nil || !strings.Contains(err.Error(), "internal") {
			t.Fatalf("it was answered %v", err)
		}
	}
	if _, err := d.cordon("call", "asker", "say", `{"text": "x"}`); err == nil || !strings.Contains(err.Error(), "cannot call say of asker: it is degraded, and serves only do: 3 of 3 calls within 5m were bad") {
		t.Errorf("it was answered %v", err)
	}
	if a := d.ask("data.usage", nil); a.Code != -32011 { // answered, if with a refusal
		t.Errorf("what is essential: %+v", a)
	}
	if st := d.plugin("asker"); st.State != control.Running || st.Degraded == nil {
		t.Errorf("the status is %+v", st)
	}
	if out := d.must("why", "asker"); !strings.Contains(out, "degraded, serves only do: 3 of 3 calls") {
		t.Errorf("why says:\n%s", out)
	}
	d.profile("asker", "extends = [\"builtin:python\"]\n[slo]\nobjective = \"50%\"\nmin_calls = 100\nessential = [\"do\"]\n")
	if out := d.must("reload"); !strings.Contains(out, "asker: changed: slo.") {
		t.Errorf("reloaded: %s", out)
	}
	d.must("call", "asker", "say", `{"text": "x"}`)
	for _, kind := range []string{`"kind":"degraded"`, `"kind":"recovered"`} {
		d.eventually(kind, func() bool { return strings.Contains(d.audited(), kind) })
	}
}
