package main

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
)

// A measurement of a child is this test's own program.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A short run prints both figures in the form that is read, whether their
// targets are met or not.
func TestFiguresArePrinted(t *testing.T) {
	var out strings.Builder
	if err := measure(&out, 1); err != nil && !errors.Is(err, errShort) {
		t.Fatal(err)
	}
	form := regexp.MustCompile(`(?m)^figure (profile_plan_first_ms|profile_plan_again_ms) [0-9]+\.[0-9]{3} 2\.00 (ok|short)$`)
	if found := form.FindAllString(out.String(), -1); len(found) != 2 || !strings.HasPrefix(out.String(), "machine: ") {
		t.Errorf("got %q in\n%s", found, out.String())
	}
}

func TestFigureSaysWhatIsShort(t *testing.T) {
	var out strings.Builder
	if !figure(&out, "a", 2) || figure(&out, "b", 2.001) {
		t.Error("the verdict is wrong")
	}
	if want := "figure a 2.000 2.00 ok\nfigure b 2.001 2.00 short\n"; out.String() != want {
		t.Errorf("got %q", out.String())
	}
}
