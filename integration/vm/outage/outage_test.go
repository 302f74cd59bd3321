package outage

import (
	"strings"
	"testing"
)

// tell gives the judge lines and returns the first error; "power" is an outage.
func tell(j *Judge, lines ...string) error {
	for _, line := range lines {
		if line == "power" {
			j.PowerIsBack()
		} else if err := j.Line(mark + line); err != nil {
			return err
		}
	}
	return nil
}

func TestJudge(t *testing.T) {
	begun := []string{
		"verified 1", "up", "asks install a", "told install a", "asks install b", "told install b",
		"asks quarantine a", "told quarantine a", "asks quarantine b", "power",
	}
	whole := []string{"state a quarantined", "state b stopped", "recorded a quarantined 1", "verified 9", "up"}
	for _, c := range []struct {
		name, broken string
		lines        []string
	}{
		{"all of it", "", whole},
		{"what was asked for was done", "", []string{"state a quarantined", "state b quarantined", "recorded a quarantined 1", "recorded b quarantined 1", "verified 9"}},
		{"a lost quarantine", "a is free, and was quarantined", []string{"state a running"}},
		{"a lost plugin", "b is absent, and was free or quarantined", []string{"state a quarantined", "recorded a quarantined 1", "verified 9"}},
		{"a lost record", "no record that says quarantined of a", []string{"state a quarantined", "state b stopped", "verified 9"}},
		{"one nobody asked for", "c is free, and was absent", []string{"state c stopped"}},
		{"a shorter log", "ends with record 0", []string{"state a quarantined", "state b stopped", "recorded a quarantined 1", "verified 0"}},
		{"a record less the next time", "has 1 records", append(append([]string{}, whole...), "asks release a", "told release a", "asks quarantine a", "told quarantine a", "power", "state a quarantined", "state b stopped", "recorded a quarantined 1")},
		{"a quarantine that nobody released", "a is free", append(append([]string{}, whole...), "asks release a", "power", "state a stopped", "state b stopped", "recorded a quarantined 1", "verified 9", "asks quarantine a", "told quarantine a", "power", "state a stopped")},
		{"a release that was told of", "a is quarantined, and was free", append(append([]string{}, whole...), "asks release a", "told release a", "power", "state a quarantined")},
		{"it says so", "no good", []string{"failed no good"}},
		{"nonsense", "cannot understand", []string{"state"}},
	} {
		j := NewJudge()
		if err := tell(j, begun...); err != nil {
			t.Fatal(err)
		}
		err := tell(j, c.lines...)
		if c.broken == "" && err != nil || c.broken != "" && (err == nil || !strings.Contains(err.Error(), c.broken)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.broken)
		}
	}
	if err := NewJudge().Line("the kernel's own words"); err != nil {
		t.Error(err)
	}
}
