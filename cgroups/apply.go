package cgroups

import (
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// UnsupportedError is a limit that this host's hierarchies cannot enforce.
type UnsupportedError struct {
	Limit string // "memory.max"
	Need  string // the kernel option, or the mount, that would give it
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("cannot enforce %s on this host: it needs %s", e.Limit, e.Need)
}

// names are the limits that are set, by file name.
func (l Limits) names() []string {
	var set []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"memory.max", l.MemoryMax != nil},
		{"memory.high", l.MemoryHigh != nil},
		{"memory.swap.max", l.MemorySwapMax != nil},
		{"memory.oom.group", l.MemoryOOMGroup},
		{"pids.max", l.PidsMax != nil},
		{"cpu.max", l.CPUMax != nil},
		{"cpu.weight", l.CPUWeight != nil},
		{"cpuset.cpus", l.Cpuset != ""},
		{"io.max", l.IOMax != IOMax{}},
		{"hugetlb.2MB.max", l.Hugetlb2M != nil},
		{"hugetlb.1GB.max", l.Hugetlb1G != nil},
	} {
		if f.set {
			set = append(set, f.name)
		}
	}
	return set
}

// Unsupported names those of the limits asked for that this host cannot
// enforce, so that a caller can refuse, or start with less and say so.
func (t *Tree) Unsupported(l Limits) []*UnsupportedError {
	var missing []*UnsupportedError
	for _, name := range l.names() {
		i := slices.IndexFunc(t.features, func(f Feature) bool { return f.Name == name })
		if i >= 0 && !t.features[i].Have {
			missing = append(missing, &UnsupportedError{Limit: name, Need: t.features[i].Need})
		}
	}
	return missing
}

// offers says whether this host has a feature.
func (t *Tree) offers(name string) bool {
	return slices.ContainsFunc(t.features, func(f Feature) bool { return f.Name == name && f.Have })
}

// supports is Unsupported as New sees it.
func (t *Tree) supports(l Limits) error {
	v1 := func(c string) bool { h := t.layout.with(c); return h != nil && !h.v2 }
	for _, e := range t.Unsupported(l) {
		if e.Limit == "memory.high" && v1("memory") {
			continue
		}
		return e
	}
	if l.MemorySwapMax != nil && l.MemoryMax == nil && v1("memory") {
		return fmt.Errorf("cannot set memory.swap.max without memory.max on cgroup v1, which bounds their sum")
	}
	return nil
}

// swapMax is the bound of swap to set: none of its own means none at all once
// memory is bounded, or the bound would only move.
func (l Limits) swapMax() *int64 {
	if l.MemorySwapMax == nil && l.MemoryMax != nil {
		return new(int64)
	}
	return l.MemorySwapMax
}

// create sets the limits of a new group, and closes its devices.
func (g *Group) create(l Limits) error {
	if err := g.apply(l, true); err != nil {
		return err
	}
	return g.closeDevices()
}

// apply writes the limits that are set. What is a number in a file is written
// as one, since every start does it; what has a form of its own on v1 (cpuset,
// io) is the library's.
func (g *Group) apply(l Limits, fresh bool) error {
	for _, set := range []func(Limits, bool) error{g.applyMemory, g.applyCPU, g.applyCpuset, g.applyPids, g.applyIO, g.applyHugetlb} {
		if err := set(l, fresh); err != nil {
			return fmt.Errorf("cannot set its limits: %w", err)
		}
	}
	return nil
}

// setting is a value for a file; nil leaves it.
type setting struct {
	file  string
	value *int64
}

