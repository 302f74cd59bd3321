package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/cgroups"
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

// TestEveryLimitMakesAnotherKind: a group that was made ahead for other limits,
// whichever differs, is never taken.
func TestEveryLimitMakesAnotherKind(t *testing.T) {
	set := func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
		case reflect.Bool:
			v.SetBool(true)
		case reflect.String:
			v.SetString("0")
		default:
			t.Fatalf("set a %s here", v.Type())
		}
	}
	var fields func(whole *cgroups.Limits, v reflect.Value, name string)
	fields = func(whole *cgroups.Limits, v reflect.Value, name string) {
		for i := range v.NumField() {
			f := v.Field(i)
			if f.Kind() == reflect.Struct {
				fields(whole, f, name+v.Type().Field(i).Name+".")
				continue
			}
			set(f)
			if equalLimits(*whole, cgroups.Limits{}) {
				t.Errorf("%s%s makes no difference", name, v.Type().Field(i).Name)
			}
			f.SetZero()
		}
	}
	var l cgroups.Limits
	fields(&l, reflect.ValueOf(&l).Elem(), "")
	if !equalLimits(l, cgroups.Limits{}) {
		t.Error("the same limits differ")
	}
}

// TestWhatCannotBeMadeAheadIsTriedAgain, later each time, and told of once.
func TestWhatCannotBeMadeAheadIsTriedAgain(t *testing.T) {
	pauses, again, told := make(chan time.Duration), make(chan time.Time), make(chan error, 8)
	p := &pool{size: 1, closing: make(chan struct{}), done: make(chan struct{}), networks: newNetworks()}
	p.changed = newCond(p)
	p.networks.close() // nothing can be made
	p.tell = func(err error) { told <- err }
	p.after = func(d time.Duration) <-chan time.Time {
		pauses <- d
		return again
	}
	p.kinds = []*kind{{}}
	go p.fill()
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		if got := <-pauses; got != want*time.Second {
			t.Errorf("it waits %s, want %ds", got, want)
		}
		again <- time.Time{}
	}
	<-pauses
	if err := <-told; err == nil || len(told) > 0 {
		t.Errorf("told %v and %d more, want one error", err, len(told))
	}
	p.went(nil)
	p.went(nil)
	if err := <-told; err != nil || len(told) > 0 {
		t.Errorf("told %v and %d more, want the end of it", err, len(told))
	}
	if err := p.close(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// TestLateKeeperSparesItsSuccessors: a keeper whose daemon has gone waits for the
// lock of the root directory. When another has removed that directory meanwhile,
// and a successor has made it anew, what is ready there is the successor's.
func TestLateKeeperSparesItsSuccessors(t *testing.T) {
	l := readyLauncher(t, 0)
	all, _, _ := sleepers(t, l, 1)
	paths := all[0].Group().Paths()
	group := paths[len(paths)-1] // of the hierarchy that has the locks
	root := filepath.Dir(group)
	lock := func() *os.File {
		t.Helper()
		f, err := os.Open(root)
		if err == nil {
			err = unix.Flock(int(f.Fd()), unix.LOCK_SH)
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	old := lock()
	opened := func() (n int) {
		for _, fd := range openFiles(t, l.keeper.PID()) {
			if fd == root {
				n++
			}
		}
		return n
	}
	before := opened()
	if err := l.tree.Close(); err != nil { // the daemon's own lock
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.keeper.Close() }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); opened() <= before; <-tick.C {
		if time.Now().After(end) {
			t.Fatal("cannot wait longer for the keeper to wait for the lock")
		}
	}
	ready := root + "/ready-1"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Remove(root))
	must(os.Mkdir(root, 0o755))
	successor := lock()
	must(os.Mkdir(ready, 0o755))
	must(old.Close())
	if err := <-ended; err != nil {
		t.Error(err)
	}
	must(os.Remove(ready))
	must(os.Remove(root))
	must(successor.Close())
	must(all[0].Release())
	_ = l.Close() // its tree is closed
	left, err := filepath.Glob("/sys/fs/cgroup/*/" + l.cfg.CgroupRoot)
	for _, dir := range left {
		err = errors.Join(err, os.Remove(dir))
	}
	must(err)
}

// openFiles are the paths of what a process has open.
func openFiles(t *testing.T, pid int) (paths []string) {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if path, err := os.Readlink(link); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}
