package cgroups

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLimitsReadBackAsAsked(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		asked := Limits{
			MemoryMax: ptr(int64(64 << 20)), MemorySwapMax: ptr(int64(1 << 20)), PidsMax: ptr(int64(17)),
			CPUMax: &CPUMax{Quota: 20000, Period: 50000}, CPUWeight: ptr(uint64(250)), Cpuset: "0",
		}
		g := testGroup(t, tree, asked)
		mustRead(t, g, asked)
		// Up, down and across the old sum of memory and swap.
		for _, change := range []Limits{
			{MemoryMax: ptr(int64(256 << 20)), PidsMax: ptr(int64(0))},
			{MemoryMax: ptr(int64(8 << 20)), MemorySwapMax: ptr(int64(300 << 20)), CPUWeight: ptr(uint64(1))},
			{MemoryMax: ptr(int64(9 << 20)), CPUMax: &CPUMax{Quota: 1000, Period: 1000000}, CPUWeight: ptr(uint64(10000))},
		} {
			if err := g.Update(change); err != nil {
				t.Fatal(err)
			}
			mustRead(t, g, change)
		}
	})
}

// TestRareLimitsReadBackAsAsked: what few profiles set is enforced, or refused.
func TestRareLimitsReadBackAsAsked(t *testing.T) {
	bytes := func(n int64) IOMax { return IOMax{ReadBPS: ptr(n), WriteIOPS: ptr(n / 1000)} }
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		for name, c := range map[string]struct{ asked, changed Limits }{
			"memory.oom.group": {Limits{MemoryOOMGroup: true}, Limits{MemoryOOMGroup: true}},
			"io.max":           {Limits{IOMax: bytes(1 << 30)}, Limits{IOMax: bytes(1 << 25)}},
			"hugetlb.2MB.max":  {Limits{Hugetlb2M: ptr(int64(4 << 20))}, Limits{Hugetlb2M: ptr(int64(0))}},
			"hugetlb.1GB.max":  {Limits{Hugetlb1G: ptr(int64(1 << 30))}, Limits{Hugetlb1G: ptr(int64(0))}},
		} {
			t.Run(name, func(t *testing.T) {
				if !tree.offers(name) {
					g, err := tree.New("rare", c.asked)
					if missing := (*UnsupportedError)(nil); !errors.As(err, &missing) || missing.Limit != name || missing.Need == "" {
						t.Errorf("New without %s gave %v, %v", name, g, err)
					}
					return
				}
				g := testGroup(t, tree, c.asked)
				mustRead(t, g, c.asked)
				if err := g.Update(c.changed); err != nil {
					t.Fatal(err)
				}
				mustRead(t, g, c.changed)
			})
		}
	})
}

// TestOOMGroupEndsAll: one that eats memory takes its neighbours along.
func TestOOMGroupEndsAll(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		if !tree.offers("memory.oom.group") {
			t.Skip("skipped: needs cgroup v2's memory controller")
		}
		script, env := self("eat")
		g := testGroup(t, tree, Limits{MemoryMax: ptr(int64(64 << 20)), MemoryOOMGroup: true})
		cmd := start(t, g, "sleep 1000 & ("+script+"); sleep 1000", env)
		err := cmd.Wait() // the shell itself, which ate nothing
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("the neighbour ended with %v", err)
		}
	})
}

// mustRead compares what the kernel has with what was asked.
func mustRead(t *testing.T, g *Group, asked Limits) {
	t.Helper()
	have, err := g.Read()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range asked.Values() {
		if have[name] != want {
			t.Errorf("%s is %q, want %q", name, have[name], want)
		}
	}
	if have["devices"] != DevicesClosed {
		t.Errorf("devices are %q, want %q", have["devices"], DevicesClosed)
	}
}

func TestNoLimitReadsAsMax(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		have, err := testGroup(t, testTree(t, l), Limits{}).Read()
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"memory.max": "max", "pids.max": "max", "cpu.max": "max 100000", "cpu.weight": "100"}
		for name, value := range want {
			if have[name] != value {
				t.Errorf("%s is %q, want %q", name, have[name], value)
			}
		}
	})
}

func TestPidsMaxZeroLetsNobodyFork(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		g := testGroup(t, testTree(t, l), Limits{PidsMax: ptr(int64(0))})
		mustRead(t, g, Limits{PidsMax: ptr(int64(0))})
		if have, _ := g.Read(); have["pids.max"] != "0" {
			t.Errorf("pids.max is %q", have["pids.max"])
		}
	})
}

