package cgroups

import (
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
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
		{"pids.max", l.PidsMax != nil},
		{"cpu.max", l.CPUMax != nil},
		{"cpu.weight", l.CPUWeight != nil},
		{"cpuset.cpus", l.Cpuset != ""},
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
	features := t.Features()
	for _, name := range l.names() {
		i := slices.IndexFunc(features, func(f Feature) bool { return f.Name == name })
		if i >= 0 && !features[i].Have {
			missing = append(missing, &UnsupportedError{Limit: name, Need: features[i].Need})
		}
	}
	return missing
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
	if err := g.createV1(l); err != nil {
		return err
	}
	if err := g.applyV2(l); err != nil {
		return err
	}
	if g.tree.layout.with("devices") == nil && g.unified() != nil {
		// The library stacks a program at each call and never takes one away, so
		// this happens here and never in Update.
		if err := g.tree.kernel.closeDevices(g.tree.layout.unified().mount, g.libraryPath()); err != nil {
			return fmt.Errorf("cannot close devices (CONFIG_CGROUP_BPF): %w", err)
		}
	}
	return g.applyPids(l)
}

// libraryPath is the group as the library names it, relative to a mount.
func (g *Group) libraryPath() string { return "/" + g.tree.root + "/" + g.name }

// createV1 lets the library make the group in the v1 hierarchies: the
// directories are there (they are the claim), it fills cpuset and sets limits.
func (g *Group) createV1(l Limits) error {
	hierarchy, path := g.v1Subsystems()
	subsystems, _ := hierarchy()
	if len(subsystems) == 0 {
		return nil
	}
	r := resourcesV1(l)
	r.Devices = closedDevices()
	if m := g.with("memory"); m != nil && !m.h.v2 && l.MemoryMax != nil {
		r.Memory = &specs.LinuxMemory{Limit: l.MemoryMax}
		if m.dir.has(memswLimit) {
			r.Memory.Swap = memsw(l)
		}
	}
	c, err := cgroup1.New(path, r, cgroup1.WithHierarchy(hierarchy))
	if err != nil {
		return fmt.Errorf("cannot set its limits: %w", err)
	}
	g.v1 = c
	return nil
}

const memswLimit = "memory.memsw.limit_in_bytes"

// memsw is memory.memsw.limit_in_bytes: v1 bounds memory and swap together.
func memsw(l Limits) *int64 {
	sum := int64(math.MaxInt64)
	if swap := *l.swapMax(); swap < math.MaxInt64-*l.MemoryMax {
		sum = *l.MemoryMax + swap
	}
	return &sum
}

// v1Subsystems names to the library the v1 controllers that the group has. The
// library expects each below <base>/<controller>; a hierarchy mounted by
// another name (cpu,cpuacct without a symbolic link) is reached from there by
// a path that leads out again.
func (g *Group) v1Subsystems() (cgroup1.Hierarchy, cgroup1.Path) {
	var list []cgroup1.Subsystem
	paths := map[cgroup1.Name]string{}
	for _, m := range g.members {
		for _, c := range m.h.controllers {
			if m.h.v2 {
				continue
			}
			if s := subsystem(filepath.Dir(m.h.mount), c); s != nil {
				list = append(list, s)
			}
			paths[cgroup1.Name(c)] = g.libraryPath()
			if base := filepath.Base(m.h.mount); base != c {
				paths[cgroup1.Name(c)] = "../" + base + g.libraryPath()
			}
		}
	}
	return func() ([]cgroup1.Subsystem, error) { return list, nil },
		func(name cgroup1.Name) (string, error) { return paths[name], nil }
}

// subsystem is the library's controller; nil where nothing is to be set.
func subsystem(base, controller string) cgroup1.Subsystem {
	switch controller {
	case "memory":
		return cgroup1.NewMemory(base)
	case "pids":
		return cgroup1.NewPids(base)
	case "cpu":
		return cgroup1.NewCpu(base)
	case "cpuset":
		return cgroup1.NewCpuset(base)
	case "devices":
		return cgroup1.NewDevices(base)
	}
	return nil
}

// resourcesV1 translates the limits that need no reading first.
func resourcesV1(l Limits) *specs.LinuxResources {
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: l.Cpuset}, Pids: &specs.LinuxPids{Limit: l.PidsMax}}
	if l.CPUMax != nil {
		r.CPU.Quota, r.CPU.Period = &l.CPUMax.Quota, &l.CPUMax.Period
	}
	if l.CPUWeight != nil {
		shares := sharesOf(*l.CPUWeight)
		r.CPU.Shares = &shares
	}
	return r
}

// sharesOf translates cpu.weight to cpu.shares as the kernel's own cpu.weight
// does (cpu_weight_write_u64 in kernel/sched/core.c): the default weight 100 is
// the default of 1024 shares, rounded to the nearest. runc's
// 2+((weight-1)*262142)/9999 makes 2597 of the default, two and a half times
// the share of a group left alone beside it.
func sharesOf(weight uint64) uint64 { return (weight*1024 + 50) / 100 }

