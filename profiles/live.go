package profiles

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/profiles/plan"
)

// Changes tells what has become of a plan that something runs under: next is what
// its profile amounts to now. Merged is now with everything that can change
// without a restart: the group's limits, what violations lead to with their
// budgets, and when it is started again. Live names the keys of these that
// differ, restart the others that do: a wall that stands is never moved, and a
// limit that the group has can be moved, not lifted. Both are sorted.
func Changes(now, next *plan.Plan) (merged *plan.Plan, live, restart []string) {
	a, b := keysOf(now), keysOf(next)
	out := *now
	out.Origins, out.Violation = map[string]string{}, map[string]plan.Response{}
	maps.Copy(out.Origins, now.Origins)
	maps.Copy(out.Violation, now.Violation)
	for _, key := range sortedKeys(both(a, b)) {
		switch {
		case reflect.DeepEqual(a[key], b[key]):
		case (b[key] != nil || strings.HasPrefix(key, "slo.")) && move(&out, next, key):
			live = append(live, key)
			if by := next.Origins[key]; by != "" {
				out.Origins[key] = by
			}
		default:
			restart = append(restart, key)
		}
	}
	return &out, live, restart
}

func both(a, b map[string]any) map[string]bool {
	out := map[string]bool{}
	for key := range a {
		out[key] = true
	}
	for key := range b {
		out[key] = true
	}
	return out
}

// planKeys says under which key of a profile a part of a plan is written; one
// that ends in a dot has a key for each of its own. A part that is not here goes
// by its own name. What only follows from others has none.
var planKeys = map[string]string{
	"limits": "resources.", "time": "resources.time.", "rlimits": "resources.rlimit", "violation": "violation.",
	"watch": "violation.watch", "lifecycle": "lifecycle.", "slo": "slo.", "ipc": "ipc.", "require": "require.",
	"capabilities": "capability", "process": "environment", "tmp": "tmp.", "shm": "shm.", "data": "data.", "network": "network.",
	"runtime": "runtime.eval", "weakened": "", "refusals": "",
}

// keysOf is a plan as values by the keys of a profile. It goes by the plan's
// JSON, which is what its digest covers, so that nothing is overlooked.
func keysOf(p *plan.Plan) map[string]any {
	data, err := json.Marshal(p)
	var parts map[string]any
	if err == nil {
		err = json.Unmarshal(data, &parts)
	}
	if err != nil { // plain data always goes there and back
		panic(fmt.Sprintf("profiles: cannot compare plans: %v", err))
	}
	out := map[string]any{}
	for part, v := range parts {
		key, known := planKeys[part]
		switch {
		case !known:
			out[part] = v
		case strings.HasSuffix(key, "."):
			table, _ := v.(map[string]any) // nil where the plan has none
			for name, below := range table {
				out[key+name] = below
			}
		case key != "":
			out[key] = v
		}
	}
	return out
}

// move sets one key of a plan to what it is in next, if that can be done while
// it is in force.
func move(p, next *plan.Plan, key string) bool {
	if name, ok := strings.CutPrefix(key, "resources."); ok {
		return moveLimit(&p.Limits, next.Limits, name)
	}
	if wall, ok := strings.CutPrefix(key, "violation."); ok && wall != "watch" {
		p.Violation[wall] = next.Violation[wall]
		return true
	}
	if strings.HasPrefix(key, "slo.") {
		p.SLO = next.SLO
		return true
	}
	if name, ok := strings.CutPrefix(key, "lifecycle."); ok && name != "watchdog_sec" {
		watchdog := p.Lifecycle.Watchdog
		p.Lifecycle = next.Lifecycle
		p.Lifecycle.Watchdog = watchdog
		return true
	}
	return false
}

func moveLimit(l *cgroups.Limits, next cgroups.Limits, name string) bool {
	switch name {
	case "memory.max":
		l.MemoryMax = next.MemoryMax
	case "memory.high":
		l.MemoryHigh = next.MemoryHigh
	case "memory.swap.max":
		l.MemorySwapMax = next.MemorySwapMax
	case "memory.oom.group":
		l.MemoryOOMGroup = next.MemoryOOMGroup
	case "pids.max":
		l.PidsMax = next.PidsMax
	case "cpu.max":
		l.CPUMax = next.CPUMax
	case "cpu.weight":
		l.CPUWeight = next.CPUWeight
	case "cpuset.cpus":
		l.Cpuset = next.Cpuset
	case "io.max":
		if lifts(l.IOMax, next.IOMax) {
			return false
		}
		l.IOMax = next.IOMax
	case "hugetlb.2MB.max":
		l.Hugetlb2M = next.Hugetlb2M
	case "hugetlb.1GB.max":
		l.Hugetlb1G = next.Hugetlb1G
	default:
		return false
	}
	return true
}

// lifts says whether next has no bound where have has one.
func lifts(have, next cgroups.IOMax) bool {
	return have.ReadBPS != nil && next.ReadBPS == nil || have.WriteBPS != nil && next.WriteBPS == nil ||
		have.ReadIOPS != nil && next.ReadIOPS == nil || have.WriteIOPS != nil && next.WriteIOPS == nil
}
