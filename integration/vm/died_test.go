package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/integration/vm/stream"
)

// mortalQEMU is a guest of two tiers whose kernel dies in the second, the first
// time or each time. What it was told stays in a file.
const mortalQEMU = `#!/bin/sh
echo "$*" >>%[1]s/told
console=${*#*file:}
case "$*" in
*cordon.skip=1*) cat %[1]s/%[3]s; [ %[3]s = rest ] && exit ;;
*) cat %[1]s/%[2]s ;;
esac
printf '[  1.0] BUG: unable to handle page fault\n[  1.1] Kernel panic - not syncing: Fatal exception\n' >"${console%%%% *}"
`

// died runs such a guest, and gives what it was told each time.
func died(t *testing.T, first, second, accel string) (told []string, err error) {
	t.Helper()
	dir := t.TempDir()
	begin := func(name string) string {
		return message(t, stream.Message{Kind: stream.Begin, Tier: stream.Tier{Name: name, Test: true}}) + "\n"
	}
	end := message(t, stream.Message{Kind: stream.End}) + "\n"
	const runs, passes, fails = "\x16=== RUN   TestA\n", "\x16--- PASS: TestA (0.00s)\n\x16PASS\n", "\x16--- FAIL: TestA (0.00s)\n"
	for name, text := range map[string]string{
		"one":       begin("one") + runs + passes + end + begin("two") + runs,
		"one-fails": begin("one") + runs + passes + end + begin("two") + runs + fails,
		"rest":      begin("two") + runs + passes + end + message(t, stream.Message{Kind: stream.Done}) + "\n",
		"dies":      begin("two") + runs,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), fmt.Appendf(nil, mortalQEMU, dir, first, second), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	err = runKernel(t.Context(), options{dir: dir}, "6.1", &image{release: "6.1.0", vmlinuz: "vmlinuz"}, filepath.Join(dir, "root"), accel)
	text, readErr := os.ReadFile(filepath.Join(dir, "told"))
	if readErr != nil {
		t.Fatal(readErr)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n"), err
}

// TestAKernelThatDiedIsBootedOnceMore: for what it had not ended, once, and under
// emulation only. Tests that failed before have failed.
func TestAKernelThatDiedIsBootedOnceMore(t *testing.T) {
	for name, c := range map[string]struct {
		first, second, accel string
		boots                int
		want                 string // of the error; empty for none
	}{
		"once":              {"one", "rest", accelTCG, 2, ""},
		"each time":         {"one", "dies", accelTCG, 2, "the guest's kernel died: BUG: unable to handle page fault; Kernel panic"},
		"after a failure":   {"one-fails", "rest", accelTCG, 2, "two: TestA failed before the kernel died"},
		"on real processor": {"one", "rest", accelKVM, 1, "the guest's kernel died"},
	} {
		t.Run(name, func(t *testing.T) {
			told, err := died(t, c.first, c.second, c.accel)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("the run gave %v, want %q", err, c.want)
			}
			if len(told) != c.boots {
				t.Errorf("it was booted %d times, want %d: %q", len(told), c.boots, told)
			}
			var d *kernelDied
			if c.second == "dies" && !errors.As(err, &d) {
				t.Errorf("the run gave %T", err)
			}
		})
	}
}
