package machine

import (
	"strings"
	"testing"
)

// TestSince: every field of the kernel's line is counted once, and guests' time,
// which the user's has in it, not twice.
func TestSince(t *testing.T) {
	then := parse("cpu  100 0 50 1000 10 0 0 40 7 7")
	now := parse("cpu  130 5 70 1030 15 3 2 45 90 90")
	if got, want := now.Since(then), "busy 60 %, idle 30 %, idle for disks 5 %, taken by the machine's host 5 %"; !strings.Contains(got, want) {
		t.Errorf("is %q, and must say %q", got, want)
	}
	if got := (Shares{}).Since(Shares{}); !strings.Contains(got, "busy 0 %") {
		t.Errorf("of no time it says %q", got)
	}
	if s := Now(); s.Busy == 0 || s.Idle == 0 {
		t.Errorf("this machine has done %+v", s)
	}
	if !strings.Contains(Name(), "processors") {
		t.Errorf("the machine is %q", Name())
	}
}
