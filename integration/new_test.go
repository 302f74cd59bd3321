package integration

import (
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
			if _, err := d.cordon("call", name, "greet", "{}"); err == nil || !strings.Contains(err.Error(), "-32602") {
				t.Errorf("without a name: %v", err)
			}
			d.must("stop", name)
		})
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
