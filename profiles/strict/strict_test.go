package strict

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// sample has one of everything that a tag can say.
type sample struct {
	Name  *string `toml:"name"`
	Table struct {
		MemoryMax     *Size  `toml:"memory.max"`
		MemorySwapMax *Size  `toml:"memory.swap.max"`
		RestartSec    *Count `toml:"restart_sec"`
		Deep          struct {
			Word string `toml:"word" oneof:"hard best_effort"`
		} `toml:"deep"`
	} `toml:"table"`
	List    []string          `toml:"list"`
	Items   []item            `toml:"item"`
	Map     map[string]string `toml:"map"`
	Either  *either           `toml:"either"`
	On      bool              `toml:"on"`
	U32     uint32            `toml:"u32"`
	U64     uint64            `toml:"u64"`
	Int     int               `toml:"int"`
	Wait    Duration          `toml:"wait"`
	CPU     Percent           `toml:"cpu"`
	Budget  Budget            `toml:"budget"`
	Refused any               `toml:"refused" refuse:"not yet"`
	Hidden  string            // no key
}

type item struct {
	Path string `toml:"path"`
	Args []struct {
		Index int `toml:"index"`
	} `toml:"args"`
}

type either struct {
	_    struct{} `short:"Mode"`
	Mode string   `toml:"mode" oneof:"hard best_effort"`
	Min  int      `toml:"min"`
}

func TestDecode(t *testing.T) {
	var s sample
	pos, err := DecodePositions("f.toml", []byte(`
name = "x" # a comment
list = ["a",
  'b', # and here
]
u32 = 4294967295
either = "hard"
wait = "1m30s"
cpu = "150%"
budget = "20/h"
on = true
map = { a = "1", "b c" = "2" }

[table]
memory.max = "1.5G"
memory.swap.max = 0
deep.word = "hard"

[[item]]
path = "/a"

[[item]]
path = """
/b"""
args = [{ index = 1 }, { index = 2 }]
`), &s)
	if err != nil {
		t.Fatal(err)
	}
	if *s.Name != "x" || !reflect.DeepEqual(s.List, []string{"a", "b"}) || s.U32 != 4294967295 || s.Either.Mode != "hard" ||
		time.Duration(s.Wait) != 90*time.Second || s.CPU != 1500 || s.Budget != (Budget{20, time.Hour}) || !s.On ||
		!reflect.DeepEqual(s.Map, map[string]string{"a": "1", "b c": "2"}) ||
		*s.Table.MemoryMax != 1610612736 || *s.Table.MemorySwapMax != 0 || s.Table.Deep.Word != "hard" ||
		len(s.Items) != 2 || s.Items[1].Path != "/b" || s.Items[1].Args[1].Index != 2 {
		t.Errorf("decoded wrongly: %+v", s)
	}
	for key, want := range map[string]string{
		"name": "f.toml:2", "list[1]": "f.toml:4", "map.a": "f.toml:12", `map."b c"`: "f.toml:12",
		"table": "f.toml:14", "table.memory.swap.max": "f.toml:16", "item[0].path": "f.toml:20",
		"item[1].args[1].index": "f.toml:25", "item[1].nothing": "f.toml:22", "nothing": "f.toml",
	} {
		if got := pos.Of(key); got != want {
			t.Errorf("Of(%q) = %s, want %s", key, got, want)
		}
	}
	if pos.Has("item[1].nothing") || !pos.Has("item[1].path") {
		t.Error("Has does not tell what the file has from what it has not")
	}
}

