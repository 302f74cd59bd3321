package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cordonhq/cordon/cgroups"
)

// TestSweepEndsWhatAKilledRunLeft makes what a killed run leaves, a group with
// a process that nobody owns, and expects both gone; and nothing else.
func TestSweepEndsWhatAKilledRunLeft(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	root := fmt.Sprintf("cordon-it-sweep-%d", os.Getpid())
	dirs := orphanGroup(t, root)
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if err := os.WriteFile(dir+"/cgroup.procs", []byte(fmt.Sprint(sleep.Process.Pid)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := sweepGroups("/sys/fs/cgroup", []string{root}); err != nil {
		t.Fatal(err)
	}
	if err := sleep.Wait(); err == nil {
		t.Error("the orphan was not killed")
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Dir(dir)); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", filepath.Dir(dir), err)
		}
	}
}

// orphanGroup makes a group as the cgroups package does, in a process of its
// own that is killed at once.
func orphanGroup(t *testing.T, root string) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "TestOwner$", "-test.timeout", "1m")
	cmd.Env = append(os.Environ(), "CORDON_SWEEP_ROOT="+root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for {
		var dir string
		if _, err := fmt.Fscanln(out, &dir); err != nil || dir == "." {
			break
		}
		dirs = append(dirs, dir)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if len(dirs) == 0 {
		t.Fatal("no group was made")
	}
	return dirs
}

// TestOwner is the process that orphanGroup kills.
func TestOwner(t *testing.T) {
	root := os.Getenv("CORDON_SWEEP_ROOT")
	if root == "" {
		return
	}
	tree, err := cgroups.Open(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	pids := int64(10)
	group, err := tree.New("orphan", cgroups.Limits{PidsMax: &pids})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range group.Paths() {
		fmt.Println(dir)
	}
	fmt.Println(".")
	select {} // until killed
}
