package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRecipeIsOfTheSourceAndNotOfItsPlace(t *testing.T) {
	source := func(text string) string {
		file := filepath.Join(t.TempDir(), "main.c")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	out, one := recipe([]string{"-static", "-o", "/a", source("int x;")})
	if out != "/a" {
		t.Errorf("the output is %q", out)
	}
	if _, same := recipe([]string{"-static", "-o", "/b", source("int x;")}); same != one {
		t.Error("the same source at another place is another recipe")
	}
	for _, other := range [][]string{{"-static", "-o", "/a", source("int y;")}, {"-o", "/a", source("int x;")}, {"-static", "-O1", "-o", "/a", source("int x;")}} {
		if _, key := recipe(other); key == one {
			t.Errorf("%q is the same recipe", other)
		}
	}
}
