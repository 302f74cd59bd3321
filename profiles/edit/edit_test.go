package edit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func format(t *testing.T, text string) string {
	t.Helper()
	out, err := Format("t.toml", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return string(out)
}

func TestFormat(t *testing.T) {
	const wild = "\n\n# about it\nextends=[ 'go' ,\"node\" ]   # two\n\n\n\n[ seccomp ]\n\nallow = [\n\"mount\", \"read\",# first\n    \"ptrace\" ,  # second\n\n # alone\n\"write\"]\n" +
		"[seccomp.errno]\n\"@chown\"='EPERM'\n# of the grant\n[[files]]\npath=\"/a\"\naccess= \"r\"\n[resources]\nmemory . max=\"1G\"\nrlimit.nofile={soft=1,hard=2}\npids.max=3 # few\ncpu.max = \"50%\" # half\n\n"
	const want = `# about it
extends = ['go', "node"] # two

[seccomp]
allow = [
  "mount", "read", # first
  "ptrace",        # second

  # alone
  "write",
]

[seccomp.errno]
"@chown" = 'EPERM'

# of the grant
[[files]]
path = "/a"
access = "r"

[resources]
memory.max = "1G"
rlimit.nofile = { soft = 1, hard = 2 }
pids.max = 3    # few
cpu.max = "50%" # half
`
	got := format(t, wild)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if again := format(t, got); again != got {
		t.Errorf("formatting again gives\n%s", again)
	}
}

// TestBuiltinsAreFormatted: what is shipped is what fmt gives.
func TestBuiltinsAreFormatted(t *testing.T) {
	files, err := filepath.Glob("../*.toml")
	if err != nil || len(files) < 8 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := format(t, string(data)); got != string(data) {
			t.Errorf("%s is formatted as\n%s", file, got)
		}
	}
}

