package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClaimKeepsOthersOutAndRemovesLeftovers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "stage")
	if err := os.MkdirAll(filepath.Join(dir, "state/deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := claim(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("after claim: %v, %v; want an empty directory", left, err)
	}
	if _, err := claim(context.Background(), dir); err == nil || !strings.Contains(err.Error(), "another make run") {
		t.Errorf("second claim: %v, want a refusal", err)
	}
	lock.Close()
	again, err := claim(context.Background(), dir)
	if err != nil {
		t.Fatalf("claim after its owner has gone: %v", err)
	}
	again.Close()
}

func TestLeftNamesWhatIsThere(t *testing.T) {
	if err := left("files", nil); err != nil {
		t.Errorf("left: %v, want nothing", err)
	}
	if err := left("files", []string{"/tmp/c"}); err == nil || err.Error() != "left behind: files: /tmp/c" {
		t.Errorf("left: %v, want /tmp/c", err)
	}
}

func TestGroupsLeftFindsADirectory(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup"); err != nil {
		t.Skip("no cgroup file system at /sys/fs/cgroup")
	}
	found, err := groupsLeft("no-such-group")
	if err != nil || len(found) != 0 {
		t.Errorf("groupsLeft: %v, %v; want none", found, err)
	}
}

func TestParseProcess(t *testing.T) {
	p := parseProcess(7, []byte("Name:\tpython3\nPPid:\t5\nUid:\t1940000002\t1\t1\t1\n"), []byte("python3\x00main.py\x00"))
	if p.parent != 5 || !p.isPlugin() || p.command != "python3 main.py" {
		t.Errorf("parseProcess: %+v", p)
	}
	if p := parseProcess(2, []byte("Name:\tkthreadd\nPPid:\t0\nUid:\t0\t0\t0\t0\n"), nil); p.isPlugin() || p.command != "[kthreadd]" {
		t.Errorf("parseProcess: %+v", p)
	}
}

func TestProcessesFindsThisTest(t *testing.T) {
	found, err := processes(func(p process) bool { return p.pid == os.Getpid() })
	if err != nil || len(found) != 1 {
		t.Errorf("processes: %v, %v; want this test alone", found, err)
	}
}

func TestJudge(t *testing.T) {
	mount := attacks[0]
	good := violation{
		Wall: "seccomp", What: "mount", Call: "mount", Args: []string{`"none"`, `"/tmp"`, `"tmpfs"`},
		Action: "quarantine", Rule: "mount is in no allow list", Also: "nothing allows it",
	}
	const text = "The seccomp wall refused mount(none, /tmp, tmpfs)"
	noRule, otherWall, noArgument, onlyDenied := good, good, good, good
	noRule.Rule = ""
	otherWall.Wall = "files"
	noArgument.Args = nil
	onlyDenied.Action = "deny"
	for _, c := range []struct {
		name string
		v    violation
		text string
		want string
	}{
		{"whole", good, text, ""},
		{"no rule", noRule, text, "which rule"},
		{"another wall", otherWall, text, `the wall "files"`},
		{"no argument", noArgument, text, "does not name"},
		{"not quarantined", onlyDenied, text, "no violation led"},
		{"a text without the call", good, "seccomp", "does not say"},
	} {
		_, err := mount.judge([]violation{c.v}, c.text)
		if got := errorText(err); !strings.Contains(got, c.want) || (c.want == "") != (err == nil) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestDecodeAllReadsBothShapes(t *testing.T) {
	for _, text := range []string{`[{"name":"a"},{"name":"b"}]`, "{\"name\":\"a\"}\n{\"name\":\"b\"}\n"} {
		list, err := decodeAll[plugin](text)
		if err != nil || len(list) != 2 || list[1].Name != "b" {
			t.Errorf("decodeAll(%q): %v, %v", text, list, err)
		}
	}
}
