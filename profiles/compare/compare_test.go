package compare

import (
	"slices"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
)

func planOf(t *testing.T, name string, sets ...string) *plan.Plan {
	t.Helper()
	p, err := profiles.Builtin(name)
	if err == nil {
		p, err = p.With(sets)
	}
	if err != nil {
		t.Fatal(err)
	}
	pl, err := profiles.Resolve(profiles.Input{Profile: p, Argv: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	return pl
}

func TestSameIsNoDifference(t *testing.T) {
	for _, name := range profiles.BuiltinNames() {
		if r := Plans(planOf(t, name), planOf(t, name)); len(r.More)+len(r.Less)+len(r.Other) != 0 {
			t.Errorf("%s differs from itself: %+v", name, r)
		}
	}
}

func TestTheReverseIsTheReverse(t *testing.T) {
	names := profiles.BuiltinNames()
	for _, a := range names {
		for _, b := range names {
			x, y := Plans(planOf(t, a), planOf(t, b)), Plans(planOf(t, b), planOf(t, a))
			if !slices.Equal(x.More, y.Less) || !slices.Equal(x.Less, y.More) {
				t.Errorf("%s and %s: %+v is not the reverse of %+v", a, b, x, y)
			}
		}
	}
}

// TestEveryWall loosens one wall at a time; each must be more, and nothing else.
func TestEveryWall(t *testing.T) {
	for set, want := range map[string]Difference{
		"seccomp.allow=mount":                      {"seccomp", "mount: allowed, and a violation in the other"},
		"seccomp.errno.mount=EPERM":                {"seccomp", "mount: refused quietly, and a violation in the other"},
		"seccomp.allow=socket":                     {"seccomp", "socket: allowed with some arguments, and refused quietly in the other"},
		`files=[{ path = "/opt", access = "rx" }]`: {"files", "/opt: execute, read_dir, read_file"},
		"proc.mode=full":                           {"proc", "/proc shows full, and pid in the other"},
		"tmp.size=1G":                              {"files", "/tmp: 1G, and 64M in the other"},
		"tmp.inodes=9999":                          {"files", "inodes of /tmp: 9999, and 4096 in the other"},
		"shm.size=1M":                              {"files", "/dev/shm: 1M, and 0 in the other"},
		"data.persistent=true":                     {"data", "/data is kept between starts"},
		"data.size=65M":                            {"data", "/data: 65M, and 64M in the other"},
		"resources.memory.max=1G":                  {"memory", "memory.max: 1G, and 256M in the other"},
		"resources.memory.swap.max=max":            {"memory", "memory.swap.max: without bound, and 0 in the other"},
		"resources.pids.max=33":                    {"pids", "pids.max: 33, and 32 in the other"},
		"resources.cpu.max=150%":                   {"cpu", "cpu.max: 150%, and 100% in the other"},
		"resources.cpu.weight=101":                 {"cpu", "cpu.weight: 101, and 100 in the other"},
		"resources.rlimit.nofile=1025":             {"rlimits", "rlimit.nofile: 1025, and 1024 in the other"},
		"require.landlock=best_effort":             {"require", "starts without landlock where the host cannot give it"},
		"network.egress=a.example.com:443":         {"network", "reaches a.example.com:443"},
		"network.listen=web=127.0.0.1:8080":        {"network", "is reached at 127.0.0.1:8080 of the host"},
		"runtime.eval=true":                        {"runtime", "Node.js makes code from strings"},
		"environment.pass=TOKEN":                   {"environment", "TOKEN of whoever runs it is passed on, by cordon run"},
		"resources.rlimit.data=2G":                 {"rlimits", "rlimit.data: 2G, and 1G in the other"},
		"violation.memory=deny":                    {"violation", "a violation of memory leads to deny, and to quarantine in the other"},
	} {
		var before []string
		if set == "runtime.eval=true" { // as it is unless a profile says otherwise
			before = []string{"runtime.eval=false"}
		}
		a, b := planOf(t, "strict", before...), planOf(t, "strict", set)
		r := Plans(a, b)
		r.More = slices.DeleteFunc(r.More, func(d Difference) bool { // egress opens the calls that it takes, too
			return strings.HasPrefix(set, "network.") && d.Wall == "seccomp"
		})
		if len(r.More) != 1 || r.More[0] != want || len(r.Less) != 0 {
			t.Errorf("--set %s: %+v, want %+v", set, r, want)
		}
	}
}

// TestMoreArguments: who lets a call through with more arguments allows more, and
// no less.
func TestMoreArguments(t *testing.T) {
	rule := func(family, action string) string {
		return `{ names = ["socket"], args = [{ index = 0, op = "SCMP_CMP_EQ", value = ` + family + ` }], action = "` + action + `" }`
	}
	const allow, kill = "SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS"
	for _, c := range []struct {
		a, b       string
		more, less int
	}{
		{"seccomp.rule=[]", "seccomp.rule=[" + rule("16", allow) + "]", 1, 0},
		{"seccomp.rule=[" + rule("16", allow) + "]", "seccomp.rule=[" + rule("16", allow) + "," + rule("17", allow) + "]", 1, 0},
		{"seccomp.rule=[" + rule("16", allow) + "]", "seccomp.rule=[" + rule("17", allow) + "]", 1, 1},
		{"seccomp.rule=[]", "seccomp.rule=[" + rule("16", allow) + "," + rule("3", kill) + "]", 1, 1},
	} {
		r := Plans(planOf(t, "static", c.a), planOf(t, "static", c.b))
		if len(r.More) != c.more || len(r.Less) != c.less {
			t.Errorf("%s after %s: %+v", c.b, c.a, r)
		}
	}
}

// TestResponses: a budget is more with more of it, and with less time for it;
// where one has more and the other less time, nobody can say.
func TestResponses(t *testing.T) {
	budget := func(text string) string {
		return `violation.seccomp={ action = "deny", budget = "` + text + `", then = "quarantine" }`
	}
	for _, c := range []struct {
		a, b       string
		more, less int
	}{
		{budget("20/h"), budget("21/h"), 1, 0},
		{budget("20/h"), budget("20/min"), 1, 0},
		{budget("20/h"), budget("5/min"), 1, 1},
		{budget("20/h"), "violation.seccomp=deny", 1, 0},
		{budget("20/h"), "violation.seccomp=kill", 1, 1},
		{budget("20/h"), "violation.seccomp=quarantine", 0, 1},
	} {
		r := Plans(planOf(t, "strict", c.a), planOf(t, "strict", c.b))
		if len(r.More) != c.more || len(r.Less) != c.less {
			t.Errorf("%s after %s: %+v", c.b, c.a, r)
		}
	}
}

func TestWhatCannotBeComparedIsOnBothSides(t *testing.T) {
	rule := func(value string) string {
		return `seccomp.rule=[{ names = ["mount"], args = [{ index = 3, op = "SCMP_CMP_EQ", value = ` + value + ` }], action = "SCMP_ACT_ALLOW" }]`
	}
	for _, sets := range [][2]string{
		{rule("1"), rule("2")},
		{`files=[{ path = "/x", from = "/a", access = "r" }]`, `files=[{ path = "/x", from = "/b", access = "r" }]`},
		{"resources.cpuset.cpus=0", "resources.cpuset.cpus=1"},
	} {
		r := Plans(planOf(t, "strict", sets[0]), planOf(t, "strict", sets[1]))
		if len(r.More) != 1 || len(r.Less) != 1 {
			t.Errorf("%s against %s: %+v", sets[1], sets[0], r)
		}
	}
}

// TestInnerGrants: a narrower grant inside a wider one hides what the wider gives.
func TestInnerGrants(t *testing.T) {
	wide := `files=[{ path = "/x", access = "rw" }]`
	a, b := planOf(t, "strict", wide), planOf(t, "strict", wide, `files=[{ path = "/x/in", access = "r" }]`)
	r := Plans(a, b)
	if len(r.More) != 0 || len(r.Less) != 1 || r.Less[0].Wall != "files" {
		t.Errorf("%+v", r)
	}
}

// TestNothingIsOverlooked: two plans with different digests differ in something
// that is said.
func TestNothingIsOverlooked(t *testing.T) {
	for _, set := range []string{
		"identity.uid=7", "identity.gid=7", "lifecycle.restart=no", "lifecycle.timeout_stop_sec=9s", "ipc.max_frame=1M", "ipc.rate=3",
		"ipc.half_open=1s", "environment.set.A=b", "violation.watch=files", "violation.seccomp=deny", "resources.time.wall=1m",
		"resources.time.cpu=1m", "resources.memory.high=1M", "resources.rlimit.as=1G", "resources.rlimit.nofile={ soft = 1, hard = 1024 }",
		"devices.remove=full", "proc.mode=none", `require.landlock={ mode = "hard", min_abi = 3 }`, "seccomp.deny=pipe", "seccomp.errno.pipe=EIO",
		"seccomp.errno.clone3=EPERM", "data.inodes=5", `violation.files={ action = "deny", budget = "21/h", then = "quarantine" }`,
		`violation.files={ action = "deny", budget = "20/d", then = "quarantine" }`,
	} {
		a, b := planOf(t, "strict"), planOf(t, "strict", set)
		if a.PolicyDigest() == b.PolicyDigest() {
			t.Fatalf("--set %s changes nothing", set)
		}
		if r := Plans(a, b); len(r.More)+len(r.Less)+len(r.Other) == 0 {
			t.Errorf("--set %s is not seen", set)
		}
	}
}