// weightOf is the reverse; it gives back what was asked for every weight.
func weightOf(shares uint64) uint64 { return (shares*100 + 512) / 1024 }

// closedDevices denies every device but the five that are only memory.
func closedDevices() []specs.LinuxDeviceCgroup {
	// The library panics on a nil number; -1 is any.
	any64 := int64(-1)
	list := []specs.LinuxDeviceCgroup{{Allow: false, Type: "a", Major: &any64, Minor: &any64, Access: "rwm"}}
	mem := int64(1)
	for _, minor := range []int64{3, 5, 7, 8, 9} { // null, zero, full, random, urandom
		list = append(list, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &mem, Minor: &minor, Access: "rwm"})
	}
	return list
}

func closeDevicesV2(mount, group string) error {
	m, err := cgroup2.Load(group, cgroup2.WithMountpoint(mount))
	if err != nil {
		return err
	}
	return m.Update(&cgroup2.Resources{Devices: closedDevices()})
}

// applyV2 sets those limits whose controller is on the unified tree.
func (g *Group) applyV2(l Limits) error {
	u := g.unified()
	if u == nil {
		return nil
	}
	r := &cgroup2.Resources{}
	if u.h.has("memory") {
		r.Memory = &cgroup2.Memory{Max: l.MemoryMax, High: l.MemoryHigh}
		if u.dir.has("memory.swap.max") {
			r.Memory.Swap = l.swapMax()
		}
	}
	r.CPU = cpuV2(u.h, l)
	m, err := cgroup2.Load(g.libraryPath(), cgroup2.WithMountpoint(u.h.mount))
	if err != nil {
		return err
	}
	if err := m.Update(r); err != nil {
		return fmt.Errorf("cannot set its limits: %w", err)
	}
	return nil
}

func cpuV2(h *hierarchy, l Limits) *cgroup2.CPU {
	cpu := &cgroup2.CPU{}
	if h.has("cpu") {
		cpu.Weight = l.CPUWeight
		if l.CPUMax != nil {
			cpu.Max = cgroup2.NewCPUMax(&l.CPUMax.Quota, &l.CPUMax.Period)
		}
	}
	if h.has("cpuset") {
		cpu.Cpus = l.Cpuset
	}
	return cpu
}

// applyPids sets pids.max, whose file is the same on both versions: the library
// takes 0, which lets nobody in, for "not asked".
func (g *Group) applyPids(l Limits) error {
	if l.PidsMax == nil {
		return nil
	}
	if err := g.with("pids").dir.write("pids.max", strconv.FormatInt(*l.PidsMax, 10)); err != nil {
		return fmt.Errorf("cannot set its limits: %w", err)
	}
	return nil
}

// Update changes the limits that are set in l and leaves the others. A cpuset
// can only be changed in a group that was made with one (v1).
func (g *Group) Update(l Limits) error {
	if err := l.Validate(); err != nil {
		return fmt.Errorf("cannot update group %s: %w", g.name, err)
	}
	if err := g.tree.supports(l); err != nil {
		return fmt.Errorf("cannot update group %s: %w", g.name, err)
	}
	if l.Cpuset != "" && g.with("cpuset") == nil {
		return fmt.Errorf("cannot update group %s: it was made without cpuset.cpus, which v1 cannot add", g.name)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.removed {
		return fmt.Errorf("cannot update group %s: %w", g.name, fs.ErrClosed)
	}
	if err := g.update(l); err != nil {
		return fmt.Errorf("cannot update group %s: %w", g.name, err)
	}
	return nil
}

func (g *Group) update(l Limits) error {
	if g.v1 != nil {
		if err := g.v1.Update(resourcesV1(l)); err != nil {
			return err
		}
		if err := g.updateMemoryV1(l); err != nil {
			return err
		}
	}
	if err := g.applyV2(l); err != nil {
		return err
	}
	return g.applyPids(l)
}

// updateMemoryV1 moves memory.limit_in_bytes and the sum with swap, which must
// never be the smaller one. The library means to order them and swaps the wrong
// two writes, so each is handed to it alone.
func (g *Group) updateMemoryV1(l Limits) error {
	m := g.with("memory")
	if l.MemoryMax == nil || m == nil || m.h.v2 {
		return nil
	}
	limit := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: l.MemoryMax}}
	if !m.dir.has(memswLimit) {
		return g.v1.Update(limit)
	}
	sum := &specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: memsw(l)}}
	old, err := m.dir.limit(memswLimit)
	if err != nil {
		return err
	}
	first, second := limit, sum
	if *l.MemoryMax > old {
		first, second = sum, limit
	}
	if err := g.v1.Update(first); err != nil {
		return err
	}
	return g.v1.Update(second)
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
	if cpus, err := parseCPUList(l.Cpuset); err == nil && len(cpus) > 0 {
		v["cpuset.cpus"] = formatCPUList(cpus)
	}
	return v
}
