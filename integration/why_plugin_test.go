package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// refused is a plugin that hits a wall which only the daemon has.
type refused struct {
	profile string
	asks    string // of the manifest
	code    string // of the plugin: methods in Python
	call    string
	rounds  int // of changes, at most
}

// plugin makes its bundle.
func (r *refused) plugin(t *testing.T) string {
	t.Helper()
	sdk, err := os.ReadFile("../sdk/python/cordon.py")
	if err != nil {
		t.Fatal(err)
	}
	dir := bundle(t, "refused", "cordon", map[string]string{
		"cordon.py": string(sdk),
		"main.py": "import sys, time\nsys.path.insert(0, '/plugin')\nimport cordon\nplugin = cordon.Plugin('refused', '1.0.0')\n" +
			"@plugin.method('try')\ndef attempt(params, ctx):\n    " + r.code + "\nplugin.main()\n",
	}, "/usr/bin/python3", "main.py")
	f, err := os.OpenFile(dir+"/plugin.toml", os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(r.asks)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestWhyAllowsWhatAPluginWasRefused is TestWhyAllowsWhatEachWallRefused for the
// walls that stand around a plugin's connection: protocol, grants and watchdog.
func TestWhyAllowsWhatAPluginWasRefused(t *testing.T) {
	for name, c := range map[string]refused{
		"ipc":      {"[ipc]\nmax_frame = \"4K\"\n", "", "import json, os, struct; m = json.dumps({'jsonrpc': '2.0', 'method': '$/more', 'params': ['x' * 6000]}).encode(); os.write(3, struct.pack('>I', len(m)) + m)", "try", 1},
		"grant":    {"", "[[capability]]\nname = \"kv\"\nwhy = \"where it was\"\n", "return ctx.call('kv.put', {'set': {'a': '1'}})", "try", 1},
		"watchdog": {"[lifecycle]\nwatchdog_sec = \"1s\"\n", "", "__import__('ctypes').PyDLL(None).usleep(2500000)", "try", 12}, // holds the interpreter, which would answer, for so long; the machine may be slow, too
	} {
		t.Run(name, func(t *testing.T) {
			d := startDaemon(t)
			d.profile("mine", "extends = [\"builtin:python\"]\n"+c.profile)
			profile := d.dir + "/profiles/mine.toml"
			if name == "watchdog" { // nothing starts it but we
				d.profile("mine", "extends = [\"builtin:python\"]\n[lifecycle]\nrestart = \"no\"\nwatchdog_sec = \"1s\"\n")
			}
			d.must("install", c.plugin(t), "--profile", "mine")
			denied := 0
			for ; ; denied++ {
				d.must("start", "refused")
				out, err := d.cordon("call", "refused", c.call, "--timeout", "1m")
				if err == nil {
					break
				}
				t.Logf("%s%v", out, err)
				if denied == c.rounds {
					text, _ := os.ReadFile(profile)
					t.Fatalf("still refused after %d changes:\n%s\n%s", denied, text, d.log)
				}
				d.eventually("it is told why", func() bool {
					var last violation.Violation
					lines := strings.Split(strings.TrimSpace(d.must("why", "refused", "--json")), "\n")
					return len(lines) > denied && json.Unmarshal([]byte(lines[len(lines)-1]), &last) == nil && string(last.Wall) == name
				})
				change, err := exec.Command(bin+"/cordon", "--socket", d.dir+"/run/cordon.sock", "why", "refused", "--toml").CombinedOutput()
				if err != nil {
					t.Fatalf("why: %v: %s", err, change)
				}
				if said, err := applyTo(profile, change); err != nil {
					t.Fatalf("%v: %s", err, said)
				}
				d.settled("refused")
			}
			if denied == 0 {
				t.Error("nothing was refused")
			}
		})
	}
}

// settled ends a plugin, wherever a violation has left it.
func (d *daemon) settled(name string) {
	d.t.Helper()
	d.eventually("it has settled", func() bool {
		var list []control.Status
		d.json(&list, "ps")
		for _, s := range list {
			switch {
			case s.Name != name:
			case s.State == control.Quarantined:
				d.must("release", name, "--reason", "its profile was changed")
			case s.State == control.Running:
				d.must("stop", name)
			case s.State == control.Stopped || s.State == control.Failed:
				return true
			}
		}
		return false
	})
}
