// Package integration tests the built programs from outside, as root, on the
// machine that runs the tests: what an operator sees, and what is left behind.
package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The host uids of these tests are their own, and another run's are others, so
// that what is left can be told from what is somebody else's.
const uidCount = 4096

var uidBase = 1900300000 + os.Getpid()%4096*uidCount

// bin holds the programs under test, built by TestMain.
var bin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("cannot test the walls without root")
		return 1
	}
	dir, err := os.MkdirTemp("", "cordon-integration-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	// A guest of integration/vm has no Go; it has the programs.
	if bin = os.Getenv("CORDON_BIN"); bin == "" {
		if err := build(dir); err != nil {
			fmt.Println(err)
			return 1
		}
		bin = dir
	}
	code := m.Run()
	if left := leftovers("cordon-it"); len(left) > 0 {
		fmt.Printf("left behind after all tests:\n  %s\n", strings.Join(left, "\n  "))
		return 1
	}
	return code
}

func build(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, cgo := range map[string]string{"cordon": "0", "cordond": "1"} {
		cmd := exec.Command("go", "build", "-tags", "netgo osusergo", "-o", filepath.Join(dir, name), "../cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build %s: %w: %s", name, err, out)
		}
	}
	return nil
}

// leftovers lists what of ours the host still has: groups by the name of their
// root, processes by their uid or name, mounts by their source.
func leftovers(root string) []string {
	var left []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), root) {
			left = append(left, "cgroup "+path)
		}
		return nil
	})
	for _, p := range processes() {
		if p.uid >= uidBase && p.uid < uidBase+uidCount || strings.HasPrefix(p.exe, bin+"/") && bin != "" {
			left = append(left, fmt.Sprintf("process %d %s (uid %d)", p.pid, p.name, p.uid))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(mounts), "\n") {
		if bin != "" && strings.Contains(line, bin) {
			left = append(left, "mount "+line)
		}
	}
	return left
}

type process struct {
	pid, parent int
	uid         int
	name, exe   string
}

func processes() []process {
	var all []process
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		status, err := os.ReadFile("/proc/" + e.Name() + "/status")
		if err != nil || strings.Contains(string(status), "State:\tZ") {
			continue
		}
		p := process{pid: pid}
		p.exe, _ = os.Readlink("/proc/" + e.Name() + "/exe")
		for _, line := range strings.Split(string(status), "\n") {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			switch f[0] {
			case "Name:":
				p.name = f[1]
			case "PPid:":
				p.parent, _ = strconv.Atoi(f[1])
			case "Uid:":
				p.uid, _ = strconv.Atoi(f[1])
			}
		}
		all = append(all, p)
	}
	return all
}

// below gives the descendants of pid, itself first.
func below(pid int) []process {
	all := processes()
	found := map[int]bool{pid: true}
	for range all {
		for _, p := range all {
			if found[p.parent] {
				found[p.pid] = true
			}
		}
	}
	var tree []process
	for _, p := range all {
		if found[p.pid] {
			tree = append(tree, p)
		}
	}
	return tree
}

// daemon is a running cordond with directories of its own.
type daemon struct {
	t    *testing.T
	dir  string
	root string
	cmd  *exec.Cmd
	log  *bytes.Buffer
	wrap []string // a command that runs the daemon
	// program is the daemon's, the one under test unless it says otherwise.
	program string
}

func startDaemon(t *testing.T) *daemon {
	t.Helper()
	d := newDaemon(t)
	d.start()
	t.Cleanup(func() { d.stop() })
	return d
}

// newDaemon writes the configuration of a daemon and starts none.
func newDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{t: t, program: bin + "/cordond", dir: t.TempDir(), root: fmt.Sprintf("cordon-it-%d", time.Now().UnixNano())}
	config := fmt.Sprintf("[daemon]\nstate_dir = %q\nruntime_dir = %q\nprofiles_dir = %q\ncgroup_root = %q\nuid_base = %d\nuid_count = %d\n",
		d.dir+"/state", d.dir+"/run", d.dir+"/profiles", d.root, uidBase, uidCount)
	if err := errors.Join(os.WriteFile(d.dir+"/cordond.toml", []byte(config), 0o600), os.Mkdir(d.dir+"/profiles", 0o755)); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	d.log = &bytes.Buffer{}
	argv := append(slices.Clone(d.wrap), d.program, "--config", d.dir+"/cordond.toml")
	d.cmd = exec.Command(argv[0], argv[1:]...)
	d.cmd.Stderr = d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.eventually("the control socket answers", func() bool {
		return exec.Command(bin+"/cordon", "--socket", d.dir+"/run/cordon.sock", "ps").Run() == nil
	})
}