func TestDevicesAreClosed(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		g := testGroup(t, testTree(t, l), Limits{})
		// /dev/zero opens, the console-like /dev/tty's neighbour kmsg does not.
		cmd := start(t, g, "exec 0</dev/zero || exit 5; (exec 0</dev/kmsg) 2>/dev/null && exit 6; exit 7")
		err := cmd.Wait()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("child ended with %v, want status 7 (5: /dev/zero refused, 6: /dev/kmsg opened)", err)
		}
		f, err := os.Open("/dev/kmsg")
		if err != nil {
			t.Fatalf("kmsg cannot be opened outside either, so this shows nothing: %v", err)
		}
		_ = f.Close()
	})
}

func TestNewRefusesANameInUse(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		g := testGroup(t, tree, Limits{})
		start(t, g, "exec sleep 1000")
		other := treeAt(t, tree.root, l)
		if _, err := other.New(g.Name(), Limits{}); !errors.Is(err, fs.ErrExist) {
			t.Fatalf("New of a live group's name gave %v, want ErrExist", err)
		}
		if populated, err := g.Populated(); err != nil || !populated {
			t.Errorf("the live group: populated %v, %v", populated, err)
		}
	})
}

// TestNewUndoesInEveryHierarchy makes each hierarchy in turn fail, by a
// directory that stands in the way, and then the limits, by one that the kernel
// refuses.
func TestNewUndoesInEveryHierarchy(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		for _, bad := range l.hierarchies {
			if bad.optional() {
				if _, err := tree.makeRoot(bad); err != nil {
					t.Fatal(err)
				}
			}
			inTheWay := filepath.Join(tree.rootDir(bad), "x")
			if err := os.Mkdir(inTheWay, 0o755); err != nil {
				t.Fatal(err)
			}
			all := Limits{Cpuset: "0"}
			if bad.has("io") {
				all.IOMax.ReadBPS = ptr(int64(1 << 30))
			}
			if bad.has("hugetlb") {
				all.Hugetlb2M = ptr(int64(0))
			}
			if g, err := tree.New("x", all); !errors.Is(err, fs.ErrExist) {
				t.Fatalf("New with %s in the way gave %v, %v", inTheWay, g, err)
			}
			mustHold(t, tree, "x", inTheWay)
			if err := os.Remove(inTheWay); err != nil {
				t.Fatal(err)
			}
		}
		for _, refused := range []Limits{{Cpuset: "4000"}, {PidsMax: ptr(int64(5)), Cpuset: "0,4000"}} {
			if _, err := tree.New("x", refused); err == nil {
				t.Fatalf("New with %v succeeded", refused)
			}
			mustHold(t, tree, "x")
		}
	})
}

// mustHold checks which directories of the name are there, in any hierarchy.
func mustHold(t *testing.T, tree *Tree, name string, want ...string) {
	t.Helper()
	var have []string
	for _, h := range tree.layout.hierarchies {
		if path := filepath.Join(tree.rootDir(h), name); exists(path) {
			have = append(have, path)
		}
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Errorf("directories %q, want %q", have, want)
	}
}

