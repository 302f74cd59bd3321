// Package score says in a number how much a plan leaves open, over every wall.
//
// The method: each point is one thing that a wall can leave open, with a weight
// from 1 to 10 for what it is worth to an attacker, and how far the plan leaves
// it open, from 0 to 1. The score is 100 x (1 - sum of weight x open / sum of
// weights): 100 leaves nothing open that a profile can close. How far a point is
// open never falls when the plan allows more, so a plan that allows less than
// another never scores lower.
//
// What no profile can open (capabilities, set-id bits, other processes, the
// host's network) is no point: it would flatter every profile alike.
package score

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
)

// Point is one thing that a wall can leave open.
type Point struct {
	Wall   string  `json:"wall"`
	Name   string  `json:"name"`
	Weight float64 `json:"weight"` // 1 to 10
	Open   float64 `json:"open"`   // 0 to 1
	// Text is what is open; empty if nothing is.
	Text string `json:"text,omitempty"`
	// Why is what that is worth to an attacker.
	Why string `json:"why"`
	// Cost is what the point takes from 100.
	Cost float64 `json:"cost"`
}

// Score is what a plan leaves open.
type Score struct {
	// Score is from 0 to 100; more is stronger.
	Score  float64 `json:"score"`
	Points []Point `json:"points"`
}

// Of scores a plan. The points are in the same order for every plan.
func Of(p *plan.Plan) Score {
	s := &scorer{plan: p, filter: calls(p)}
	s.calls()
	s.files()
	s.inside()
	s.beyond()
	s.quotas()
	s.connection()
	s.promises()
	total, open := 0.0, 0.0
	for _, pt := range s.points {
		total += pt.Weight
		open += pt.Weight * pt.Open
	}
	for i := range s.points {
		s.points[i].Cost = 100 * s.points[i].Weight * s.points[i].Open / total
	}
	return Score{Score: 100 * (1 - open/total), Points: s.points}
}

// Walls are the walls that points are about, in their order.
func (s Score) Walls() []string {
	var out []string
	for _, pt := range s.Points {
		if !slices.Contains(out, pt.Wall) {
			out = append(out, pt.Wall)
		}
	}
	return out
}

// Cost is what a wall takes from 100, and how much it could.
func (s Score) Cost(wall string) (cost, most float64) {
	total := 0.0
	for _, pt := range s.Points {
		total += pt.Weight
		if pt.Wall == wall {
			cost, most = cost+pt.Cost, most+pt.Weight
		}
	}
	return cost, 100 * most / total
}

type scorer struct {
	plan   *plan.Plan
	filter map[string][]seccomp.Arm
	points []Point
}

// add adds a point; open is cut to 0 and 1.
func (s *scorer) add(wall, name string, weight, open float64, why, format string, args ...any) {
	pt := Point{Wall: wall, Name: name, Weight: weight, Open: min(max(open, 0), 1), Why: why}
	if pt.Open > 0 {
		pt.Text = fmt.Sprintf(format, args...)
	}
	s.points = append(s.points, pt)
}

func calls(p *plan.Plan) map[string][]seccomp.Arm {
	out := map[string][]seccomp.Arm{}
	list, err := p.Seccomp.Calls()
	if err != nil { // a plan's filter was checked when it was resolved
		return nil
	}
	for _, c := range list {
		out[c.Name] = c.Arms
	}
	return out
}

// passes says whether a call with these arguments goes through. In complain mode
// every call does.
func (s *scorer) passes(call string, args ...uint64) bool {
	if s.plan.Violation["seccomp"].Action == "log" {
		return true
	}
	nr, ok := seccomp.Number(call)
	if !ok {
		return false
	}
	for _, arm := range s.filter[call] {
		if holds(nr, arm, args) {
			return arm.Action == seccomp.ActAllow || arm.Action == seccomp.ActLog
		}
	}
	return slices.Contains(s.plan.Seccomp.Watch, call)
}

// may says whether a call goes through with some arguments.
func (s *scorer) may(call string) bool {
	if s.plan.Violation["seccomp"].Action == "log" {
		return true
	}
	return slices.ContainsFunc(s.filter[call], func(a seccomp.Arm) bool {
		return a.Action == seccomp.ActAllow || a.Action == seccomp.ActLog
	}) || slices.Contains(s.plan.Seccomp.Watch, call)
}