// eventually waits for what has no event to wait for.
func (d *daemon) eventually(what string, ok func() bool) {
	d.t.Helper()
	eventually(d.t, what, ok)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience()); time.Now().Before(end); {
		asked := time.Now()
		if ok() {
			return
		}
		// Asking must not take the processor from what is waited for.
		<-time.After(5*time.Millisecond + 3*min(time.Since(asked), time.Second))
	}
	t.Fatalf("cannot wait any longer: %s", what)
}

// stop ends the daemon as an operator does, and asserts what must be left.
func (d *daemon) stop() {
	d.t.Helper()
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	if err := d.cmd.Wait(); err != nil {
		d.t.Errorf("cordond ended with %v:\n%s", err, d.log)
	}
	d.cmd = nil
	if left := leftovers(d.root); len(left) > 0 {
		d.t.Errorf("left behind after a clean stop:\n  %s\n%s", strings.Join(left, "\n  "), d.log)
	}
}

// kill ends the daemon at once; what ran under it must end, too.
func (d *daemon) kill() {
	d.t.Helper()
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	d.cmd = nil
}

// slow is set where the machine itself is emulated: deadlines of plugins are
// longer there, every wait is, and a count that is a depth is at its least
// (docs/vm.md).
var slow = os.Getenv("CORDON_TEST_SLOW") != ""

// patience is the end of waiting for what must come; it is no timing.
func patience() time.Duration {
	if slow {
		return 5 * time.Minute
	}
	return time.Minute
}

// patient is the arguments with a profile in place of a built-in one that gives
// a plugin time to start on a slow machine, and is the same otherwise.
func (d *daemon) patient(args []string) []string {
	d.t.Helper()
	args = slices.Clone(args)
	for i, arg := range args {
		name, ok := strings.CutPrefix(arg, "builtin:")
		if !slow || !ok || args[0] != "install" || args[i-1] != "--profile" {
			continue
		}
		args[i] = d.dir + "/profiles/patient-" + name + ".toml"
		text := fmt.Sprintf("extends = [%q]\n[ipc]\nhello_timeout = \"2m\"\n[lifecycle]\ntimeout_start_sec = \"2m\"\n", arg)
		if err := os.WriteFile(args[i], []byte(text), 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
	return args
}

// cordon runs the command line against the daemon.
func (d *daemon) cordon(args ...string) (stdout string, err error) {
	d.t.Helper()
	args = d.patient(args)
	cmd := exec.Command(bin+"/cordon", append([]string{"--socket", d.dir + "/run/cordon.sock"}, args...)...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, complaint.String())
	}
	return out.String(), nil
}

func (d *daemon) must(args ...string) string {
	d.t.Helper()
	out, err := d.cordon(args...)
	if err != nil {
		d.t.Fatalf("cordon %s: %v\n%s", strings.Join(args, " "), err, d.log)
	}
	return out
}

// json runs a verb with --json into a value.
func (d *daemon) json(into any, args ...string) {
	d.t.Helper()
	out := d.must(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		d.t.Fatalf("cordon %s: %v in %s", strings.Join(args, " "), err, out)
	}
}

// bundle makes a plugin's directory.
func bundle(t *testing.T, name, protocol string, files map[string]string, argv ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	list, err := json.Marshal(argv)
	if err != nil {
		t.Fatal(err)
	}
	files["plugin.toml"] = fmt.Sprintf("schema = 1\n[plugin]\nname = %q\nversion = \"1.0.0\"\nexec = %s\nprotocol = %q\n", name, list, protocol)
	for file, data := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(data), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// staticPlugin is a static C program that waits for the end of its input.
func staticPlugin(t *testing.T) string {
	t.Helper()
	dir := bundle(t, "static", "jsonrpc", map[string]string{
		"main.c": "#include <unistd.h>\nint main(void) { char b[64]; while (read(0, b, sizeof b) > 0) {} return 0; }\n",
	}, "./main")
	if out, err := exec.Command("gcc", "-static", "-o", dir+"/main", dir+"/main.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}
