package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// outagesInTest is how many are a part of every test run; make outages has ten
// times as many.
const outagesInTest = 20

// TestOutages has the power of a guest go again and again while plugins are
// quarantined, released, installed and removed, and also while it starts: what the
// guest was told is so is so when the power is back, the audit log verifies,
// nothing that is quarantined starts, and all else does. CORDON_OUTAGES and
// CORDON_OUTAGES_SEED replay.
func TestOutages(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("skipped: qemu-system-x86_64 is not installed (.ci/setup vm installs it)")
	}
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root, for the guest's root is root's")
	}
	number := func(name string, otherwise uint64) uint64 {
		if text := os.Getenv(name); text != "" {
			n, err := strconv.ParseUint(text, 10, 63)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return n
		}
		return otherwise
	}
	seed := number("CORDON_OUTAGES_SEED", uint64(time.Now().UnixNano()))
	count := number("CORDON_OUTAGES", outagesInTest)
	t.Logf("replay with CORDON_OUTAGES_SEED=%d CORDON_OUTAGES=%d", seed, count)
	dir, err := filepath.Abs("../../.build/vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../..")       // as the command runs
	runtime.LockOSThread() // its children die with its thread
	defer runtime.UnlockOSThread()
	// A suite that runs in there is not waited for: it never changes a kernel that is kept.
	if _, err := keptKernel(dir, "6.1"); err != nil {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		unlock, err := lock(ctx, dir)
		if err != nil {
			t.Fatalf("cannot wait for another run to fetch the kernel: %v", err)
		}
		_, err = fetchKernel(ctx, dir, "6.1")
		unlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := runOutages(t.Context(), options{dir: dir, kernels: []string{"6.1"}}, int(count), seed); err != nil {
		t.Fatal(err)
	}
}

// TestHalfASuperblock: a power cut in the middle of the one write that no journal
// of the file system guards leaves the guest a disk that it can mount.
func TestHalfASuperblock(t *testing.T) {
	for _, tool := range []string{"mke2fs", "dumpe2fs"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("skipped: %s is not installed (.ci/setup vm installs it)", tool)
		}
	}
	runtime.LockOSThread() // its children die with its thread
	defer runtime.UnlockOSThread()
	dir := t.TempDir()
	whole, err := emptyContent(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	const mountCount = 1024 + 0x34 // what each mount changes, in the superblock's first sector
	whole[mountCount]++
	file := filepath.Join(dir, "torn.ext4")
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := output(command(t.Context(), "dumpe2fs", "-h", file)); err != nil {
		t.Errorf("with half a superblock: %v", err)
	}
}
