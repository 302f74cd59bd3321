package sdk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCopyIsTheSDK: gosdk is what go is, without its tests.
func TestCopyIsTheSDK(t *testing.T) {
	files, err := Files("go")
	if err != nil {
		t.Fatal(err)
	}
	originals, err := filepath.Glob("go/*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, path := range originals {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		found++
		original, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(files[filepath.Base(path)]) != string(original) {
			t.Errorf("%s differs from its copy: cp sdk/%s sdk/gosdk/%s.txt", path, path, filepath.Base(path))
		}
	}
	if found == 0 || found != len(files) {
		t.Errorf("%d files and %d copies", found, len(files))
	}
}

func TestEveryLanguageHasFiles(t *testing.T) {
	for _, language := range Languages() {
		if files, err := Files(language); err != nil || len(files) == 0 {
			t.Errorf("%s: %d files, %v", language, len(files), err)
		}
	}
	if _, err := Files("cobol"); err == nil {
		t.Error("no error for a language without an SDK")
	}
}
