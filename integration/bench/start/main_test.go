package main

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
)

// A short run prints every figure in the form that is read, whether its target
// was met or not: so few rounds prove nothing about speed. The floor must take
// every step that cordon takes, or it is none.
func TestEveryFigureIsPrinted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	root = "../../.."
	var out strings.Builder
	if err := measure(&out, effort{rounds: 2, launches: 2}, root+"/bin/cordon"); err != nil && !errors.Is(err, errShort) {
		t.Fatal(err)
	}
	form := regexp.MustCompile(`^figure ([a-z_]+) [0-9]+\.[0-9]{3} (-|[0-9.]+) (ok|short)$`)
	found := map[string]string{}
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "figure ") {
			continue
		}
		m := form.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			t.Fatalf("not a figure: %q", line)
		}
		found[m[1]] = m[2]
	}
	for _, part := range []string{"back_to_back_", "spaced_"} {
		if target := found[part+"cold_to_floor"]; target != "1.25" {
			t.Errorf("%scold_to_floor has target %q, want 1.25; output:\n%s", part, target, out.String())
		}
	}
	if strings.Contains(out.String(), "not measured: the driver") {
		t.Errorf("the driver ended:\n%s", out.String())
	}
}
