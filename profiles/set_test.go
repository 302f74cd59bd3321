package profiles

import (
	"strings"
	"testing"
)

func TestSetTakesBareWordsForAnyKind(t *testing.T) {
	p, err := Builtin("node")
	if err != nil {
		t.Fatal(err)
	}
	p, err = p.With([]string{
		"resources.memory.max=300M", "resources.memory.swap.max=max", "resources.pids.max=7", "resources.cpu.max=50%",
		"seccomp.allow=mount,umount2", "seccomp.errno.ptrace=EPERM", "data.persistent=true",
		"environment.set.PORT=8080", "environment.set.WORDS=a # b", "lifecycle.restart_sec=3s", "violation.watch=files",
		`require.landlock={ mode = "best_effort", min_abi = 3 }`, `files=[{ path = "/opt", access = "r" }]`, "resources.rlimit.nofile=99",
	})
	if err != nil {
		t.Fatal(err)
	}
	pl := resolve(t, Input{Profile: p})
	env := strings.Join(pl.Process.Env, "\n")
	switch {
	case *pl.Limits.MemoryMax != 300<<20 || pl.Limits.MemorySwapMax != nil || *pl.Limits.PidsMax != 7 || pl.Limits.CPUMax.Quota != 50_000:
		t.Errorf("limits %+v", pl.Limits)
	case !pl.Seccomp.Allows("mount") || !pl.Seccomp.Allows("umount2") || pl.Seccomp.Allows("ptrace"):
		t.Error("the calls are not those that were set")
	case !pl.Data.Persistent || len(pl.Watch) != 1 || pl.Require["landlock"].MinABI != 3:
		t.Errorf("data %+v, watch %v, require %v", pl.Data, pl.Watch, pl.Require)
	case !strings.Contains(env, "PORT=8080") || !strings.Contains(env, "WORDS=a # b"):
		t.Errorf("environment %s", env)
	case pl.Files[len(pl.Files)-1].Path == "" || pl.Origins["resources.pids.max"] != "--set resources.pids.max=7":
		t.Errorf("origin %q", pl.Origins["resources.pids.max"])
	}
}

func TestSetSaysWhatIsWrong(t *testing.T) {
	for word, want := range map[string]string{
		"resources.memory.maxx=1M": `--set resources.memory.maxx=1M: resources.memory.maxx: unknown key; did you mean "max"?`,
		"resources.memory.max=25x": `--set resources.memory.max=25x: resources.memory.max: expected a size such as "256M", "1.5G" or a number of bytes`,
		"resources.pids.max=many":  `--set resources.pids.max=many: resources.pids.max: expected a whole number of at least 0, or "max"`,
		"resources.pids.max=0":     "expected at least 1",
		"seccomp.allow=muont":      `unknown system call "muont"; did you mean "mount"?`,
		"memory":                   "--set memory: expected KEY=VALUE, such as resources.memory.max=256M",
		"=1":                       "expected KEY=VALUE",
		"a\nb=1":                   "expected a key such as",
		"[seccomp]\nallow=mount":   "expected a key such as",
		"extends=builtin:node":     "belongs to a file",
		"network.egress=a":         `expected a host and a port such as "api.example.com:443", got "a"`,
		"proc.mode=ful":            `did you mean "full"?`,
		"resources.memory.max=":    "resources.memory.max: expected a size",
		"data.persistent=yes":      "data.persistent: expected true or false",
	} {
		p, err := Builtin("strict")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.With([]string{word}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--set %q says\n  %v\nand not\n  %s", word, err, want)
		}
	}
}

func TestSetCannotSayMoreThanOneKey(t *testing.T) {
	p, err := Builtin("strict")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"environment.set.A=1\n[seccomp]\nallow = [\"mount\"]", "environment.set.A=\"1\"\nproc.mode = \"full\""} {
		with, err := p.With([]string{word})
		if err != nil {
			continue
		}
		pl := resolve(t, Input{Profile: with})
		if pl.Seccomp.Allows("mount") || pl.Proc == "full" {
			t.Errorf("%q said more than its key", word)
		}
	}
}

