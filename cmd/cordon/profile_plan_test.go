package main

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/supervisor/launch"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestGoldenSteps holds the steps of a start behind each built-in profile, on a
// host that has everything and a kernel with Landlock's ABI 7. A difference is
// a change of how every plugin is walled: read it.
func TestGoldenSteps(t *testing.T) {
	everything := func(from string, _ []string) launch.Found {
		program := strings.HasPrefix(from, "/usr/bin/") || strings.HasPrefix(from, "/usr/local/bin/")
		name := from[strings.LastIndex(from, "/")+1:]
		return launch.Found{Dir: !program && !strings.Contains(name, ".") && name != "localtime"}
	}
	for _, name := range profiles.BuiltinNames() {
		t.Run(name, func(t *testing.T) {
			p, err := profiles.Builtin(name)
			if err != nil {
				t.Fatal(err)
			}
			pl, err := planOf(p, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			pl.Process.Env = nil
			_, steps, err := launch.Preview(pl, 7, everything)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			(&app{out: &out}).printSteps(pl, stepLines(steps))
			text, _, _ := strings.Cut(out.String(), "builtin:") // the digest is held elsewhere
			golden(t, "testdata/steps/"+name+".txt", text)
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what came; look at the difference after go test -update:\n%s", file, got)
	}
}
