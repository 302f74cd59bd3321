package plan

import "testing"

// A settled plan's digest is that of the plan, and a copy that was changed has
// its own.
func TestSettledDigest(t *testing.T) {
	p := &Plan{Profile: "a", Proc: "pid"}
	want := p.PolicyDigest()
	p.Settle()
	if got := p.PolicyDigest(); got != want {
		t.Errorf("settled it is %s, before it was %s", got, want)
	}
	changed := *p
	changed.Proc = "none"
	if got := changed.PolicyDigest(); got == want {
		t.Error("a changed copy has the digest of what it was copied from")
	}
	changed.Settle()
	if changed.PolicyDigest() == want || p.PolicyDigest() != want {
		t.Error("to settle a copy changed the digest of another plan")
	}
}
