package compare

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/profiles/strict"
)

// none is a bound that is not there.
const none = math.MaxInt64

// bound compares one bound; more of it is more allowed.
func (r *Result) bound(wall, key string, a, b int64, text func(int64) string) {
	word := func(n int64) string {
		if n == none {
			return "without bound"
		}
		return text(n)
	}
	order := cmp.Compare(b, a)
	high, low := b, a
	if order < 0 {
		high, low = a, b
	}
	r.ordered(wall, order, "%s: %s, and %s in the other", key, word(high), word(low))
}

func size(n int64) string   { return strict.Size(n).String() }
func number(n int64) string { return fmt.Sprint(n) }
func span(n int64) string   { return time.Duration(n).String() }
func permille(n int64) string {
	return strict.Percent(n).String()
}

func pointer(v *int64) int64 {
	if v == nil {
		return none
	}
	return *v
}

// orNone reads 0 as no bound.
func orNone[T ~int | ~int64](v T) int64 {
	if v == 0 {
		return none
	}
	return int64(v)
}

func processors(m *cgroups.CPUMax) int64 {
	if m == nil || m.Period == 0 {
		return none
	}
	return m.Quota * 1000 / int64(m.Period)
}

func (r *Result) inside(a, b *plan.Plan) {
	evals := map[bool]int{true: 0, false: 1}
	r.ordered("runtime", evals[b.Runtime.NoEval]-evals[a.Runtime.NoEval], "Node.js makes code from strings")
	modes := []string{"none", "pid", "full"}
	r.ordered("proc", slices.Index(modes, b.Proc)-slices.Index(modes, a.Proc), "/proc shows %s, and %s in the other", wider(modes, a.Proc, b.Proc), narrower(modes, a.Proc, b.Proc))
	for _, d := range without(b.Devices, a.Devices) {
		r.more("devices", "/dev/%s", d)
	}
	for _, d := range without(a.Devices, b.Devices) {
		r.less("devices", "/dev/%s", d)
	}
	r.bound("files", "/tmp", a.Tmp.Size, b.Tmp.Size, size)
	r.bound("files", "inodes of /tmp", a.Tmp.Inodes, b.Tmp.Inodes, number)
	r.bound("files", "/dev/shm", a.Shm.Size, b.Shm.Size, size)
	kept := map[bool]int{false: 0, true: 1}
	r.ordered("data", kept[b.Data.Persistent]-kept[a.Data.Persistent], "/data is kept between starts")
	r.bound("data", "/data", a.Data.Size, b.Data.Size, size)
	r.bound("data", "inodes of /data", a.Data.Inodes, b.Data.Inodes, number)
	if a.Network.Mode != b.Network.Mode { // there is one mode; two could not be compared
		r.more("network", "mode %s, and %s in the other", b.Network.Mode, a.Network.Mode)
		r.less("network", "mode %s, and %s in the other", a.Network.Mode, b.Network.Mode)
	}
}

// wider and narrower are of two words the one later, or earlier, in an order.
func wider(order []string, a, b string) string {
	return order[max(slices.Index(order, a), slices.Index(order, b), 0)]
}

func narrower(order []string, a, b string) string {
	return order[max(min(slices.Index(order, a), slices.Index(order, b)), 0)]
}