// A daemon that removes and sweeps beside another that makes groups: the one
// that was told its group exists must have it.
func TestClaimAgainstSweep(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		sweeper := treeAt(t, tree.root, l)
		stop, stopped := make(chan struct{}), make(chan error, 1)
		go func() {
			for {
				select {
				case <-stop:
					stopped <- nil
					return
				default:
				}
				if _, err := sweeper.Sweep(); err != nil {
					stopped <- err
					return
				}
			}
		}()
		for range 100 {
			g, err := tree.New("raced", Limits{PidsMax: ptr(int64(3))})
			if errors.Is(err, fs.ErrExist) {
				continue // the sweeper makes a claim of its own for v1 leftovers
			}
			if err != nil {
				t.Error(err)
				break
			}
			mustRead(t, g, Limits{PidsMax: ptr(int64(3))})
			for _, m := range g.members {
				if !m.current() {
					t.Errorf("%s was taken from its owner", m.path)
				}
			}
			if err := g.Remove(); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// TestClaimStartsAgain removes the directory between mkdir and lock, as a sweep
// would.
func TestClaimStartsAgain(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		real, lost := tree.kernel.mkdir, 0
		tree.kernel.mkdir = func(path string) error {
			err := real(path)
			if err == nil && strings.HasSuffix(path, "/x") && lost < 3 {
				lost++
				return unix.Rmdir(path)
			}
			return err
		}
		g, err := tree.New("x", Limits{})
		if err != nil || lost != 3 {
			t.Fatalf("New lost its directory %d times and gave %v", lost, err)
		}
		if err := g.Remove(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSweepEndsAnOrphanAndLeavesTheLiving(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes cgroups")
	}
	root := testRoot()
	_, env := self("own " + root)
	exe, _ := os.Executable()
	owner := exec.Command(exe)
	owner.Env = append(os.Environ(), env)
	owner.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "owned\n" {
		t.Fatalf("owner said %q; %v", line, owner.Wait())
	}
	l, err := hostLayout()
	if err != nil {
		t.Fatal(err)
	}
	tree := treeAt(t, root, l)
	mine := testGroup(t, tree, Limits{})
	start(t, mine, "exec sleep 1000")

	ended, err := tree.Sweep()
	if err != nil || len(ended) != 0 {
		t.Fatalf("a sweep beside a living owner ended %v, %v", ended, err)
	}
	_ = owner.Process.Kill()
	_ = owner.Wait()
	// A sub-group that the orphan might have made, in each hierarchy.
	for _, h := range l.hierarchies {
		if !h.optional() {
			if err := os.MkdirAll(filepath.Join(tree.rootDir(h), "orphan/sub/sub"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	ended, err = tree.Sweep()
	if err != nil || !slices.Equal(ended, []string{"orphan"}) {
		t.Fatalf("the sweep ended %v, %v", ended, err)
	}
	mustHold(t, tree, "orphan")
	if populated, err := mine.Populated(); err != nil || !populated {
		t.Errorf("the living group: populated %v, %v", populated, err)
	}
}

// A copy of the claim, such as the keeper's, holds it after its maker closed.
func TestACopyOfTheClaimKeepsTheGroup(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		g := testGroup(t, tree, Limits{})
		copied, err := unix.FcntlInt(g.LockFile().Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.closeFiles(); err != nil {
			t.Fatal(err)
		}
		if ended, err := tree.Sweep(); err != nil || len(ended) > 0 {
			t.Errorf("a group with a copied claim was swept: %v, %v", ended, err)
		}
		_ = unix.Close(copied)
		if ended, err := tree.Sweep(); err != nil || !slices.Equal(ended, []string{g.Name()}) {
			t.Errorf("the abandoned group was not swept: %v, %v", ended, err)
		}
	})
}

// Another daemon's root inside of ours must not be taken for a leftover.
func TestSweepSparesARootBelow(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		inner := treeAt(t, tree.root+"/inner", l)
		g := testGroup(t, inner, Limits{})
		if ended, err := tree.Sweep(); err != nil || len(ended) > 0 {
			t.Errorf("Sweep ended %v, %v", ended, err)
		}
		// Its daemon has died, and a keeper holds the group.
		if err := inner.lock.Close(); err != nil {
			t.Fatal(err)
		}
		if ended, err := tree.Sweep(); err != nil || len(ended) > 0 {
			t.Errorf("Sweep ended %v, %v", ended, err)
		}
		mustHold(t, inner, g.Name(), slices.Sorted(slices.Values(g.Paths()))...)
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		if ended, err := tree.Sweep(); err != nil || !slices.Equal(ended, []string{"inner"}) {
			t.Errorf("Sweep of what nobody holds any more ended %v, %v", ended, err)
		}
		inner.lock = nil
	})
}

func TestSweepEndsV1Leftovers(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		for _, h := range l.hierarchies[1:] {
			if !h.optional() {
				if err := os.Mkdir(filepath.Join(tree.rootDir(h), "half"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
		if ended, err := tree.Sweep(); err != nil || len(l.hierarchies) > 1 && !slices.Equal(ended, []string{"half"}) {
			t.Errorf("Sweep ended %v, %v", ended, err)
		}
		mustHold(t, tree, "half")
	})
}

func TestOpenRefusesAForeignRoot(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		root := testRoot()
		path := filepath.Join(l.primary().mount, root)
		if err := os.MkdirAll(filepath.Join(path, "theirs"), 0o755); err != nil {
			t.Fatal(err)
		}
		tree, err := openTree(root, l, realKernel(setForm))
		if err == nil {
			t.Errorf("a root that somebody else uses was taken over: %v", tree.Close())
		}
		if !exists(filepath.Join(path, "theirs")) {
			t.Error("it was even removed")
		}
		_ = os.Remove(filepath.Join(path, "theirs"))
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	})
}

func TestCloseLeavesASharedRoot(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		root := testRoot() + "/deep"
		first, err := openTree(root, l, realKernel(setForm))
		if err != nil {
			t.Fatal(err)
		}
		second := treeAt(t, root, l)
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		g := testGroup(t, second, Limits{})
		if err := g.Remove(); err != nil {
			t.Fatal(err)
		}
		if err := second.Close(); err != nil {
			t.Fatal(err)
		}
		for _, h := range l.hierarchies {
			if path := filepath.Dir(second.rootDir(h)); exists(path) {
				t.Errorf("%s stayed", path)
			}
		}
	})
}

// forkers forks without end in two ways: chains in which each process forks the
// next and exits, and a tree that grows to its limit; it ignores what it can.
const forkers = `trap "" TERM INT HUP; f() { f & }; f; f; f; g() { while :; do (sleep 1000) & done; }; g 2>/dev/null & sleep 1000`

func TestKillEndsAForkingTree(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		for _, state := range []string{"running", "frozen"} {
			g := testGroup(t, testTree(t, l), Limits{PidsMax: ptr(int64(60))})
			start(t, g, forkers)
			if state == "frozen" {
				if err := g.Freeze(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := g.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			if pids, err := g.Procs(); err != nil || len(pids) > 0 {
				t.Errorf("%s: processes %v, %v after Kill", state, pids, err)
			}
			if err := g.Remove(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestKillEndsTheStoppedAndTheTraced: neither hears of anything but SIGKILL,
// and the tracer, which is this process, does nothing for it.
func TestKillEndsTheStoppedAndTheTraced(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		runtime.LockOSThread() // the tracer is a thread
		defer runtime.UnlockOSThread()
		g := testGroup(t, testTree(t, l), Limits{})
		traced, stopped := start(t, g, "exec sleep 1000"), start(t, g, "exec sleep 1000")
		if err := unix.PtraceAttach(traced.Process.Pid); err != nil {
			t.Fatal(err)
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(traced.Process.Pid, &status, 0, nil); err != nil || !status.Stopped() {
			t.Fatalf("the traced process is in status %#x, %v", status, err)
		}
		if err := stopped.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if err := g.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		for what, cmd := range map[string]*exec.Cmd{"traced": traced, "stopped": stopped} {
			_ = cmd.Wait()
			if s := cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGKILL {
				t.Errorf("the %s process ended with %#x", what, s)
			}
		}
	})
}

// TestKillIsNotThrottled: a tree that may use a thousandth of a processor would
// take minutes to end.
func TestKillIsNotThrottled(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		g := testGroup(t, testTree(t, l), Limits{})
		start(t, g, "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; wait")
		ctx, cancel := context.WithTimeout(t.Context(), 4*hangGuard) // emulated, a fork takes long
		defer cancel()
		for n := 0; ; n++ {
			if pids, err := g.Procs(); err != nil || len(pids) > 100 {
				break
			}
			if err := backoff(ctx, n); err != nil {
				t.Fatal("the tree does not grow")
			}
		}
		if err := g.Update(Limits{CPUMax: &CPUMax{Quota: 1000, Period: 1000000}}); err != nil {
			t.Fatal(err)
		}
		if err := g.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// A process may be in the limits' hierarchies and not on the unified tree.
func TestKillEndsWhatIsOnV1Alone(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		g := testGroup(t, testTree(t, l), Limits{})
		if len(g.Joins()) == 0 {
			t.Skip("no v1 hierarchy")
		}
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill() }()
		if err := g.with("pids").write("cgroup.procs", itoa(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
		if err := g.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left, err := g.with("pids").text("cgroup.procs"); err != nil || left != "" {
			t.Fatalf("process %s is still there, %v", left, err)
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("it ended with %v", err)
		}
	})
}

func TestFreezeStopsAndThawContinues(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		g := testGroup(t, testTree(t, l), Limits{})
		// More than the host has cpus, so that freezing takes a while.
		start(t, g, "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do while :; do :; done & done; wait")
		if err := g.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		if u := g.unified(); u != nil {
			if n, _ := u.counter("cgroup.events", "frozen"); n != 1 {
				t.Error("Freeze returned before the group was frozen")
			}
		} else if state, _ := g.with("freezer").text("freezer.state"); state != "FROZEN" {
			t.Errorf("Freeze returned in state %s", state)
		}
		frozen, again := g.cpuTime(), g.cpuTime()
		if frozen != again {
			t.Errorf("cpu time went from %d to %d in a frozen group", frozen, again)
		}
		if err := g.Thaw(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), hangGuard)
		defer cancel()
		for n := 0; g.cpuTime() == again; n++ {
			if err := backoff(ctx, n); err != nil {
				t.Fatal("it did not go on after Thaw")
			}
		}
	})
}

// A wait ends with its context and says so.
func TestKillAndFreezeEndWithTheirContext(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		g := testGroup(t, testTree(t, l), Limits{})
		u := g.unified()
		if u == nil {
			t.Skip("no unified tree")
		}
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		never := func(map[string]int64) bool { return false }
		if _, err := u.awaitEvents(ctx, 0, never); !errors.Is(err, context.Canceled) {
			t.Errorf("the wait gave %v", err)
		}
	})
}

func TestUsageCounts(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		g := testGroup(t, testTree(t, l), Limits{})
		start(t, g, "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; kill -STOP $$")
		ctx, cancel := context.WithTimeout(t.Context(), hangGuard)
		defer cancel()
		for n := 0; ; n++ {
			u, err := g.Usage()
			if err != nil {
				t.Fatal(err)
			}
			if u.CPUUsec > 1000 && u.PidsCurrent == 1 && u.MemoryCurrent > 0 && u.MemoryPeak >= u.MemoryCurrent {
				return
			}
			if err := backoff(ctx, n); err != nil {
				t.Fatalf("usage is %+v", u)
			}
		}
	})
}

