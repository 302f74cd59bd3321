package violation

import "testing"

func TestChanges(t *testing.T) {
	var list []Violation
	for _, change := range []string{
		"[seccomp]\nallow = [\"mount\"]\n", "", "[[files]]\npath = \"/a\"\naccess = \"r\"\n",
		"[resources]\nmemory.max = \"96M\"\n", "[seccomp]\nallow = [\"ptrace\"]\n", "[seccomp]\nallow = [\"mount\"]\n",
		"[[files]]\npath = \"/a\"\naccess = \"r\"\n", "[resources]\nmemory.max = \"128M\"\n", "[resources]\npids.max = 64\n",
		"[[files]]\npath = \"\x1b\"\naccess = \"r\"\n",
	} {
		list = append(list, Violation{Change: change})
	}
	want := `[seccomp]
allow = ["mount", "ptrace"]

[resources]
memory.max = "128M"
pids.max = 64

[[files]]
path = "/a"
access = "r"

[[files]]
path = "\x1b"
access = "r"
`
	if got := Changes(list); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := Changes(list[1:2]); got != "" {
		t.Errorf("without a change: got %q", got)
	}
}
