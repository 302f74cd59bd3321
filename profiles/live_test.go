package profiles

import (
	"slices"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/profiles/plan"
)

func planWith(t *testing.T, sets ...string) *plan.Plan {
	t.Helper()
	p, err := Builtin("strict")
	if err == nil {
		p, err = p.With(sets)
	}
	if err != nil {
		t.Fatal(err)
	}
	return resolve(t, Input{Profile: p})
}

// TestChanges holds for every part of a profile whether it changes while it is
// in force, and that a plan to which all of that was done is the next one but
// for what waits.
func TestChanges(t *testing.T) {
	for set, want := range map[string]string{
		"resources.memory.max=300M":       "live resources.memory.max",
		"resources.memory.high=200M":      "live resources.memory.high",
		"resources.memory.swap.max=1M":    "live resources.memory.swap.max",
		"resources.memory.oom.group=true": "live resources.memory.oom.group",
		"resources.pids.max=7":            "live resources.pids.max",
		"resources.cpu.max=50%":           "live resources.cpu.max",
		"resources.cpu.weight=50":         "live resources.cpu.weight",
		"resources.cpuset.cpus=0":         "live resources.cpuset.cpus",
		"resources.io.max.rbps=1M":        "live resources.io.max",
		"resources.hugetlb.2MB.max=0":     "live resources.hugetlb.2MB.max",
		"resources.pids.max=max":          "live resources.pids.max", // to the ceiling's
		"resources.cpu.max=max":           "restart resources.cpu.max",
		"violation.memory=kill":           "live violation.memory",
		`violation.ipc={ action = "deny", budget = "3/h", then = "quarantine" }`: "live violation.ipc",
		"lifecycle.restart=no":                    "live lifecycle.restart",
		"lifecycle.timeout_stop_sec=9s":           "live lifecycle.timeout_stop_sec",
		"lifecycle.watchdog_sec=9s":               "restart lifecycle.watchdog_sec",
		"violation.watch=files":                   "restart violation.watch,seccomp",
		"seccomp.allow=mount":                     "restart seccomp",
		"seccomp.execve=any":                      "restart seccomp",
		`files=[{ path = "/opt", access = "r" }]`: "restart files",
		"proc.mode=full":                          "restart proc",
		"devices.remove=full":                     "restart devices",
		"tmp.size=1M":                             "restart tmp.size",
		"shm.size=1M":                             "restart shm.size",
		"data.inodes=5":                           "restart data.inodes",
		"network.egress=example.com:443":          "restart seccomp,network.egress",
		"network.listen=127.0.0.1:80":             "restart seccomp,network.listen",
		"resources.time.wall=1m":                  "restart resources.time.wall",
		"resources.time.cpu=1m":                   "restart resources.time.cpu",
		"resources.rlimit.nofile=99":              "restart resources.rlimit",
		"identity.uid=7":                          "restart environment",
		"environment.set.A=b":                     "restart environment",
		"ipc.rate=3":                              "restart ipc.rate",
		"require.memory=best_effort":              "restart require.memory",
	} {
		now, next := planWith(t), planWith(t, set)
		before := now.PolicyDigest()
		merged, live, restart := Changes(now, next)
		got := ""
		switch {
		case len(live) > 0 && len(restart) == 0:
			got = "live " + strings.Join(live, ",")
		case len(restart) > 0 && len(live) == 0:
			slices.SortFunc(restart, func(a, b string) int { return strings.Compare(b, a) })
			got = "restart " + strings.Join(restart, ",")
		case len(restart) > 0:
			got = "both"
		}
		if got != want {
			t.Errorf("--set %s: got %q, want %q", set, got, want)
		}
		if now.PolicyDigest() != before {
			t.Errorf("--set %s changed the plan that is in force", set)
		}
		if _, again, rest := Changes(merged, next); len(again) > 0 || !slices.Equal(rest, restart) && len(rest) != len(restart) {
			t.Errorf("--set %s: what was changed is not: %v, %v", set, again, rest)
		}
		if len(live) > 0 && merged.Origins[live[0]] != next.Origins[live[0]] {
			t.Errorf("--set %s: %s is by %q", set, live[0], merged.Origins[live[0]])
		}
	}
}

// TestChangesLift: a limit can be moved, not lifted.
func TestChangesLift(t *testing.T) {
	now, next := planWith(t, "resources.io.max.rbps=1M", "resources.io.max.wbps=1M"), planWith(t, "resources.io.max.rbps=2M")
	merged, live, restart := Changes(now, next)
	if len(live) > 0 || !slices.Equal(restart, []string{"resources.io.max"}) || *merged.Limits.IOMax.ReadBPS != 1<<20 {
		t.Errorf("one of two bounds lifted: %v, %v, %+v", live, restart, merged.Limits.IOMax)
	}
}
