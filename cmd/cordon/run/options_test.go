package run

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	o, err := Parse([]string{"--profile", "node", "--ro", "/a", "--ro=/b:/c", "--rw", "/d", "--env", "A=1", "--env", "B", "--cwd", "/x", "--timeout", "90s", "--explain", "--report", "r", "--", "cmd", "--ro", "x"})
	if err != nil {
		t.Fatal(err)
	}
	want := &Options{
		Profile: "node", ReadOnly: []string{"/a", "/b:/c"}, ReadWrite: []string{"/d"}, Env: []string{"A=1", "B"},
		Cwd: "/x", Timeout: 90 * time.Second, Explain: true, Report: "r", Argv: []string{"cmd", "--ro", "x"},
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got %+v\nwant %+v", o, want)
	}
	if o, err := Parse([]string{"ls", "-l"}); err != nil || o.Profile != "strict" || len(o.Argv) != 2 {
		t.Errorf("without flags: %+v, %v", o, err)
	}
}

func TestParseErrors(t *testing.T) {
	for text, args := range map[string][]string{
		"there is no command":      {"--explain"},
		"there is no flag --nope":  {"--nope", "--", "x"},
		"above zero with its unit": {"--timeout", "0s", "x"},
		"needs an argument":        {"--ro"},
		"holds a zero byte":        {"x", "a\x00b"},
	} {
		if _, err := Parse(args); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: got %v, want %q", args, err, text)
		}
	}
	if _, err := Parse([]string{"-h"}); !errors.Is(err, ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	lookup := func(name string) (string, bool) { return "there", name == "SET" }
	got, err := environment(&Options{Env: []string{"A=1=2", "EMPTY=", "SET"}}, lookup)
	if want := []string{"A=1=2", "EMPTY=", "SET=there"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"", "=x", "UNSET", "A=\x00"} {
		if _, err := environment(&Options{Env: []string{bad}}, lookup); err == nil {
			t.Errorf("--env %q was taken", bad)
		}
	}
}

func TestGrants(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"file", "with:colon", "with:/colon"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	tests := []struct{ word, path, from string }{
		{dir + "/file:/in", "/in", dir + "/file"},
		{"file:/in", "/in", dir + "/file"},
		{"./link:/in", "/in", dir + "/file"},
		{"with:colon:/in", "/in", dir + "/with:colon"},
		{"with:/colon:/in", "/in", dir + "/with:/colon"},
		{"/usr/bin", "/usr/bin", "/usr/bin"},
	}
	for _, tt := range tests {
		got, err := grants(&Options{ReadOnly: []string{tt.word}})
		if err != nil || got[0].Path != tt.path || got[0].From != tt.from || got[0].Origin != "--ro" {
			t.Errorf("%s: got %+v, %v", tt.word, got, err)
		}
	}
	got, err := grants(&Options{ReadOnly: []string{"file:/a"}, ReadWrite: []string{"file:/b"}})
	if err != nil || !reflect.DeepEqual(got[0].Access, []string{"execute", "read_dir", "read_file"}) {
		t.Errorf("--ro: %+v, %v", got, err)
	}
	if rw := strings.Join(got[1].Access, " "); strings.Contains(rw, "execute") || !strings.Contains(rw, "write_file") {
		t.Errorf("--rw: %s", rw)
	}
}

func TestGrantErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	for word, text := range map[string]string{
		"":                   "expected PATH or PATH:DEST",
		"/nowhere":           "/nowhere: no such file",
		"/usr:in":            "DEST must be absolute",
		"/usr:/a/../b":       "absolute and clean: /b",
		"/usr:/in/":          "absolute and clean: /in",
		"/usr:/proc":         "/proc is the sandbox's own",
		"/usr:/dev/shm/x":    "/dev is the sandbox's own",
		"/usr:/plugin":       "/plugin is the sandbox's own",
		"/usr:/tmp":          "/tmp is the sandbox's own",
		"/":                  "/ is the sandbox's own",
		"/dev/null:/in":      "neither a file nor a directory",
		"/proc/1/ns/net:/in": "", // whatever it is, it is refused
	} {
		_, err := grants(&Options{ReadOnly: []string{word}})
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("--ro %q: got %v, want %q", word, err, text)
		}
	}
	if _, err := grants(&Options{ReadOnly: []string{"/usr:/in"}, ReadWrite: []string{"/etc:/in"}}); err == nil || !strings.Contains(err.Error(), "granted twice (--ro)") {
		t.Errorf("one DEST twice: %v", err)
	}
}