func (r *Result) quotas(a, b *plan.Plan) {
	x, y := a.Limits, b.Limits
	r.bound("memory", "memory.max", pointer(x.MemoryMax), pointer(y.MemoryMax), size)
	r.bound("memory", "memory.high", pointer(x.MemoryHigh), pointer(y.MemoryHigh), size)
	r.bound("memory", "memory.swap.max", pointer(x.MemorySwapMax), pointer(y.MemorySwapMax), size)
	r.bound("pids", "pids.max", pointer(x.PidsMax), pointer(y.PidsMax), number)
	r.bound("cpu", "cpu.max", processors(x.CPUMax), processors(y.CPUMax), permille)
	r.bound("cpu", "cpu.weight", weight(x.CPUWeight), weight(y.CPUWeight), number)
	if x.Cpuset != y.Cpuset {
		r.more("cpu", "processors %s, and %s in the other", cpuset(y.Cpuset), cpuset(x.Cpuset))
		r.less("cpu", "processors %s, and %s in the other", cpuset(x.Cpuset), cpuset(y.Cpuset))
	}
	r.bound("io", "io.max.rbps", pointer(x.IOMax.ReadBPS), pointer(y.IOMax.ReadBPS), size)
	r.bound("io", "io.max.wbps", pointer(x.IOMax.WriteBPS), pointer(y.IOMax.WriteBPS), size)
	r.bound("io", "io.max.riops", pointer(x.IOMax.ReadIOPS), pointer(y.IOMax.ReadIOPS), number)
	r.bound("io", "io.max.wiops", pointer(x.IOMax.WriteIOPS), pointer(y.IOMax.WriteIOPS), number)
	r.bound("hugetlb", "hugetlb.2MB.max", pointer(x.Hugetlb2M), pointer(y.Hugetlb2M), size)
	r.bound("hugetlb", "hugetlb.1GB.max", pointer(x.Hugetlb1G), pointer(y.Hugetlb1G), size)
	r.bound("time", "time.wall", orNone(a.Time.Wall), orNone(b.Time.Wall), span)
	r.bound("time", "time.cpu", orNone(a.Time.CPU), orNone(b.Time.CPU), span)
	soft, hard := map[string][2]int64{}, map[string][2]int64{}
	for i, p := range []*plan.Plan{a, b} {
		for _, l := range p.Rlimits {
			both := func(m map[string][2]int64, v uint64) {
				pair, ok := m[l.Name]
				if !ok {
					pair = [2]int64{none, none}
				}
				pair[i] = int64(min(v, none))
				m[l.Name] = pair
			}
			both(soft, l.Soft)
			both(hard, l.Hard)
		}
	}
	for _, name := range sortedKeys(hard) {
		text := size
		if slices.Contains(counted, name) {
			text = number
		}
		r.bound("rlimits", "rlimit."+name, hard[name][0], hard[name][1], text)
		if hard[name][0] == hard[name][1] {
			r.bound("rlimits", "rlimit."+name+" (soft)", soft[name][0], soft[name][1], text)
		}
	}
}

// counted are the rlimits that are no sizes.
var counted = []string{"nofile", "nproc", "sigpending"}

// weight is cpu.weight; the kernel's own is 100.
func weight(v *uint64) int64 {
	if v == nil {
		return 100
	}
	return int64(min(*v, none))
}

func cpuset(s string) string {
	if s == "" {
		return "all"
	}
	return s
}

func (r *Result) requirements(a, b *plan.Plan) {
	modes := []string{"hard", "best_effort"}
	for _, wall := range sortedKeys(b.Require) {
		x, y := a.Require[wall], b.Require[wall]
		r.ordered("require", slices.Index(modes, y.Mode)-slices.Index(modes, x.Mode), "starts without %s where the host cannot give it", wall)
		if x.MinABI != y.MinABI {
			r.ordered("require", x.MinABI-y.MinABI, "starts with ABI %d of %s, and the other with %d", min(x.MinABI, y.MinABI), wall, max(x.MinABI, y.MinABI))
		}
	}
}

// severities are what may follow a violation, the mildest last.
var severities = []string{"quarantine", "kill", "deny", "log"}

func (r *Result) violations(a, b *plan.Plan) {
	for _, wall := range sortedKeys(b.Violation) {
		x, y := a.Violation[wall], b.Violation[wall]
		if x == y {
			continue
		}
		stern, mild := milder(x, y), milder(y, x)
		if stern && mild {
			r.Other = append(r.Other, Difference{"violation", fmt.Sprintf(violated, wall, consequence(y), consequence(x))})
			continue
		}
		if !stern {
			r.more("violation", violated, wall, consequence(y), consequence(x))
		}
		if !mild {
			r.less("violation", violated, wall, consequence(x), consequence(y))
		}
	}
	for _, what := range without(a.Watch, b.Watch) {
		r.more("violation", "%s are not watched", what)
	}
	for _, what := range without(b.Watch, a.Watch) {
		r.less("violation", "%s are not watched", what)
	}
}

const violated = "a violation of %s leads to %s, and to %s in the other"

// milder says whether a is in no respect sterner than b, from which it differs:
// in what follows first and in the end, and in how many are borne in what time.
// Neither is milder than the other where they cannot be compared.
func milder(a, b plan.Response) bool {
	if mildness(a.Action) < mildness(b.Action) || mildness(last(a)) < mildness(last(b)) {
		return false
	}
	return a.Budget == 0 || b.Budget == 0 || a.Budget >= b.Budget && a.Window <= b.Window
}

func mildness(action string) int { return slices.Index(severities, action) }

// last is what follows in the end.
func last(r plan.Response) string {
	if r.Then != "" {
		return r.Then
	}
	return r.Action
}

