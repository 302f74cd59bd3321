package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// rootOnly is a directory in which nobody but root can make links, so that they
// are followed.
func rootOnly(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib", "cordon-it-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// cordonRun runs cordon run with a group of its own.
func cordonRun(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	cmd := exec.Command(bin+"/cordon", append([]string{"run"}, args...)...)
	cmd.Env = append(os.Environ(), "CORDON_CGROUP_ROOT=cordon-it-profiles")
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	err = cmd.Run()
	return both.String(), err
}

// TestCeilingJudgesWhereLinksLead: a grant whose words the ceiling allows does
// not lead to what it denies, by a link of root's in the middle or at the end.
func TestCeilingJudgesWhereLinksLead(t *testing.T) {
	dir := rootOnly(t)
	for name, target := range map[string]string{"kernel": "/sys/kernel", "shadow": "/etc/shadow", "etc": "/etc", "harmless": "/etc/hostname"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for from, want := range map[string]string{ // "" is granted
		"kernel": "it leads to /sys/kernel, which the host's ceiling refuses: ceiling.deny_paths has /sys", "shadow": "it leads to /etc/shadow, which",
		"etc": "it leads to /etc, which the host's ceiling refuses: it holds /etc/", "etc/shadow": "it leads to /etc/shadow, which", "harmless": "",
	} {
		grant := fmt.Sprintf("files=[{ path = \"/granted\", from = %q, access = \"r\" }]", filepath.Join(dir, from))
		out, err := cordonRun(t, "--profile", "shell", "--set", grant, "--", "/bin/sh", "-c", "test -e /granted")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(out, want)) {
			t.Errorf("%s: %v, want %q in\n%s", from, err, want, out)
		}
		file := filepath.Join(dir, "p.toml")
		if err := os.WriteFile(file, []byte("extends = [\"builtin:shell\"]\n"+strings.Replace(grant, "files=", "files = ", 1)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		checked, err := exec.Command(bin+"/cordon", "profile", "check", file).CombinedOutput()
		if err != nil || want != "" && !strings.Contains(string(checked), want[:20]) {
			t.Errorf("%s: profile check says %v\n%s", from, err, checked)
		}
	}
	// An optional grant is left out, as if the host did not have it.
	out, err := cordonRun(t, "--profile", "shell", "--set", fmt.Sprintf("files=[{ path = \"/granted\", from = %q, access = \"r\", optional = true }]", filepath.Join(dir, "kernel")),
		"--", "/bin/sh", "-c", "test ! -e /granted/mm")
	if err != nil {
		t.Errorf("an optional grant: %v\n%s", err, out)
	}
}

// TestGrantedLinksAreLinks: a program that is granted by a link, and whose tree
// is granted too, finds its files beside where it really is.
func TestGrantedLinksAreLinks(t *testing.T) {
	dir := rootOnly(t)
	for name, text := range map[string]string{"tree/bin/prog": "#!/bin/sh\ncat \"$(dirname \"$(readlink -f \"$0\")\")/../beside\"\n", "tree/beside": "found\n"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dir+"/tree/bin/prog", dir+"/middle"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("middle", dir+"/prog"); err != nil {
		t.Fatal(err)
	}
	grant := fmt.Sprintf("files=[{ path = [%q, %q], access = \"rx\" }]", dir+"/prog", dir+"/tree")
	out, err := cordonRun(t, "--profile", "shell", "--explain", "--set", grant, "--", dir+"/prog")
	if err != nil || out != "found\n" {
		t.Errorf("%v: %s", err, out)
	}
}