// TestErrors holds the sentences: place, key, what was expected, what was
// probably meant.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"unknown", "namee = 'x'", `f:1:1: namee: unknown key; did you mean "name"?`},
		{"case", "Name = 'x'", `f:1:1: Name: unknown key; the spelling here is name`},
		{"case twins", "name = 'x'\nNAME = 'y'", `f:2:1: NAME: unknown key; the spelling here is name`},
		{"systemd spelling", "[table]\nRestartSec = 1", `f:2:1: table.RestartSec: unknown key; the spelling here is restart_sec`},
		{"quoted dots", "[table]\n\"memory.max\" = 1", `f:2:1: table."memory.max": unknown key; the spelling here is memory.max`},
		{"underscore for dots", "[table]\nmemory_max = 1", `f:2:1: table.memory_max: unknown key; the spelling here is memory.max`},
		{"a slip below dots", "[table]\nmemory.mox = 1", `f:2:1: table.memory.mox: unknown key; did you mean "max"?`},
		{"wrong table", "memory.max = 1", `f:1:1: memory.max: unknown key; it belongs in [table], as memory.max`},
		{"type", "name = 3", `f:1:8: name: expected a string, got 3`},
		{"type of a list", "list = 'x'", `f:1:8: list: expected a list ["..."], got "x"`},
		{"element", "list = ['x', 3]", `f:1:14: list[1]: expected a string, got 3`},
		{"table for scalar", "[table]\nmemory = 3", `f:2:1: table.memory: expected one of "memory.max", "memory.swap.max", got a whole number`},
		{"scalar for table", "table = 3", `f:1:9: table: expected a table with "deep", "memory.max", "memory.swap.max", "restart_sec", got 3`},
		{"word", "either = 'Hard'", `f:1:10: either: expected one of "hard", "best_effort", got "Hard"; the spelling here is hard`},
		{"word, far", "either = { mode = 'no' }", `f:1:19: either.mode: expected one of "hard", "best_effort", got "no"`},
		{"size", "[table]\nmemory.max = '3 apples'", `f:2:14: table.memory.max: expected a size such as "256M", "1.5G" or a number of bytes, got "3 apples"`},
		{"infinite", "int = inf", `f:1:7: int: expected a whole number, got +Inf`},
		{"nan", "[table]\nmemory.max = nan", `f:2:14: table.memory.max: expected a size such as "256M", "1.5G" or a number of bytes, got NaN`},
		{"negative", "u64 = -1", `f:1:7: u64: expected a number of at least 0, got -1`},
		{"too big", "u32 = 4294967296", `f:1:7: u32: expected a number from 0 to 4294967295, got 4294967296`},
		{"bare duration", "wait = 5", `f:1:8: wait: expected a duration with its unit, such as "200ms", "10s" or "1m30s", got 5`},
		{"reserved", "refused = 1", `f:1:1: refused: not yet`},
		{"no key of ours", "Hidden = 'x'", `f:1:1: Hidden: unknown key; expected one of "budget", "cpu", "either", "int", "item", "list", "map", "name", 6 more`},
		{"twice", "name = 'x'\non = true\nname = 'y'", `f:3:1: name: is set twice, first on line 1; remove one of the two`},
		{"columns are characters", "list = ['äöü', 3]", `f:1:16: list[1]: expected a string, got 3`},
		{"all at once", "onn = 1\nname = 3\nwaits = 2", "f:1:1: onn: unknown key; did you mean \"on\"?\nf:2:8: name: expected a string, got 3\nf:3:1: waits: unknown key; did you mean \"wait\"?"},
		{"syntax", "name = ", `f:1:8: expected a value`},
		{"no equals", "name 'x'", `f:1:6: expected "=" here`},
		{"open string", "name = 'x", `f:1:8: the string does not end on its line`},
		{"open array", "list = ['x'", `f:1:8: the array does not end`},
		{"library's syntax", "int = 1__0", `f:1:7: cannot read: `},
		{"not utf-8", "name = '\xff'", `f: cannot read: not UTF-8 text`},
		{"nul", "name = '\x00'", `f: cannot read: contains a NUL byte, so it is not a text file`},
		{"mark", "\ufeffname = 'x'", `f:1:1: cannot read: starts with a byte order mark; save it as UTF-8 without one`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s sample
			err := Decode("f", []byte(c.in), &s)
			if err == nil {
				t.Fatal("no error")
			}
			got := err.Error()
			if c.name == "library's syntax" {
				got = got[:min(len(got), len(c.want))]
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			var all Errors
			if !errors.As(err, &all) {
				t.Errorf("error is a %T, not Errors", err)
			}
		})
	}
}

// TestBounds feeds what takes the bare library minutes, gigabytes or the
// process: each must be refused by the scan.
func TestBounds(t *testing.T) {
	for name, in := range map[string]string{
		"40 KB dotted key":      strings.Repeat("a.", 20000) + "b = 1",
		"long key":              strings.Repeat("a", MaxKey+1) + " = 1",
		"dotted header":         "[" + strings.Repeat("a.", 20000) + "b]",
		"quoted long key":       `"` + strings.Repeat("a", MaxKey+1) + `" = 1`,
		"nested arrays":         "list = " + strings.Repeat("[", 30000),
		"nested closed arrays":  "list = " + strings.Repeat("[", 30000) + strings.Repeat("]", 30000),
		"nested inline tables":  "map = " + strings.Repeat("{a=", 20000),
		"alternating":           "map = " + strings.Repeat("[{a=", 15000),
		"multi-line nesting":    "list = " + strings.Repeat("[\n", 30000),
		"many keys":             strings.Repeat("a", 1) + " = [" + strings.Repeat("1,", MaxKeys) + "]",
		"over the size":         "# " + strings.Repeat("x", MaxFile),
		"tables through tables": strings.Repeat("[a.b.c.d.e.f.g.h.i]\n", 100),
	} {
		t.Run(name, func(t *testing.T) {
			var s sample
			err := Decode("f", []byte(in), &s)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, word := range []string{"at most", "nested too deep", "nest"} {
				if strings.Contains(err.Error(), word) {
					return
				}
			}
			t.Errorf("refused for another reason: %.200s", err)
		})
	}
}

