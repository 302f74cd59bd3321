package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// whyRounds is how many changes one refusal may need: a program that is stopped
// at its first violation has only told of the first.
const whyRounds = 4

// changed is what came of a run that was refused, and of changing its profile by
// what cordon why --toml printed, again and again until it passed.
type changed struct {
	denied, passed bool
	rounds         int
	// story is what was said on the way, for a test that fails.
	story string
}

// untilItPasses runs with a report, and adds the changes to the profile's file.
func untilItPasses(t *testing.T, profile string, args ...string) changed {
	t.Helper()
	var c changed
	report := filepath.Join(t.TempDir(), "report")
	for ; c.rounds <= whyRounds; c.rounds++ {
		out, err := cordonRun(t, append([]string{"--profile", profile, "--timeout", "5m", "--report", report}, args...)...)
		c.story += out
		if err == nil {
			c.passed = true
			return c
		}
		c.denied = true
		change, err := exec.Command(bin+"/cordon", "why", report, "--toml").CombinedOutput()
		if err != nil {
			c.story += fmt.Sprintf("why: %v: %s", err, change)
			return c
		}
		said, err := applyTo(profile, change)
		c.story += said
		if err != nil {
			return c
		}
	}
	return c
}

// applyTo adds a change to a profile's file as a person does it.
func applyTo(profile string, change []byte) (string, error) {
	apply := exec.Command(bin+"/cordon", "profile", "apply", profile)
	apply.Stdin = bytes.NewReader(change)
	said, err := apply.CombinedOutput()
	if err == nil && bytes.Contains(said, []byte("says so already")) {
		err = fmt.Errorf("the change changed nothing: %s", change)
	}
	return string(said), err
}

