package cgroups

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cordonhq/cordon/cgroups/v1"
)

// hangGuard ends a test that waits for what never comes; no assertion is timed.
const hangGuard = 30 * time.Second

// actEnv makes the test binary act as one of the programs below.
const actEnv = "CORDON_CGROUPS_ACT"

func TestMain(m *testing.M) {
	if act := os.Getenv(actEnv); act != "" {
		actAs(act)
	}
	warmUp()
	before := descriptors()
	code := m.Run()
	if left := append(ownDirectories(), newDescriptors(before)...); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left behind: %s\n", strings.Join(left, ", "))
		code = 1
	}
	os.Exit(code)
}

// warmUp makes the runtime open its own descriptors before they are counted.
func warmUp() {
	r, w, err := os.Pipe()
	if err == nil {
		_, _ = r.Close(), w.Close()
	}
}

func descriptors() map[string]bool {
	found := map[string]bool{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			found[e.Name()+" "+target] = true
		}
	}
	return found
}

func newDescriptors(before map[string]bool) []string {
	var left []string
	for d := range descriptors() {
		// The test runner itself writes profiles and logs; ours are these.
		ours := strings.Contains(d, "cgroup") || strings.Contains(d, "anon_inode") || strings.Contains(d, "cordon-test")
		if !before[d] && ours {
			left = append(left, "descriptor "+d)
		}
	}
	return left
}

func ownDirectories() []string {
	var left []string
	l, err := hostLayout()
	if err != nil {
		return nil
	}
	for _, h := range append(l.hierarchies, v1Only(l).hierarchies...) {
		found, _ := filepath.Glob(fmt.Sprintf("%s/cordon-test-%d-*", h.mount, os.Getpid()))
		left = append(left, found...)
	}
	return left
}

// v1Only is a host's layout as it would be without the unified tree.
func v1Only(*layout) *layout {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return &layout{}
	}
	mounts, _ := parseMountinfo(text)
	mounts = slices.DeleteFunc(mounts, func(m mount) bool { return m.fstype == "cgroup2" })
	l, err := findLayout(mounts, os.ReadFile)
	if err != nil {
		return &layout{}
	}
	return l
}

var roots atomic.Int64

func testRoot() string {
	return fmt.Sprintf("cordon-test-%d-%d", os.Getpid(), roots.Add(1))
}

// eachMode runs a test on the host's own layout, and as on a v1 host where v1
// hierarchies are mounted.
func eachMode(t *testing.T, test func(*testing.T, *layout)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes cgroups")
	}
	host, err := hostLayout()
	if err != nil {
		t.Fatal(err)
	}
	t.Run(host.mode, func(t *testing.T) { test(t, host) })
	if v1 := v1Only(host); host.mode == ModeHybrid && len(v1.hierarchies) > 0 {
		t.Run(ModeV1, func(t *testing.T) { test(t, v1) })
	}
}

func testTree(t *testing.T, l *layout) *Tree {
	t.Helper()
	return treeAt(t, testRoot(), l)
}

func treeAt(t *testing.T, root string, l *layout) *Tree {
	t.Helper()
	tree, err := openTree(root, l, realKernel(setForm))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
	return tree
}

func testGroup(t *testing.T, tree *Tree, l Limits) *Group {
	t.Helper()
	g, err := tree.New("g"+strconv.FormatInt(roots.Add(1), 10), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(context.Background()), g.Remove()); err != nil && !errors.Is(err, fs.ErrClosed) && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
	return g
}

// start runs a shell script as a member of the group and returns after its
// first line of output.
func start(t *testing.T, g *Group, script string, env ...string) *exec.Cmd {
	t.Helper()
	cmd, err := launch(g, script, env...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func launch(g *Group, script string, env ...string) (*exec.Cmd, error) {
	join := ""
	for i := range g.Joins() {
		join += fmt.Sprintf("echo 0 >&%d; exec %d>&-; ", i+3, i+3)
	}
	cmd := exec.Command("/bin/sh", "-c", join+"echo joined; "+script)
	cmd.ExtraFiles = g.Joins()
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if d := g.Dir(); d != nil {
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(d.Fd())
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "joined\n" {
		return nil, errors.Join(fmt.Errorf("child said %q: %w", line, err), cmd.Process.Kill(), cmd.Wait())
	}
	return cmd, nil
}

// self is the script that becomes the test binary in another role.
func self(act string) (script, env string) {
	exe, _ := os.Executable()
	return "exec " + exe, actEnv + "=" + act
}

// actAs is what a child does instead of running tests.
func actAs(act string) {
	switch {
	case act == "eat": // all the memory there is
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			eaten = append(eaten, b)
		}
	case strings.HasPrefix(act, "own "): // a daemon that will be killed
		ownGroup(strings.TrimPrefix(act, "own "))
	}
	os.Exit(3)
}

var eaten [][]byte

// ownGroup is a daemon with one group and one process in it, until it dies.
func ownGroup(root string) {
	tree, err := Open(root, setForm)
	if err != nil {
		fmt.Println("cannot open:", err)
		os.Exit(3)
	}
	g, err := tree.New("orphan", Limits{})
	if err != nil {
		fmt.Println("cannot make:", err)
		os.Exit(3)
	}
	cmd, err := launch(g, "setsid sleep 1000 & exec sleep 1000")
	if err != nil {
		fmt.Println("cannot start:", err)
		os.Exit(3)
	}
	fmt.Println("owned")
	_ = cmd.Wait()
	select {}
}

func ptr[T any](v T) *T { return &v }

// setForm has the library set it, as the daemon does.
func setForm(f Form) error {
	if err := f.Check(); err != nil {
		return err
	}
	if f.Cpus != "" {
		return v1.Cpuset(f.Base, f.Group, f.Cpus)
	}
	return v1.Throttle(f.Base, f.Group, f.Major, f.Minor, v1.Rates(f.IO))
}
