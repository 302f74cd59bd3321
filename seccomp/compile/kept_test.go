package compile

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/seccomp"
)

// TestKeptCallIsGoneOnWith: a call that one listener took and did not answer is
// answered by another that has the same memory, as if it had come just now.
func TestKeptCallIsGoneOnWith(t *testing.T) {
	r := start(t, seccomp.Filter{Rules: []seccomp.Rule{runtimeCalls}}, call(unix.SYS_GETPPID))
	memory := make([]byte, seccomp.KeptSize)
	taken := make(chan seccomp.Notification, 1)
	first := listen(t)
	if _, err := first.AddKept(r.listener, memory, func(n seccomp.Notification) seccomp.Verdict {
		taken <- n
		return seccomp.Verdict{Pending: true}
	}); err != nil {
		t.Fatal(err)
	}
	r.release(t)
	was := <-taken
	left := append([]byte(nil), memory...) // as a kill would leave it
	var again []seccomp.Notification
	second := listen(t)
	remove, err := second.AddKept(r.listener, left, func(n seccomp.Notification) seccomp.Verdict {
		again = append(again, n)
		return seccomp.Verdict{Errno: syscall.EXDEV}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(again) != 1 || again[0].ID != was.ID || again[0].Call != "getppid" || again[0].PID != was.PID {
		t.Fatalf("gone on with %+v, not with %+v", again, was)
	}
	for i, got := range r.results(t) {
		if got.Errno != syscall.EXDEV {
			t.Errorf("call %d: %v", i, got.Errno)
		}
	}
	remove()
	if second.Len() != 0 {
		t.Errorf("%d are served", second.Len())
	}
}
