package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ioBound is one of io.max's four, by its name there and by its file on v1.
type ioBound struct {
	name   string
	fileV1 string
	value  **int64
}

// bounds are in the kernel's order.
func (m *IOMax) bounds() []ioBound {
	return []ioBound{
		{"rbps", "blkio.throttle.read_bps_device", &m.ReadBPS},
		{"wbps", "blkio.throttle.write_bps_device", &m.WriteBPS},
		{"riops", "blkio.throttle.read_iops_device", &m.ReadIOPS},
		{"wiops", "blkio.throttle.write_iops_device", &m.WriteIOPS},
	}
}

// String gives the bounds as the kernel shows those of one device.
func (m IOMax) String() string {
	var parts []string
	for _, b := range m.bounds() {
		n := int64(math.MaxInt64)
		if *b.value != nil {
			n = **b.value
		}
		parts = append(parts, b.name+"="+limitString(n))
	}
	return strings.Join(parts, " ")
}

// blockDevices are the host's disks, "MAJOR:MINOR", as sysfs lists them.
// Devices that are memory are left out, and loop devices: what they do is done
// to another one.
func blockDevices() ([]string, error) {
	entries, err := os.ReadDir("/sys/block")
	if err != nil {
		return nil, fmt.Errorf("cannot list block devices: %w", err)
	}
	var found []string
	for _, e := range entries {
		if slices.ContainsFunc([]string{"loop", "ram", "zram"}, func(kind string) bool { return strings.HasPrefix(e.Name(), kind) }) {
			continue
		}
		dev, err := os.ReadFile(filepath.Join("/sys/block", e.Name(), "dev"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just gone
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list block devices: %w", err)
		}
		found = append(found, strings.TrimSpace(string(dev)))
	}
	return found, nil
}

// applyIO bounds every disk that the host has now.
func (g *Group) applyIO(l Limits, _ bool) error {
	m := g.with("io")
	if m == nil || l.IOMax == (IOMax{}) {
		return nil
	}
	devices, err := blockDevices()
	if err != nil {
		return err
	}
	for _, device := range devices {
		var major, minor int64
		if _, err := fmt.Sscanf(device, "%d:%d", &major, &minor); err != nil {
			return fmt.Errorf("cannot read block device %q: %w", device, err)
		}
		if m.h.v2 {
			err = m.ioMaxV2(l.IOMax, major, minor)
		} else {
			err = g.form(m, "blkio", Form{Major: major, Minor: minor, IO: l.IOMax})
		}
		if err != nil {
			return fmt.Errorf("io.max of block device %s: %w", device, err)
		}
	}
	return nil
}

func (m *member) ioMaxV2(limits IOMax, major, minor int64) error {
	for _, b := range limits.bounds() {
		if *b.value == nil {
			continue
		}
		if err := m.write("io.max", fmt.Sprintf("%d:%d %s=%d", major, minor, b.name, **b.value)); err != nil {
			return err
		}
	}
	return nil
}

// ioMax reads the bounds back: those of all disks, if they are the same, else
// of each.
func (m *member) ioMax(values map[string]string) error {
	each := map[string]*IOMax{}
	var err error
	if m.h.v2 {
		err = m.readIOMaxV2(each)
	} else {
		err = m.readIOMaxV1(each)
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(each) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	devices, err := blockDevices()
	if err != nil {
		return err
	}
	var all []string
	for _, device := range devices {
		all = append(all, bound(each, device).String())
	}
	slices.Sort(all)
	values["io.max"] = strings.Join(slices.Compact(all), "; ")
	return nil
}

// bound is the entry of a device.
func bound(each map[string]*IOMax, device string) *IOMax {
	if each[device] == nil {
		each[device] = &IOMax{}
	}
	return each[device]
}

// readIOMaxV2 reads lines such as "8:16 rbps=2097152 wbps=max riops=max wiops=120".
func (m *member) readIOMaxV2(each map[string]*IOMax) error {
	text, err := m.read("io.max")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		for _, b := range bound(each, fields[0]).bounds() {
			for _, f := range fields[1:] {
				if n, ok := strings.CutPrefix(f, string(b.name)+"="); ok {
					*b.value = number(n)
				}
			}
		}
	}
	return nil
}

// readIOMaxV1 reads four files of lines such as "8:16 2097152".
func (m *member) readIOMaxV1(each map[string]*IOMax) error {
	for i, b := range new(IOMax).bounds() {
		text, err := m.read(b.fileV1)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 2 {
				*bound(each, f[0]).bounds()[i].value = number(f[1])
			}
		}
	}
	return nil
}

// number is nil for "max".
func number(s string) *int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil
	}
	return &n
}

// applyHugetlb bounds the two sizes of huge pages that a host may have.
func (g *Group) applyHugetlb(l Limits, _ bool) error {
	m := g.with("hugetlb")
	if m == nil {
		return nil
	}
	file := func(size string) string {
		if m.h.v2 {
			return "hugetlb." + size + ".max"
		}
		return "hugetlb." + size + ".limit_in_bytes"
	}
	return m.set(setting{file("2MB"), l.Hugetlb2M}, setting{file("1GB"), l.Hugetlb1G})
}