func (m *member) set(settings ...setting) error {
	for _, s := range settings {
		if s.value == nil {
			continue
		}
		if err := m.write(s.file, limitString(*s.value)); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) applyMemory(l Limits, fresh bool) error {
	m := g.with("memory")
	if m == nil {
		return nil
	}
	if !m.h.v2 {
		return m.memoryLimitV1(l, fresh)
	}
	settings := []setting{{"memory.max", l.MemoryMax}, {"memory.high", l.MemoryHigh}}
	if g.tree.offers("memory.swap.max") {
		settings = append(settings, setting{"memory.swap.max", l.swapMax()})
	}
	if l.MemoryOOMGroup {
		settings = append(settings, setting{"memory.oom.group", new(int64(1))})
	}
	return m.set(settings...)
}

const memswLimit = "memory.memsw.limit_in_bytes"

// memoryLimitV1 moves memory.limit_in_bytes and the sum with swap, which must
// never be the smaller one. In a new group neither bounds anything yet.
func (m *member) memoryLimitV1(l Limits, fresh bool) error {
	if l.MemoryMax == nil {
		return nil
	}
	limit := setting{"memory.limit_in_bytes", l.MemoryMax}
	if !m.h.memsw {
		return m.set(limit)
	}
	sum := setting{memswLimit, memsw(l)}
	if fresh {
		return m.set(limit, sum)
	}
	old, err := m.dir.limit(memswLimit)
	if err != nil {
		return err
	}
	if *l.MemoryMax > old {
		return m.set(sum, limit)
	}
	return m.set(limit, sum)
}

// memsw is memory.memsw.limit_in_bytes: v1 bounds memory and swap together.
func memsw(l Limits) *int64 {
	sum := int64(math.MaxInt64)
	if swap := *l.swapMax(); swap < math.MaxInt64-*l.MemoryMax {
		sum = *l.MemoryMax + swap
	}
	return &sum
}

func (g *Group) applyCPU(l Limits, fresh bool) error {
	m := g.with("cpu")
	if m == nil {
		return nil
	}
	if w := l.CPUWeight; w != nil {
		file, value := "cpu.weight", *w
		if !m.h.v2 {
			file, value = "cpu.shares", sharesOf(*w)
		}
		if err := m.write(file, strconv.FormatUint(value, 10)); err != nil {
			return err
		}
	}
	c := l.CPUMax
	if c == nil {
		return nil
	}
	if m.h.v2 {
		return m.write("cpu.max", fmt.Sprintf("%s %d", limitString(c.Quota), c.Period))
	}
	quota, period := setting{"cpu.cfs_quota_us", &c.Quota}, setting{"cpu.cfs_period_us", new(int64(c.Period))}
	if fresh && c.Period == defaultPeriod {
		return m.set(quota) // the kernel looks at every group of the host for either
	}
	return m.set(period, quota)
}

// defaultPeriod is what a new group has on v1, in microseconds
// (default_cfs_period in the kernel's kernel/sched/fair.c).
const defaultPeriod = 100_000

// applyCpuset on v1 is the library's: both files of every group above must be
// filled before a process can join.
func (g *Group) applyCpuset(l Limits, _ bool) error {
	m := g.with("cpuset")
	if m == nil || l.Cpuset == "" {
		return nil
	}
	if m.h.v2 {
		return m.write("cpuset.cpus", l.Cpuset)
	}
	return g.form(m, "cpuset", Form{Cpus: l.Cpuset})
}

// applyPids sets pids.max, whose file is the same on both versions. 0 lets
// nobody in.
func (g *Group) applyPids(l Limits, _ bool) error {
	m := g.with("pids")
	if m == nil || l.PidsMax == nil {
		return nil
	}
	return m.set(setting{"pids.max", l.PidsMax})
}

// pathV1 names the group to the library, which expects it below
// <base>/<controller>; a hierarchy mounted by another name (cpu,cpuacct without
// a symbolic link) is reached from there by a path that leads out again.
func (m *member) pathV1(controller string) string {
	rel, _ := strings.CutPrefix(m.path, m.h.mount)
	if base := filepath.Base(m.h.mount); base != controller {
		return "../" + base + rel
	}
	return rel
}

// sharesOf translates cpu.weight to cpu.shares as the kernel's own cpu.weight
// does (cpu_weight_write_u64 in kernel/sched/core.c): the default weight 100 is
// the default of 1024 shares, rounded to the nearest. runc's
// 2+((weight-1)*262142)/9999 makes 2597 of the default, two and a half times
// the share of a group left alone beside it.
func sharesOf(weight uint64) uint64 { return (weight*1024 + 50) / 100 }

// weightOf is the reverse; it gives back what was asked for every weight.
func weightOf(shares uint64) uint64 { return (shares*100 + 512) / 1024 }

// Update changes the limits that are set in l and leaves the others. Limits of
// cpuset, io and hugetlb can only be changed in a group that was made with one
// (v1). memory.oom.group can be set, not taken back.
func (g *Group) Update(l Limits) error {
	if err := l.Validate(); err != nil {
		return fmt.Errorf("cannot update group %s: %w", g.name, err)
	}
	if err := g.tree.supports(l); err != nil {
		return fmt.Errorf("cannot update group %s: %w", g.name, err)
	}
	for _, h := range g.tree.layout.hierarchies {
		if h.optional() && !h.unneeded(l) && g.with(h.controllers[0]) == nil {
			return fmt.Errorf("cannot update group %s: it was made without a limit of %s, which v1 cannot add", g.name, h.name())
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.removed {
		return fmt.Errorf("cannot update group %s: %w", g.name, fs.ErrClosed)
	}
	if err := g.apply(l, false); err != nil {
		return fmt.Errorf("cannot update group %s: %w", g.name, err)
	}
	return nil
}

// Values are the limits in the words and the rounding that Read gives them
// back in, so that asked and enforced can be compared.
func (l Limits) Values() map[string]string {
	v := map[string]string{}
	put := func(name string, n *int64, unit int64) {
		if n != nil {
			v[name] = limitString(normal(*n &^ (unit - 1)))
		}
	}
	put("memory.max", l.MemoryMax, pageSize)
	put("memory.high", l.MemoryHigh, pageSize)
	put("memory.swap.max", l.swapMax(), pageSize)
	put("pids.max", l.PidsMax, 1)
	if m := l.CPUMax; m != nil {
		v["cpu.max"] = fmt.Sprintf("%d %d", m.Quota, m.Period)
	}
	if l.CPUWeight != nil {
		v["cpu.weight"] = strconv.FormatUint(*l.CPUWeight, 10)
	}
	if l.MemoryOOMGroup {
		v["memory.oom.group"] = "1"
	}
	if l.IOMax != (IOMax{}) {
		v["io.max"] = l.IOMax.String()
	}
	put("hugetlb.2MB.max", l.Hugetlb2M, 2<<20)
	put("hugetlb.1GB.max", l.Hugetlb1G, 1<<30)
	if cpus, err := parseCPUList(l.Cpuset); err == nil && len(cpus) > 0 {
		v["cpuset.cpus"] = formatCPUList(cpus)
	}
	return v
}
