// Package cgroups turns a quota spec into a control group and keeps it: its
// limits, usage, events, freeze and kill, on cgroup v2, v1 and hybrid hosts.
// What cgroup v1 wants in forms of its own is written by
// github.com/containerd/cgroups, in package v1.
//
// Sources: the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/*.rst.
package cgroups

// Limits is the quota of one plugin in the words of cgroup v2. A zero value
// (nil pointer) leaves the kernel's default. Sizes are bytes.
type Limits struct {
	MemoryMax     *int64 `json:"memory.max,omitempty"`
	MemoryHigh    *int64 `json:"memory.high,omitempty"`
	MemorySwapMax *int64 `json:"memory.swap.max,omitempty"`
	// MemoryOOMGroup has the kernel kill all of the group where it kills one.
	MemoryOOMGroup bool    `json:"memory.oom.group,omitempty"`
	PidsMax        *int64  `json:"pids.max,omitempty"`
	CPUMax         *CPUMax `json:"cpu.max,omitempty"`
	// CPUWeight is 1 to 10000; the kernel's default is 100.
	CPUWeight *uint64 `json:"cpu.weight,omitempty"`
	// Cpuset is a list such as "0-1,3".
	Cpuset string `json:"cpuset.cpus,omitempty"`
	IOMax  IOMax  `json:"io.max,omitzero"`
	// Hugetlb2M and Hugetlb1G bound huge pages of that size.
	Hugetlb2M *int64 `json:"hugetlb.2MB.max,omitempty"`
	Hugetlb1G *int64 `json:"hugetlb.1GB.max,omitempty"`
}

// IOMax bounds reading and writing, for each block device of the host by
// itself: bytes and operations a second. On v1 what is written through the page
// cache is not bounded.
type IOMax struct {
	ReadBPS   *int64 `json:"rbps,omitempty"`
	WriteBPS  *int64 `json:"wbps,omitempty"`
	ReadIOPS  *int64 `json:"riops,omitempty"`
	WriteIOPS *int64 `json:"wiops,omitempty"`
}

// CPUMax allows Quota microseconds of cpu time in every Period microseconds.
type CPUMax struct {
	Quota  int64  `json:"quota"`
	Period uint64 `json:"period"`
}

// Usage is what a group has used. Figures that the host cannot give are -1.
type Usage struct {
	MemoryCurrent int64 `json:"memory.current"`
	MemoryPeak    int64 `json:"memory.peak"`
	PidsCurrent   int64 `json:"pids.current"`
	CPUUsec       int64 `json:"cpu.usage_usec"`
}

// Feature is one thing that this host's hierarchies can or cannot give.
type Feature struct {
	// Name is a cgroup v2 file name ("memory.max", "cgroup.kill"), "mode" or
	// "devices".
	Name   string
	Detail string
	// Need is the kernel option, or the mount, that would give it.
	Need string
	Have bool
}

// EventKind says which limit was hit.
type EventKind string

// The events of a group.
const (
	EventOOMKill EventKind = "oom_kill" // memory.max: the kernel killed a process
	EventPidsMax EventKind = "pids.max" // a fork was refused
	EventEmpty   EventKind = "empty"    // the last process has gone
	// EventPressure: the whole group stood still for want of what File is of.
	// Limit is for how long at least, in microseconds since the look before.
	EventPressure EventKind = "pressure"
)

// Event is one limit hit. Count is how often since the group was made.
type Event struct {
	Kind  EventKind
	Count int64
	// File is "memory.pressure", "cpu.pressure" or "io.pressure" with
	// EventPressure.
	File string
	// Limit and Peak are the figures of the limit that was hit, -1 if unknown. A
	// peak of memory may exceed its limit by a few pages.
	Limit, Peak int64
}
