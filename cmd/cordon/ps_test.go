package main

import (
	"testing"

	"github.com/cordonhq/cordon/supervisor/control"
)

// TestPsNamesWhatIsNotEnforced: a plugin in complain mode does not look like
// one behind its walls.
func TestPsNamesWhatIsNotEnforced(t *testing.T) {
	rows := psRows([]control.Status{{Name: "a", State: control.Running, NotEnforced: []string{"seccomp"}}, {Name: "b", State: control.Running}})
	if rows[1][3] != "running (not enforced: seccomp)" || rows[2][3] != "running" {
		t.Errorf("got %q", rows)
	}
}