func TestFormatKeepsStrings(t *testing.T) {
	for _, text := range []string{
		"a = \"\"\"\nx # no comment\n  y\"\"\" # one\n", "a = '''it's'''\n", "a = \"#\\\"#\"\n", "a = []\nb = {}\nc = [[1, 2], [3]]\n",
		"a = [{ b = 1 }, { b = 2 }]\n", "a = 2024-01-01T00:00:00Z\n", "a = \"\"\"x\"\"\"\"\"\n",
	} {
		if got := format(t, text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	long := "a = [" + strings.TrimSuffix(strings.Repeat("\"0123456789\", ", 12), ", ") + "]\n"
	if got := format(t, long); strings.Count(got, "\n") < 3 || format(t, got) != got {
		t.Errorf("a long list became\n%s", got)
	}
}

func TestAmend(t *testing.T) {
	for name, c := range map[string]struct{ file, change, want string }{
		"an empty file": {"", "[seccomp]\nallow = [\"mount\"]\n", "[seccomp]\nallow = [\"mount\"]\n"},
		"a new table":   {"extends = [\"go\"]\n", "[resources]\nmemory.max = \"1G\"\n", "extends = [\"go\"]\n\n[resources]\nmemory.max = \"1G\"\n"},
		"a list that is there": {
			"[seccomp]\nallow = [\n  \"a\", # why\n]\n\n[tmp]\nsize = \"1M\"\n", "[seccomp]\nallow = [\"b\", \"a\"]\n",
			"[seccomp]\nallow = [\n  \"a\", # why\n  \"b\",\n]\n\n[tmp]\nsize = \"1M\"\n",
		},
		"a short list":      {"[seccomp]\nallow = [\"a\"]\n", "[seccomp]\nallow = [\"b\"]\n", "[seccomp]\nallow = [\"a\", \"b\"]\n"},
		"a value":           {"[resources]\npids.max = 3 # few\n", "[resources]\npids.max = 8\n", "[resources]\npids.max = 8 # few\n"},
		"a key of a table":  {"[resources]\npids.max = 3\n\n[tmp]\n", "[resources]\nmemory.max = \"1G\"\n", "[resources]\npids.max = 3\nmemory.max = \"1G\"\n\n[tmp]\n"},
		"dotted keys":       {"resources.pids.max = 3\n", "[resources]\nmemory.max = \"1G\"\n", "resources.pids.max = 3\nresources.memory.max = \"1G\"\n"},
		"a dotted value":    {"shm.size = 0\n", "[shm]\nsize = \"16M\"\n", "shm.size = \"16M\"\n"},
		"an inline table":   {"shm = { size = 0 }\n", "[shm]\nsize = \"16M\"\n", "shm = { size = \"16M\" }\n"},
		"more in an inline": {"shm = { inodes = 1 }\n", "[shm]\nsize = \"16M\"\n", "shm = { inodes = 1, size = \"16M\" }\n"},
		"a grant":           {"[tmp]\nsize = \"1M\"\n", "[[files]]\npath = \"/a\"\naccess = \"r\"\n", "[tmp]\nsize = \"1M\"\n\n[[files]]\npath = \"/a\"\naccess = \"r\"\n"},
		"a grant that is there": {
			"[[files]]\npath = \"/a\" # mine\naccess = \"r\"\n\n[tmp]\n", "[[files]]\npath = \"/a\"\naccess = \"rw\"\n",
			"[[files]]\npath = \"/a\" # mine\naccess = \"rw\"\n\n[tmp]\n",
		},
		"a list of grants": {"files = [{ path = \"/b\", access = \"r\" }]\n", "[[files]]\npath = \"/a\"\naccess = \"r\"\n", "files = [{ path = \"/b\", access = \"r\" }, { path = \"/a\", access = \"r\" }]\n"},
		"a rule": {
			"[seccomp]\nallow = [\"a\"]\n\n[[seccomp.rule]]\nnames = [\"x\"]\naction = \"A\"\n", "[[seccomp.rule]]\nnames = [\"x\"]\naction = \"A\"\nargs = [\n  { index = 1 }, # one\n]\n",
			"[seccomp]\nallow = [\"a\"]\n\n[[seccomp.rule]]\nnames = [\"x\"]\naction = \"A\"\n\n[[seccomp.rule]]\nnames = [\"x\"]\naction = \"A\"\nargs = [\n  { index = 1 }, # one\n]\n",
		},
	} {
		f, err := Parse("f.toml", []byte(c.file))
		if err != nil {
			t.Fatal(name, err)
		}
		change, err := Parse("change.toml", []byte(c.change))
		if err != nil {
			t.Fatal(name, err)
		}
		f.Amend(change, "path")
		if got := f.String(); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
		f.Amend(change, "path")
		if got := f.String(); got != c.want {
			t.Errorf("%s: amended twice it is\n%s", name, got)
		}
	}
}

func TestDropAndDelete(t *testing.T) {
	f, err := Parse("f.toml", []byte("[seccomp]\ndeny = [\"a\", \"@g\"]\n[seccomp.errno]\nx = \"EPERM\"\ny = \"EPERM\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	f.Drop("@g", []string{"b", "c"}, "seccomp", "deny")
	f.Drop("a", nil, "seccomp", "deny")
	f.Delete("seccomp", "errno", "x")
	if got, want := f.String(), "[seccomp]\ndeny = [\"b\", \"c\"]\n\n[seccomp.errno]\ny = \"EPERM\"\n"; got != want {
		t.Errorf("got\n%s", got)
	}
	if got := f.List("seccomp", "deny"); strings.Join(got, " ") != "b c" {
		t.Errorf("the list is %v", got)
	}
}

// FuzzFormat: what can be read can be formatted, says the same then, and stays
// as it is when it is formatted again.
func FuzzFormat(f *testing.F) {
	for _, seed := range []string{
		"a=1", "[a]\nb.c=[1,\n2,#x\n]", "[[a]]\n[a.b]\nx={y=1,z=[{}]}", "\"a b\"='x' # y", "a = \"\"\"\n\"\"\"", "a=[[[]]] # x\n\n\n# y\n[t]", "a = { # c\n b = 1 }",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Parse("f.toml", data); err != nil {
			return
		}
		once, err := Format("f.toml", data)
		if err != nil {
			t.Fatalf("%v: %q", err, data)
		}
		twice, err := Format("f.toml", once)
		if err != nil || string(twice) != string(once) {
			t.Errorf("again: %v\n%q\n%q", err, once, twice)
		}
	})
}
