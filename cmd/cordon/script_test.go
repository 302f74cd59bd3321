package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cordon": main})
}

// TestScripts are the command line as its users meet it, where neither root nor
// a daemon is needed.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Cmds: scriptCommands, RequireExplicitExec: true})
}

// scriptCommands are what the scripts have beyond testscript's own.
var scriptCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"status": cmdStatus,
	"until":  cmdUntil,
}

// cmdUntil runs a command again and again until its output matches: until
// quarantined cordon ps.
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP COMMAND [ARG...]")
	}
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	for range 500 { // each is a program's start: seconds in all
		ts.Check(ts.Exec(args[1], args[2:]...))
		if want.MatchString(ts.ReadFile("stdout")) {
			return
		}
	}
	ts.Fatalf("it never said %s", args[0])
}

// cmdStatus runs a command that must exit with a status: status 2 cordon stop.
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status NUMBER COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("cannot run it: %v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// TestLinksNothingOfTheDaemon: the command line is pure Go and has no database.
func TestLinksNothingOfTheDaemon(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 50 {
		t.Fatalf("go list gave %d packages only", len(deps))
	}
	for _, dep := range deps {
		for _, never := range []string{
			"github.com/seccomp/libseccomp-golang", "go.etcd.io/bbolt", "runtime/cgo",
			"github.com/santhosh-tekuri/jsonschema",
			"github.com/cordonhq/cordon/seccomp/compile", "github.com/cordonhq/cordon/supervisor/store",
		} {
			if dep == never || strings.HasPrefix(dep, never+"/") || dep == "github.com/cordonhq/cordon/supervisor" {
				t.Errorf("cordon links %s", dep)
			}
		}
	}
}

// TestRunLinksNoCommandTree: what cordon run needs does not lead to cobra, so
// that it can become a program of its own.
func TestRunLinksNoCommandTree(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./run").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	if strings.Contains(string(out), "spf13") || !strings.Contains(string(out), "cordon/seccomp") {
		t.Errorf("the dependencies of run:\n%s", out)
	}
}

// TestEveryVerbHasHelp: each verb says what it does, at length, with an
// example.
func TestEveryVerbHasHelp(t *testing.T) {
	for _, cmd := range newRoot(&app{}).Commands() {
		if cmd.Short == "" || cmd.Long == "" || cmd.GroupID == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: the help is not whole", cmd.Name())
		}
		if cmd.Example == "" && cmd.Name() != "version" {
			t.Errorf("%s: there is no example", cmd.Name())
		}
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			if len(line) > 90 {
				t.Errorf("%s: a line of help is %d wide: %s", cmd.Name(), len(line), line)
			}
		}
	}
}

// buildBinaries builds cordon and cordond as they are shipped, side by side.
func buildBinaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, cgo := range map[string]string{"cordon": "0", "cordond": "1"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "../"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cannot build %s: %v\n%s", name, err, out)
		}
	}
	return dir
}

// TestRunBehindWalls are the scripts of cordon run with real walls.
func TestRunBehindWalls(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: to raise the walls")
	}
	bin := buildBinaries(t)
	root := "cordon-test-run-" + strconv.Itoa(os.Getpid())
	t.Cleanup(func() { nothingLeft(t, root) })
	testscript.Run(t, testscript.Params{
		Dir: "testdata/run", Cmds: scriptCommands, RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("CORDON_CGROUP_ROOT", root)
			return nil
		},
	})
}

// TestAgainstTheDaemon are the scripts of the verbs that talk to cordond, each
// with a daemon of its own.
func TestAgainstTheDaemon(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: to run cordond")
	}
	bin := buildBinaries(t)
	root := "cordon-test-cli-" + strconv.Itoa(os.Getpid())
	t.Cleanup(func() { nothingLeft(t, root) })
	testscript.Run(t, testscript.Params{
		Dir: "testdata/daemon", Cmds: scriptCommands, RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("CORDON_SOCKET", filepath.Join(env.WorkDir, "run", "cordon.sock"))
			return startDaemon(env, filepath.Join(bin, "cordond"), root)
		},
	})
}

// startDaemon starts a daemon that keeps everything below the script's
// directory, waits until it is ready, and stops it at the script's end.
func startDaemon(env *testscript.Env, program, cgroupRoot string) error {
	config := filepath.Join(env.WorkDir, "cordond.toml")
	text := fmt.Sprintf("[daemon]\nstate_dir = %q\nruntime_dir = %q\nprofiles_dir = %q\ncgroup_root = %q\n",
		env.WorkDir+"/state", env.WorkDir+"/run", env.WorkDir+"/profiles", cgroupRoot)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	cmd := exec.Command(program, "--config", config)
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	env.Defer(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"msg":"ready"`) {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return nil
		}
	}
	return errors.New("cordond ended before it was ready")
}

// nothingLeft fails if a run left a cgroup behind, and removes what is empty.
func nothingLeft(t *testing.T, root string) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/" + root + "/*", "/sys/fs/cgroup/*/" + root + "/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			if info, err := os.Stat(name); err == nil && info.IsDir() {
				t.Errorf("left behind: %s", name)
			}
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/" + root, "/sys/fs/cgroup/*/" + root} {
		if found, err := filepath.Glob(pattern); err == nil {
			for _, name := range found {
				_ = os.Remove(name) // the daemon's own root stays between runs
			}
		}
	}
}
