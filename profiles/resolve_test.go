package profiles

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/profiles/strict"
)

func parse(t *testing.T, text string) *Profile {
	t.Helper()
	p, err := ParseProfile("testdata/test.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func resolve(t *testing.T, in Input) *plan.Plan {
	t.Helper()
	if in.Argv == nil && in.Manifest == nil {
		in.Argv = []string{"/bin/true"}
	}
	pl, err := Resolve(in)
	if err != nil {
		t.Fatal(err)
	}
	return pl
}

func parseManifest(t *testing.T, more string) *manifest.Manifest {
	t.Helper()
	m, err := manifest.Parse("plugin.toml", []byte("schema = 1\n[plugin]\nname = \"a.b_c\"\nversion = \"1\"\nexec = [\"./x\", \"${plugin.bundle}/y\"]\nprotocol = \"mcp\"\n"+more))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestGoldenPlans holds the whole effective plan of each built-in profile. A
// difference here is a change of what every plugin may do: read it.
func TestGoldenPlans(t *testing.T) {
	for _, name := range BuiltinNames() {
		t.Run(name, func(t *testing.T) {
			p, err := Builtin(name)
			if err != nil {
				t.Fatal(err)
			}
			pl := resolve(t, Input{Profile: p})
			text, err := json.MarshalIndent(pl, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "testdata/golden/"+name+".json", string(text)+"\n")
		})
	}
}

// TestDeterministic resolves the same input many times, with maps made in
// another order and under Go's random iteration: there is one digest.
func TestDeterministic(t *testing.T) {
	env := map[string]string{}
	for i := range 40 {
		env[fmt.Sprintf("V%d", i)] = fmt.Sprint(i)
	}
	for _, name := range BuiltinNames() {
		digests := map[string]bool{}
		for range 20 {
			p, err := Builtin(name)
			if err != nil {
				t.Fatal(err)
			}
			m := parseManifest(t, "[resources]\nmemory.max = \"64M\"\nwhy = \"x\"\n")
			m.Environment = map[string]string{}
			keys := sortedKeys(env)
			rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			for _, k := range keys {
				m.Environment[k] = env[k]
			}
			pl := resolve(t, Input{Profile: p, Manifest: m, Watch: true})
			digests[pl.PolicyDigest()] = true
		}
		if len(digests) != 1 {
			t.Errorf("%s resolves to %d plans", name, len(digests))
		}
	}
}

// TestDigestIsOfThePolicy: where a profile lies makes no difference, what it
// says does.
func TestDigestIsOfThePolicy(t *testing.T) {
	digest := func(dir, text string) string {
		file := filepath.Join(dir, "thumbs.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := LoadProfile(file)
		if err != nil {
			t.Fatal(err)
		}
		return resolve(t, Input{Profile: p}).PolicyDigest()
	}
	a := digest(t.TempDir(), "extends = [\"strict\"]\n")
	b := digest(t.TempDir(), "# a comment\n\nextends = [\"builtin:strict\"]\n")
	c := digest(t.TempDir(), "extends = [\"strict\"]\n[resources]\npids.max = 31\n")
	if a != b || a == c {
		t.Errorf("digests are %s, %s, %s: want the first two equal and the third another", a, b, c)
	}
}

func TestStrictGrantsNoFiles(t *testing.T) {
	p, err := Builtin("builtin:strict")
	if err != nil {
		t.Fatal(err)
	}
	pl := resolve(t, Input{Profile: p, Argv: []string{"/usr/bin/id"}})
	if len(pl.Files) != 0 || len(pl.Weakened) != 0 || len(pl.Refusals) != 0 {
		t.Errorf("strict: files %v, weakened %q, refusals %v", pl.Files, pl.Weakened, pl.Refusals)
	}
}

// TestEmptyProfile: a profile that says nothing allows nothing.
func TestEmptyProfile(t *testing.T) {
	pl := resolve(t, Input{Profile: parse(t, "")})
	for _, r := range pl.Seccomp.Rules {
		if r.Action == "SCMP_ACT_ALLOW" {
			t.Errorf("an empty profile allows %v", r.Names)
		}
	}
	if len(pl.Files) != 0 || *pl.Limits.MemoryMax != 256<<20 || pl.Violation["seccomp"].Action != "quarantine" {
		t.Errorf("an empty profile gives %+v", pl)
	}
}

func TestInheritance(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("base.toml", `
extends = ["builtin:strict"]
[seccomp]
allow = ["ptrace", "socket"]
deny = ["getpid"]
[seccomp.errno]
mount = "EPERM"
[[files]]
path = ["/srv/a", "/srv/b", "/srv/c"]
access = "r"
[devices]
remove = ["full"]
[environment]
set = { A = "1", B = "2", D = "${plugin.data}/x" }
[resources]
memory.max = "100M"
pids.max = 5
[violation]
watch = ["files"]
files = { action = "deny", budget = "5/h", then = "kill" }
`)
	write("top.toml", `
extends = ["base"]
[seccomp]
allow = ["getpid"]
remove = ["ptrace", "@io-event"]
[[files]]
path = "/srv/a"
access = "rw"
from = "/mnt/a"
[[files]]
path = "/srv/b"
remove = true
[devices]
allow = ["full"]
[environment]
set = { B = "3" }
remove = ["A"]
[resources]
pids.max = 7
[violation]
remove = ["files"]
files = "kill"
`)
	p, err := Find("top", dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Bases(); !reflect.DeepEqual(got, []string{"builtin:strict", "base", "top"}) {
		t.Errorf("bases are %q", got)
	}
	pl := resolve(t, Input{Profile: p})
	f := pl.Seccomp
	if f.Allows("ptrace") || f.Allows("poll") || !f.Allows("getpid") || f.Allows("mount") || !f.Allows("read") {
		t.Error("calls are not removed, or not given back, by the later file")
	}
	var files []string
	for _, g := range pl.Files {
		files = append(files, fmt.Sprintf("%s %s %s %s", g.Path, g.From, short(g.Access), filepath.Base(g.Origin)))
	}
	if want := []string{"/srv/a /mnt/a rw top.toml:6", "/srv/c /srv/c r base.toml:8"}; !reflect.DeepEqual(files, want) {
		t.Errorf("files are %q, want %q", files, want)
	}
	if !slices.Contains(pl.Devices, "full") || len(pl.Watch) != 0 || *pl.Limits.MemoryMax != 100<<20 || *pl.Limits.PidsMax != 7 {
		t.Errorf("devices %v, watch %v, limits %v %v", pl.Devices, pl.Watch, *pl.Limits.MemoryMax, *pl.Limits.PidsMax)
	}
	if got := pl.Violation["files"]; got != (plan.Response{Action: "kill"}) {
		t.Errorf("a budget outlived the response that it belonged to: %+v", got)
	}
	env := strings.Join(pl.Process.Env, " ")
	if env != "B=3 D=/data/x HOME=/data LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin TMPDIR=/tmp" {
		t.Errorf("environment is %s", env)
	}
	for key, want := range map[string]string{
		"resources.memory.max": "base.toml:16", "resources.pids.max": "top.toml:19", "seccomp.allow.getpid": "top.toml:4",
		"seccomp.deny.ptrace": "top.toml:5", "seccomp.errno.mount": "base.toml:7", "files./srv/a": "top.toml:6",
		"violation.seccomp": "builtin:defaults:71", "violation.files": "top.toml:22",
	} {
		if got := filepath.Base(pl.Origins[key]); got != want {
			t.Errorf("origin of %s is %s, want %s", key, got, want)
		}
	}
}

// TestDiamond: a base that is reached twice is applied once, first.
func TestDiamond(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a": "extends = [\"strict\"]\n[resources]\npids.max = 1\n",
		"b": "extends = [\"a\"]\n[resources]\npids.max = 2\n",
		"c": "extends = [\"a\"]\n[resources]\nmemory.max = \"9M\"\n",
		"d": "extends = [\"b\", \"./c.toml\"]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name+".toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := Find("d", dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Bases(); !reflect.DeepEqual(got, []string{"builtin:strict", "a", "b", "c", "d"}) {
		t.Errorf("bases are %q", got)
	}
	if pl := resolve(t, Input{Profile: p}); *pl.Limits.PidsMax != 2 {
		t.Errorf("pids.max is %d: the base was applied again over what extends it", *pl.Limits.PidsMax)
	}
}

func TestExtendsTooDeep(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		text := fmt.Sprintf("extends = [\"p%d\"]\n", i+1)
		if i == 19 {
			text = ""
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("p%d.toml", i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Find("p0", dir)
	if err == nil || !strings.Contains(err.Error(), "more than 8 deep") {
		t.Errorf("got %v", err)
	}
	if _, err := Find("p13", dir); err != nil {
		t.Errorf("seven deep is refused: %v", err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"mine", "strict"} {
		if err := os.WriteFile(filepath.Join(dir, name+".toml"), []byte("extends = [\"builtin:go\"]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"node": "builtin:node", "builtin:strict": "builtin:strict", "mine": "mine", "strict": "strict",
		filepath.Join(dir, "mine.toml"): "mine", filepath.Join(dir, "strict.toml"): "strict",
	} {
		p, err := Find(name, dir)
		if err != nil || p.Name() != want {
			t.Errorf("Find(%q) = %v, %v; want %s", name, p, err, want)
		}
	}
	for name, want := range map[string]string{
		"mien": `did you mean "mine"?`, "": "cannot find profile",
		"builtin:nod": `did you mean "node"?`, "/dev/null": "not a regular file", dir + "/": "not a regular file",
	} {
		if _, err := Find(name, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Find(%q): %v, want %q", name, err, want)
		}
	}
}

func TestCeiling(t *testing.T) {
	p := parse(t, `
extends = ["strict"]
[resources]
memory.max = "2G"
pids.max = "max"
cpu.max = "400%"
[[files]]
path = "/srv/open"
access = "rx"
[[files]]
path = "/srv/open/w"
access = "rw"
[[files]]
path = "/home/x"
access = "r"
[[files]]
path = "/inside"
from = "/srv/open/secret/key"
access = "r"
[[files]]
path = "/srv"
access = "r"
`)
	c := DefaultCeiling()
	c.MemoryMax, c.PidsMax, c.CPUMax, c.TimeWall = 1<<30, 100, 2000, strict.Duration(time.Hour)
	c.Files = []CeilingFiles{{Path: "/srv", Access: []string{"rx"}}}
	c.DenyPaths = []string{"/srv/open/secret"}
	pl := resolve(t, Input{Profile: p, Ceiling: c})
	if *pl.Limits.MemoryMax != 1<<30 || *pl.Limits.PidsMax != 100 || pl.Limits.CPUMax.Quota != 200000 || pl.Time.Wall != time.Hour {
		t.Errorf("limits are above the ceiling: %+v %+v", pl.Limits, pl.Time)
	}
	var got []string
	for _, r := range pl.Refusals {
		if r.By != "ceiling" {
			t.Errorf("refused by %s: %+v", r.By, r)
		}
		got = append(got, r.Ask+" | "+r.Hint)
	}
	want := []string{
		"memory.max 2G | lowered to ceiling.memory.max = 1G", "pids.max max | lowered to ceiling.pids.max = 100",
		"cpu.max 400% | lowered to ceiling.cpu.max = 200%", "time.wall 0s | lowered to ceiling.time.wall = 1h0m0s",
		"file /home/x r | no entry of ceiling.files gives read_dir there",
		"file /srv/open/secret/key r | ceiling.deny_paths has /srv/open/secret",
		"file /srv r | it holds /srv/open/secret, which ceiling.deny_paths has; name what is needed below it",
		"file /srv/open rx | it holds /srv/open/secret, which ceiling.deny_paths has; name what is needed below it",
		"file /srv/open/w rw | no entry of ceiling.files gives make_dir there",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("refusals are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(pl.Files) != 0 {
		t.Errorf("granted above the ceiling: %v", pl.Files)
	}
	c.Profiles = []string{"node"}
	if _, err := Resolve(Input{Profile: p, Ceiling: c, Argv: []string{"x"}}); err == nil {
		t.Error("a profile that the ceiling does not admit is used")
	}
	c.Profiles = []string{"strict"}
	if _, err := Resolve(Input{Profile: p, Ceiling: c, Argv: []string{"x"}}); err != nil {
		t.Errorf("a profile that extends an admitted one is refused: %v", err)
	}
}

func TestCeilingDecodes(t *testing.T) {
	var conf struct {
		Ceiling Ceiling `toml:"ceiling"`
	}
	conf.Ceiling = *DefaultCeiling()
	err := strict.Decode("cordond.toml", []byte(`
[ceiling]
memory.max = "2G"
cpu.max = "150%"
deny_paths = ["/secret"]
files = [{ path = "/srv", access = ["r"] }]
`), &conf)
	c := conf.Ceiling
	if err != nil || c.MemoryMax != 2<<30 || c.PidsMax != 4096 || !reflect.DeepEqual(c.DenyPaths, []string{"/secret"}) || c.Validate() != nil {
		t.Errorf("decoded %+v, %v", c, err)
	}
	c.Files[0].Path = "srv/"
	if c.Validate() == nil {
		t.Error("a relative path in ceiling.files is accepted")
	}
}

func TestAsks(t *testing.T) {
	p := parse(t, `
extends = ["strict"]
[resources]
time.cpu = "10s"
[[files]]
path = "/srv/photos"
access = "r"
[[files]]
path = "/srv/photos/out"
access = "rw"
`)
	m := parseManifest(t, `
[[files]]
path = "/srv/photos/2024"
access = "r"
why = "read"
[[files]]
path = "/srv/photos"
access = "rw"
why = "write"
[[files]]
path = "/srv/photos/out/x"
access = "rw"
why = "results"
[[files]]
path = "/etc/shadow"
access = "r"
why = "curious"
[[files]]
path = "${plugin.data}"
access = "rw"
why = "own"
[[files]]
path = "/proc/kcore"
access = "r"
why = "more"
[[capability]]
name = "exec.run"
target = ["a:443"]
why = "dial"
[resources]
memory.max = "64M"
pids.max = 500
cpu.max = "max"
time.wall = "1h"
time.cpu = "1h"
why = "small"
`)
	pl := resolve(t, Input{Profile: p, Manifest: m})
	var got []string
	for _, a := range pl.Asks {
		got = append(got, fmt.Sprintf("%v %s: %s", a.Granted, a.Ask, a.Decision))
	}
	want := []string{
		"true file /srv/photos/2024 r: granted by testdata/test.toml:5",
		`false file /srv/photos rw: refused: profile test has no such grant`,
		"true file /srv/photos/out/x rw: granted by testdata/test.toml:8",
		"false file /etc/shadow r: refused by the ceiling: ceiling.deny_paths has /etc/shadow",
		"true file ${plugin.data} rw: granted: it is the plugin's own",
		"false file /proc/kcore r: refused by the host: cannot grant /proc/kcore: /proc inside is the plugin's own and never the host's",
		"true memory.max 64M: granted: 256M by builtin:defaults:43 bounds it",
		"false pids.max 500: refused: it stays at 32, by builtin:defaults:45",
		"false cpu.max max: refused: it stays at 100%, by builtin:defaults:46",
		"true time.wall 1h0m0s: granted: no time by test bounds it",
		"false time.cpu 1h0m0s: refused: it stays at 10s, by testdata/test.toml:4",
		"false capability exec.run a:443: refused by the host: it serves no such capability",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("decisions are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	refused := 0
	for _, a := range pl.Asks {
		if !a.Granted {
			refused++
		}
	}
	if len(pl.Refusals) != refused {
		t.Errorf("%d refusals for %d refused asks", len(pl.Refusals), refused)
	}
	if *pl.Limits.MemoryMax != 64<<20 || *pl.Limits.PidsMax != 32 || pl.Time.Wall != time.Hour || pl.Time.CPU != 10*time.Second {
		t.Errorf("limits are %+v %+v", pl.Limits, pl.Time)
	}
	if len(pl.Files) != 2 {
		t.Errorf("an ask changed the grants: %v", pl.Files)
	}
	if pr := pl.Process; !reflect.DeepEqual(pr.Argv, []string{"./x", "/plugin/y"}) || pr.Cwd != "/plugin" || pr.Hostname != "a-b-c" || pl.Protocol != "mcp" {
		t.Errorf("process is %+v", pr)
	}
}

// TestAsksNeverWiden: whatever a manifest asks, the plan allows no more than
// without it.
func TestAsksNeverWiden(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	p, err := Builtin("node")
	if err != nil {
		t.Fatal(err)
	}
	bare := resolve(t, Input{Profile: p})
	for range 200 {
		m := parseManifest(t, fmt.Sprintf("[[files]]\npath = %q\naccess = %q\nwhy = \"x\"\n[resources]\nmemory.max = %d\npids.max = %d\ncpu.max = \"%d%%\"\nwhy = \"x\"\n",
			[]string{"/usr", "/usr/bin/node", "/etc", "/srv", "/data", "/usr/lib64/x"}[r.IntN(6)],
			[]string{"r", "rw", "rx"}[r.IntN(3)], 1<<20+r.Int64N(1<<32), 1+r.Int64N(1000), 1+r.IntN(1000)))
		pl := resolve(t, Input{Profile: p, Manifest: m})
		if !reflect.DeepEqual(pl.Files, bare.Files) || !reflect.DeepEqual(pl.Seccomp, bare.Seccomp) ||
			*pl.Limits.MemoryMax > *bare.Limits.MemoryMax || *pl.Limits.PidsMax > *bare.Limits.PidsMax ||
			pl.Limits.CPUMax.Quota > bare.Limits.CPUMax.Quota {
			t.Fatalf("the manifest %+v widened the plan", m)
		}
	}
}

func TestOperatorsOwn(t *testing.T) {
	p := parse(t, "extends = [\"strict\"]\n[environment]\npass = [\"LANG\", \"SECRET\"]\n")
	pl := resolve(t, Input{
		Profile: p, Argv: []string{"/bin/echo", "${plugin.data}"}, Watch: true, Cwd: "/tmp",
		Env: []string{"A=b=c"}, CallerEnv: []string{"LANG=de_DE", "OTHER=1"},
		Files: []plan.File{{Path: "/x", From: "/srv/x", Access: []string{"rx"}}, {Path: "/tmp/y", Access: []string{"read_file"}, Origin: "--ro"}},
	})
	if got := strings.Join(pl.Process.Env, " "); got != "A=b=c HOME=/data LANG=de_DE PATH=/usr/local/bin:/usr/bin:/bin TMPDIR=/tmp" {
		t.Errorf("environment is %s", got)
	}
	if pl.Process.Argv[1] != "${plugin.data}" {
		t.Error("an operator's argument was changed")
	}
	if len(pl.Files) != 2 || pl.Files[0].From != "/tmp/y" || pl.Files[1].Origin != "the command line" || short(pl.Files[1].Access) != "rx" {
		t.Errorf("files are %+v", pl.Files)
	}
	if !slices.Contains(pl.Watch, "files") || !slices.Equal(pl.Seccomp.Watch, []string{"creat", "open", "openat"}) {
		t.Errorf("watch is %v, calls %v", pl.Watch, pl.Seccomp.Watch)
	}
	for name, in := range map[string]Input{
		"no command":        {},
		"a deny path":       {Argv: []string{"x"}, Files: []plan.File{{Path: "/x", From: "/etc/shadow", Access: []string{"r"}}}},
		"above a deny path": {Argv: []string{"x"}, Files: []plan.File{{Path: "/etc", Access: []string{"r"}}}},
		"root":              {Argv: []string{"x"}, Files: []plan.File{{Path: "/", Access: []string{"r"}}}},
		"over /proc":        {Argv: []string{"x"}, Files: []plan.File{{Path: "/proc", From: "/srv", Access: []string{"r"}}}},
		"dots":              {Argv: []string{"x"}, Files: []plan.File{{Path: "/a", From: "/srv/../etc/shadow", Access: []string{"r"}}}},
		"rwx":               {Argv: []string{"x"}, Files: []plan.File{{Path: "/a", Access: []string{"rwx"}}}},
		"variable":          {Argv: []string{"x"}, Env: []string{"NOVALUE"}},
		"relative cwd":      {Argv: []string{"x"}, Cwd: "tmp"},
		"nul":               {Argv: []string{"x\x00y"}},
	} {
		in.Profile = p
		if _, err := Resolve(in); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestWeakened(t *testing.T) {
	pl := resolve(t, Input{Profile: parse(t, `
extends = ["strict"]
[require]
landlock = "best_effort"
[seccomp]
allow = ["mount", "io_uring_setup"]
[[seccomp.rule]]
names = ["chmod", "clone3", "mprotect"]
action = "SCMP_ACT_ALLOW"
[proc]
mode = "full"
[data]
persistent = true
[resources]
memory.swap.max = "1G"
pids.max = "max"
[violation]
grant = "log"
seccomp = "log"
[environment]
pass = ["TOKEN"]
[network]
egress = ["a.example.com:443"]
addresses = ["10.0.0.0/8"]
[[files]]
path = "/srv/out"
access = ["read_file", "remove_file"]
[[files]]
path = "/run/x"
access = ["resolve_unix"]
[[capability]]
name = "secret.read"
target = ["key"]
`), Ceiling: &Ceiling{MemoryMax: -1, PidsMax: -1, CPUMax: -1, Files: DefaultCeiling().Files}})
	want := []string{
		"mount allowed: the plugin reaches the kernel's mount code; only its missing capabilities stop it (testdata/test.toml:6)",
		"clone3 allowed: the plugin may make or enter namespaces, where kernel code for root is in reach (testdata/test.toml:7)",
		"io_uring_setup allowed: what it does through io_uring no filter sees (testdata/test.toml:6)",
		"chmod allowed whatever its arguments: the plugin may leave programs that run as the owner of a directory which it may write (testdata/test.toml:7)",
		"mprotect allowed whatever its arguments: memory may be made executable after it was written: what the plugin computes can become code (testdata/test.toml:7)",
		"memory.swap.max is above 0: the plugin may fill the host's swap (testdata/test.toml:15)",
		"pids.max is \"max\": the plugin may take the host's process numbers (testdata/test.toml:16)",
		"/proc shows the whole machine: its processors, memory, load and kernel version (testdata/test.toml:11)",
		"/data is kept between starts, and so is what an attacker leaves there (testdata/test.toml:13)",
		"the plugin reaches a.example.com:443, and what it knows can leave by it (testdata/test.toml:23)",
		"names that it reaches may lead to 10.0.0.0/8: services there trust who can reach them (testdata/test.toml:24)",
		"cordon run passes TOKEN of its caller on (testdata/test.toml:21)",
		"resolve_unix at /run/x: what listens on a unix socket there answers the plugin (testdata/test.toml:28)",
		"the plugin changes /srv/out of the host, and whoever reads there reads its words (testdata/test.toml:25)",
		"the host serves secret.read to it for key (testdata/test.toml:31)",
		"the plugin starts without landlock where the host cannot give it (testdata/test.toml:4)",
		"violations of grant are recorded and nothing is done (testdata/test.toml:18)",
		"calls that are not allowed are recorded and let through: there is no seccomp wall (testdata/test.toml:19)",
	}
	if !reflect.DeepEqual(pl.Weakened, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(pl.Weakened, "\n"), strings.Join(want, "\n"))
	}
}

// TestEveryDocumentedKey: the reference has every key that the language has.
func TestEveryDocumentedKey(t *testing.T) {
	page, err := os.ReadFile("../docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range Keys() {
		for _, part := range []string{".soft", ".hard", ".mode", ".min_abi", ".action", ".budget", ".then"} {
			if base, ok := strings.CutSuffix(key, part); ok && contains(Keys(), base) { // a table of its own, described once
				if !strings.Contains(string(page), "`"+part[1:]+"`") {
					t.Errorf("docs/profiles.md does not say what `%s` is", part[1:])
				}
				key = base
			}
		}
		if !strings.Contains(string(page), "`"+key+"`") {
			t.Errorf("docs/profiles.md does not have `%s`", key)
		}
	}
	for _, key := range strict.Keys(Ceiling{}) {
		if !strings.Contains(string(page), "`ceiling."+key+"`") {
			t.Errorf("docs/profiles.md does not have `ceiling.%s`", key)
		}
	}
	for _, key := range manifest.Keys() {
		if !strings.Contains(string(page), "`"+key+"`") {
			t.Errorf("docs/profiles.md does not have the manifest's `%s`", key)
		}
	}
}

// TestDocumentedExamples: every TOML block of the reference is a profile.
func TestDocumentedExamples(t *testing.T) {
	page, err := os.ReadFile("../docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```toml\n")[1:]
	if len(blocks) < 5 {
		t.Fatalf("found %d examples", len(blocks))
	}
	for i, b := range blocks {
		text, _, _ := strings.Cut(b, "```")
		switch {
		case strings.Contains(text, "[plugin]"):
			if _, err := manifest.Parse("plugin.toml", []byte(text)); err != nil {
				t.Errorf("example %d: %v", i+1, err)
			}
		case strings.Contains(text, "[ceiling]"):
			conf := struct {
				Ceiling Ceiling `toml:"ceiling"`
			}{*DefaultCeiling()}
			if err := errors.Join(strict.Decode("cordond.toml", []byte(text), &conf), conf.Ceiling.Validate()); err != nil {
				t.Errorf("example %d: %v", i+1, err)
			}
		default:
			if _, err := ParseProfile("example.toml", []byte(text)); err != nil {
				t.Errorf("example %d: %v", i+1, err)
			}
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	for b.Loop() {
		p, err := Builtin("node")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Resolve(Input{Profile: p, Argv: []string{"node"}}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestEval: the flag is added to what is said of Node.js, once, and stands whoever
// sets the rest.
func TestEval(t *testing.T) {
	const flag = "--disallow-code-generation-from-strings"
	for _, c := range []struct{ text, env, want string }{
		{"[runtime]\neval = false\n", "", flag},
		{"[runtime]\neval = true\n", "", ""},
		{"", "", ""},
		{"[runtime]\neval = false\n[environment.set]\nNODE_OPTIONS = \"--no-warnings\"\n", "", "--no-warnings " + flag},
		{"[runtime]\neval = false\n", "NODE_OPTIONS=--no-deprecation", "--no-deprecation " + flag},
		{"[runtime]\neval = false\n[environment.set]\nNODE_OPTIONS = \"" + flag + "\"\n", "", flag},
	} {
		in := Input{Profile: parse(t, c.text)}
		if c.env != "" {
			in.Env = []string{c.env}
		}
		got := ""
		for _, pair := range resolve(t, in).Process.Env {
			if value, ok := strings.CutPrefix(pair, "NODE_OPTIONS="); ok {
				got = value
			}
		}
		if got != c.want {
			t.Errorf("%q with %q: %q, want %q", c.text, c.env, got, c.want)
		}
	}
}