func TestRemoveTwice(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		g := testGroup(t, testTree(t, l), Limits{})
		if err := errors.Join(g.Remove(), g.Remove()); err != nil {
			t.Error(err)
		}
		if _, err := g.Usage(); err == nil {
			t.Error("Usage of a removed group gave no error")
		}
		if _, err := g.Read(); err == nil {
			t.Error("Read of a removed group gave no error")
		}
		if err := g.Update(Limits{PidsMax: ptr(int64(1))}); err == nil {
			t.Error("Update of a removed group gave no error")
		}
	})
}

func TestFeaturesOfThisHost(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		have := map[string]bool{}
		for _, f := range tree.Features() {
			have[f.Name] = f.Have
			if f.Detail == "" || !f.Have && f.Need == "" {
				t.Errorf("%s says neither what is there nor what is needed: %+v", f.Name, f)
			}
		}
		// What is said to be there must be what a group can have.
		g := testGroup(t, tree, Limits{Cpuset: "0"})
		values, err := g.Read()
		if err != nil {
			t.Fatal(err)
		}
		for name := range maps.Keys(Limits{MemoryMax: ptr(int64(1)), PidsMax: ptr(int64(1)), CPUMax: &CPUMax{}, CPUWeight: ptr(uint64(1)), Cpuset: "0"}.Values()) {
			if value := values[name]; have[name] != (value != "" && value != Unsupported) {
				t.Errorf("feature %s is %v and Read says %q", name, have[name], value)
			}
		}
		if tree.Mode() != ModeV2 && (have["memory.high"] || values["memory.high"] != Unsupported) {
			t.Errorf("memory.high is claimed on v1: %v, %q", have["memory.high"], values["memory.high"])
		}
		if un := tree.Unsupported(Limits{MemoryHigh: ptr(int64(1))}); (len(un) == 0) != have["memory.high"] {
			t.Errorf("Unsupported says %v", un)
		}
	})
}

