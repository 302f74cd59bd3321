// Package v1 sets the limits of cgroup v1 that are more than a number in a file,
// by github.com/containerd/cgroups. It stands apart from package cgroups because
// the library sets up protobuf, eBPF and D-Bus before main: a program that must
// start quickly has another one call it (docs/decisions/0015-limits-helper.md).
//
// A group is named to the library as base, the directory that the hierarchies
// are mounted in, and group, its path below <base>/<controller>.
package v1

import (
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Cpuset makes the group's cpuset.cpus a list such as "0-1,3". Both files of
// every group above, which must be filled before a process can join, are filled.
func Cpuset(base, group, cpus string) error {
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: cpus}}
	return cgroup1.NewCpuset(base).Create(group, r)
}

// Rates bound one block device, in bytes and operations a second; nil leaves the
// bound that is there.
type Rates struct{ ReadBPS, WriteBPS, ReadIOPS, WriteIOPS *int64 }

// Throttle bounds what the group reads from and writes to a block device.
func Throttle(base, group string, major, minor int64, rates Rates) error {
	bound := func(v *int64) []specs.LinuxThrottleDevice {
		if v == nil {
			return nil
		}
		d := specs.LinuxThrottleDevice{Rate: uint64(*v)}
		d.Major, d.Minor = major, minor
		return []specs.LinuxThrottleDevice{d}
	}
	r := &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
		ThrottleReadBpsDevice: bound(rates.ReadBPS), ThrottleWriteBpsDevice: bound(rates.WriteBPS),
		ThrottleReadIOPSDevice: bound(rates.ReadIOPS), ThrottleWriteIOPSDevice: bound(rates.WriteIOPS),
	}}
	return cgroup1.NewBlkio(base).Update(group, r)
}
