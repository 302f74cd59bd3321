package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestArchiveUnpacks has cpio(1) read what is written, and compares.
func TestArchiveUnpacks(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("skipped: needs cpio")
	}
	from, into := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(from+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"a/one": "1", "a/b/five": "12345", "a/b/none": ""} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(text), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("b/five", from+"/a/link"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.cpio")
	a, err := newArchive(file)
	if err != nil {
		t.Fatal(err)
	}
	a.tree("top/deep", from, func(rel string) bool { return rel == "a/b/none" })
	a.file("top/deep/a/one", 0o600, []byte("a second file of the same name"))
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "-i", "--quiet", "-F", file)
	cmd.Dir = into
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]string{"a/one": "1", "a/b/five": "12345", "a/link": "12345"} {
		if got, err := os.ReadFile(filepath.Join(into, "top/deep", name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", name, got, err, want)
		}
	}
	if exists(into + "/top/deep/a/b/none") {
		t.Error("what was to be left out is there")
	}
	if info, err := os.Stat(into + "/top/deep/a/b/five"); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestArchiveKeepsItsFirstError(t *testing.T) {
	a, err := newArchive(filepath.Join(t.TempDir(), "x.cpio"))
	if err != nil {
		t.Fatal(err)
	}
	a.copy("x", "/no/such/file")
	a.file("y", 0o600, nil)
	if err := a.close(); err == nil {
		t.Error("an archive without one of its files was closed without an error")
	}
}