// TestAbandonedGroupIsSwept: what could not be ended is nobody's, and a sweep of
// the same tree ends it.
func TestAbandonedGroupIsSwept(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		tree := testTree(t, l)
		g, err := tree.New("left", Limits{})
		if err != nil {
			t.Fatal(err)
		}
		start(t, g, "sleep 1000")
		if ended, err := tree.Sweep(); err != nil || len(ended) > 0 {
			t.Fatalf("a claimed group was swept: %v, %v", ended, err)
		}
		if err := g.Abandon(); err != nil {
			t.Fatal(err)
		}
		if ended, err := tree.Sweep(); err != nil || !slices.Equal(ended, []string{"left"}) {
			t.Fatalf("swept %v, %v", ended, err)
		}
		if err := errors.Join(g.Kill(t.Context()), g.Remove(), g.Abandon()); err != nil {
			t.Errorf("an abandoned group: %v", err)
		}
	})
}

// TestDeviceProgram has the program of v2 itself judge opens, on the unified
// tree, which hybrid hosts have, too.
func TestDeviceProgram(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		if l.unified() == nil {
			t.Skip("skipped: no unified tree")
		}
		node := t.TempDir() + "/kmsg"
		if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))); err != nil {
			t.Fatal(err)
		}
		tree := testTree(t, &layout{mode: ModeV2, hierarchies: []*hierarchy{{mount: l.unified().mount, v2: true}}})
		tree.kernel.closeDevices = func(*dir) error { return nil }
		opens := func(g *Group) int {
			t.Helper()
			cmd := start(t, g, "(exec 3</dev/null 4</dev/zero 5</dev/urandom) || exit 5; (exec 6<"+node+") && exit 6; exit 7")
			_ = cmd.Wait()
			return cmd.ProcessState.ExitCode()
		}
		g := testGroup(t, tree, Limits{})
		if code := opens(g); code != 6 {
			t.Fatalf("without the program the shell ends with %d", code)
		}
		program := &deviceProgram{}
		defer func() { _ = program.close() }()
		if err := program.attach(g.unified().dir); err != nil {
			t.Fatal(err)
		}
		if code := opens(g); code != 7 {
			t.Errorf("with the program the shell ends with %d", code)
		}
	})
}