// tasks builds the program that does what its arguments say.
func tasks(t *testing.T) string {
	t.Helper()
	program := filepath.Join(rootOnly(t), "tasks") // not in /tmp, of which every plugin has its own
	if out, err := exec.Command("gcc", "-static", "-O1", "-o", program, "testdata/why/tasks.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// grantedFiles makes files of the host that only a grant shows, owned by a user whom
// the plugin then writes as.
func grantedFiles(t *testing.T, names ...string) string {
	t.Helper()
	dir := rootOnly(t)
	for _, name := range names {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte("x\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(file, modelUser, modelUser); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestWhyAllowsWhatEachWallRefused: for each wall a run is refused, and the
// change that is printed, added to the profile's file, makes the same run pass.
func TestWhyAllowsWhatEachWallRefused(t *testing.T) {
	program, dir := tasks(t), grantedFiles(t, "in", "out")
	ours := func(words ...string) []string {
		return append([]string{"--explain", "--ro", program + ":/tasks", "--", "/tasks"}, words...)
	}
	python := func(text string) []string { return []string{"--", "/usr/bin/python3", "-c", text} }
	for name, c := range map[string]struct {
		profile string
		args    []string
		rounds  int // of changes, at most
	}{
		"seccomp: a call of which nothing is said": {"extends = [\"strict\"]\n[seccomp]\nallow = [\"wait4\"]\n", ours("procs:1"), 1},
		"seccomp: one use of a call":               {"extends = [\"python\"]\n", python("import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM)"), 1},
		"seccomp: a call that the file denies":     {"extends = [\"python\"]\n[seccomp]\ndeny = [\"mkdir\", \"mkdirat\"]\n", python("import os; os.mkdir('/tmp/x')"), 1},
		"seccomp: a group that the file denies":    {"extends = [\"static\"]\n[seccomp]\ndeny = [\"@process\"] # none of them\n", ours("procs:1"), whyRounds},
		"files: reading":                           {"extends = [\"strict\"]\n", ours("read:" + dir + "/in"), 1},
		"files: writing what may be read":          {fmt.Sprintf("extends = [\"strict\"]\n[[files]]\npath = %q\naccess = \"r\"\n", dir+"/out"), ours("write:" + dir + "/out"), 1},
		"files: the program itself":                {"extends = [\"static\"]\n", []string{"--", program, "procs:2"}, 1},
		"files: a program that needs a loader":     {"extends = [\"strict\"]\n[[files]]\npath = \"/usr/bin/true\"\naccess = \"rx\"\n[[files]]\npath = \"/usr/lib/x86_64-linux-gnu\"\naccess = \"rx\"\n", []string{"--", "true"}, 1},
		"memory":                                   {"extends = [\"static\"]\n[resources]\nmemory.max = \"32M\"\n", ours("mem:36"), 1},
		"pids":                                     {"extends = [\"static\"]\n[resources]\npids.max = 6\n", ours("procs:6"), 1},
		"time of the processor":                    {"extends = [\"static\"]\n[resources]\ntime.cpu = \"1s\"\n", ours("cpu:1300"), 1},
		"time on the clock":                        {"extends = [\"shell\"]\n[resources]\ntime.wall = \"1s\"\n", []string{"--", "/bin/sleep", "1.1"}, whyRounds},
	} {
		t.Run(name, func(t *testing.T) {
			profile := filepath.Join(t.TempDir(), "mine.toml")
			if err := os.WriteFile(profile, []byte(c.profile), 0o600); err != nil {
				t.Fatal(err)
			}
			got := untilItPasses(t, profile, c.args...)
			if text, _ := os.ReadFile(profile); !got.denied || !got.passed || got.rounds > c.rounds {
				t.Errorf("denied %v, passed %v after %d changes:\n%s\n%s", got.denied, got.passed, got.rounds, got.story, text)
			}
		})
	}
}

// removals is how many lines are taken out of working profiles.
const removals = 100

// working is a profile on which a program works, a line for each thing that can
// be taken out.
type working struct {
	name  string
	head  string
	calls []string
	parts []string // grants and bounds, each a piece of TOML by itself
	args  []string
	want  string
}

// text is the profile without one of its things; -1 takes nothing out.
func (w *working) text(without int) string {
	var b strings.Builder
	b.WriteString(w.head + "[seccomp]\nallow = [\n")
	for i, call := range w.calls {
		if i != without {
			fmt.Fprintf(&b, "  %q,\n", call)
		}
	}
	b.WriteString("]\n")
	for i, part := range w.parts {
		if i+len(w.calls) != without {
			b.WriteString(part)
		}
	}
	return b.String()
}

func (w *working) thing(i int) string {
	if i < len(w.calls) {
		return w.calls[i]
	}
	return w.parts[i-len(w.calls)]
}

// TestWhyGivesBackWhatWasTakenOut takes random single things out of profiles on
// which programs work, each one alone, and has cordon why give it back.
func TestWhyGivesBackWhatWasTakenOut(t *testing.T) {
	list := workingProfiles(t)
	r := rand.New(rand.NewPCG(5, 100))
	type removal struct {
		of   *working
		what int
	}
	var all []removal
	for _, w := range list {
		for i := range len(w.calls) + len(w.parts) {
			all = append(all, removal{w, i})
		}
	}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	dir := t.TempDir()
	denied, tried := 0, 0
	rounds := map[int]int{}
	for _, one := range all {
		if denied == removals {
			break
		}
		tried++
		profile := filepath.Join(dir, fmt.Sprintf("p%d.toml", tried))
		if err := os.WriteFile(profile, []byte(one.of.text(one.what)), 0o600); err != nil {
			t.Fatal(err)
		}
		got := untilItPasses(t, profile, one.of.args...)
		if !got.passed {
			text, _ := os.ReadFile(profile)
			t.Errorf("%s without %s does not pass after %d changes:\n%s\n%s", one.of.name, one.of.thing(one.what), got.rounds, got.story, text)
		}
		if got.denied {
			denied++
			rounds[got.rounds]++
		}
	}
	t.Logf("%d of %d things were taken out; %d runs were denied; by how many changes they passed: %v", tried, len(all), denied, rounds)
	if denied < removals || rounds[1]*10 < denied*9 {
		t.Errorf("%d runs were denied, %d of them passed after one change", denied, rounds[1])
	}
}

// workingProfiles are made from real runs in complain mode.
func workingProfiles(t *testing.T) []*working {
	t.Helper()
	var list []*working
	for _, w := range workloads(t) {
		if slices.Contains([]string{"strict", "static", "shell"}, w.name) {
			list = append(list, learn(t, &working{
				name: w.name, head: fmt.Sprintf("extends = [\"%s-base.toml\"]\n", filepath.Join(t.TempDir(), w.name)), want: w.want,
				args: append(append(slices.Clone(w.flags), "--"), w.argv...),
			}, "extends = [\"builtin:"+w.profile+"\"]\n"))
		}
	}
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"}
	program, dir := tasks(t), grantedFiles(t, names...)
	ours := &working{
		name: "tasks", want: "done", head: fmt.Sprintf("extends = [%q]\n", filepath.Join(t.TempDir(), "tasks-base.toml")),
		args:  []string{"--explain", "--", program, "mem:24", "procs:7"},
		parts: []string{"[resources.memory]\nmax = \"64M\"\n", "[resources.pids]\nmax = 12\n", fmt.Sprintf("[[files]]\npath = %q\naccess = \"rx\"\n", program)},
	}
	for i, name := range names {
		access, verb := "r", "read:"
		if i%3 == 0 {
			access, verb = "rw", "write:"
		}
		ours.args = append(ours.args, verb+filepath.Join(dir, name))
		ours.parts = append(ours.parts, fmt.Sprintf("[[files]]\npath = %q\naccess = %q\n", filepath.Join(dir, name), access))
	}
	return append(list, learn(t, ours, "extends = [\"builtin:static\"]\n[resources]\nmemory.max = \"22M\"\npids.max = 7\n"))
}

// learn finds the calls that a program needs beyond a base, on which all that
// can be denied is, and makes sure that it works with them.
func learn(t *testing.T, w *working, base string) *working {
	t.Helper()
	file := strings.Split(w.head, "\"")[1]
	builtin := strings.TrimPrefix(strings.Split(base, "\"")[1], "builtin:")
	if err := os.WriteFile(file, []byte(base+"[seccomp]\ndeny = "+quoted(allowedCalls(t, builtin))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	profile, report := filepath.Join(t.TempDir(), "learned.toml"), filepath.Join(t.TempDir(), "report")
	for range 3 {
		if err := os.WriteFile(profile, []byte(w.text(-1)+"[violation]\nseccomp = \"log\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := cordonRun(t, append([]string{"--profile", profile, "--report", report}, w.args...)...)
		found, readErr := readReport(report)
		if err != nil || readErr != nil || !strings.Contains(out, w.want) {
			t.Fatalf("%s: %v, %v: %s", w.name, err, readErr, out)
		}
		more := ran{violations: found}.calls()
		w.calls = append(w.calls, more...)
		if len(more) == 0 {
			break
		}
	}
	if len(w.calls) < 8 {
		t.Fatalf("%s needs %v only", w.name, w.calls)
	}
	return w
}
