package cgroups

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
)

// fixture is a host's layout from a canned mountinfo and the controllers of its
// unified tree.
func fixture(t *testing.T, name, controllers string) *layout {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := parseMountinfo(text)
	if err != nil {
		t.Fatal(err)
	}
	l, err := findLayout(mounts, func(string) ([]byte, error) { return []byte(controllers), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLayouts(t *testing.T) {
	for _, c := range []struct {
		fixture, controllers string
		mode                 string
		hierarchies          []string
	}{
		{
			"mountinfo-v2", "cpuset cpu io memory hugetlb pids rdma misc\n", ModeV2,
			[]string{"/sys/fs/cgroup cpuset,cpu,io,memory,hugetlb,pids"},
		},
		{
			"mountinfo-hybrid", "hugetlb\n", ModeHybrid,
			[]string{
				"/sys/fs/cgroup/unified hugetlb", "/sys/fs/cgroup/pids pids", "/sys/fs/cgroup/memory memory",
				"/sys/fs/cgroup/cpu,cpuacct cpu", "/sys/fs/cgroup/cpuset cpuset", "/sys/fs/cgroup/devices devices",
			},
		},
		{ // cgroup_no_v1=memory: that limit moves to the unified tree, the others stay
			"mountinfo-hybrid", "memory\n", ModeHybrid,
			[]string{
				"/sys/fs/cgroup/unified memory", "/sys/fs/cgroup/pids pids",
				"/sys/fs/cgroup/cpu,cpuacct cpu", "/sys/fs/cgroup/cpuset cpuset", "/sys/fs/cgroup/devices devices",
			},
		},
		{
			"mountinfo-v1", "", ModeV1,
			[]string{
				"/sys/fs/cgroup/pids pids", "/sys/fs/cgroup/memory memory", "/sys/fs/cgroup/cpu,cpuacct cpu,cpuacct",
				"/sys/fs/cgroup/cpuset cpuset", "/sys/fs/cgroup/devices devices", "/sys/fs/cgroup/freezer freezer",
			},
		},
	} {
		l := fixture(t, c.fixture, c.controllers)
		var have []string
		for _, h := range l.hierarchies {
			have = append(have, h.mount+" "+strings.Join(h.controllers, ","))
		}
		if l.mode != c.mode || !slices.Equal(have, c.hierarchies) {
			t.Errorf("%s: mode %s, hierarchies %q; want %s, %q", c.fixture, l.mode, have, c.mode, c.hierarchies)
		}
	}
}

func TestNoLayout(t *testing.T) {
	for _, text := range []string{
		"", "nonsense - x\n",
		"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n",
		"40 31 0:37 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", // nothing to claim a group by
	} {
		mounts, err := parseMountinfo([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if l, err := findLayout(mounts, os.ReadFile); err == nil {
			t.Errorf("%q gave layout %+v", text, l)
		}
	}
	mounts, err := parseMountinfo([]byte("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 none rw\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := findLayout(mounts, func(string) ([]byte, error) { return nil, fs.ErrPermission }); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("an unreadable cgroup.controllers gave %v", err)
	}
}

func TestMountinfoEscapesAndHiddenMounts(t *testing.T) {
	mounts, err := parseMountinfo([]byte(`1 0 0:1 / /a\040b\134c rw - tmpfs none rw
2 0 0:2 / /hidden rw - cgroup cgroup rw,memory
3 0 0:3 / /hidden rw - tmpfs none rw
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(mounts) != 2 || mounts[0].point != `/a b\c` || mounts[1].fstype != "tmpfs" {
		t.Errorf("mounts %+v", mounts)
	}
}

func TestParseFlat(t *testing.T) {
	// memory.events of 6.12, memory.oom_control of v1, and lines of no such shape.
	have := parseFlat([]byte("low 0\nhigh 0\nmax 59\noom 3\noom_kill 2\noom_group_kill 0\nsome avg10=0.00\nword\n"))
	if have["oom_kill"] != 2 || have["max"] != 59 || len(have) != 6 {
		t.Errorf("have %v", have)
	}
}

func TestParseLimit(t *testing.T) {
	for text, want := range map[string]int64{
		"max\n": math.MaxInt64, "-1\n": math.MaxInt64, "0\n": 0, "4096\n": 4096,
		"9223372036854771712\n": math.MaxInt64, // v1 with pages of 4 KiB
		"9223372036854710272\n": math.MaxInt64, // and of 64 KiB
		"18446744073709551615":  math.MaxInt64,
	} {
		if have, err := parseLimit(text); err != nil || have != want {
			t.Errorf("%q gave %d, %v; want %d", text, have, err, want)
		}
	}
	for _, text := range []string{"", "12 34", "x", "-2", "1e3"} {
		if have, err := parseLimit(text); err == nil {
			t.Errorf("%q gave %d", text, have)
		}
	}
}

func TestCPULists(t *testing.T) {
	for text, want := range map[string]string{
		"0-1,3": "0-1,3", "3,1,0": "0-1,3", "5": "5", "1-1": "1", "": "", "0-2,1-4\n": "0-4",
	} {
		cpus, err := parseCPUList(text)
		if have := formatCPUList(cpus); err != nil || have != want {
			t.Errorf("%q gave %q, %v; want %q", text, have, err, want)
		}
	}
	for _, text := range []string{"a", "1-", "-1", "3-1", "0,,1", "0-99999", "1 2", "8192", strings.Repeat("0-8191,", 3) + "0"} {
		if cpus, err := parseCPUList(text); err == nil {
			t.Errorf("%q gave %d cpus", text, len(cpus))
		}
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"a", "acme.thumbs", "run-1234", "x@1:2+3", "a_b", strings.Repeat("n", maxName)} {
		if err := checkName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{
		"", ".", "..", ".hidden", "a/b", "a b", "a\nb", "é", "tasks", "cgroup.procs", "memory.max", "cpu.weight",
		"notify_on_release", strings.Repeat("n", maxName+1),
	} {
		if checkName(name) == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	for _, root := range []string{"cordon", "a/b", "system.slice/cordond.service"} {
		if err := checkRoot(root); err != nil {
			t.Error(err)
		}
	}
	for _, root := range []string{"", "/", "/cordon", "a/", "a//b", "../a", "a/../b", "a/./b", strings.Repeat("a/", 9) + "a", strings.Repeat("a", maxRoot+1)} {
		if checkRoot(root) == nil {
			t.Errorf("root %q was taken", root)
		}
	}
}

func TestValidateGivesEveryError(t *testing.T) {
	err := Limits{
		MemoryMax: ptr(int64(-1)), MemoryHigh: ptr(int64(-1)), MemorySwapMax: ptr(int64(-5)), PidsMax: ptr(int64(1 << 30)),
		CPUMax: &CPUMax{Quota: 999, Period: 1000}, CPUWeight: ptr(uint64(0)), Cpuset: "x",
	}.Validate()
	if err == nil {
		t.Fatal("all of it was taken")
	}
	for _, name := range []string{"memory.max", "memory.high", "memory.swap.max", "pids.max", "cpu.max", "cpu.weight", "cpuset.cpus"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("nothing is said of %s: %v", name, err)
		}
	}
	good := Limits{MemoryMax: ptr(int64(0)), PidsMax: ptr(int64(0)), CPUMax: &CPUMax{Quota: 1000, Period: 1000000}, CPUWeight: ptr(uint64(10000))}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}

// Every weight must come back as it was asked, within the bounds of cpu.shares.
func TestWeightsComeBack(t *testing.T) {
	for weight := uint64(1); weight <= 10000; weight++ {
		shares := sharesOf(weight)
		if back := weightOf(shares); back != weight || shares < 2 || shares > 262144 {
			t.Fatalf("weight %d is %d shares is weight %d", weight, shares, back)
		}
	}
	if sharesOf(100) != 1024 {
		t.Errorf("the default weight is %d shares", sharesOf(100))
	}
}

func TestValuesRoundAsTheKernelDoes(t *testing.T) {
	have := Limits{MemoryMax: ptr(3*pageSize + 1), MemoryHigh: ptr(int64(math.MaxInt64)), Cpuset: "1,0"}.Values()
	if have["memory.max"] != limitString(3*pageSize) || have["memory.high"] != "max" || have["memory.swap.max"] != "0" || have["cpuset.cpus"] != "0-1" {
		t.Errorf("values %v", have)
	}
}

func FuzzMountinfo(f *testing.F) {
	for _, name := range []string{"mountinfo-v1", "mountinfo-v2", "mountinfo-hybrid"} {
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "cpu memory pids")
	}
	f.Fuzz(func(t *testing.T, text []byte, controllers string) {
		mounts, err := parseMountinfo(text)
		if err != nil {
			return
		}
		l, err := findLayout(mounts, func(string) ([]byte, error) { return []byte(controllers), nil })
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for i, h := range l.hierarchies {
			if h.v2 && i != 0 {
				t.Error("the unified tree is not the primary one")
			}
			for _, c := range h.controllers {
				if seen[c] && !h.v2 {
					t.Errorf("controller %s is in two hierarchies", c)
				}
				seen[c] = true
			}
		}
	})
}

func FuzzCPUList(f *testing.F) {
	f.Add("0-1,3")
	f.Fuzz(func(t *testing.T, s string) {
		cpus, err := parseCPUList(s)
		if err != nil {
			return
		}
		again, err := parseCPUList(formatCPUList(cpus))
		if err != nil || !slices.Equal(cpus, again) {
			t.Errorf("%q: %v came back as %v, %v", s, cpus, again, err)
		}
	})
}

func FuzzKernelFiles(f *testing.F) {
	f.Add([]byte("populated 1\nfrozen 0\n"))
	f.Add([]byte("9223372036854771712\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_ = parseFlat(text)
		if pids, err := parsePIDs(text); err == nil && slices.ContainsFunc(pids, func(p int) bool { return p < 0 }) {
			t.Errorf("negative pid in %v", pids)
		}
		if n, err := parseLimit(string(text)); err == nil && n < 0 {
			t.Errorf("negative limit %d", n)
		}
	})
}
