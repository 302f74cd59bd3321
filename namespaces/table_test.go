package namespaces

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestChildrenDoNotCopyWhatIsHeld: the keeper's table grows with its plugins,
// and that of a new plugin and of its reaper must not: the kernel never makes a
// table smaller, so that what they had at first still shows.
func TestChildrenDoNotCopyWhatIsHeld(t *testing.T) {
	k := testKeeper(t)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	l := bareLaunch("/bin/sleep", "1000")
	l.Files = append(l.Files, null)
	// Making namespaces costs the most and has nothing to do with it.
	steps := []Step{{Op: OpNamespace, File: NoFile, A: unix.CLONE_NEWPID, Text: "enter"}}
	for range wireMaxHold {
		steps = append([]Step{{Op: OpHold, File: len(l.Files) - 1, Text: "hold"}}, steps...)
	}
	l.Steps = append(steps, l.Steps...)
	const held = 2000
	var last *Child
	for n := 0; n < held; n += wireMaxHold {
		if last, err = k.Launch(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", k.PID()))
	if err != nil || len(open) < held {
		t.Fatalf("the keeper has %d descriptors, which shows nothing: %v", len(open), err)
	}
	for who, pid := range map[string]int{"plugin": last.PID, "reaper": last.ReaperPID} {
		var size int
		if _, err := fmt.Sscan(statusField(t, pid, "FDSize:"), &size); err != nil {
			t.Fatal(err)
		}
		if size > 256 {
			t.Errorf("the %s began with room for %d descriptors", who, size)
		}
	}
}

func statusField(t *testing.T, pid int, name string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), name)
	value, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(value)
}
