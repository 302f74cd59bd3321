package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/control"
)

// TestMain lets the test binary be the daemon.
func TestMain(m *testing.M) {
	if os.Getenv("CORDOND_TEST_EXECUTE") != "" {
		os.Exit(execute(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cordond.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestDefaultsHoldWithoutAFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.toml")
	c, found, err := loadConfig(missing, false)
	if err != nil || found || c.Daemon.Socket != control.DefaultSocket || c.check() != nil {
		t.Errorf("%+v, %v, %v", c.Daemon, found, err)
	}
	if _, _, err := loadConfig(missing, true); err == nil {
		t.Error("a file that was asked for by name is missing, and nobody said so")
	}
}

func TestConfigIsRead(t *testing.T) {
	c, found, err := loadConfig(write(t, `
[daemon]
state_dir = "/srv/cordon"
runtime_dir = "/run/other"
uid_base = 2000000000
[ceiling]
memory.max = "1G"
`), true)
	if err != nil || !found {
		t.Fatal(err)
	}
	d := c.Daemon
	for _, own := range []string{"/srv/cordon", "/run/other", "/run/other/cordon.sock", "/etc/cordon", "/boot"} {
		if c.Ceiling.Refuses(own, nil) == "" || c.Ceiling.Refuses(filepath.Dir(own), nil) == "" {
			t.Errorf("a plugin may be granted %s, by which the daemon could be fooled", own)
		}
	}
	if d.StateDir != "/srv/cordon" || d.Socket != "/run/other/cordon.sock" || d.UIDBase != 2000000000 || d.UIDCount != 65536 {
		t.Errorf("daemon: %+v", d)
	}
	if c.Ceiling.MemoryMax != 1<<30 || c.Ceiling.PidsMax != 4096 || len(c.Ceiling.DenyPaths) == 0 {
		t.Errorf("ceiling: %+v", c.Ceiling)
	}
}

func TestRolesAreRead(t *testing.T) {
	c, _, err := loadConfig(write(t, `
[[role]]
role = "call"
users = ["daemon", "4711"]
groups = ["bin"]
plugins = ["acme.*"]
[[role]]
role = "observe"
groups = ["4712"]
`), true)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := c.roles()
	want := []control.Rule{
		{Role: "call", UIDs: []uint32{1, 4711}, GIDs: []uint32{2}, Plugins: []string{"acme.*"}}, {Role: "observe", GIDs: []uint32{4712}},
	}
	if err != nil || !reflect.DeepEqual(rules, want) {
		t.Errorf("%+v, %v", rules, err)
	}
	for text, says := range map[string]string{
		"role = \"owner\"\nusers = [\"1\"]":                          "role",
		"role = \"call\"":                                            "users or groups",
		"role = \"call\"\nusers = [\"no such user\"]":                "no such user",
		"role = \"call\"\nusers = [\"root\"]":                        "root",
		"role = \"call\"\nusers = [\"4294967295\"]":                  "4294967295",
		"role = \"call\"\nusers = [\"1\"]\nplugins = [\"*.thumbs\"]": "plugins",
	} {
		if _, _, err := loadConfig(write(t, "[[role]]\n"+text+"\n"), true); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestWrongConfigIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"[daemon]\nstate_dri = \"/x\"":                 "cordond.toml:2:1",
		"[demon]\n":                                    "cordond.toml:1",
		"[daemon]\nlog_format = \"xml\"":               "cordond.toml:2",
		"[daemon]\nuid_base = \"many\"":                "cordond.toml:2",
		"[daemon]\nuid_base = 5":                       "none below 1000",
		"[daemon]\nuid_count = 4294967295":             "at least 8 uids",
		"[daemon]\nstate_dir = \"var\"":                "daemon.state_dir",
		"[daemon]\nstate_dir = \"/var/../etc\"":        "daemon.state_dir",
		"[daemon]\ncgroup_root = \"../x\"":             "daemon.cgroup_root",
		"[daemon]\ncgroup_root = \"/x\"":               "daemon.cgroup_root",
		"[daemon]\ncgroup_root = \"a//b\"":             "daemon.cgroup_root",
		"[daemon]\ncgroup_root = \"a/../b\"":           "daemon.cgroup_root",
		"[daemon]\ncgroup_root = \".\"":                "daemon.cgroup_root",
		"[daemon]\nsocket = \"/" + long(200) + "\"":    "daemon.socket",
		"[ceiling]\nfiles = [{path = \"x\"}]":          "ceiling.files",
		"[[flag]]\nname = \"a\"":                       "flag[0]: a gates nothing",
		"[[flag]]\nname = \"a\"\non = \"yes\"":         "cordond.toml:3",
		"[ceiling]\nmemory.max = \"lots\"":             "cordond.toml:2",
		"a = " + strings.Repeat("[", 5000) + "1":       "cordond.toml",
		"\"" + strings.Repeat("k", 9000) + "\" = true": "cordond.toml",
	} {
		_, _, err := loadConfig(write(t, text), true)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}

func TestADelegatedSubtreeIsARoot(t *testing.T) {
	const root = "system.slice/cordond.service/plugins"
	c, _, err := loadConfig(write(t, "[daemon]\ncgroup_root = \""+root+"\"\n"), true)
	if err != nil || c.Daemon.CgroupRoot != root {
		t.Errorf("%q, %v", c.Daemon.CgroupRoot, err)
	}
}

func long(n int) string { return strings.Repeat("s", n) }

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--version"}, 0, version()},
		{[]string{"--conifg"}, 2, "unknown flag"},
		{[]string{"serve"}, 2, "serve"},
		{[]string{"--config", "/nonexistent/cordond.toml"}, 1, "no such file"},
	} {
		var out, errs bytes.Buffer
		code := execute(c.args, strings.NewReader(""), &out, &errs)
		if code != c.code || !strings.Contains(out.String()+errs.String(), c.want) {
			t.Errorf("%v: status %d, %s%s", c.args, code, out.String(), errs.String())
		}
	}
}

func TestCompileFilter(t *testing.T) {
	good, err := json.Marshal(seccomp.Filter{Rules: []seccomp.Rule{{Names: []string{"read", "write"}, Action: seccomp.ActAllow}}})
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := execute([]string{"compile-filter"}, bytes.NewReader(good), &out, &errs); code != 0 {
		t.Fatalf("status %d: %s", code, errs.String())
	}
	if n := out.Len(); n == 0 || n%8 != 0 {
		t.Errorf("the program has %d bytes, which is no number of instructions", n)
	}
	for name, bad := range map[string]string{
		"no JSON": "{", "an unknown call": `{"rules":[{"names":["raed"],"action":"SCMP_ACT_ALLOW"}]}`,
		"an unknown action": `{"rules":[{"names":["read"],"action":"allow"}]}`, "too large": strings.Repeat(" ", maxFilter+1),
	} {
		out.Reset()
		if code := execute([]string{"compile-filter"}, strings.NewReader(bad), &out, &errs); code != 1 || out.Len() != 0 {
			t.Errorf("%s: status %d and %d bytes", name, code, out.Len())
		}
	}
}

// The groups themselves are limited in package cgroups' tests, and by cordon run
// in the integration's.
func TestSetLimitRefuses(t *testing.T) {
	for name, bad := range map[string]string{
		"no JSON": "{", "nothing": "{}", "a group outside": `{"base":"/sys/fs/cgroup","group":"../../../../etc","cpus":"0"}`,
		"no list": `{"base":"/sys/fs/cgroup","group":"/cordon/a","cpus":"x"}`, "too large": strings.Repeat(" ", maxForm+1),
	} {
		var out, errs bytes.Buffer
		if code := execute([]string{"set-limit"}, strings.NewReader(bad), &out, &errs); code != 1 || out.Len() != 0 || errs.Len() == 0 {
			t.Errorf("%s: status %d, %d bytes, %q", name, code, out.Len(), errs.String())
		}
	}
}

// lab is a place for a daemon of the test's own.
type lab struct {
	t      *testing.T
	dir    string
	config string
	socket string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it runs the daemon")
	}
	l := &lab{t: t, dir: t.TempDir()}
	l.socket = filepath.Join(l.dir, "run", "cordon.sock")
	l.config = filepath.Join(l.dir, "cordond.toml")
	text := "[daemon]\nstate_dir = \"" + l.dir + "/state\"\nruntime_dir = \"" + l.dir + "/run\"\nprofiles_dir = \"" + l.dir +
		"/profiles\"\ncgroup_root = \"cordon-test-cordond\"\nuid_base = 1960000000\nuid_count = 64\n"
	if err := os.WriteFile(l.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return l
}

// start starts cordond and waits until it says that it is ready.
func (l *lab) start() (*exec.Cmd, *bytes.Buffer) {
	l.t.Helper()
	name := filepath.Join(l.t.TempDir(), "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = notify.Close() }()
	cmd := exec.Command(os.Args[0], "--config", l.config)
	cmd.Env = append(os.Environ(), "CORDOND_TEST_EXECUTE=1", "NOTIFY_SOCKET="+name)
	errs := &bytes.Buffer{}
	alive, dead, err := os.Pipe() // ends with the daemon
	if err != nil {
		l.t.Fatal(err)
	}
	cmd.Stderr, cmd.ExtraFiles = errs, []*os.File{dead}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	_ = dead.Close()
	l.t.Cleanup(func() { _, _, _ = cmd.Process.Kill(), cmd.Wait(), alive.Close() })
	go func() { // a daemon that ends early says nothing to notify
		_, _ = alive.Read(make([]byte, 1))
		_ = notify.Close()
	}()
	buf := make([]byte, 64)
	n, err := notify.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		_ = cmd.Wait()
		l.t.Fatalf("the daemon did not get ready: %s", errs.String())
	}
	return cmd, errs
}

func TestDaemon(t *testing.T) {
	l := newLab(t)
	cmd, errs := l.start()
	c, err := control.Dial(t.Context(), l.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	list, err := c.List(t.Context())
	if err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	second := exec.Command(os.Args[0], "--config", l.config)
	second.Env = append(os.Environ(), "CORDOND_TEST_EXECUTE=1")
	if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "another cordond") {
		t.Errorf("a second daemon: %v, %s", err, out)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the daemon ended with %v: %s", err, errs.String())
	}
	for _, name := range []string{l.socket, l.socket + ".lock"} {
		if _, err := os.Lstat(name); err == nil {
			t.Errorf("%s is left", name)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/cordon-test-cordond")
	if len(groups) != 0 {
		t.Errorf("left: %v", groups)
	}
}

func TestDaemonAfterAKill(t *testing.T) {
	l := newLab(t)
	cmd, _ := l.start()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	cmd, errs := l.start()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, errs.String())
	}
}
