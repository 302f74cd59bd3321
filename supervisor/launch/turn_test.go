package launch

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A plugin takes turns as long as everybody's: only its way to the exec let
// others go first.
func TestAPluginTakesTurnsLikeOthers(t *testing.T) {
	l := testLauncher(t)
	p, err := l.Start(t.Context(), Request{Plan: testPlan(t, "shell", nil, "sleep", "60"), Name: "turns"})
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := unix.SchedGetAttr(p.PID(), 0)
	if err != nil {
		t.Error(err)
	}
	ours, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Error(err)
	}
	if theirs != nil && ours != nil && (theirs.Runtime != ours.Runtime || theirs.Policy != ours.Policy || theirs.Nice != ours.Nice) {
		t.Errorf("a plugin has %+v, and we have %+v", theirs, ours)
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	if err := p.Release(); err != nil {
		t.Error(err)
	}
}
