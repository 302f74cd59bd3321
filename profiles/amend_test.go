package profiles

import (
	"strings"
	"testing"
)

func TestAmendLiftsWhatWouldWin(t *testing.T) {
	const file = `# mine
extends = ["builtin:static"]

[seccomp]
deny = ["mlock", "@mount"] # never
remove = ["getcpu"]

[seccomp.errno]
ptrace = "EPERM"
bpf = "EPERM"
`
	for change, want := range map[string][2]string{ // a call, and one that must stay refused
		"[seccomp]\nallow = [\"mlock\"]\n":                                          {"mlock", "mount"},
		"[seccomp]\nallow = [\"umount2\"]\n":                                        {"umount2", "mount"},
		"[seccomp]\nallow = [\"ptrace\"]\n":                                         {"ptrace", "bpf"},
		"[seccomp]\nallow = [\"getcpu\"]\n":                                         {"getcpu", "bpf"},
		"[[seccomp.rule]]\nnames = [\"mount\"]\naction = \"SCMP_ACT_ALLOW\"\n":      {"mount", "umount2"},
		"[seccomp]\nallow = [\"bpf\", \"mlock\"]\n[resources]\nmemory.max = \"1G\"": {"bpf", "ptrace"},
	} {
		out, err := Amend("testdata/test.toml", []byte(file), "change", []byte(change))
		if err != nil {
			t.Fatalf("%v\n%s", err, change)
		}
		f := resolve(t, Input{Profile: parse(t, string(out))}).Seccomp
		if !f.Allows(want[0]) || f.Allows(want[1]) || !strings.Contains(string(out), "# mine") {
			t.Errorf("%s gives\n%s", change, out)
		}
	}
}

func TestAmendRefuses(t *testing.T) {
	for name, c := range map[string][3]string{
		"a wrong file":           {"x = 1\n", "[tmp]\nsize = \"1M\"\n", "f.toml:1:1: x: unknown key"},
		"a wrong change":         {"", "[tmp]\nsise = \"1M\"\n", `the change:2:1: tmp.sise: unknown key; did you mean "size"?`},
		"no TOML":                {"", "seccomp refused mount\n", "the change:1:9: expected"},
		"a change of what it is": {"", "extends = [\"node\"]\n", "a change does not say what a profile is"},
		"nothing":                {"", "# nothing\n", "says nothing"},
		"both together":          {"[violation]\nfiles = \"kill\"\n", "[violation.files]\nthen = \"log\"\n", "needs a budget"},
	} {
		_, err := Amend("f.toml", []byte(c[0]), "the change", []byte(c[1]))
		if err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s: %v, want %q", name, err, c[2])
		}
	}
}
