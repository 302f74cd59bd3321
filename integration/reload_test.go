package integration

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cordonhq/cordon/supervisor/control"
)

// inGroup reads a file of a plugin's control group, on v2 or v1 under the names
// that each has.
func (d *daemon) inGroup(plugin string, names ...string) string {
	d.t.Helper()
	for _, name := range names {
		for _, pattern := range []string{"/sys/fs/cgroup/%/" + plugin, "/sys/fs/cgroup/*/%/" + plugin} {
			found, err := filepath.Glob(filepath.Join(strings.ReplaceAll(pattern, "%", d.root), name))
			if err != nil || len(found) == 0 {
				continue
			}
			text, err := os.ReadFile(found[0])
			if err != nil {
				d.t.Fatal(err)
			}
			return strings.TrimSpace(string(text))
		}
	}
	d.t.Fatalf("no group of %s has any of %v", plugin, names)
	return ""
}

const reloadBase = "extends = [\"builtin:static\"]\n"

// TestReloadChangesWhatRuns: quotas and budgets of a profile hold for what runs
// as soon as it was read anew, by the kernel's own files and without a restart;
// the rest is named by its keys, a mistake changes nothing, and a signal does what
// the verb does.
func TestReloadChangesWhatRuns(t *testing.T) {
	d := startDaemon(t)
	d.profile("mine", reloadBase+"[resources]\nmemory.max = \"64M\"\npids.max = 9\n")
	d.must("install", staticPlugin(t), "--profile", "mine")
	d.must("start", "static")
	pid := d.pidOf("static")
	if got := d.memoryMax("static"); got != "67108864" {
		t.Fatalf("memory.max is %s", got)
	}
	if out := d.must("reload"); out != "Reloaded.\n" {
		t.Errorf("without a change: %s", out)
	}

	d.profile("mine", reloadBase+"[resources]\nmemory.max = \"96M\"\npids.max = 11\ncpu.max = \"50%\"\n"+
		"[violation]\nmemory = \"kill\"\n[proc]\nmode = \"full\"\n[seccomp]\nallow = [\"mount\"]\n")
	out := d.must("reload")
	for _, want := range []string{
		"static: changed: resources.cpu.max, resources.memory.max, resources.pids.max, violation.memory\n",
		"static: after cordon restart static: proc, seccomp\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	if got := d.memoryMax("static"); got != "100663296" {
		t.Errorf("memory.max is %s after the reload", got)
	}
	if got := d.inGroup("static", "pids.max"); got != "11" {
		t.Errorf("pids.max is %s after the reload", got)
	}
	if got := d.inGroup("static", "cpu.max", "cpu.cfs_quota_us"); !strings.HasPrefix(got, "50000") {
		t.Errorf("cpu.max is %s after the reload", got)
	}
	if again := d.pidOf("static"); again != pid {
		t.Errorf("it was restarted: %d, then %d", pid, again)
	}
	d.agrees("static")
	if log := d.audited(); !strings.Contains(log, `"kind":"adjusted"`) {
		t.Errorf("no record of it:\n%s", log)
	}

	d.profile("mine", reloadBase+"[resources]\nmemory.max = \"1T\"\npids.maxx = 3\n")
	if out, err := d.cordon("reload"); err == nil || !strings.Contains(out, "pids.max") || !strings.Contains(out, "what held before holds on") {
		t.Errorf("a profile with a mistake: %v, %s", err, out)
	}
	if got := d.memoryMax("static"); got != "100663296" {
		t.Errorf("memory.max is %s after a mistake", got)
	}

	d.profile("mine", reloadBase+"[resources]\nmemory.max = \"80M\"\npids.max = 11\n")
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	d.eventually("the signal has moved memory.max", func() bool { return d.memoryMax("static") == "83886080" })

	config := d.dir + "/cordond.toml"
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "log_format = \"json\"\n[ceiling]\npids.max = 5\n"...)
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := d.must("reload"); !strings.Contains(out, "static: changed: resources.pids.max\n") || !strings.Contains(out, "cordond: after its next start: daemon.log_format\n") {
		t.Errorf("a lower ceiling: %s", out)
	}
	if got := d.inGroup("static", "pids.max"); got != "5" {
		t.Errorf("pids.max is %s under a lower ceiling", got)
	}
}

func (d *daemon) memoryMax(plugin string) string {
	return d.inGroup(plugin, "memory.max", "memory.limit_in_bytes")
}

func (d *daemon) pidOf(plugin string) int {
	d.t.Helper()
	var list []control.Status
	d.json(&list, "ps")
	for _, s := range list {
		if s.Name == plugin && s.State == control.Running {
			return s.PID
		}
	}
	d.t.Fatalf("%s does not run", plugin)
	return 0
}

// agrees: what inspect reads back from the kernel is what was planned.
func (d *daemon) agrees(plugin string) {
	d.t.Helper()
	var i control.Inspection
	d.json(&i, "inspect", plugin)
	for _, w := range i.Walls {
		if w.State == "differs" {
			d.t.Errorf("%s: planned %s, is %s", w.Name, w.Planned, w.Actual)
		}
	}
}
