package integration

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// What is allocated before main is how much is set up there, on any machine and
// under any load; make bench-start has the time.
const (
	maxInitAllocs = 450       // 430 of all packages together, the runtime's among them
	maxInitBytes  = 80 * 1024 // 65 KiB
)

var initLine = regexp.MustCompile(`^init (\S+) @.* clock, ([0-9]+) bytes, ([0-9]+) allocs`)

func TestRunSetsUpLittle(t *testing.T) {
	run := exec.Command(bin+"/cordon", "run", "--there-is-no-such-flag")
	run.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, _ := run.CombinedOutput() // it ends with 125
	allocs, bytes, packages := 0, 0, 0
	for line := range strings.Lines(string(out)) {
		if m := initLine.FindStringSubmatch(line); m != nil {
			b, _ := strconv.Atoi(m[2]) // digits, by the pattern
			n, _ := strconv.Atoi(m[3])
			allocs, bytes, packages = allocs+n, bytes+b, packages+1
		}
	}
	if packages < 10 {
		t.Fatalf("the runtime told of %d packages:\n%s", packages, out)
	}
	if allocs > maxInitAllocs || bytes > maxInitBytes {
		t.Errorf("%d packages allocate %d times, %d bytes before main; want at most %d and %d:\n%s", packages, allocs, bytes, maxInitAllocs, maxInitBytes, out)
	}
}
