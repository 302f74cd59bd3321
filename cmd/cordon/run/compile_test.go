package run

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// helperScript writes a helper that runs script, and opens it.
func helperScript(t *testing.T, script string) (*os.File, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, helperName), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := openHelper([]string{filepath.Join(dir, "nothing"), dir})
	if err == nil {
		t.Cleanup(func() { f.Close() })
	}
	return f, err
}

// needRoot: a helper must be root's.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the helper must be owned by it")
	}
}

func TestAskHelper(t *testing.T) {
	needRoot(t)
	helper, err := helperScript(t, `test "$1" = compile-filter && cat`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := askHelper(t.Context(), helper, filterVerb, []byte("12345678"))
	if err != nil || string(got) != "12345678" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAskHelperErrors(t *testing.T) {
	needRoot(t)
	for script, want := range map[string]string{
		"exit 0":                               "gave 0 bytes",
		"echo 12":                              "gave 3 bytes",
		`printf 'no\033[2J' >&2; exit 3`:       `exit status 3: no\x1b[2J`,
		"exit 4":                               "exit status 4",
		"head -c 40000 /dev/zero":              "more than 32768 bytes",
		"env >&2; test -z \"$HOME\" && exit 5": "exit status 5",
	} {
		helper, err := helperScript(t, script)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := askHelper(t.Context(), helper, filterVerb, nil)
		if err == nil {
			err = checkProgram(answer, helper.Name())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", script, err, want)
		}
	}
}

func TestAskHelperIsBounded(t *testing.T) {
	needRoot(t)
	helper, err := helperScript(t, "exec cat")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := askHelper(ctx, helper, filterVerb, nil); err == nil || !strings.Contains(err.Error(), "took longer") {
		t.Errorf("got %v", err)
	}
}

func TestOpenHelperRefuses(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	name := filepath.Join(dir, helperName)
	if _, err := openHelper([]string{dir}); err == nil || !strings.Contains(err.Error(), "there is no cordond") {
		t.Errorf("without one: %v", err)
	}
	if err := os.WriteFile(name, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func() error{
		"group may write": func() error { return os.Chmod(name, 0o775) },
		"all may write":   func() error { return os.Chmod(name, 0o757) },
		"not root's":      func() error { return errors.Join(os.Chmod(name, 0o755), os.Chown(name, 1234, 0)) },
		"a directory":     func() error { return errors.Join(os.Remove(name), os.Mkdir(name, 0o755)) },
	} {
		_ = os.Chown(name, 0, 0)
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if _, err := openHelper([]string{dir}); err == nil || !strings.Contains(err.Error(), "root alone can write") {
			t.Errorf("%s: got %v", what, err)
		}
		_ = os.RemoveAll(name)
		_ = os.WriteFile(name, nil, 0o755)
	}
}

func TestMakeSafe(t *testing.T) {
	needRoot(t)
	// The test's own directory is below /tmp, which everyone can write to.
	if dir := filepath.Join(t.TempDir(), "a", "filters"); makeSafe(dir) != "" {
		t.Errorf("%s was taken for safe", dir)
	}
	root, err := os.MkdirTemp("/var/cache", "cordon-test-")
	if err != nil {
		t.Skipf("needs a directory that root alone can write: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	dir := filepath.Join(root, "a", "filters")
	if got := makeSafe(dir); got != dir {
		t.Fatalf("got %q, want %q", got, dir)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o777); err != nil {
		t.Fatal(err)
	}
	if got := makeSafe(dir); got != "" {
		t.Errorf("below a directory that everyone can write to: got %q", got)
	}
}