func holds(nr int, arm seccomp.Arm, args []uint64) bool {
	for _, c := range arm.Args {
		value := uint64(0)
		if int(c.Index) < len(args) {
			value = args[c.Index]
		}
		if bits := seccomp.ArgBits(nr, c.Index); bits < 64 {
			value &= 1<<bits - 1
		}
		ok := map[seccomp.Operator]bool{
			seccomp.OpEqual: value == c.Value, seccomp.OpNotEqual: value != c.Value, seccomp.OpLess: value < c.Value,
			seccomp.OpLessEqual: value <= c.Value, seccomp.OpGreater: value > c.Value, seccomp.OpGreaterEqual: value >= c.Value,
			seccomp.OpMaskedEqual: value&c.Value == c.ValueTwo,
		}[c.Op]
		if !ok {
			return false
		}
	}
	return true
}

// use is one use of a call that no ordinary plugin needs.
type use struct {
	call string
	args []uint64
}

// families are uses that give an attacker the same; sources: the calls' manual
// pages, capabilities(7), and what other sandboxes refuse.
var families = []struct {
	name   string
	weight float64
	why    string
	calls  []string // with whatever arguments
	uses   []use
}{
	{"namespaces", 10, "kernel code for root comes in reach", []string{"unshare", "setns"}, []use{{"clone", []uint64{0x10000011}}, {"clone3", nil}}},
	{"mounts", 9, "the kernel's mount code comes in reach", []string{"mount", "umount2", "pivot_root", "chroot", "fsopen", "fsmount", "move_mount", "open_tree", "mount_setattr"}, nil},
	{"io_uring", 10, "what is done through a ring no filter sees", []string{"io_uring_setup"}, nil},
	{"kernel interfaces", 10, "large parts of the kernel come in reach, which exploits use", []string{"bpf", "perf_event_open", "userfaultfd"}, nil},
	{"tracing", 6, "processes may read and change each other", []string{"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"}, nil},
	{"administration", 8, "only missing capabilities stop it from administering the host", []string{"init_module", "finit_module", "kexec_load", "reboot", "swapon", "iopl", "ioperm", "open_by_handle_at", "quotactl", "acct", "settimeofday", "clock_settime"}, nil},
	{"code from data", 8, "what the plugin computes can become code", nil, []use{{"mmap", []uint64{0, 4096, 7, 0x22}}, {"mprotect", []uint64{0, 4096, 5}}, {"pkey_mprotect", []uint64{0, 4096, 5, 0}}}},
	{"files without a path", 4, "a file that nobody verified may run, where the kernel has no memfd_noexec", []string{"memfd_create", "execveat"}, nil},
	{"keyrings", 4, "the kernel's keyrings are not divided between plugins", []string{"keyctl", "add_key", "request_key"}, nil},
	{"System V IPC", 2, "memory held there outlives a process", []string{"shmget", "msgget", "semget", "mq_open"}, nil},
	{"sockets", 5, "network code of the kernel comes in reach", nil, []use{{"socket", []uint64{2, 1, 0}}, {"socket", []uint64{10, 1, 0}}, {"socket", []uint64{16, 3, 0}}, {"socket", []uint64{17, 3, 0}}, {"socket", []uint64{40, 1, 0}}}},
	{"terminals", 3, "characters may be put into a terminal's input", nil, []use{{"ioctl", []uint64{0, 0x5412}}, {"ioctl", []uint64{0, 0x541c}}}},
	{"own protections", 3, "protections of its own memory and filters may be switched off", nil, []use{{"personality", []uint64{0x0040000}}, {"personality", []uint64{0x0400000}}, {"prctl", []uint64{22, 2}}}},
	{"processes", 2, "more code runs than the first program's", []string{"fork", "vfork"}, []use{{"clone", []uint64{17}}}},
}

func (s *scorer) calls() {
	for _, f := range families {
		var open []string
		for _, call := range f.calls {
			if s.may(call) {
				open = append(open, call)
			}
		}
		for _, u := range f.uses {
			if s.passes(u.call, u.args...) && !slices.Contains(open, u.call) {
				open = append(open, u.call)
			}
		}
		// One way in is most of what an attacker needs; each further one is more.
		share := 0.0
		if n := len(open); n > 0 {
			share = 1 - 0.3/float64(n)
		}
		s.add("seccomp", f.name, f.weight, share, f.why, "%s allowed", strings.Join(open, ", "))
	}
	known, err := seccomp.Expand([]string{"@known"})
	if err != nil {
		known = nil
	}
	n := 0
	for _, call := range known {
		if s.may(call) {
			n++
		}
	}
	again := 0.0
	if !s.plan.Seccomp.ExecOnce || s.plan.Violation["seccomp"].Action == "log" {
		again = 1
	}
	s.add("seccomp", "execve", 3, again, "whatever the plugin sees as a program it can become", "programs are executed more than once")
	s.add("seccomp", "surface", 8, float64(n)/float64(max(len(known), 1)), "each call is kernel code in reach", "%d of %d calls allowed", n, len(known))
}
