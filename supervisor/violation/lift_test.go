package violation

import (
	"fmt"
	"testing"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
)

// resolved is the plan of a profile that extends a built-in one and adds more.
func resolved(t *testing.T, base, more string) *plan.Plan {
	t.Helper()
	text := fmt.Sprintf("extends = [%q]\n%s", "builtin:"+base, more)
	profile, err := profiles.ParseProfile("changed.toml", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	p, err := profiles.Resolve(profiles.Input{Profile: profile, Argv: []string{"/x"}})
	if err != nil {
		t.Fatalf("%v with\n%s", err, text)
	}
	return p
}

// decides is what p's filter does with one use of a call.
func decides(p *plan.Plan, call string, raw []uint64) seccomp.Action {
	r := refusalOf(call, raw, p)
	for _, arm := range r.arms {
		if r.holds(arm.Args) {
			return arm.Action
		}
	}
	return seccomp.ActNotify
}

// TestChangeLiftsTheRefusal: the change that is printed, added to a profile
// that extends the one that refused, allows the very call that was refused,
// for every built-in profile.
func TestChangeLiftsTheRefusal(t *testing.T) {
	uses := []struct {
		call string
		raw  []uint64
	}{
		{"mount", []uint64{1, 2, 3, 0, 0, 0}},
		{"ptrace", []uint64{16, 1, 0, 0, 0, 0}},
		{"socket", []uint64{2, 0x80003, 1, 0, 0, 0}},
		{"socket", []uint64{16, 3, 0, 0, 0, 0}},
		{"socketpair", []uint64{40, 1, 0, 0, 0, 0}},
		{"clone", []uint64{0x10000000 | 17, 0, 0, 0, 0, 0}},
		{"unshare", []uint64{0x10000000, 0, 0, 0, 0, 0}},
		{"mprotect", []uint64{4096, 4096, 5, 0, 0, 0}},
		{"pkey_mprotect", []uint64{4096, 4096, 7, 0, 0, 0}},
		{"mmap", []uint64{0, 4096, 7, 0x22, 1<<64 - 1, 0}},
		{"mmap", []uint64{0, 4096, 4, 0x22, 1<<64 - 1, 0}},
		{"ioctl", []uint64{0, 0x5412, 0, 0, 0, 0}},
		{"ioctl", []uint64{0, 1<<32 | 0x541c, 0, 0, 0, 0}},
		{"prctl", []uint64{22, 2, 0, 0, 0, 0}},
		{"personality", []uint64{0x0400000, 0, 0, 0, 0, 0}},
		{"keyctl", []uint64{0, 0, 0, 0, 0, 0}},
		{"bpf", []uint64{0, 0, 0, 0, 0, 0}},
		{"mknodat", []uint64{0, 0, 0, 0, 0, 0}},
		{"setuid", []uint64{0, 0, 0, 0, 0, 0}},
	}
	refused := 0
	for _, base := range profiles.BuiltinNames() {
		before := resolved(t, base, "")
		for _, use := range uses {
			if a := decides(before, use.call, use.raw); a != seccomp.ActNotify {
				continue // allowed there, or answered by an errno
			}
			refused++
			for _, raw := range [][]uint64{use.raw, nil} {
				v := Violation{Wall: Seccomp, Call: use.call, RawArgs: raw}
				Explain(&v, before)
				after := resolved(t, base, v.Change)
				if got := decides(after, use.call, use.raw); got != seccomp.ActAllow {
					t.Errorf("%s: %s%#x is %s after\n%s", base, use.call, use.raw, got, v.Change)
				}
			}
		}
	}
	if refused < 5*len(profiles.BuiltinNames()) {
		t.Errorf("only %d refusals were tried", refused)
	}
}

// TestChangeOfAnotherUse: a change allows the use that was refused and not the
// next one.
func TestChangeOfAnotherUse(t *testing.T) {
	before := resolved(t, "shell", "")
	v := Violation{Wall: Seccomp, Call: "socket", RawArgs: []uint64{2, 3, 1, 0, 0, 0}}
	Explain(&v, before)
	after := resolved(t, "shell", v.Change)
	for _, raw := range [][]uint64{{10, 3, 1, 0, 0, 0}, {2, 2, 1, 0, 0, 0}, {2, 3, 6, 0, 0, 0}} {
		if got := decides(after, "socket", raw); got != seccomp.ActNotify {
			t.Errorf("socket%v is %s as well after\n%s", raw, got, v.Change)
		}
	}
}

// TestChangesOfOtherWalls: what is printed for a path or a quota is taken by the
// profile and is in its plan.
func TestChangesOfOtherWalls(t *testing.T) {
	before := resolved(t, "shell", "")
	change := func(v Violation) *plan.Plan {
		Explain(&v, before)
		if v.Change == "" {
			t.Fatalf("%s %s: there is no change: %s", v.Wall, v.What, v.Also)
		}
		return resolved(t, "shell", v.Change)
	}
	after := change(Violation{Wall: Files, Path: "/srv/photos", Access: "write"})
	if g := covering(after.Files, "/srv/photos"); g == nil || AccessWord(g.Access) != "rw" {
		t.Errorf("the grant is %+v", g)
	}
	if p := change(Violation{Wall: Memory, Limit: *before.Limits.MemoryMax}); *p.Limits.MemoryMax <= *before.Limits.MemoryMax {
		t.Errorf("memory.max is %d", *p.Limits.MemoryMax)
	}
	if p := change(Violation{Wall: Pids, Limit: *before.Limits.PidsMax}); *p.Limits.PidsMax <= *before.Limits.PidsMax {
		t.Errorf("pids.max is %d", *p.Limits.PidsMax)
	}
	if p := change(Violation{Wall: Files, Path: "/proc/cpuinfo", Access: "read"}); p.Proc != "full" {
		t.Errorf("proc is %s", p.Proc)
	}
	if p := change(Violation{Wall: Files, Path: "/dev/shm/x", Access: "write"}); p.Shm.Size == 0 {
		t.Error("there is no /dev/shm")
	}
	if p := change(Violation{Wall: IPC, What: "too-large (max_frame): 5 MiB"}); p.IPC.MaxFrame <= before.IPC.MaxFrame {
		t.Errorf("max_frame is %d", p.IPC.MaxFrame)
	}
}
