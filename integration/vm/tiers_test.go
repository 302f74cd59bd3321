package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestWhatIsLeftOutIsListed holds docs/vm.md to what the guests leave out, and
// that to the tests that there are.
func TestWhatIsLeftOutIsListed(t *testing.T) {
	text, err := os.ReadFile("../../docs/vm.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`Test.*`) \\| [^|]* \\|$").FindAllString(string(text), -1) {
		listed[row] = true
	}
	for _, tier := range tiers {
		for _, l := range tier.leaves {
			row := fmt.Sprintf("| `%s` | %s |", strings.Join(l.tests, "`, `"), l.why)
			if !listed[row] {
				t.Errorf("docs/vm.md has no row %s", row)
			}
			delete(listed, row)
			for _, test := range l.tests {
				if !defines(t, tier.pkg, test) {
					t.Errorf("%s has no %s to leave out", tier.pkg, test)
				}
			}
		}
	}
	for row := range listed {
		t.Errorf("docs/vm.md lists what guests run: %s", row)
	}
}

// defines says whether a package has a test.
func defines(t *testing.T, pkg, test string) bool {
	t.Helper()
	files, err := filepath.Glob("../../" + pkg + "/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+test+"(t *testing.T)") {
			return true
		}
	}
	return false
}

func TestAnEmulatedGuestHasItsOwnClock(t *testing.T) {
	for accel, want := range map[string]bool{accelTCG: true, accelKVM: false} {
		args := strings.Join(machine{accel: accel, clock: 1}.args(), " ")
		if got := strings.Contains(args, "-icount shift=1"); got != want {
			t.Errorf("%s: %s", accel, args)
		}
	}
}
