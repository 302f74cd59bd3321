package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestImageHoldsWhatWasStaged has debugfs(8) read the disk, and compares.
func TestImageHoldsWhatWasStaged(t *testing.T) {
	for _, tool := range []string{"mke2fs", "debugfs"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("skipped: needs %s", tool)
		}
	}
	from := t.TempDir()
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
	s, err := newStage(filepath.Join(t.TempDir(), "stage"))
	if err != nil {
		t.Fatal(err)
	}
	s.tree("top/deep", from, func(rel string) bool { return rel == "a/b/none" })
	s.file("top/deep/a/one", 0o600, []byte("a second file of the same name"))
	s.file("new", 0o640, []byte("written"))
	disk := filepath.Join(t.TempDir(), "disk")
	if err := s.image(t.Context(), disk); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"top/deep/a/one": "1", "top/deep/a/b/five": "12345", "new": "written"} {
		if out, err := exec.Command("debugfs", "-R", "cat /"+name, disk).Output(); err != nil || string(out) != want {
			t.Errorf("%s holds %q, %v; want %q", name, out, err, want)
		}
	}
	out, err := exec.Command("debugfs", "-R", "ls -l /top/deep/a/b", disk).CombinedOutput()
	if err != nil || strings.Contains(string(out), "none") || !strings.Contains(string(out), "100750") {
		t.Errorf("the directory is\n%s", out)
	}
	if text, err := os.ReadFile(from + "/a/one"); err != nil || string(text) != "1" {
		t.Errorf("the host's own file holds %q, %v", text, err)
	}
}

// TestStageLeavesTheHostsFilesTheirLinks holds that the host's files have no name
// in the stage: an installation of the same tree meanwhile would refuse them.
func TestStageLeavesTheHostsFilesTheirLinks(t *testing.T) {
	from := t.TempDir()
	if err := os.WriteFile(from+"/one", []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := newStage(filepath.Join(t.TempDir(), "stage"))
	if err != nil {
		t.Fatal(err)
	}
	s.tree("top", from, nil)
	var st unix.Stat_t
	if err := errors.Join(s.err, unix.Stat(from+"/one", &st)); err != nil {
		t.Fatal(err)
	}
	if st.Nlink != 1 {
		t.Errorf("the host's file has %d names once it is staged", st.Nlink)
	}
}

func TestStageKeepsItsFirstError(t *testing.T) {
	s, err := newStage(filepath.Join(t.TempDir(), "stage"))
	if err != nil {
		t.Fatal(err)
	}
	s.copy("x", "/no/such/file")
	s.file("y", 0o600, nil)
	if err := s.image(t.Context(), filepath.Join(t.TempDir(), "disk")); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("a root without one of its files gave %v", err)
	}
}
