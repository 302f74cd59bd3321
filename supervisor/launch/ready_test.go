package launch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func readyLauncher(t *testing.T, n int) *Launcher {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	l, err := New(Config{
		CgroupRoot: fmt.Sprintf("cordon-test-ready-%d", os.Getpid()), UIDBase: 1900200000, UIDCount: 64,
		RuntimeDir: t.TempDir(), Compile: programs.Program, Ready: n,
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// sleepers starts n plugins that stay, and gives their network namespaces and
// groups.
func sleepers(t *testing.T, l *Launcher, n int) (all []*Process, nets, groups map[string]bool) {
	t.Helper()
	nets, groups = map[string]bool{}, map[string]bool{}
	for i := range n {
		p, err := l.Start(t.Context(), Request{Name: fmt.Sprintf("own-%d", i), Plan: testPlan(t, "shell", nil, "sleep", "1000")})
		if err != nil {
			t.Fatal(err)
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.PID()))
		if err != nil {
			t.Fatal(err)
		}
		all, nets[ns], groups[p.Group().Name()] = append(all, p), true, true
	}
	return all, nets, groups
}

// TestReadyIsTakenOnceAndDrained: no two plugins share what was made ahead, more
// starts than there is ready are as good, and nothing is left at the end.
func TestReadyIsTakenOnceAndDrained(t *testing.T) {
	before := descriptors(t)
	l := readyLauncher(t, 2)
	first, _, _ := sleepers(t, l, 1) // from here on the limits are known
	if err := l.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	const n = 4
	all, nets, groups := sleepers(t, l, n)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if len(nets) != n || nets[own] {
		t.Errorf("%d plugins have the network namespaces %v; the host's is %s", n, nets, own)
	}
	ready := 0
	for name := range groups {
		if strings.HasPrefix(name, "ready-") {
			ready++
		}
	}
	if len(groups) != n || ready < 2 {
		t.Errorf("%d plugins have the groups %v, want at least two that were ready", n, groups)
	}
	for _, p := range append(all, first...) {
		if e, err := p.Enforced(); err != nil {
			t.Error(err)
		} else {
			for _, w := range e.Walls {
				if w.State == "differs" {
					t.Errorf("%s: planned %s, actual %s", w.Name, w.Planned, w.Actual)
				}
			}
		}
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
		if err := p.Release(); err != nil {
			t.Error(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob("/sys/fs/cgroup/*/" + l.cfg.CgroupRoot)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}
