package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

var pageSize = int64(os.Getpagesize())

// Values of Read that are no numbers.
const (
	// Unsupported stands for memory.high on v1, where nothing enforces it.
	Unsupported = "unsupported"
	// DevicesClosed is the value of "devices" where only memory devices open.
	DevicesClosed = "closed"
)

// Read gives the limits as the kernel has them, by cgroup v2 names and in v2's
// words ("max" is no limit), whatever the hierarchy. A limit whose controller
// the group does not have is not there.
func (g *Group) Read() (map[string]string, error) {
	values := map[string]string{}
	for _, m := range g.members {
		if err := m.limits(values); err != nil {
			return nil, fmt.Errorf("cannot read limits of group %s: %w", g.name, err)
		}
	}
	return values, nil
}

func (m *member) limits(values map[string]string) error {
	if m.h.v2 {
		return m.limitsV2(values)
	}
	for _, c := range m.h.controllers {
		var err error
		switch c {
		case "memory":
			err = m.memoryV1(values)
		case "cpu":
			err = m.cpuV1(values)
		case "pids":
			err = m.copyTo(values, "pids.max")
		case "cpuset":
			err = m.copyTo(values, "cpuset.cpus")
		case "devices":
			err = m.devicesV1(values)
		case "io":
			err = m.ioMax(values)
		case "hugetlb":
			err = m.hugetlbV1(values)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyTo copies files whose words are v2's; those that are not there or empty
// are left out.
func (m *member) copyTo(values map[string]string, names ...string) error {
	for _, name := range names {
		text, err := m.text(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if text != "" {
			values[name] = text
		}
	}
	return nil
}

func (m *member) limitsV2(values map[string]string) error {
	if err := m.copyTo(values, "memory.max", "memory.high", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max", "cpu.weight", "cpuset.cpus",
		"hugetlb.2MB.max", "hugetlb.1GB.max"); err != nil {
		return err
	}
	if err := m.ioMax(values); err != nil {
		return err
	}
	closed, err := devicesClosedV2(m.dir)
	if closed {
		values["devices"] = DevicesClosed
	}
	return err
}

func (m *member) memoryV1(values map[string]string) error {
	limit, err := m.limit("memory.limit_in_bytes")
	if err != nil {
		return err
	}
	values["memory.max"] = limitString(limit)
	values["memory.high"] = Unsupported
	sum, err := m.limit(memswLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if sum != math.MaxInt64 {
		sum -= limit
	}
	values["memory.swap.max"] = limitString(sum)
	return nil
}

func (m *member) hugetlbV1(values map[string]string) error {
	for _, size := range []string{"2MB", "1GB"} {
		n, err := m.limit("hugetlb." + size + ".limit_in_bytes")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		values["hugetlb."+size+".max"] = limitString(n)
	}
	return nil
}

func (m *member) cpuV1(values map[string]string) error {
	shares, err := m.limit("cpu.shares")
	if err != nil {
		return err
	}
	values["cpu.weight"] = strconv.FormatUint(weightOf(uint64(shares)), 10)
	quota, err := m.limit("cpu.cfs_quota_us")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no CONFIG_CFS_BANDWIDTH
	}
	if err != nil {
		return err
	}
	period, err := m.limit("cpu.cfs_period_us")
	values["cpu.max"] = fmt.Sprintf("%s %d", limitString(quota), period)
	return err
}

// devicesV1 checks that devices.list holds what closedDevices asked for.
func (m *member) devicesV1(values map[string]string) error {
	text, err := m.text("devices.list")
	if err == nil && text == closedListV1 {
		values["devices"] = DevicesClosed
	}
	return err
}

// Usage is what the group has used until now.
func (g *Group) Usage() (Usage, error) {
	u := Usage{
		MemoryCurrent: g.Memory(),
		MemoryPeak:    g.figure("memory", "memory.peak", "memory.max_usage_in_bytes"),
		PidsCurrent:   g.figure("pids", "pids.current", "pids.current"),
		CPUUsec:       g.cpuTime(),
	}
	if g.members[0].has("cgroup.procs") {
		return u, nil
	}
	return u, fmt.Errorf("cannot read usage of group %s: %w", g.name, fs.ErrNotExist)
}

// Memory is what the group holds now in bytes, -1 if the host does not count it.
func (g *Group) Memory() int64 {
	return g.figure("memory", "memory.current", "memory.usage_in_bytes")
}

// figure reads one number, -1 if the host does not have it.
func (g *Group) figure(controller, v2, v1 string) int64 {
	m := g.with(controller)
	if m == nil {
		return -1
	}
	name := v1
	if m.h.v2 {
		name = v2
	}
	return m.figure(name)
}

// cpuTime is from the unified tree, which counts it with no controller at all,
// or from cpuacct (nanoseconds).
func (g *Group) cpuTime() int64 {
	if u := g.unified(); u != nil {
		text, err := u.read("cpu.stat")
		if err != nil {
			return -1
		}
		if usec, ok := parseFlat(text)["usage_usec"]; ok {
			return usec
		}
		return -1
	}
	if ns := g.figure("cpuacct", "", "cpuacct.usage"); ns >= 0 {
		return ns / 1000
	}
	return -1
}

// Populated says whether any process lives in the group or below it.
func (g *Group) Populated() (bool, error) {
	if u := g.unified(); u != nil {
		text, err := u.read("cgroup.events")
		if err != nil {
			return false, fmt.Errorf("cannot tell whether group %s is populated: %w", g.name, err)
		}
		if parseFlat(text)["populated"] != 0 {
			return true, nil
		}
	}
	pids, err := g.Procs()
	return len(pids) > 0, err
}

// Procs are the processes in the group and below it, as the reader's pid
// namespace numbers them, in any hierarchy; 0 is one that it cannot see.
func (g *Group) Procs() ([]int, error) {
	seen := map[int]bool{}
	var all []int
	for _, m := range g.members {
		pids, err := m.procs()
		if err != nil {
			return nil, fmt.Errorf("cannot list processes of group %s: %w", g.name, err)
		}
		for _, pid := range pids {
			if !seen[pid] {
				seen[pid] = true
				all = append(all, pid)
			}
		}
	}
	return all, nil
}

// procs lists the processes of the group in one hierarchy.
func (m *member) procs() ([]int, error) {
	groups, err := walk(m.path)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, path := range groups {
		text, err := os.ReadFile(path + "/cgroup.procs")
		if errors.Is(err, fs.ErrNotExist) {
			continue // a sub-group that has just gone
		}
		if err != nil {
			return nil, err
		}
		pids, err := parsePIDs(text)
		if err != nil {
			return nil, err
		}
		all = append(all, pids...)
	}
	return all, nil
}

// Features says what this host's hierarchies can give, for people to read, as
// it was when the Tree was opened.
func (t *Tree) Features() []Feature { return slices.Clone(t.features) }

func (t *Tree) findFeatures() []Feature {
	list := []Feature{{Name: "mode", Have: true, Detail: t.modeDetail()}}
	for _, f := range []struct{ name, controller, v2, v1, need string }{
		{"memory.max", "memory", "memory.max", "memory.limit_in_bytes", "CONFIG_MEMCG (on v1 also CONFIG_MEMCG_V1)"},
		{"memory.high", "memory", "memory.high", "", "cgroup v2 with CONFIG_MEMCG; v1's soft limit bounds nothing"},
		{"memory.swap.max", "memory", "memory.swap.max", memswLimit, "CONFIG_SWAP; on v1 also swapaccount=1"},
		{"memory.oom.group", "memory", "memory.oom.group", "", "cgroup v2 with CONFIG_MEMCG; v1 kills one process at a time"},
		{"pids.max", "pids", "pids.max", "pids.max", "CONFIG_CGROUP_PIDS"},
		{"cpu.max", "cpu", "cpu.max", "cpu.cfs_quota_us", "CONFIG_CFS_BANDWIDTH"},
		{"cpu.weight", "cpu", "cpu.weight", "cpu.shares", "CONFIG_FAIR_GROUP_SCHED"},
		{"cpuset.cpus", "cpuset", "cpuset.cpus", "cpuset.cpus", "CONFIG_CPUSETS"},
		{"io.max", "io", "io.max", "blkio.throttle.read_bps_device", "CONFIG_BLK_DEV_THROTTLING; v1 does not bound what is written through the page cache"},
		{"hugetlb.2MB.max", "hugetlb", "hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes", "CONFIG_CGROUP_HUGETLB and huge pages of that size"},
		{"hugetlb.1GB.max", "hugetlb", "hugetlb.1GB.max", "hugetlb.1GB.limit_in_bytes", "CONFIG_CGROUP_HUGETLB and huge pages of that size"},
	} {
		list = append(list, t.limitFeature(f.name, f.controller, f.v2, f.v1, f.need))
	}
	return append(list, t.devicesFeature(),
		t.unifiedFeature("cgroup.kill", "cgroup.kill", "Linux 5.14 and a cgroup2 mount"),
		t.freezeFeature(),
		t.unifiedFeature("cgroup.events", "cgroup.events", "a cgroup2 mount (/sys/fs/cgroup or /sys/fs/cgroup/unified)"),
		t.unifiedFeature("pressure", "memory.pressure", "CONFIG_PSI, psi=1 where it is off by default, and a cgroup2 mount"))
}

func (t *Tree) modeDetail() string {
	parts := []string{t.layout.mode}
	for _, h := range t.layout.hierarchies {
		parts = append(parts, fmt.Sprintf("%s at %s", h.name(), h.mount))
	}
	return strings.Join(parts, "; ")
}

// limitFeature looks for the limit's file where a group would have it.
func (t *Tree) limitFeature(name, controller, v2, v1, need string) Feature {
	f := Feature{Name: name, Need: need}
	h := t.layout.with(controller)
	if h == nil {
		f.Detail = fmt.Sprintf("no hierarchy has the %s controller", controller)
		return f
	}
	file := v1
	if h.v2 {
		file = v2
	}
	f.Detail = fmt.Sprintf("%s in %s", file, h.mount)
	// A group is looked into, since a hierarchy's root lacks most files. Only a
	// cpuset hierarchy has no root of ours before it is asked for.
	f.Have = file != "" && (h.optional() || exists(t.rootDir(h)+"/"+file))
	if !f.Have {
		f.Detail = fmt.Sprintf("the %s controller at %s cannot", controller, h.mount)
	}
	return f
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (t *Tree) devicesFeature() Feature {
	f := Feature{Name: "devices", Need: "CONFIG_CGROUP_BPF, or the v1 devices hierarchy (CONFIG_CGROUP_DEVICE)"}
	if h := t.layout.with("devices"); h != nil {
		f.Have, f.Detail = true, "device list in "+h.mount
	} else if u := t.layout.unified(); u != nil {
		f.Have, f.Detail = true, "device program on "+u.mount
	} else {
		f.Detail = "neither is there"
	}
	return f
}

func (t *Tree) unifiedFeature(name, file, need string) Feature {
	f := Feature{Name: name, Need: need, Detail: "no unified tree"}
	if u := t.layout.unified(); u != nil {
		f.Have = exists(t.rootDir(u) + "/" + file)
		f.Detail = "unified tree at " + u.mount
	}
	return f
}

func (t *Tree) freezeFeature() Feature {
	if h := t.layout.with("freezer"); h != nil {
		return Feature{Name: "cgroup.freeze", Have: true, Detail: "freezer.state in " + h.mount, Need: "CONFIG_CGROUP_FREEZER"}
	}
	return t.unifiedFeature("cgroup.freeze", "cgroup.freeze", "Linux 5.2 and a cgroup2 mount, or the v1 freezer (CONFIG_CGROUP_FREEZER)")
}