// TestLargestAccepted shows that what the bounds let through is cheap: as many
// tables as keys are allowed, as deep as allowed.
func TestLargestAccepted(t *testing.T) {
	type open struct {
		A map[string]map[string]map[string]map[string]map[string]map[string]map[string]int64 `toml:"a"`
	}
	var b strings.Builder
	for i := 0; b.Len() < MaxFile-64; i++ {
		fmt.Fprintf(&b, "a.b.c.d.e.f.g.k%d = 1\n", i)
	}
	var o open
	if err := Decode("f", []byte(b.String()), &o); err != nil {
		t.Fatalf("%.300s", err)
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[string]Size{
		"0": 0, "4096": 4096, "64K": 65536, "1.5G": 1610612736, "2T": 2 << 40, "max": Unlimited, "0.5K": 512,
	} {
		got, err := ParseSize(in)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
		back, err := ParseSize(got.String())
		if err != nil || back != got {
			t.Errorf("%s does not read back: %d, %v", got, back, err)
		}
	}
	for _, in := range []string{"", "M", "-1", "+1", "1e9", "1.5", "1 M", "1MB", "1Mi", "256m", "0x10", ".5G", "5.G", "1.2.3G", "99999999999T", "NaN", "٣M"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}

func TestPercentAndBudget(t *testing.T) {
	var p Percent
	for in, want := range map[string]string{"50%": "50%", "250%": "250%", "12.5%": "12.5%", "max": "max"} {
		if err := p.ParseTOML(in); err != nil || p.String() != want {
			t.Errorf("%s reads as %s, %v", in, p, err)
		}
	}
	for _, in := range []any{"50", "0%", "-1%", "1e3%", "%", int64(50), 0.5, "50 %"} {
		if err := p.ParseTOML(in); err == nil {
			t.Errorf("%v accepted as a percentage", in)
		}
	}
	var b Budget
	for _, in := range []any{"20", "/h", "0/h", "-1/h", "20/hour", "20/H", "1.5/h", int64(20), "99999999/h"} {
		if err := b.ParseTOML(in); err == nil {
			t.Errorf("%v accepted as a budget", in)
		}
	}
}

func TestKeys(t *testing.T) {
	want := []string{
		"budget", "cpu", "either", "either.min", "either.mode", "int", "item[].args[].index", "item[].path", "list", "map.NAME",
		"name", "on", "refused", "table.deep.word", "table.memory.max", "table.memory.swap.max", "table.restart_sec",
		"u32", "u64", "wait",
	}
	if got := Keys(sample{}); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"memory.max", "pids.max", "restart_sec", "quarantine"}
	for in, want := range map[string]string{
		"memmory.max": "memory.max", "MemoryMax": "memory.max", "RestartSec": "restart_sec",
		"quarantien": "quarantine", "zzz": "", "": "", "pid.max": "pids.max",
	} {
		if got := Nearest(in, words); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestPlain holds which files the scan alone makes the tree of: those that ship,
// as people wait for them, and none that says something twice or in other
// words, which the library judges.
func TestPlain(t *testing.T) {
	shipped, err := filepath.Glob("../*.toml")
	if err != nil || len(shipped) < 8 {
		t.Fatalf("the built-in profiles: %v, %v", shipped, err)
	}
	for _, path := range shipped {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, tree, errs := scan(&Positions{}, string(data)); tree == nil || len(errs) > 0 {
			t.Errorf("%s is not plain: %v", path, errs)
		}
	}
	for _, text := range []string{
		"a = 1.5", "a = 0x1_0", "a = 0b1", "a = 0x", "a = 0x-1", "a = -0x1", "a = +1", "a = 01", "a = -0", "a = 1_000", "a = 1979-05-27", "a = \"\\n\"", "a = \"\"\"b\"\"\"", "a = '''b'''",
		"[a]\n[a.b]\n[a]", "[a.b]\n[a]\n[a]", "a.b = 1\n[a]", "a.b = 1\n[a.c]", "a = 1\na.b = 2", "a = {}\na.b = 1", "a = [{}]\n[[a]]", "[a]\n[[a]]",
		"[[a]]\n[a]", "a = { b = 1, }", "a = {\nb = 1 }", "[[a] ]", "a = 1\r\n", "# \x01\n", "a = 1 2", "a = yes",
	} {
		if _, tree, _ := scan(&Positions{}, text); tree != nil {
			t.Errorf("%q is taken for plain: %v", text, tree)
		}
	}
}