func TestWarningsOfOverlappingRules(t *testing.T) {
	rule := func(call, action string, args ...string) string {
		text := "[[seccomp.rule]]\nnames = [\"" + call + "\"]\naction = \"" + action + "\"\n"
		if len(args) > 0 {
			text += "args = [" + strings.Join(args, ", ") + "]\n"
		}
		return text
	}
	eq := func(index, value string) string {
		return "{ index = " + index + ", op = \"SCMP_CMP_EQ\", value = " + value + " }"
	}
	const allow, kill = "SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS"
	for text, want := range map[string]string{
		rule("kill", allow, eq("1", "0")) + rule("kill", kill, eq("1", "0")):                         "test.toml:1:1: seccomp.rule[0]: never decides on kill: the rule at testdata/test.toml:5 holds whenever it does",
		rule("kill", allow, eq("1", "0")) + rule("kill", allow, eq("1", "0")):                        "the rule at testdata/test.toml:",
		rule("kill", allow, eq("1", "0")) + rule("kill", kill, eq("0", "1")):                         "can hold for kill at once with the rule at testdata/test.toml:5, which has as many conditions",
		rule("kill", allow, eq("1", "0")) + rule("kill", allow):                                      "says nothing of kill: the rule at testdata/test.toml:5, which has no conditions, replaces it",
		rule("kill", kill, eq("1", "9")) + rule("kill", allow, eq("1", "0")) + rule("tgkill", allow): "",
		rule("kill", allow, eq("1", "0")) + rule("kill", allow, eq("1", "0"), eq("0", "7")):          "changes nothing for kill: the rule at testdata/test.toml:1 says the same",
	} {
		var got []string
		for _, w := range parse(t, text).Warnings() {
			got = append(got, w.Error())
		}
		if all := strings.Join(got, "\n"); want == "" && all != "" || !strings.Contains(all, want) {
			t.Errorf("got %q, want %q of\n%s", all, want, text)
		}
	}
}

func TestWarnings(t *testing.T) {
	p := parse(t, `extends = ["builtin:static"]
[seccomp]
allow = ["mlock", "kill"]
deny = ["mlock"]
remove = ["mount", "pipe"]
[devices]
remove = ["full"]
[environment]
remove = ["NOPE"]
[[files]]
path = "/usr/lib"
access = "rx"
[[files]]
path = "/usr/lib/x"
access = "rx"
[[files]]
path = "/usr/lib"
access = "r"
[[files]]
path = "/usr/lob"
remove = true
[resources]
memory.high = "1G"
[violation]
files = "kill"
`)
	var got []string
	for _, w := range p.Warnings() {
		got = append(got, w.Error())
	}
	want := []string{
		"testdata/test.toml:4:9: seccomp.deny[0]: mlock is allowed in the same file; denied is what counts; keep the one that is meant",
		"testdata/test.toml:5:11: seccomp.remove[0]: takes nothing away: no profile below has mount",
		"testdata/test.toml:9:11: environment.remove[0]: takes nothing away: no profile below has NOPE",
		"testdata/test.toml:17:8: files[2].path: /usr/lib is granted twice in this file; the last one counts; write it once, with the access that is meant",
		"testdata/test.toml:20:8: files[3].path: takes nothing away: no profile below grants /usr/lob",
		"testdata/test.toml:23:15: resources.memory.high: is never reached: memory.max is 256M",
		"testdata/test.toml:25:9: violation.files: never happens: files are enforced, not observed; write watch = [\"files\"] to have them seen",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, name := range BuiltinNames() {
		p, err := Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range p.Warnings() {
			t.Errorf("a built-in profile has a warning: %v", w)
		}
	}
}
