package strict

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/BurntSushi/toml"
)

// FuzzDecode holds that no input makes the reader panic, and that scan and
// library see the same file: whatever both accept has a place for every key
// and element of the tree, and the tree has whatever the scan saw.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "name = 'x'\n", "[table]\nmemory.max = \"1G\"\n[[item]]\npath='/a'\nargs=[{index=1}]\n",
		"a.b.c = [1, [2, {d = 3}], ]\n", "\"a.b\" = 1\na.b = 2\n", "x = \"\"\"\na\"\"\"\"\"\n", "x = '''a''b'''\r\ny = 1979-05-27 07:32:00\n",
		"[[a]]\n[[a.b]]\n[[a]]\n[a.c]\nd = 1\n", "map = { a = 1, # c\n b = 2 }\n", "[a]\nb = {c = {}}\n[a.d]\n", "'' = 1\n", "x = \"\\\"]\" # ]\n",
		"[a]\n[a.b]\n[a]\n", "k = [\n#]\n1\n]\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s sample
		pos, err := DecodePositions("f", data, &s)
		if err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
		if len(pos.at) == 0 {
			return
		}
		tree := map[string]any{}
		if _, lib := toml.Decode(string(data), &tree); lib != nil {
			if _, own, _ := scan(&Positions{}, string(data)); own != nil {
				t.Errorf("the scan made %#v of what the library refuses: %v", own, lib)
			}
			return
		}
		if _, own, errs := scan(&Positions{}, string(data)); own != nil && len(errs) == 0 && !reflect.DeepEqual(own, tree) {
			t.Errorf("the scan made %#v, the library %#v", own, tree)
		}
		seen := map[string]bool{}
		compare(t, pos, seen, tree, "")
		for _, key := range pos.Keys() {
			if !seen[key] {
				t.Errorf("the scan saw %s, the library did not", key)
			}
		}
	})
}

func compare(t *testing.T, pos *Positions, seen map[string]bool, v any, path string) {
	if path != "" {
		seen[path] = true
		if !pos.Has(path) {
			t.Errorf("the library saw %s, the scan did not", path)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for k, below := range v {
			compare(t, pos, seen, below, join(path, k))
		}
	case []map[string]any:
		for i, below := range v {
			compare(t, pos, seen, below, fmt.Sprintf("%s[%d]", path, i))
		}
	case []any:
		for i, below := range v {
			compare(t, pos, seen, below, fmt.Sprintf("%s[%d]", path, i))
		}
	}
}
