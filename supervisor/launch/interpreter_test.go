package launch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
)

// anInterpreter prints who it is and what it was given.
const anInterpreter = `#include <stdio.h>
int main(int argc, char **argv) {
	printf("WHO");
	for (int i = 1; i < argc; i++)
		printf(" %s", argv[i]);
	printf("\n");
	return 0;
}
`

// tree is a directory of root's with programs and scripts by name.
func tree(t *testing.T, scripts map[string]string, programs ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range programs {
		copyProgram(t, compiled(t, name, strings.Replace(anInterpreter, "WHO", name, 1)), filepath.Join(dir, name))
	}
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func sumOf(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func interpretedPlan(t *testing.T, dir, access string, env []string, argv ...string) *plan.Plan {
	t.Helper()
	p, err := profiles.Builtin("static")
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := profiles.Resolve(profiles.Input{
		Profile: p, Ceiling: profiles.DefaultCeiling(), Argv: argv, Env: env,
		Files: []plan.File{{Path: "/opt", From: dir, Access: []string{access}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

// runPinned runs a plan held to pins.
func runPinned(t *testing.T, l *Launcher, p *plan.Plan, pins *Pins) (out string, by []Interpreter, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	proc, err := l.Start(ctx, Request{Name: "interpreted", Plan: p, Stdout: w, Stderr: w, Pins: pins})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		return "", nil, err
	}
	data, err := io.ReadAll(r)
	<-proc.Done()
	return string(data), proc.Interpreters(), errors.Join(err, proc.Release())
}

// TestAStartIsHeldToItsInterpreters: by what there is at first, and then by that
// and nothing else.
func TestAStartIsHeldToItsInterpreters(t *testing.T) {
	l := testLauncher(t)
	dir := tree(t, map[string]string{"main": "#!/opt/first\n"}, "first", "second")
	p := interpretedPlan(t, dir, "rx", nil, "/opt/main", "x")
	out, by, err := runPinned(t, l, p, &Pins{})
	if err != nil || out != "first /opt/main x\n" {
		t.Fatalf("%q, %v", out, err)
	}
	want := []Interpreter{
		{Path: "/opt/main", File: filepath.Join(dir, "main"), Digest: sumOf(t, filepath.Join(dir, "main"))},
		{Path: "/opt/first", File: filepath.Join(dir, "first"), Digest: sumOf(t, filepath.Join(dir, "first"))},
	}
	if !slices.Equal(by, want) {
		t.Fatalf("it is run by %+v, want %+v", by, want)
	}
	pins := &Pins{Files: map[string]string{want[0].Path: want[0].Digest, want[1].Path: want[1].Digest}}
	if out, by, err = runPinned(t, l, p, pins); err != nil || out != "first /opt/main x\n" || !slices.Equal(by, want) {
		t.Fatalf("as pinned: %q, %+v, %v", out, by, err)
	}
	var pin *PinError
	if _, _, err := runPinned(t, l, p, &Pins{Files: map[string]string{want[0].Path: want[0].Digest}}); !errors.As(err, &pin) || pin.Pinned != "" || pin.Path != "/opt/first" {
		t.Errorf("by one that is not pinned: %v", err)
	}
	copyProgram(t, filepath.Join(dir, "second"), filepath.Join(dir, "first")) // the same inode, and as long
	changed := sumOf(t, filepath.Join(dir, "first"))
	out, _, err = runPinned(t, l, p, pins)
	if !errors.As(err, &pin) || pin.Pinned != want[1].Digest || pin.Digest != changed || pin.File != want[1].File {
		t.Fatalf("after a change it started: %q, %v", out, err)
	}
	for _, word := range []string{"/opt/first", want[1].File, want[1].Digest, changed} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the refusal does not say %s: %v", word, err)
		}
	}
	if out, _, err = runPinned(t, l, p, &Pins{}); err != nil || out != "second /opt/main x\n" {
		t.Errorf("accepted anew: %q, %v", out, err)
	}
	if err := os.Chmod(filepath.Join(dir, "first"), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, _, err := runPinned(t, l, p, &Pins{}); err == nil || !strings.Contains(err.Error(), "others than root can change it") {
		t.Errorf("by what anybody can change: %v", err)
	}
	if out, by, err := runPinned(t, l, p, nil); err != nil || by != nil || !strings.HasPrefix(out, "second") {
		t.Errorf("without pins: %q, %v, %v", out, by, err)
	}
}

// TestWhatWasLookedAtIsWhatRuns: whatever takes its name before it is executed. A
// file that has no name any more cannot be mounted, and nothing starts.
func TestWhatWasLookedAtIsWhatRuns(t *testing.T) {
	for name, c := range map[string]struct {
		templates int
		flags     uint
	}{
		"in a template": {8, unix.RENAME_EXCHANGE}, "on the spot": {0, unix.RENAME_EXCHANGE},
		"in a template, gone": {8, 0}, "on the spot, gone": {0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l := testLauncher(t)
			l.templates.max = c.templates
			dir := tree(t, map[string]string{"main": "#!/opt/first\n"}, "first", "second")
			was, done := sumOf(t, filepath.Join(dir, "first")), false
			l.tamper = func(steps []namespaces.Step) []namespaces.Step {
				if !done {
					done = true
					if err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "second"), unix.AT_FDCWD, filepath.Join(dir, "first"), c.flags); err != nil {
						t.Error(err)
					}
				}
				return steps
			}
			out, by, err := runPinned(t, l, interpretedPlan(t, dir, "rx", nil, "/opt/main"), &Pins{})
			if !done || was == sumOf(t, filepath.Join(dir, "first")) {
				t.Fatal("nothing took its name")
			}
			if c.flags == 0 {
				if err == nil || out != "" {
					t.Errorf("it started: %q", out)
				}
				return
			}
			if err != nil || out != "first /opt/main\n" || len(by) != 2 || by[1].Digest != was {
				t.Errorf("%q, %+v, %v", out, by, err)
			}
		})
	}
}

// TestInterpreters: what of the host a command is run by.
func TestInterpreters(t *testing.T) {
	l := testLauncher(t)
	dir := tree(t, map[string]string{
		"script": "#! /opt/first -x\n", "byenv": "#!/opt/env first\n", "split": "#!/opt/env -S -u HOME A=1 first -x\n",
		"circle": "#!/opt/circle\n", "nested": "#!/opt/script\n", "lost": "#!/opt/none\n", "relative": "#!first\n", "text": "first\n",
	}, "first", "env")
	bundle := tree(t, map[string]string{"main": "#!/opt/env first\n", "plain": "#!/plugin/own\n"}, "own")
	for link, target := range map[string]string{"link": "first", "far": "/opt/link", "round": "round"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		argv, want string
		access     string
	}{
		{argv: "/opt/first", want: "/opt/first"},
		{argv: "first", want: "/opt/first"},
		{argv: "/opt/link", want: "/opt/link"},
		{argv: "/opt/far", want: "/opt/far"},
		{argv: "/opt/../opt/./far", want: "/opt/../opt/./far"},
		{argv: "/opt/script", want: "/opt/script /opt/first"},
		{argv: "/opt/byenv", want: "/opt/byenv /opt/env /opt/first"},
		{argv: "/opt/split", want: "/opt/split /opt/env /opt/first"},
		{argv: "/opt/env A=1 first", want: "/opt/env /opt/first"},
		{argv: "/opt/env", want: "/opt/env"},
		{argv: "/opt/nested", want: "/opt/nested /opt/script /opt/first"},
		{argv: "/opt/circle", want: "/opt/circle"},
		{argv: "/opt/lost", want: "/opt/lost"},
		{argv: "/opt/relative", want: "/opt/relative"},
		{argv: "/opt/text", want: "/opt/text"},
		{argv: "/opt/round"},
		{argv: "/opt/nothing"},
		{argv: "/nowhere/x"},
		{argv: "/opt"},
		{argv: "/"},
		{argv: "/tmp/x"},
		{argv: "/opt/first", access: "r"},
		{argv: "/plugin/main", want: "/opt/env /opt/first"},
		{argv: "/plugin/plain"},
		{argv: "/plugin/own"},
		{argv: "/plugin/none"},
	} {
		if c.access == "" {
			c.access = "rx"
		}
		p := interpretedPlan(t, dir, c.access, []string{"PATH=/usr/bin:/opt"}, strings.Fields(c.argv)...)
		by, err := l.Interpreters(p, bundle)
		var got []string
		for _, i := range by {
			got = append(got, i.Path)
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s (%s) is run by %q, %v, want %q", c.argv, c.access, got, err, c.want)
		}
	}
}

// TestADigestIsReadOnce: of a file that is as it was, and again of one that is not.
func TestADigestIsReadOnce(t *testing.T) {
	open := func(file string) *namespaces.OpenedSource {
		o, err := namespaces.OpenSource(namespaces.Mount{From: file})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = o.Close() })
		return o
	}
	old, err := filepath.EvalSymlinks("/usr/bin/env") // of whatever installed the host, long ago
	if err != nil {
		t.Fatal(err)
	}
	var d fileDigests
	for range 2 {
		got, err := d.of(open(old))
		if err != nil || got != sumOf(t, old) {
			t.Errorf("%s: %s, %v", old, got, err)
		}
	}
	if len(d.by) != 1 {
		t.Errorf("%d are remembered, want one", len(d.by))
	}
	d.by[open(old).Stamp].text = "remembered"
	if got, _ := d.of(open(old)); got != "remembered" {
		t.Errorf("it was read again: %s", got)
	}
	file := filepath.Join(t.TempDir(), "f")
	for _, text := range []string{"one", "two"} { // as long, and within the time that proves nothing
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := d.of(open(file)); err != nil || got != sumOf(t, file) {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	before := open(file)
	if err := os.WriteFile(file, []byte("three"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readDigest(before); err == nil || !strings.Contains(err.Error(), "changed while") {
		t.Errorf("what changed while it was read has a digest: %v", err)
	}
}
