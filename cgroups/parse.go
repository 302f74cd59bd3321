package cgroups

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what is parsed. Kernel files are trusted, yet a bound costs nothing.
const (
	maxMountinfo = 16 << 20
	maxFile      = 16 << 20
	maxName      = 128
	maxRoot      = 512
	maxDepth     = 8
	maxCPUs      = 8192 // CONFIG_NR_CPUS of the largest kernels
)

// mount is one line of /proc/self/mountinfo.
type mount struct {
	point, fstype string
	options       []string // of the super block: a v1 hierarchy's controllers
}

// parseMountinfo reads the text of /proc/self/mountinfo (proc(5)). A mount that
// a later one on the same point hides is left out.
func parseMountinfo(data []byte) ([]mount, error) {
	if len(data) > maxMountinfo {
		return nil, fmt.Errorf("cannot read mountinfo: more than %d bytes", maxMountinfo)
	}
	var mounts []mount
	at := map[string]int{}
	for line := range bytes.Lines(data) {
		m, ok := parseMount(string(bytes.TrimSuffix(line, []byte("\n"))))
		if !ok {
			continue
		}
		if i, hidden := at[m.point]; hidden {
			mounts[i] = m
			continue
		}
		at[m.point] = len(mounts)
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// parseMount reads "ID PARENT MAJ:MIN ROOT POINT OPTIONS [TAG...] - TYPE SOURCE
// SUPER-OPTIONS".
func parseMount(line string) (mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	if !ok {
		return mount{}, false
	}
	left, right := strings.Split(before, " "), strings.Split(after, " ")
	if len(left) < 6 || len(right) < 3 {
		return mount{}, false
	}
	return mount{
		point:   unescape(left[4]),
		fstype:  right[0],
		options: strings.Split(right[len(right)-1], ","),
	}, true
}

// unescape undoes the kernel's octal escapes of space, tab, newline and
// backslash in mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// parseFlat reads a flat-keyed file such as memory.events ("KEY VALUE" lines).
// A line that is not one is left out: new kernels add lines of other shapes.
func parseFlat(data []byte) map[string]int64 {
	values := map[string]int64{}
	for line := range bytes.Lines(data) {
		key, value, ok := strings.Cut(strings.TrimSpace(string(line)), " ")
		if !ok {
			continue
		}
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			values[key] = n
		}
	}
	return values
}

// flatValue is parseFlat(data)[key], of which there is one.
func flatValue(data []byte, key string) (int64, bool) {
	for line := range bytes.Lines(data) {
		rest, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte(key))
		if !ok || len(rest) == 0 || rest[0] != ' ' {
			continue
		}
		n, err := strconv.ParseInt(string(rest[1:]), 10, 64)
		return n, err == nil
	}
	return 0, false
}

// parseLimit reads a number or "max"; max is math.MaxInt64. On v1 a number that
// no memory reaches, or -1, is how the kernel writes "no limit".
func parseLimit(s string) (int64, error) {
	s = strings.TrimSpace(s)
	if s == "max" || s == "-1" {
		return math.MaxInt64, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("cannot read limit %q: %w", s, err)
	}
	return normal(int64(min(n, math.MaxInt64))), nil
}

// normal makes every number that means no limit the same one. The kernel's
// PAGE_COUNTER_MAX in bytes is LONG_MAX rounded down to a page, whatever the
// page size; 64 KiB is the largest.
func normal(n int64) int64 {
	if n >= math.MaxInt64&^0xffff {
		return math.MaxInt64
	}
	return n
}