// TestDelegatedSubtree: under systemd the daemon lives in a group of its own
// below its service's (Delegate=yes, DelegateSubgroup=), and the plugins' root
// beside it. Without one of its own it is told what to do.
func TestDelegatedSubtree(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		u := l.unified()
		if u == nil || len(u.controllers) == 0 {
			t.Skip("skipped: no unified tree with a controller")
		}
		service := testRoot()
		tree, err := openTree(service+"/plugins", l, realKernel(setForm))
		if err != nil {
			t.Fatal(err)
		}
		g := testGroup(t, tree, Limits{PidsMax: ptr(int64(7))})
		mustRead(t, g, Limits{PidsMax: ptr(int64(7))})
		if err := errors.Join(g.Remove(), tree.Close()); err != nil {
			t.Fatal(err)
		}
		occupied := testRoot()
		dir := u.mount + "/" + occupied
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		sleep := exec.Command("sleep", "1000")
		if err := sleep.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = sleep.Process.Kill()
			_ = sleep.Wait()
			if err := unix.Rmdir(dir); err != nil {
				t.Error(err)
			}
		}()
		pid := []byte(strconv.Itoa(sleep.Process.Pid))
		if err := os.WriteFile(dir+"/cgroup.procs", pid, 0o600); err != nil {
			t.Fatal(err)
		}
		if tree, err := openTree(occupied+"/plugins", l, realKernel(setForm)); err == nil {
			_ = tree.Close()
			t.Fatal("a group with processes got limited children")
		} else if !strings.Contains(err.Error(), "DelegateSubgroup=") {
			t.Errorf("it says %v", err)
		}
		if err := os.Mkdir(dir+"/daemon", 0o755); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = sleep.Process.Kill()
			_ = sleep.Wait()
			if err := unix.Rmdir(dir + "/daemon"); err != nil {
				t.Error(err)
			}
		}()
		if err := os.WriteFile(dir+"/daemon/cgroup.procs", pid, 0o600); err != nil {
			t.Fatal(err)
		}
		tree, err = openTree(occupied+"/plugins", l, realKernel(setForm))
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestOpenStartsAgain has the root be there when it is to be made, and gone when
// it is looked at, as another that closes the same root would.
func TestOpenStartsAgain(t *testing.T) {
	eachMode(t, func(t *testing.T, l *layout) {
		k, root, lost := realKernel(setForm), testRoot(), 0
		real := k.mkdir
		k.mkdir = func(path string) error {
			if strings.HasSuffix(path, "/"+root) && lost < 3 {
				lost++
				return unix.EEXIST
			}
			return real(path)
		}
		tree, err := openTree(root, l, k)
		if err != nil || lost != 3 {
			t.Fatalf("Open lost its root %d times and gave %v", lost, err)
		}
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
}
