package violation

import (
	"fmt"
	"strings"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
)

// adviseMemory explains a group that reached memory.max.
func adviseMemory(v *Violation, p *plan.Plan) advice {
	limit := v.Limit
	if limit <= 0 && p.Limits.MemoryMax != nil {
		limit = *p.Limits.MemoryMax
	}
	a := advice{
		rule: ruled(p, []string{"resources.memory.max", "limits.memory.max"}, "memory.max is %s", Size(limit)),
		also: "More memory for this plugin is less for its neighbours. A plugin that leaks reaches any limit: look at its use over time before you raise it." + alsoBound(p, "memory.max"),
	}
	if next := nextSize(max(limit, v.Peak)); next > 0 {
		a.change = fmt.Sprintf("[resources]\nmemory.max = %q\n", Size(next)) + dataChange(p, next)
	}
	return a
}

// dataChange raises rlimit.data, the second wall behind memory.max, where it
// would be hit first.
func dataChange(p *plan.Plan, memory int64) string {
	for _, r := range p.Rlimits {
		if r.Name == "data" && r.Soft <= uint64(memory) {
			return fmt.Sprintf("rlimit.data = %q\n", Size(2*memory))
		}
	}
	return ""
}

// advisePids explains a fork that was refused by pids.max.
func advisePids(v *Violation, p *plan.Plan) advice {
	limit := v.Limit
	if limit <= 0 && p.Limits.PidsMax != nil {
		limit = *p.Limits.PidsMax
	}
	a := advice{
		rule: ruled(p, []string{"resources.pids.max", "limits.pids.max"}, "pids.max is %d", limit),
		also: "Threads count as processes. A plugin that forks without end reaches any limit." + alsoBound(p, "pids.max"),
	}
	if next := nextCount(max(limit, v.Peak)); next > 0 {
		a.change = fmt.Sprintf("[resources]\npids.max = %d\n", next)
	}
	return a
}

// adviseTime explains a plugin that ran, or computed, for too long.
func adviseTime(v *Violation, p *plan.Plan) advice {
	key, limit := "time.wall", p.Time.Wall
	if strings.Contains(v.What, "cpu") {
		key, limit = "time.cpu", p.Time.CPU
	}
	a := advice{
		rule: ruled(p, []string{"resources." + key, key}, "%s is %s", key, Span(limit)),
		also: "The time bounds the whole life of the process, not one call; a program that hangs reaches any limit." + alsoBound(p, key),
	}
	if next := nextSpan(limit); next > 0 {
		a.change = fmt.Sprintf("[resources]\n%s = %q\n", key, Span(next))
	}
	return a
}

// adviseIPC explains a broken protocol. Only its limits can be changed.
func adviseIPC(v *Violation, p *plan.Plan) advice {
	a := advice{rule: ruled(p, []string{"ipc"}, "the protocol is not to be broken")}
	for _, limit := range ipcLimits(p) {
		if strings.HasPrefix(v.What, limit.key+":") || strings.Contains(v.What, "("+limit.key+")") {
			a.rule = ruled(p, []string{"ipc." + limit.key, "ipc"}, "[ipc] %s bounds the connection", limit.key)
			a.change = limit.change
			a.also = "Each message costs the daemon as much memory as it is large, and time."
			return a
		}
	}
	a.also = "No line of a profile lifts this: what broke the protocol is the plugin's own fault, and its author's to mend."
	return a
}

type ipcLimit struct {
	key, change string
}

func ipcLimits(p *plan.Plan) []ipcLimit {
	const maxFrame = 16<<20 - 1 // what ipc.Limits documents
	limits := p.IPC.WithDefaults()
	out := []ipcLimit{
		ipcLimitOf("max_in_flight", fmt.Sprint(nextCount(int64(limits.MaxInFlight)))),
		ipcLimitOf("max_depth", fmt.Sprint(nextCount(int64(limits.MaxDepth)))),
		ipcLimitOf("rate", fmt.Sprint(nextCount(int64(limits.Rate)))),
		ipcLimitOf("hello_timeout", fmt.Sprintf("%q", Span(nextSpan(limits.HelloTimeout)))),
		ipcLimitOf("cancel_grace", fmt.Sprintf("%q", Span(nextSpan(limits.CancelGrace)))),
	}
	if next := nextSize(int64(limits.MaxFrame)); next > 0 && next <= maxFrame {
		out = append(out, ipcLimitOf("max_frame", fmt.Sprintf("%q", Size(next))))
	}
	return out
}

func ipcLimitOf(key, value string) ipcLimit {
	return ipcLimit{key, fmt.Sprintf("[ipc]\n%s = %s\n", key, value)}
}

// alsoBound warns when the bound did not come from the profile, so that a line
// there changes nothing alone.
func alsoBound(p *plan.Plan, key string) string {
	by := origin(p, "resources."+key, "limits."+key, key)
	switch {
	case strings.HasPrefix(by, "ceiling"):
		return " The host's ceiling set this bound: raise it in cordond.toml as well."
	case strings.HasPrefix(by, "manifest") || strings.HasPrefix(by, "plugin.toml"):
		return " The plugin's manifest asked for no more: its ask must grow as well."
	}
	return ""
}

// Size writes bytes in the largest unit that divides them, as profiles do.
func Size(bytes int64) string {
	for _, u := range []struct {
		unit string
		size int64
	}{{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}} {
		if bytes >= u.size && bytes%u.size == 0 {
			return fmt.Sprintf("%d%s", bytes/u.size, u.unit)
		}
	}
	return fmt.Sprint(bytes)
}

// Span writes a duration as profiles do: 90s is 1m30s, 60s is 1m.
func Span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// nextSize is the first of 1, 1.5, 2, 3, 4, 6 ... MiB that leaves a quarter
// above n; 0 if n is not positive or past any sense.
func nextSize(n int64) int64 {
	if n <= 0 || n > 1<<50 {
		return 0
	}
	for step := int64(1 << 20); ; step *= 2 {
		for _, candidate := range []int64{step, step + step/2} {
			if candidate >= n+n/4 {
				return candidate
			}
		}
	}
}

// nextCount is the power of two that leaves a quarter above n, 0 as nextSize.
func nextCount(n int64) int64 {
	if n <= 0 || n > 1<<50 {
		return 0
	}
	step := int64(1)
	for step < n+n/4 {
		step *= 2
	}
	return step
}

// nextSpan is twice d; 0 if d is not positive or past any sense.
func nextSpan(d time.Duration) time.Duration {
	if d <= 0 || d > 1<<61 {
		return 0
	}
	return 2 * d
}
