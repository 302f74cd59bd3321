package profiles

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/profiles/plan"
)

// text is an effective profile as a file.
func text(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// awkward is a profile that uses what the built-in ones do not.
const awkward = `
extends = ["builtin:node", "builtin:shell"]
description = "quotes \" and \\ and \u007f"
[require]
landlock = { mode = "best_effort", min_abi = 4 }
[seccomp]
remove = ["clone3", "pipe", "io_uring_setup"]
deny = ["@io-uring", "@keyring"]
[seccomp.errno]
mount = "EPERM"
[[seccomp.rule]]
names = ["clone3"]
args = [{ index = 1, op = "SCMP_CMP_EQ", value = 88 }]
action = "SCMP_ACT_KILL_PROCESS"
[[seccomp.rule]]
names = ["ioctl"]
args = [{ index = 1, op = "SCMP_CMP_MASKED_EQ", value = 0xff00, value_two = 0x5400 }]
action = "SCMP_ACT_ALLOW"
[[seccomp.rule]]
names = ["socket"]
args = [{ index = 0, op = "SCMP_CMP_EQ", value = 2 }]
action = "SCMP_ACT_ERRNO"
errno = "EAFNOSUPPORT"
[[files]]
path = "/x"
from = "/srv/y"
access = ["read_file", "ioctl_dev"]
[[files]]
path = "/usr/share/zoneinfo"
remove = true
[devices]
remove = ["full"]
[shm]
size = "1M"
inodes = 7
[data]
persistent = true
[resources]
memory.max = "max"
memory.high = "1.5G"
memory.swap.max = "max"
pids.max = "max"
cpu.max = "max"
cpu.weight = 50
cpuset.cpus = "0-1"
time.wall = "1h30m"
time.cpu = "90s"
rlimit.nofile = { soft = 10, hard = 20 }
rlimit.as = "max"
[environment]
pass = ["TERM"]
set = { A = "x ${plugin.data} \t", "B" = "" }
[violation]
watch = ["files"]
seccomp = { action = "deny", budget = "5/min", then = "kill" }
[ipc]
max_frame = "1M"
rate = 5
half_open = "3s"
`

func TestEffectiveProfileResolvesToTheSamePlan(t *testing.T) {
	list := map[string]*Profile{"awkward": parse(t, awkward)}
	for _, name := range BuiltinNames() {
		p, err := Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		list[name] = p
	}
	for name, p := range list {
		t.Run(name, func(t *testing.T) {
			again, err := ParseProfile("again.toml", []byte(text(p.Effective())))
			if err != nil {
				t.Fatalf("%v in\n%s", err, text(p.Effective()))
			}
			a, b := resolve(t, Input{Profile: p, CallerEnv: []string{"TERM=x"}}), resolve(t, Input{Profile: again, CallerEnv: []string{"TERM=x"}})
			b.Profile, b.Weakened, a.Weakened, b.Refusals, a.Refusals = a.Profile, nil, nil, nil, nil // sentences name lines
			if a.PolicyDigest() != b.PolicyDigest() {
				t.Errorf("another plan:\n%s", differences(t, a, b))
			}
		})
	}
}

// differences are the lines of two plans that differ.
func differences(t *testing.T, a, b *plan.Plan) string {
	t.Helper()
	la, lb := strings.Split(indented(t, a), "\n"), strings.Split(indented(t, b), "\n")
	in := map[string]int{}
	for _, l := range la {
		in[l]++
	}
	var out strings.Builder
	for _, l := range lb {
		in[l]--
		if in[l] < 0 {
			out.WriteString("+" + l + "\n")
		}
	}
	for l, n := range in {
		if n > 0 {
			out.WriteString("-" + l + "\n")
		}
	}
	return out.String()
}

func TestEffectiveProfileNamesOrigins(t *testing.T) {
	p := parse(t, "extends = [\"builtin:python\"]\n[resources]\nmemory.max = \"1G\"\n")
	want := map[string]string{
		`memory.max = "1G"`: "testdata/test.toml:3",
		`mode = "pid"`:      "builtin:defaults:",
		`cpu.max = "100%"`:  "builtin:defaults:",
	}
	for _, l := range p.Effective() {
		if from, ok := want[l.Text]; ok && !strings.HasPrefix(l.Origin, from) {
			t.Errorf("%s comes from %q, not %s", l.Text, l.Origin, from)
		}
		if l.Origin == "" && strings.Contains(l.Text, " = ") && !strings.HasSuffix(l.Text, "[") {
			t.Errorf("nobody wrote %q", l.Text)
		}
		delete(want, l.Text)
	}
	if _, left := want[`memory.max = "1G"`]; left {
		t.Error("memory.max is not shown")
	}
}

func indented(t *testing.T, p *plan.Plan) string {
	t.Helper()
	b, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
