//go:build walltest

package escape

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/cordonhq/cordon/namespaces"
)

// verdict is one line of the report.
type verdict struct {
	Category  string   `json:"category"`
	Case      string   `json:"case"`
	After     string   `json:"after,omitempty"`
	Walls     []string `json:"walls"`
	Outcome   string   `json:"outcome"` // "held" or "ESCAPED"
	Violation string   `json:"violation,omitempty"`
	// Alone are the walls that were shown to hold by themselves, Without what
	// the attack got when all of them were off.
	Alone   []string `json:"alone"`
	Without string   `json:"without"`
	Note    string   `json:"note,omitempty"`
}

func corpus() []escape {
	return slices.Concat(fileCases(), namespaceCases(), privilegeCases(), seccompCases(), procCases(), deviceCases(),
		networkCases(), resourceCases(), supervisionCases(), descriptorCases(), doorCases(), ipcCases(), controlCases())
}

// leastCases is what a corpus has to have, in all and of each category.
const (
	leastCases       = 60
	leastPerCategory = 3
)

// TestEscapes runs the corpus and prints its report.
func TestEscapes(t *testing.T) {
	var report []verdict
	for _, c := range corpus() {
		name := strings.ReplaceAll(c.category+"/"+c.name, " ", "_")
		t.Run(name, func(t *testing.T) {
			report = append(report, c.judge(t))
		})
	}
	t.Log("\n" + table(report))
	if file := os.Getenv("CORDON_ESCAPE_REPORT"); file != "" {
		if err := os.WriteFile(file, lines(report), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// TestTheCorpusIsWhole: no category is forgotten, no case is there twice.
func TestTheCorpusIsWhole(t *testing.T) {
	count, names := map[string]int{}, map[string]bool{}
	for _, c := range corpus() {
		count[c.category]++
		if names[c.name] {
			t.Errorf("the case %q is there twice", c.name)
		}
		names[c.name] = true
		if len(c.walls) == 0 {
			t.Errorf("the case %q names no wall", c.name)
		}
	}
	if len(names) < leastCases {
		t.Errorf("%d cases; want at least %d", len(names), leastCases)
	}
	for _, category := range []string{
		"files", "namespaces", "privileges", "seccomp", "proc and sys", "devices", "network", "resources", "supervision",
		"descriptors", "ipc", "control socket",
	} {
		if count[category] < leastPerCategory {
			t.Errorf("%d cases of %s; want at least %d", count[category], category, leastPerCategory)
		}
	}
}

// judge runs one case behind all walls, behind each alone, and without them.
func (c escape) judge(t *testing.T) verdict {
	v := verdict{Category: c.category, Case: c.name, After: c.after, Walls: c.walls, Outcome: "held"}
	got, tr := c.run(t, nil)
	if got != "" {
		v.Outcome = "ESCAPED"
		t.Errorf("an escape behind all walls: %s; violations %q; it said: %s", got, tr.told(), tr.output())
	}
	if c.try == nil && (tr.startError != nil) != c.refused {
		t.Errorf("start: %v", tr.startError)
	}
	v.Violation = c.violation(t, tr)
	for i, wall := range c.walls {
		if c.lacks != nil && c.lacks(wall) != "" {
			v.Note = c.lacks(wall)
			continue
		}
		if len(c.walls) == 1 && len(c.with) == 0 {
			v.Alone = append(v.Alone, wall)
			break // that was the run behind all walls
		}
		got, tr := c.run(t, slices.Concat(apartFrom(c.walls, i), c.with))
		if got != "" || tr.startError != nil && c.try == nil && !c.refused {
			t.Errorf("%s does not stop it alone: %s; start: %v; it said: %s", wall, got, tr.startError, tr.output())
			continue
		}
		v.Alone = append(v.Alone, wall)
	}
	if c.unable != nil {
		if why := c.unable(); why != "" {
			v.Without, v.Note = "not shown here", why
			return v
		}
	}
	v.Without, tr = c.run(t, slices.Concat(apartFrom(c.walls, -1), c.with))
	if v.Without == "" {
		t.Errorf("it fails although its walls are off: the case shows nothing; start: %v; violations %q; it said: %s", tr.startError, tr.told(), tr.output())
	}
	return v
}

// landlockFrom is for what Landlock stops from some ABI on.
func landlockFrom(abi int) func(string) string {
	return func(wall string) string {
		if have := namespaces.LandlockABI(); wall == namespaces.WallLandlock && have < abi {
			return fmt.Sprintf("Landlock stops it from ABI %d; this kernel has %d", abi, have)
		}
		return ""
	}
}

// apartFrom are the switches of all walls but the one with this index.
func apartFrom(walls []string, but int) []string {
	var off []string
	for i, w := range walls {
		if i != but {
			off = append(off, strings.Split(w, "+")...)
		}
	}
	return off
}

// violation says what was told, and complains if it is not what must be.
func (c escape) violation(t *testing.T, tr *trial) string {
	told, want := tr.told(), strings.ReplaceAll(c.reports, "$dir", tr.dir)
	switch {
	case want == "" && len(told) > 0:
		t.Errorf("violations nobody expects: %q", told)
	case want != "" && !slices.Contains(told, want):
		t.Errorf("violations %q, want %q; it said: %s", told, want, tr.output())
	}
	return strings.Join(slices.Compact(told), ", ")
}

func table(report []verdict) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CATEGORY\tCASE\tWALLS\tOUTCOME\tVIOLATION\tWITHOUT THE WALLS")
	for _, v := range report {
		name := v.Case
		if v.After != "" {
			name += " (" + v.After + ")"
		}
		outcome := v.Outcome
		if n := len(v.Alone); n > 1 {
			outcome += fmt.Sprintf(", by each of %d alone", n)
		}
		told := v.Violation
		if told == "" {
			told = "-"
		}
		without := v.Without
		if v.Note != "" {
			without += " [" + v.Note + "]"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", v.Category, name, strings.Join(v.Walls, "; "), outcome, clip(told), clip(without))
	}
	_ = w.Flush()
	held := 0
	for _, v := range report {
		if v.Outcome == "held" {
			held++
		}
	}
	fmt.Fprintf(&b, "%d cases, %d held\n", len(report), held)
	return b.String()
}

func clip(s string) string {
	const most = 100
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// lines is the report for programs: a JSON object a line.
func lines(report []verdict) []byte {
	var b []byte
	for _, v := range report {
		line, err := json.Marshal(v)
		if err != nil {
			panic(err) // plain data
		}
		b = append(append(b, line...), '\n')
	}
	return b
}
