//go:build walltest

package escape

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/profiles/plan"
)

// The bounds that attacks try to break, and by how much: enough to be seen, not
// so much that a control run would hurt the machine.
const (
	fewProcesses = 16
	someMemory   = 48 << 20
	tooMuch      = 96 // MiB
)

func amount(n int64) *int64 { return &n }

func resourceCases() []escape {
	little := func(_ *trial, p *plan.Plan) {
		p.Limits.MemoryMax, p.Limits.MemorySwapMax = amount(someMemory), amount(0)
	}
	return inCategory("resources", []escape{
		{
			name: "more processes than it may", after: "fork bomb", walls: []string{"pids.max"}, reports: "pids pids.max",
			change: func(_ *trial, p *plan.Plan) { p.Limits.PidsMax = amount(fewProcesses) },
			args:   func(*trial) []string { return []string{"forks", "64"} },
			escaped: func(t *trial) string {
				if n := len(t.procs()); n > fewProcesses {
					return fmt.Sprintf("%d processes", n)
				}
				return ""
			},
		},
		{
			name: "more memory than it may", walls: []string{"memory.max"}, change: little, reports: "memory memory.max",
			args: func(*trial) []string { return []string{"anonymous", fmt.Sprint(tooMuch)} }, escaped: resident("VmRSS"),
		},
		{
			name: "more memory than its rlimit", walls: []string{"rlimits"},
			change: func(_ *trial, p *plan.Plan) {
				for i := range p.Rlimits {
					if p.Rlimits[i].Name == "data" {
						p.Rlimits[i].Soft, p.Rlimits[i].Hard = someMemory, someMemory
					}
				}
			},
			args: func(*trial) []string { return []string{"anonymous", fmt.Sprint(tooMuch)} }, escaped: resident("VmRSS"),
		},
		{
			name: "memory that rlimits do not see", walls: []string{"memory.max"}, change: little, reports: fromMemfd("memory memory.max"),
			allow: []string{"memfd_create"}, args: func(*trial) []string { return []string{"memory-file", fmt.Sprint(tooMuch)} },
			with: []string{"memfd_noexec"}, // before Linux 6.3 it lets no plugin have a memfd
			escaped: func(t *trial) string {
				for _, pid := range t.procs() {
					if info, err := os.Stat(fmt.Sprintf("/proc/%d/fd/3", pid)); err == nil && info.Size() > someMemory {
						return fmt.Sprintf("%d MiB in a memfd", info.Size()>>20)
					}
				}
				return ""
			},
		},
		{
			name: "scratch that counts as memory", walls: []string{"memory.max"}, reports: "memory memory.max",
			change:  func(t *trial, p *plan.Plan) { little(t, p); p.Tmp.Size = 4 * someMemory },
			args:    func(*trial) []string { return []string{"unlinked", "/tmp/x", fmt.Sprint(tooMuch)} },
			escaped: scratchAbove(someMemory),
		},
		{
			name: "scratch beyond its size, without a name", walls: []string{"scratch size"},
			change:  func(_ *trial, p *plan.Plan) { p.Tmp.Size = 8 << 20 },
			args:    func(*trial) []string { return []string{"unlinked", "/tmp/x", "32"} },
			escaped: scratchAbove(8 << 20),
		},
		{
			name: "more files than it may", after: "inode filler", walls: []string{"scratch inodes"},
			change: func(_ *trial, p *plan.Plan) { p.Tmp.Inodes = 64 },
			args:   func(*trial) []string { return []string{"inodes", "/tmp", "256"} },
			escaped: func(t *trial) string {
				for _, pid := range t.procs() {
					if entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/root/tmp", pid)); len(entries) > 64 {
						return fmt.Sprintf("%d files", len(entries))
					}
				}
				return ""
			},
		},
		{
			name: "more descriptors than it may", walls: []string{"rlimits"}, args: func(*trial) []string { return []string{"descriptors", "1500"} },
			escaped: func(t *trial) string {
				if n := len(t.descriptors()); n > 1024 {
					return fmt.Sprintf("%d descriptors", n)
				}
				return ""
			},
		},
		{
			name: "more processor than it may", walls: []string{"cpu.max"},
			change: func(_ *trial, p *plan.Plan) { p.Limits.CPUMax = &cgroups.CPUMax{Quota: 10_000, Period: 100_000} },
			args:   func(*trial) []string { return []string{"burn", "150"} },
			escaped: func(t *trial) string {
				if t.throttled() == 0 && strings.Contains(t.output(), "ready") {
					return "it was never held back"
				}
				return ""
			},
		},
		{
			name: "a priority above others", walls: []string{"seccomp", privileged, "keeper"}, reports: "seccomp sched_setscheduler",
			args: func(*trial) []string { return []string{"priority", "-10"} },
			escaped: func(t *trial) string {
				for _, pid := range t.procs() {
					if nice := niceOf(pid); nice < 0 {
						return fmt.Sprintf("its nice value is %d", nice)
					}
				}
				return ""
			},
		},
		{
			name: "longer than it may", walls: []string{"time.wall"}, reports: "time time.wall",
			change: func(_ *trial, p *plan.Plan) { p.Time.Wall = 200 * time.Millisecond },
			args:   func(*trial) []string { return []string{"linger", "1500"} }, outlived: wentOn,
		},
		{
			name: "its own limit in the host's control groups", walls: []string{"mount namespace", "landlock", "identity"},
			// A tree mounted with nsdelegate holds whoever has a namespace of it, too.
			with:   []string{"user namespace", "capabilities", "cgroup namespace"},
			change: func(_ *trial, p *plan.Plan) { p.Limits.PidsMax = amount(fewProcesses) },
			args:   func(t *trial) []string { return []string{"write", t.groupFile("pids", "pids.max"), "max"} },
			escaped: func(t *trial) string {
				if data, err := os.ReadFile(t.groupFile("pids", "pids.max")); err == nil && strings.TrimSpace(string(data)) == "max" {
					return "its pids.max is what it wrote"
				}
				return ""
			},
		},
	})
}

// fromMemfd is what is told of where a plugin may have a memfd at all.
func fromMemfd(told string) string {
	if _, err := os.Stat("/proc/sys/vm/memfd_noexec"); err != nil {
		return ""
	}
	return told
}

func resident(field string) func(*trial) string {
	return shows(field, func(v string) bool {
		kib, _ := strconv.Atoi(strings.TrimSuffix(v, " kB"))
		return kib > someMemory>>10
	})
}

func scratchAbove(most int64) func(*trial) string {
	return func(t *trial) string {
		for _, pid := range t.procs() {
			var st unix.Statfs_t
			if unix.Statfs(fmt.Sprintf("/proc/%d/root/tmp", pid), &st) == nil && int64(st.Blocks-st.Bfree)*st.Bsize > most {
				return fmt.Sprintf("%d MiB on its scratch", int64(st.Blocks-st.Bfree)*st.Bsize>>20)
			}
		}
		return ""
	}
}

// throttled is how often the kernel held the group back.
func (t *trial) throttled() int {
	for _, dir := range t.process.Group().Paths() {
		data, _ := os.ReadFile(filepath.Join(dir, "cpu.stat"))
		for _, line := range strings.Split(string(data), "\n") {
			if n, ok := strings.CutPrefix(line, "nr_throttled "); ok {
				count, _ := strconv.Atoi(n)
				return count
			}
		}
	}
	return 0
}

// niceOf is field 19 of proc_pid_stat(5).
func niceOf(pid int) int {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	if len(f) < 17 {
		return 0
	}
	n, _ := strconv.Atoi(f[16])
	return n
}
