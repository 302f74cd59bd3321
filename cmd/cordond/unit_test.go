package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const unitFile = "systemd/cordond.service"

// unit is a unit's settings, by key; what is said twice is there twice.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			keys[key] = append(keys[key], value)
		}
	}
	return keys
}

// TestUnitKeepsPlugins: what the service manager is told lets plugins outlive
// their daemon, and leaves their views as they are.
func TestUnitKeepsPlugins(t *testing.T) {
	keys := unit(t)
	for key, want := range map[string]string{
		"Type": "notify", "KillMode": "process", "OOMPolicy": "continue", "Delegate": "yes",
		"TasksMax": "infinity", "Restart": "always", "StartLimitIntervalSec": "0",
	} {
		if got := keys[key]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	for key := range keys {
		for _, not := range []string{"Private", "Protect", "RuntimeDirectory", "NoNewPrivileges", "CapabilityBoundingSet", "Root", "ReadOnly", "Inaccessible", "SystemCall", "Restrict", "MemoryDeny", "DynamicUser"} {
			if strings.HasPrefix(key, not) {
				t.Errorf("%s would be every plugin's, too, or takes away what the daemon needs", key)
			}
		}
	}
	stop, err := time.ParseDuration(keys["TimeoutStopSec"][0] + "s")
	if err != nil || stop <= stopTime {
		t.Errorf("TimeoutStopSec is %v, and the daemon takes up to %v", stop, stopTime)
	}
	watchdog, err := time.ParseDuration(keys["WatchdogSec"][0] + "s")
	if err != nil || watchdog < 10*time.Second {
		t.Errorf("WatchdogSec is %v", watchdog)
	}
}

// TestUnitIsWellFormed asks systemd itself, where it is.
func TestUnitIsWellFormed(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed here")
	}
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(text []byte) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "cordond.service")
		text = bytes.ReplaceAll(text, []byte("ExecStart=/usr/sbin/cordond"), []byte("ExecStart="+os.Args[0]))
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(analyze, "verify", "--man=no", "--generators=no", file)
		cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=warning")
		out, _ := cmd.CombinedOutput()
		var ours []string
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "cordond.service") {
				ours = append(ours, line)
			}
		}
		return strings.Join(ours, "")
	}
	if complaint := verify(text); complaint != "" {
		t.Error(complaint)
	}
	if complaint := verify(bytes.ReplaceAll(text, []byte("KillMode=process"), []byte("KillMode=nobody"))); complaint == "" {
		t.Error("systemd-analyze finds nothing wrong with KillMode=nobody")
	}
}

// manager is what a service manager hears.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func (m *manager) hears(want string, others ...string) {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		m.t.Fatal(err)
	}
	buf := make([]byte, 256)
	for {
		n, err := m.conn.Read(buf)
		if err != nil {
			m.t.Fatalf("waiting for %s: %v", want, err)
		}
		switch word := string(buf[:n]); {
		case word == want:
			return
		case !slices.Contains(others, word):
			m.t.Fatalf("it says %q, want %q", word, want)
		}
	}
}

// TestServiceManagerIsTold: ready, signs of life, ready again as the program
// that it was upgraded to, in the same process, and that it is stopping.
func TestServiceManagerIsTold(t *testing.T) {
	l := newLab(t)
	name := filepath.Join(l.dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	program := filepath.Join(l.dir, "cordond")
	build := exec.Command("go", "build", "-tags", "netgo osusergo", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(program, "--config", l.config)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+name, "WATCHDOG_USEC=200000")
	errs := &bytes.Buffer{}
	cmd.Stderr = errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = cmd.Process.Kill(), cmd.Wait()
		if t.Failed() {
			t.Log(errs.String())
		}
	})
	m := &manager{t, conn}
	m.hears("READY=1")
	for range 3 {
		m.hears("WATCHDOG=1")
	}
	if out, err := exec.Command(program, "--config", l.config, "--upgrade").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m.hears("READY=1", "WATCHDOG=1")
	m.hears("WATCHDOG=1")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.hears("STOPPING=1", "WATCHDOG=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}
