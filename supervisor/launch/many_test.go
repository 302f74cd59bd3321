package launch

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// starts is how many the tests of many starts make: few, unless
// CORDON_TEST_STARTS says otherwise (make flat).
func starts(t *testing.T, few int) int {
	t.Helper()
	text := os.Getenv("CORDON_TEST_STARTS")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		t.Fatalf("CORDON_TEST_STARTS=%s: expected a number above zero", text)
	}
	return n
}

func manyLauncher(t *testing.T) *Launcher {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	l, err := New(Config{
		CgroupRoot: fmt.Sprintf("cordon-test-many-%d", os.Getpid()), UIDBase: 1900210000, UIDCount: 8192,
		RuntimeDir: t.TempDir(), Compile: programs.Program, Ready: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// TestManyStartsAtOnce asks for many starts at once: all answer, and no more are
// under way than are let in.
func TestManyStartsAtOnce(t *testing.T) {
	l := manyLauncher(t)
	p := testPlan(t, "shell", nil, "true")
	n := min(starts(t, 100), 1000)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() {
			proc, err := l.Start(ctx, Request{Name: fmt.Sprintf("many-%d", i), Plan: p})
			if err != nil {
				t.Errorf("start %d: %v", i, err)
				return
			}
			<-proc.Done()
			if code := proc.Exit().Status.ExitStatus(); code != 0 {
				t.Errorf("start %d ended with %d", i, code)
			}
			if err := proc.Release(); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

// TestAStartInTheQueueCanBeGivenUp: who waits no longer leaves nothing.
func TestAStartInTheQueueCanBeGivenUp(t *testing.T) {
	l := manyLauncher(t)
	for range maxStarts {
		l.turns <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Start(ctx, Request{Name: "late", Plan: testPlan(t, "shell", nil, "true")}); err == nil || !strings.Contains(err.Error(), "others were before it") {
		t.Errorf("got %v", err)
	}
	for range maxStarts {
		<-l.turns
	}
}

// kept is what grows if something leaks.
type kept struct{ descriptors, keeperDescriptors, threads, keeperPages, mounts, groups int }

func keeps(t *testing.T, l *Launcher) (k kept) {
	t.Helper()
	count := func(dir string) int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	keeper := fmt.Sprintf("/proc/%d", l.keeper.PID())
	k.descriptors, k.keeperDescriptors, k.threads = descriptors(t), count(keeper+"/fd"), count("/proc/self/task")
	k.mounts = strings.Count(read("/proc/self/mountinfo"), "\n")
	k.keeperPages, _ = strconv.Atoi(strings.Fields(read(keeper + "/statm"))[1])
	for _, line := range strings.Split(read("/proc/cgroups"), "\n") {
		if f := strings.Fields(line); len(f) == 4 && f[0] == "pids" {
			k.groups, _ = strconv.Atoi(f[2])
		}
	}
	return k
}

// TestStartsAndStopsAreFlat: nothing grows with the number of starts. The first
// ones fill what is kept ready.
func TestStartsAndStopsAreFlat(t *testing.T) {
	l := manyLauncher(t)
	p := testPlan(t, "shell", nil, "true")
	n := starts(t, 100)
	round := func(n int) {
		for i := range n {
			proc, err := l.Start(t.Context(), Request{Name: fmt.Sprintf("flat-%d", i%2), Plan: p, UID: l.cfg.UIDBase + uint32(2*(i%2))})
			if err != nil {
				t.Fatalf("start %d: %v", i, err)
			}
			<-proc.Done()
			if err := proc.Release(); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	round(20)
	before := keeps(t, l)
	round(n)
	// The kernel takes namespaces and groups apart at its leisure: within a
	// minute everything is as it was. Other tests have groups of their own.
	var after kept
	deadline := time.Now().Add(time.Minute)
	for flat := false; !flat && time.Now().Before(deadline); {
		after = keeps(t, l)
		flat = after.descriptors <= before.descriptors && after.keeperDescriptors <= before.keeperDescriptors &&
			after.threads <= before.threads+8 && after.keeperPages <= before.keeperPages+16 && after.mounts <= before.mounts &&
			after.groups < before.groups+n/2
	}
	t.Logf("%d starts: before %+v, after %+v", n, before, after)
	if !time.Now().Before(deadline) {
		t.Errorf("after %d starts %+v, before %+v", n, after, before)
	}
}
