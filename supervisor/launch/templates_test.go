package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/plan"
)

func said(t *testing.T, l *Launcher, p *plan.Plan) string {
	t.Helper()
	o, err := run(t, l, p)
	if err != nil {
		t.Fatal(err)
	}
	return o.out
}

// TestATemplateIsMadeOncePerPlan, and anew when a source is another one: the
// same path with something else behind it is never shown from an old template.
func TestATemplateIsMadeOncePerPlan(t *testing.T) {
	l := testLauncher(t)
	dir, err := os.MkdirTemp("/var/tmp", "cordon-test-") // what lies in /tmp is a start's own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(dir, "granted")
	show := func(text string) {
		fresh := filepath.Join(dir, "fresh")
		if err := os.Mkdir(fresh, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(fresh, "file"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_ = os.Rename(source, filepath.Join(dir, "old-"+text)) // there is none the first time
		if err := os.Rename(fresh, source); err != nil {
			t.Fatal(err)
		}
	}
	p := testPlan(t, "shell", []plan.File{granted(source, "read_file", "read_dir")}, "sh", "-c", "read -r x <"+source+"/file; echo $x")
	for i, want := range []struct {
		change    bool
		text      string
		templates int
	}{{true, "one", 1}, {false, "one", 1}, {true, "two", 2}, {false, "two", 2}} {
		if want.change {
			show(want.text)
		}
		if out := said(t, l, p); strings.TrimSpace(out) != want.text {
			t.Errorf("start %d: it reads %q, want %q", i, out, want.text)
		}
		if n := len(l.templates.held); n != want.templates {
			t.Errorf("start %d: %d templates, want %d", i, n, want.templates)
		}
	}
}

// TestNoStartChangesATemplate: what one start mounts and writes the next does
// not see, and what they share nobody can write, whatever mount it is reached by.
func TestNoStartChangesATemplate(t *testing.T) {
	l := testLauncher(t)
	p := testPlan(t, "shell", nil, "sh", "-c", `
		echo "left: $(ls -A /tmp /data )"
		echo x >/tmp/left; echo x >/data/left
		while read -r id up dev root at options rest; do
			case $at in /|/dev) echo "$at $rest";; esac
		done </proc/self/mountinfo`)
	first, second := said(t, l, p), said(t, l, p)
	if first != second {
		t.Errorf("the first start saw\n%s\nthe second\n%s", first, second)
	}
	for _, at := range []string{"/ ", "/dev "} {
		if !strings.Contains(first, "\n"+at+"- tmpfs none ro,") && !strings.Contains(first, "\n"+at+"- tmpfs tmpfs ro,") {
			t.Errorf("the file system at %sis not read-only itself:\n%s", at, first)
		}
	}
	if strings.Contains(first, "left: left") || !strings.Contains(first, "left: ") {
		t.Errorf("the first start found something, or did not look:\n%s", first)
	}
}

// TestTemplatesShareNothingThatIsWritten: every tree in one is read-only, and
// every mount that is not is a start's own.
func TestTemplatesShareNothingThatIsWritten(t *testing.T) {
	const dir = "/srv/written"
	p := testPlan(t, "shell", []plan.File{
		granted(dir, "read_file", "read_dir", "write_file", "make_reg"), granted("/usr/share", "read_file", "read_dir"),
	}, "true")
	_, steps, err := Preview(p, 4, func(string, []string) Found { return Found{Dir: true} })
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		if step.Prepared {
			t.Errorf("a preview prepares: %s", step)
		}
	}
	view := buildView(Request{Plan: p})
	host := namespaces.Host{Kill: namespaces.NoFile, UserNS: namespaces.NoFile, UID: 1, GID: 1, Prepared: true}
	for range view.Mounts {
		host.Sources = append(host.Sources, namespaces.Source{Dir: true})
	}
	if steps, err = namespaces.Compile(view, host); err != nil {
		t.Fatal(err)
	}
	shared, own := namespaces.Part(steps)
	at := func(steps []namespaces.Step, path string) (n int) {
		for _, s := range steps {
			if (s.Op == namespaces.OpAttach || s.Op == namespaces.OpTmpfs) && s.S == path {
				n++
			}
		}
		return n
	}
	for _, path := range []string{dir, "/tmp", "/data"} {
		if at(shared, path) != 0 || at(own, path) != 1 {
			t.Errorf("%s is mounted %d times in the template and %d times in a start, want 0 and 1", path, at(shared, path), at(own, path))
		}
	}
	if at(shared, "/usr/share") != 1 || at(own, "/usr/share") != 0 {
		t.Errorf("/usr/share is mounted %d times in the template and %d times in a start, want 1 and 0", at(shared, "/usr/share"), at(own, "/usr/share"))
	}
	if len(shared)+len(own) != len(steps) {
		t.Errorf("%d and %d steps of %d", len(shared), len(own), len(steps))
	}
}

// TestTemplatesAreBounded: the one longest unused goes.
func TestTemplatesAreBounded(t *testing.T) {
	c := templates{max: 2}
	for _, key := range []string{"a", "b", "a", "c"} {
		t1 := c.find(key)
		if t1 == nil {
			ns, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			t1 = &template{ns: ns, holders: 1}
			if err := c.keep(key, t1); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.letGo(t1); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.held) != 2 || c.held["a"] == nil || c.held["c"] == nil {
		t.Errorf("it holds %v, want a and c", c.held)
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
}
