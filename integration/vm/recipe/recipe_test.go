package recipe

import (
	"os"
	"path/filepath"
	"testing"
)

func TestKeyIsOfTheSourceAndNotOfItsPlace(t *testing.T) {
	source := func(text string) string {
		file := filepath.Join(t.TempDir(), "main.c")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	one := Of("/", []string{"-static", "-o", "/a", source("int x;")})
	if one.Out != "/a" {
		t.Errorf("the output is %q", one.Out)
	}
	if same := Of("/", []string{"-static", "-o", "/b", source("int x;")}); same.Key() != one.Key() {
		t.Error("the same source at another place is another recipe")
	}
	below := source("int x;")
	if same := Of(filepath.Dir(below), []string{"-static", "main.c", "-o", "b"}); same.Key() != one.Key() {
		t.Error("the same source by a relative path is another recipe")
	}
	for _, other := range [][]string{{"-static", "-o", "/a", source("int y;")}, {"-o", "/a", source("int x;")}, {"-static", "-O1", "-o", "/a", source("int x;")}} {
		if Of("/", other).Key() == one.Key() {
			t.Errorf("%q is the same recipe", other)
		}
	}
}
