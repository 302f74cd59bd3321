package launch

import (
	"testing"
	"time"
)

// What a daemon does when starts are over comes once after the last, and none
// after Close.
func TestStartsSettle(t *testing.T) {
	l := testLauncher(t)
	settled := make(chan struct{}, 8)
	l.settling = time.AfterFunc(time.Hour, func() { settled <- struct{}{} })
	if _, err := run(t, l, testPlan(t, "shell", nil, "true")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-settled:
	case <-time.After(time.Minute):
		t.Error("nobody was told that starts are over")
	}
}
