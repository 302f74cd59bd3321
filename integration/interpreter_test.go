package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/supervisor/control"
)

// TestPinnedInterpreter: a plugin is run by the host's interpreter as it was at
// its first start, whatever becomes of the file, until an operator says so.
func TestPinnedInterpreter(t *testing.T) {
	d := startDaemon(t)
	python, err := filepath.EvalSymlinks("/usr/bin/python3")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(python)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "interpreter")
	upgrade := func(as string) { // as a package manager does it; what follows the program says nothing to it
		t.Helper()
		if err := os.WriteFile(own+".new", append(text[:len(text):len(text)], as...), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(own+".new", own); err != nil {
			t.Fatal(err)
		}
	}
	upgrade("")
	profile := filepath.Join(d.dir, "profiles", "own.toml")
	grant := "extends = [\"builtin:python\"]\n[[files]]\npath = \"/opt/interpreter\"\nfrom = \"" + own + "\"\naccess = \"rx\"\n"
	if slow { // see patient
		grant += "[ipc]\nhello_timeout = \"2m\"\n[lifecycle]\ntimeout_start_sec = \"2m\"\n"
	}
	if err := os.WriteFile(profile, []byte(grant), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := bundle(t, "tools", "mcp", map[string]string{"main.py": "#!/opt/interpreter\n" + toolServer}, "./main.py")
	d.must("install", dir, "--profile", profile)
	d.must("start", "tools")
	runBy := func() string {
		t.Helper()
		var in control.Inspection
		d.json(&in, "inspect", "tools")
		if len(in.Interpreters) != 1 {
			t.Fatalf("it is run by %v", in.Interpreters)
		}
		return in.Interpreters["/opt/interpreter"]
	}
	first := runBy()
	refused := func() {
		t.Helper()
		_, err := d.cordon("start", "tools")
		if err == nil {
			t.Fatal("it started by an interpreter that was changed")
		}
		for _, word := range []string{"/opt/interpreter", own, first, "cordon pin --interpreter tools"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("the refusal does not say %s: %v", word, err)
			}
		}
	}
	upgrade("\n")
	d.must("call", "tools", "tools/list") // what runs goes on
	d.must("stop", "tools")
	refused()
	d.stop()
	d.start()
	refused() // whoever is asked
	if out := d.must("pin", "tools", "--interpreter"); !strings.Contains(out, "/opt/interpreter sha256:") || strings.Contains(out, first) {
		t.Errorf("accepted: %s", out)
	}
	d.must("start", "tools")
	d.must("call", "tools", "tools/list")
	if runBy() == first {
		t.Error("it is run by what was refused, and said to be run by the other")
	}
	if out := d.must("inspect", "tools"); !strings.Contains(out, "/opt/interpreter sha256:") {
		t.Errorf("inspect: %s", out)
	}
	d.must("stop", "tools")
	upgrade("\n\n")
	d.must("pin", "tools", "--interpreter", "--remove")
	d.must("start", "tools") // by what is there
	upgrade("")
	d.must("stop", "tools")
	first = runBy()
	refused()
}
