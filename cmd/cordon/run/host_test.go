package run

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadHost(t *testing.T) {
	t.Setenv(cgroupRootEnv, "")
	file := filepath.Join(t.TempDir(), "cordond.toml")
	h, err := loadHost(file)
	if err != nil || h.profilesDir != "/etc/cordon/profiles" || h.launch.CgroupRoot != "cordon" || h.launch.Compile == nil {
		t.Fatalf("without a file: %+v, %v", h, err)
	}
	text := `[daemon]
profiles_dir = "/srv/profiles"
cgroup_root = "other"
uid_base = 2000000000
of_a_later_version = true
[ceiling]
memory.max = "64M"
`
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	h, err = loadHost(file)
	if err != nil || h.profilesDir != "/srv/profiles" || h.launch.CgroupRoot != "other" || h.launch.UIDBase != 2000000000 || h.ceiling.MemoryMax != 64<<20 {
		t.Fatalf("with a file: %+v, %v", h, err)
	}
	if len(h.ceiling.DenyPaths) == 0 {
		t.Error("what the file leaves out lost its default")
	}
	t.Setenv(cgroupRootEnv, "moved")
	if h, err := loadHost(file); err != nil || h.launch.CgroupRoot != "moved" {
		t.Errorf("moved: %+v, %v", h, err)
	}
}

// TestLoadHostFailsClosed: a ceiling that cannot be read is no ceiling to run
// under.
func TestLoadHostFailsClosed(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"[ceiling]\nmemory.maxx = 1":       "memory.max",
		"[ceiling]\ndeny_paths = [\"x\"]":  "deny_paths",
		"[daemon]\nuid_base = -1":          "daemon.uid_base",
		"[ceiling":                         "cordond.toml:1",
		"[ceilling]\nmemory.max = \"64M\"": "ceilling",
	} {
		file := filepath.Join(dir, "cordond.toml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := loadHost(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if _, err := loadHost(dir); err == nil {
		t.Error("a directory was taken for a file")
	}
}

// TestCeilingHoldsForRuns: what the host never grants is not to be had by --ro.
func TestCeilingHoldsForRuns(t *testing.T) {
	h, err := loadHost(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	o := &Options{Profile: "strict", Argv: []string{"x"}, ReadOnly: []string{"/etc/shadow:/in"}}
	if _, err := resolve(o, h); err == nil || !strings.Contains(err.Error(), "ceiling") {
		t.Errorf("/etc/shadow: %v", err)
	}
}
