package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestNewPluginsWork: what cordon new makes passes its own test, and answers
// behind the walls of its language's profile.
func TestNewPluginsWork(t *testing.T) {
	d := startDaemon(t)
	for lang, steps := range map[string][][]string{
		"python": {{"/usr/bin/python3", "-B", "-m", "unittest"}},
		"node":   {{"/usr/bin/node", "--test"}},
		"go":     {{"go", "vet", "./..."}, {"go", "test", "./..."}, {"env", "CGO_ENABLED=0", "go", "build", "-o", "bin/plugin", "."}},
	} {
		t.Run(lang, func(t *testing.T) {
			if _, err := exec.LookPath(steps[0][0]); err != nil {
				t.Skipf("no %s on this machine", steps[0][0])
			}
			parent, name := t.TempDir(), "new-"+lang
			inside(t, parent, bin+"/cordon", "new", "--lang", lang, name)
			dir := filepath.Join(parent, name)
			for _, step := range steps {
				inside(t, dir, step...)
			}
			d.must("install", dir, "--profile", "builtin:"+lang)
			d.must("start", name)
			if out := d.must("call", name, "greet", `{"name": "Ada"}`); !strings.Contains(out, "Hello, Ada!") {
				t.Errorf("it answers %s", out)
			}
			if _, err := d.cordon("call", name, "greet", `{"name": 7}`); err == nil || !strings.Contains(err.Error(), "break the contract: at /name") {
				t.Errorf("with a number for a name: %v", err)
			}
			d.must("stop", name)
		})
	}
}

// TestContractsHoldBothWays: what breaks a schema reaches neither side, and a
// schema that is none is refused before anything is installed.
func TestContractsHoldBothWays(t *testing.T) {
	d := startDaemon(t)
	parent := t.TempDir()
	inside(t, parent, bin+"/cordon", "new", "--lang", "python", "liar")
	dir := filepath.Join(parent, "liar")
	replace(t, dir+"/main.py", `{"text": f"Hello, {name}!"}`, `{"text": len(name)}`)
	replace(t, dir+"/plugin.toml", `examples = "contract/greet.examples.json"`, "") // it would not start
	d.must("install", dir, "--profile", "builtin:python")
	d.must("start", "liar")
	out, err := d.cordon("call", "liar", "greet", `{"name": "Ada"}`)
	if err == nil || out != "" || !strings.Contains(err.Error(), "breaks its own contract: at /text") {
		t.Errorf("a result that breaks it: %q, %v", out, err)
	}
	if _, err := d.cordon("call", "liar", "greet"); err == nil || !strings.Contains(err.Error(), "its parameters break the contract") {
		t.Errorf("no parameters: %v", err)
	}
	if log := d.must("logs", "liar"); strings.Count(log, "greeting a caller") != 1 {
		t.Errorf("the plugin saw other than the one good call:\n%s", log)
	}
	for wrong, want := range map[string]string{
		`"file:///etc/shadow"`: "within the schema", `"#"`: "within the schema", `"#/properties/name"`: "leads back to itself",
	} {
		replace(t, dir+"/contract/greet.params.json", `"type": "string"`, `"$ref": `+wrong)
		if _, err := d.cordon("install", dir, "--as", "refused", "--profile", "builtin:python"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a reference to %s: %v", wrong, err)
		}
		replace(t, dir+"/contract/greet.params.json", `"$ref": `+wrong, `"type": "string"`)
	}
}

// TestExamplesAreTriedBeforeReady: a plugin that does not do what its contract's
// examples say does not start, and the sentence says where it differs; examples
// that break their contract are refused before anything is installed.
func TestExamplesAreTriedBeforeReady(t *testing.T) {
	d := startDaemon(t)
	parent := t.TempDir()
	inside(t, parent, bin+"/cordon", "new", "--lang", "python", "greeter")
	dir := filepath.Join(parent, "greeter")
	d.must("install", dir, "--profile", "builtin:python")
	d.must("start", "greeter")
	if log := d.must("logs", "greeter"); strings.Count(log, "greeting a caller") != 1 {
		t.Errorf("its one example was not tried once:\n%s", log)
	}
	replace(t, dir+"/main.py", `Hello, {name}!`, `Hi, {name}!`)
	d.must("install", dir, "--as", "changed", "--profile", "builtin:python")
	want := `warm-up: the example 0 of greet in the contract: at /text: expected "Hello, Ada!", got "Hi, Ada!"`
	if _, err := d.cordon("start", "changed"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a plugin that answers something else: %v", err)
	}
	replace(t, dir+"/contract/greet.examples.json", `"Hello, Ada!"`, `7`)
	if _, err := d.cordon("install", dir, "--as", "refused", "--profile", "builtin:python"); err == nil ||
		!strings.Contains(err.Error(), "at /0: its result breaks the contract: at /text") {
		t.Errorf("an example that breaks its contract: %v", err)
	}
}

// replace changes a text that stands in a file.
func replace(t *testing.T, path, from, to string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), from) {
		t.Fatalf("%s has no %s", path, from)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), from, to, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// inside runs a command in a directory.
func inside(t *testing.T, dir string, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}
