package main

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
)

// This program starts itself, and in a test that is the test's binary.
func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// A short run prints every figure in the form that is read, whether its target
// was met or not: so few rounds prove nothing about speed.
func TestEveryFigureIsPrinted(t *testing.T) {
	var out strings.Builder
	e := effort{generations: 1, rounds: 3, turns: 10, trips: 3, loads: 1, compiles: 1}
	if err := measure(&out, e); err != nil && !errors.Is(err, errShort) {
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
	for name, target := range map[string]string{
		"getppid_largest_to_one_rule": "1.05", "fcntl_largest_to_one_rule": "2.00", "mmap_largest_to_one_rule": "2.00",
		"refused_listener_one_cpu_us": "-", "refused_ptrace_one_cpu_us": "-", "compile_cold_us": "-",
		"compile_cached_memory_us": "-", "load_linear_us": "-", "load_tree_us": "-",
	} {
		if got, ok := found[name]; !ok || got != target {
			t.Errorf("figure %s has target %q, want %q, in\n%s", name, got, target, out.String())
		}
	}
	if strings.Count(out.String(), "(arguments of") != 3 {
		t.Errorf("the largest filter checks the arguments of fcntl and mmap:\n%s", out.String())
	}
}

func TestAShortFigureIsAFailure(t *testing.T) {
	var out strings.Builder
	r := report{out: &out}
	r.figure("a", 1.05, 1.05)
	r.figure("b", 7, 0)
	if r.short {
		t.Errorf("short too early:\n%s", out.String())
	}
	r.figure("c", 1.051, 1.05)
	if want := "figure a 1.050 1.05 ok\nfigure b 7.000 - ok\nfigure c 1.051 1.05 short\n"; out.String() != want || !r.short {
		t.Errorf("short %v, printed\n%s", r.short, out.String())
	}
}
