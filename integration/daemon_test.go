package integration

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/supervisor/control"
)

func TestInspectShowsThePlannedWallsOfEveryBuiltinProfile(t *testing.T) {
	d := startDaemon(t)
	plugin := staticPlugin(t)
	for _, profile := range profiles.BuiltinNames() {
		t.Run(profile, func(t *testing.T) {
			d.must("install", plugin, "--as", profile, "--profile", "builtin:"+profile)
			d.must("start", profile)
			var i control.Inspection
			d.json(&i, "inspect", profile)
			if i.Status.State != control.Running || len(i.Walls) < 30 {
				t.Fatalf("state %s, %d walls; %s", i.Status.State, len(i.Walls), d.log)
			}
			for _, w := range i.Walls {
				if w.State != "enforced" || w.Planned != w.Actual {
					t.Errorf("%s: planned %q, actual %q, %s", w.Name, w.Planned, w.Actual, w.State)
				}
			}
			d.must("stop", profile)
		})
	}
}

// hostile asks for a mount when it is told to; until then it waits.
func hostile(t *testing.T) string {
	t.Helper()
	dir := bundle(t, "hostile", "jsonrpc", map[string]string{
		"main.c": "#include <unistd.h>\n#include <sys/mount.h>\nint main(void) { char b[64]; if (read(0, b, 1) > 0) mount(\"none\", \"/tmp\", \"tmpfs\", 0, 0); pause(); return 0; }\n",
	}, "./main")
	if out, err := exec.Command("gcc", "-static", "-o", dir+"/main", dir+"/main.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

func TestQuarantineOutlivesTheDaemon(t *testing.T) {
	d := startDaemon(t)
	d.must("install", hostile(t), "--profile", "builtin:static")
	d.must("start", "hostile")
	_, _ = d.cordon("call", "hostile", "attack", "--timeout", "20s")
	if why := d.must("why", "hostile"); !strings.Contains(why, "mount(") || !strings.Contains(why, `allow = ["mount"]`) {
		t.Errorf("right after the call, why says:\n%s", why)
	}
	d.quarantined("hostile")
	for _, end := range []func(){d.stop, d.kill} {
		end()
		d.start()
		d.quarantined("hostile")
		if _, err := d.cordon("start", "hostile"); err == nil || !strings.Contains(err.Error(), "quarantine") {
			t.Errorf("start of a quarantined plugin: %v", err)
		}
	}
	d.must("release", "hostile", "--reason", "tested")
	d.must("start", "hostile")
}

func (d *daemon) quarantined(name string) {
	d.t.Helper()
	d.eventually(name+" is quarantined", func() bool {
		var list []control.Status
		d.json(&list, "ps")
		for _, s := range list {
			if s.Name == name {
				return s.State == control.Quarantined
			}
		}
		return false
	})
}

// TestNothingOutlivesAKill kills each process of a running daemon's tree; every
// plugin must end or be restarted under watch, and the next daemon starts clean.
func TestNothingOutlivesAKill(t *testing.T) {
	for _, victim := range []string{"cordond", "cordon-keeper", "cordon-reaper", "main"} {
		t.Run(victim, func(t *testing.T) {
			d := newDaemon(t)
			if victim == "cordond" { // with continuity, nothing outlives the grace time: see TestNobodyComesForKeptPlugins
				d.configure("[continuity]\ngrace = \"0s\"\n")
			}
			d.start()
			t.Cleanup(func() { d.stop() })
			d.must("install", staticPlugin(t), "--profile", "builtin:static")
			d.must("start", "static")
			if victim == "cordond" {
				d.kill()
				eventually(t, "nothing of the killed daemon is left", func() bool { return len(leftovers(d.root)) == 0 })
				d.start()
				return
			}
			killed := false
			for _, p := range below(d.cmd.Process.Pid) {
				if p.name == victim {
					killed = syscall.Kill(p.pid, syscall.SIGKILL) == nil
				}
			}
			if !killed {
				t.Fatalf("no process %s below the daemon: %v", victim, below(d.cmd.Process.Pid))
			}
			d.eventually("the plugin is back under watch", func() bool {
				var i control.Inspection
				d.json(&i, "inspect", "static")
				return i.Status.State == control.Running && i.Status.Restarts > 0
			})
		})
	}
}

func TestKilledRunLeavesNothing(t *testing.T) {
	for _, victim := range []string{"cordon", "cordon-keeper", "cordon-reaper", "sleep"} {
		t.Run(victim, func(t *testing.T) {
			root := "cordon-it-run-" + victim
			cmd := exec.Command(bin+"/cordon", "run", "--profile", "shell", "--", "sleep", "1000")
			cmd.Env = append(cmd.Environ(), "CORDON_CGROUP_ROOT="+root)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var tree []process
			eventually(t, "the command runs", func() bool {
				tree = below(cmd.Process.Pid)
				return len(tree) == 4 && strings.Contains(names(tree), "sleep")
			})
			for _, p := range tree {
				if p.name == victim {
					_ = syscall.Kill(p.pid, syscall.SIGKILL)
				}
			}
			err := cmd.Wait()
			want := map[string]int{"cordon": -1, "cordon-keeper": 125, "cordon-reaper": 137, "sleep": 137}[victim]
			if code := cmd.ProcessState.ExitCode(); code != want {
				t.Errorf("exit code %d, want %d: %v", code, want, err)
			}
			eventually(t, "every process has ended", func() bool {
				for _, p := range tree {
					if syscall.Kill(p.pid, 0) == nil {
						return false
					}
				}
				return len(leftovers(root)) == 0
			})
		})
	}
}

func names(tree []process) string {
	var list []string
	for _, p := range tree {
		list = append(list, p.name)
	}
	return strings.Join(list, " ")
}

// TestComplainModeShowsInPs: what only complains is told from what is enforced
// wherever it is looked at, and the call is made.
func TestComplainModeShowsInPs(t *testing.T) {
	d := startDaemon(t)
	d.profile("complains", "extends = [\"builtin:static\"]\n[violation]\nseccomp = \"log\"\n")
	d.must("install", hostile(t), "--profile", "complains")
	d.must("install", staticPlugin(t), "--profile", "builtin:static")
	d.must("start", "hostile")
	d.must("start", "static")
	shown := map[string]string{}
	for line := range strings.Lines(d.must("ps")) {
		name, _, _ := strings.Cut(line, " ")
		shown[name] = line
	}
	if !strings.Contains(shown["hostile"], "running (not enforced: seccomp)") || strings.Contains(shown["static"], "not enforced") {
		t.Errorf("ps says:\n%s%s", shown["hostile"], shown["static"])
	}
	_, _ = d.cordon("call", "hostile", "attack", "--timeout", "1s") // it answers nothing
	d.eventually("the call is recorded as not enforced", func() bool {
		why, _ := d.cordon("why", "hostile")
		return strings.Contains(why, "seccomp is not enforced (complain mode): mount(") || strings.Contains(why, "Seccomp is not enforced (complain mode): mount(")
	})
	if log := d.audited(); !strings.Contains(log, `"not_enforced":true`) {
		t.Errorf("no record says that it was not enforced:\n%s", log)
	}
	var list []control.Status
	d.json(&list, "ps")
	for _, s := range list {
		if s.State != control.Running {
			t.Errorf("%s is %s", s.Name, s.State)
		}
	}
}
