package manifest

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

const sixLines = `schema = 1
[plugin]
name = "everything"
version = "1.0.0"
exec = ["node", "node_modules/@modelcontextprotocol/server-everything/dist/index.js", "stdio"]
protocol = "mcp"
`

func TestSixLines(t *testing.T) {
	m, err := Parse("plugin.toml", []byte(sixLines))
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "everything" || m.Version != "1.0.0" || m.Protocol != "mcp" || m.API != ">=1" || len(m.Exec) != 3 {
		t.Errorf("parsed %+v", m)
	}
}

func TestAsks(t *testing.T) {
	m, err := Parse("plugin.toml", []byte(sixLines+`
api = ">=1, <2"
description = "x"
[[capability]]
name = "net.dial"
target = ["a:443"]
why = "dial"
[[files]]
path = "/srv/a"
access = "r"
why = "read"
[resources]
memory.max = "1M"
why = "small"
[environment]
set = { A = "1" }
`))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(m.Capabilities, []Capability{{"net.dial", []string{"a:443"}, "dial", "plugin.toml:10"}}) ||
		!reflect.DeepEqual(m.Files, []File{{"/srv/a", "r", "read", "plugin.toml:15"}}) ||
		*m.Resources.MemoryMax != 1<<20 || m.Resources.Origins["memory.max"] != "plugin.toml:19" || m.Environment["A"] != "1" {
		t.Errorf("parsed %+v", m)
	}
}

// TestBad holds the words for every mistake in a manifest.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d wrong files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(filepath.Base(file), data)
			if err == nil {
				t.Fatal("accepted")
			}
			golden := strings.TrimSuffix(file, ".toml") + ".golden"
			got := err.Error() + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestAPI(t *testing.T) {
	for in, want := range map[string]bool{
		"1": true, "=1": true, ">=1": true, ">=1, <2": true, "<=1": true, ">0,<2": true,
		">1": false, "2": false, ">=2": false, "<1": false, ">=0, <1": false,
	} {
		if got, err := apiIncludes(in, 1); err != nil || got != want {
			t.Errorf("%q includes 1: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", ">=", "1.0", "~1", "=>1", "1 2", ">=1,", "v1", "-1", "99999", strings.Repeat("1,", 100)} {
		if _, err := apiIncludes(in, 1); err == nil {
			t.Errorf("%q is accepted as a range", in)
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "acme.thumbs": true, "a-b_c.1": true, "0x": true, strings.Repeat("a", 64): true,
		"": false, "A": false, ".a": false, "-a": false, "_a": false, "a b": false, "a/b": false, "..": false,
		"a..b": false, "ä": false, strings.Repeat("a", 65): false, "a\n": false, "a\x00": false,
	} {
		if got := ValidName(name); got != want {
			t.Errorf("ValidName(%q) = %v", name, got)
		}
	}
	for name, want := range map[string]bool{"A": true, "_a1": true, "": false, "1A": false, "A-B": false, "A=B": false, "Ä": false} {
		if got := ValidVariable(name); got != want {
			t.Errorf("ValidVariable(%q) = %v", name, got)
		}
	}
}

// FuzzParse holds that no manifest makes the parser panic, and that what it
// accepts is within what the rest of the house counts on.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sixLines))
	f.Add([]byte(sixLines + "api = \">=1, <2\"\n[[capability]]\nname = \"a.b\"\nwhy = \"c\"\n[[files]]\npath = \"/a\"\naccess = \"r\"\nwhy = \"b\"\n"))
	f.Add([]byte(sixLines + "[resources]\nmemory.max = \"1M\"\nwhy = \"x\"\n[environment]\nset = { A = \"b\" }\n"))
	f.Add([]byte("schema = 2\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse("plugin.toml", data)
		if err != nil {
			return
		}
		if !ValidName(m.Name) || m.Version == "" || len(m.Exec) == 0 || m.Exec[0] == "" || m.Protocol == "" {
			t.Errorf("accepted %+v", m)
		}
		for _, c := range m.Capabilities {
			if c.Name == "" || strings.TrimSpace(c.Why) == "" {
				t.Errorf("accepted the ask %+v", c)
			}
		}
		for name, value := range m.Environment {
			if !ValidVariable(name) || strings.ContainsRune(value, 0) {
				t.Errorf("accepted the variable %q=%q", name, value)
			}
		}
	})
}