func consequence(r plan.Response) string {
	if r.Budget == 0 {
		return r.Action
	}
	return fmt.Sprintf("%s, after %d in %s to %s", r.Action, r.Budget, r.Window, r.Then)
}

// connection compares the limits of IPC, as the connection will have them.
func (r *Result) connection(a, b *plan.Plan) {
	x, y := a.IPC.WithDefaults(), b.IPC.WithDefaults()
	one := func(key string, a, b int64, text func(int64) string) { r.bound("ipc", key, a, b, text) }
	one("max_frame", int64(x.MaxFrame), int64(y.MaxFrame), size)
	one("max_in_flight", int64(x.MaxInFlight), int64(y.MaxInFlight), number)
	one("max_queue", int64(x.MaxQueue), int64(y.MaxQueue), size)
	one("max_depth", int64(x.MaxDepth), int64(y.MaxDepth), number)
	one("max_descriptors", int64(x.MaxDescriptors), int64(y.MaxDescriptors), number)
	one("rate", int64(x.Rate), int64(y.Rate), number)
	one("hello_timeout", int64(x.HelloTimeout), int64(y.HelloTimeout), span)
	one("half_open", int64(x.HalfOpen), int64(y.HalfOpen), span)
	one("call_timeout", int64(x.CallTimeout), int64(y.CallTimeout), span)
	one("cancel_grace", int64(x.CancelGrace), int64(y.CancelGrace), span)
}

// others are what neither opens nor closes a wall of the kernel's.
func (r *Result) others(a, b *plan.Plan) {
	other := func(what string, x, y any) {
		if fmt.Sprint(x) != fmt.Sprint(y) {
			r.Other = append(r.Other, Difference{what, fmt.Sprintf("%+v, and %+v in the other", y, x)})
		}
	}
	other("identity", fmt.Sprintf("uid %d, gid %d", a.Process.UID, a.Process.GID), fmt.Sprintf("uid %d, gid %d", b.Process.UID, b.Process.GID))
	if x, y := names(a, b), names(b, a); x+y != "" {
		other("environment", cmp.Or(x, "none of it"), cmp.Or(y, "none of it"))
	}
	for _, name := range without(b.Process.Pass, a.Process.Pass) {
		r.more("environment", "%s of whoever runs it is passed on, by cordon run", name)
	}
	for _, name := range without(a.Process.Pass, b.Process.Pass) {
		r.less("environment", "%s of whoever runs it is passed on, by cordon run", name)
	}
	r.lifecycle(a.Lifecycle, b.Lifecycle)
	if x, y := a.SLO, b.SLO; !x.Equal(y) {
		other("slo", objectiveText(x), objectiveText(y))
	}
}

func objectiveText(o plan.Objective) string {
	if !o.Set() {
		return "no objective"
	}
	return fmt.Sprintf("%s of calls within %v, latency %v, burn_rate %d, min_calls %d, essential %v", o.Percent(), o.Window, o.Latency, o.BurnRate, o.MinCalls, o.Essential)
}

// lifecycle compares in the words of the profile.
func (r *Result) lifecycle(a, b plan.Lifecycle) {
	for _, one := range []struct {
		key  string
		a, b any
	}{
		{"restart", a.Restart, b.Restart},
		{"restart_sec", a.RestartSec, b.RestartSec},
		{"restart_steps", a.RestartSteps, b.RestartSteps},
		{"restart_max_delay_sec", a.RestartMaxDelaySec, b.RestartMaxDelaySec},
		{"reset_after", a.ResetAfter, b.ResetAfter},
		{"start_limit_burst", a.StartLimitBurst, b.StartLimitBurst},
		{"start_limit_interval_sec", a.StartLimitInterval, b.StartLimitInterval},
		{"timeout_start_sec", a.StartTimeout, b.StartTimeout},
		{"timeout_stop_sec", a.StopTimeout, b.StopTimeout},
		{"watchdog_sec", a.Watchdog, b.Watchdog},
		{"warmup_sec", a.WarmUp, b.WarmUp},
	} {
		if one.a != one.b {
			r.Other = append(r.Other, Difference{"lifecycle", fmt.Sprintf("%s: %v, and %v in the other", one.key, one.b, one.a)})
		}
	}
}

// names are the variables that one plan has otherwise than another.
func names(p, than *plan.Plan) string {
	return strings.Join(without(p.Process.Env, than.Process.Env), " ")
}