// limitString is the reverse of parseLimit.
func limitString(n int64) string {
	if n == math.MaxInt64 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// parsePIDs reads cgroup.procs. A pid 0 stands for a process outside the
// reader's pid namespace, which nobody here could signal.
func parsePIDs(data []byte) ([]int, error) {
	var pids []int
	for line := range bytes.Lines(data) {
		s := strings.TrimSpace(string(line))
		if s == "" {
			continue
		}
		pid, err := strconv.Atoi(s)
		if err != nil || pid < 0 {
			return nil, fmt.Errorf("cannot read pid %q", s)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// parseCPUList reads a list such as "0-1,3" (the kernel's cpulist format,
// without its stride form) into sorted cpu numbers.
func parseCPUList(s string) ([]int, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil, nil
	}
	var cpus []int
	for part := range strings.SplitSeq(s, ",") {
		first, last, err := parseCPURange(part)
		if err != nil {
			return nil, err
		}
		for c := first; c <= last; c++ {
			cpus = append(cpus, c)
		}
		if len(cpus) > maxCPUs {
			return nil, fmt.Errorf("cannot read cpu list: more than %d cpus", maxCPUs)
		}
	}
	slices.Sort(cpus)
	return slices.Compact(cpus), nil
}

func parseCPURange(s string) (first, last int, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	a, err1 := strconv.ParseUint(from, 10, 16)
	b, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || a > b || b >= maxCPUs {
		return 0, 0, fmt.Errorf("cannot read cpu list: %q is no cpu number or range below %d", s, maxCPUs)
	}
	return int(a), int(b), nil
}

// formatCPUList writes sorted cpu numbers as the kernel does: "0-1,3".
func formatCPUList(cpus []int) string {
	var parts []string
	for i := 0; i < len(cpus); {
		j := i
		for j+1 < len(cpus) && cpus[j+1] == cpus[j]+1 {
			j++
		}
		part := strconv.Itoa(cpus[i])
		if j > i {
			part += "-" + strconv.Itoa(cpus[j])
		}
		parts = append(parts, part)
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// checkName admits the name of one group: ASCII letters, digits and "_-.@:+",
// not starting with a dot. Such a name can never meet a file of the hierarchy:
// those all contain a dot after a controller's name, so a name that looks like
// one ("memory.max", "cgroup.procs", "tasks") is refused too.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("cannot use %q as a group name: want 1 to %d characters", name, maxName)
	}
	for _, r := range name {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !letter && !strings.ContainsRune("_-.@:+", r) {
			return fmt.Errorf("cannot use %q as a group name: %q is not a letter, digit or one of _-.@:+", name, r)
		}
	}
	if name[0] == '.' || reserved(name) {
		return fmt.Errorf("cannot use %q as a group name: it could be taken for a file of the hierarchy", name)
	}
	return nil
}

func reserved(name string) bool {
	if slices.Contains([]string{"tasks", "notify_on_release", "release_agent"}, name) {
		return true
	}
	prefix, _, dotted := strings.Cut(name, ".")
	return dotted && (prefix == "cgroup" || prefix == "irq" || slices.Contains(knownControllers, prefix))
}

// checkRoot admits a root such as "cordon" or "a/b": relative, of group names.
func checkRoot(root string) error {
	if root == "" || len(root) > maxRoot {
		return fmt.Errorf("cannot use %q as cgroup root: want 1 to %d characters", root, maxRoot)
	}
	parts := strings.Split(root, "/")
	if len(parts) > maxDepth {
		return fmt.Errorf("cannot use %q as cgroup root: more than %d levels", root, maxDepth)
	}
	for _, part := range parts {
		if err := checkName(part); err != nil {
			return fmt.Errorf("cannot use %q as cgroup root (want a relative path such as \"cordon\"): %w", root, err)
		}
	}
	return nil
}

// Validate checks every limit against the bounds that all hierarchies share and
// gives all that is wrong at once.
func (l Limits) Validate() error {
	var errs []error
	for _, f := range []struct {
		name  string
		value *int64
	}{
		{"memory.max", l.MemoryMax},
		{"memory.high", l.MemoryHigh},
		{"memory.swap.max", l.MemorySwapMax},
		{"pids.max", l.PidsMax},
		{"hugetlb.2MB.max", l.Hugetlb2M},
		{"hugetlb.1GB.max", l.Hugetlb1G},
	} {
		if f.value != nil && *f.value < 0 {
			errs = append(errs, fmt.Errorf("cannot set %s to %d: must not be negative", f.name, *f.value))
		}
	}
	if l.PidsMax != nil && *l.PidsMax > maxPIDs {
		errs = append(errs, fmt.Errorf("cannot set pids.max to %d: at most %d", *l.PidsMax, maxPIDs))
	}
	for _, b := range l.IOMax.bounds() {
		if n := *b.value; n != nil && *n < 1 {
			errs = append(errs, fmt.Errorf("cannot set io.max %s to %d: must be positive", b.name, *n))
		}
	}
	errs = append(errs, l.validateCPU()...)
	return errors.Join(errs...)
}

// maxPIDs is the kernel's PID_MAX_LIMIT on 64 bits.
const maxPIDs = 4 << 20

func (l Limits) validateCPU() []error {
	var errs []error
	if m := l.CPUMax; m != nil && (m.Quota < 1000 || m.Period < 1000 || m.Period > 1_000_000) {
		errs = append(errs, fmt.Errorf("cannot set cpu.max to \"%d %d\": quota from 1000, period 1000 to 1000000 (microseconds)", m.Quota, m.Period))
	}
	if w := l.CPUWeight; w != nil && (*w < 1 || *w > 10000) {
		errs = append(errs, fmt.Errorf("cannot set cpu.weight to %d: want 1 to 10000", *w))
	}
	if _, err := parseCPUList(l.Cpuset); err != nil {
		errs = append(errs, fmt.Errorf("cannot set cpuset.cpus: %w", err))
	}
	return errs
}
