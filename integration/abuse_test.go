package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// abuseProfile bounds everything closely, and lets what is refused or killed go
// on, so that an attack lasts as long as nobody stops it.
const abuseProfile = `extends = ["builtin:%s"]
[resources]
memory.max = "48M"
memory.swap.max = 0
pids.max = 24
cpu.max = "50%%"
rlimit.nofile = 200
[tmp]
size = "128M"
[data]
size = "8M"
inodes = 300
[violation]
seccomp = "deny"
memory = "log"
pids = "log"
[lifecycle]
restart = "always"
restart_sec = "50ms"
start_limit_burst = 10000
`

const (
	abuseMemory = 48 << 20
	// memorySlack is by how much a group's memory may exceed its limit: what the
	// kernel charges in batches for each processor, and lets through where it
	// could not wait.
	memorySlack = 4 << 20
	abusePids   = 24

	abuseData        = 8 << 20
	abuseInodes      = 300
	abuseDescriptors = 200
)

// abuse is one attack and what it must run into. Which of the limits of memory
// the bombs meet is the kernel's to say; all of them are memory.max.
type abuse struct {
	attack string
	wall   violation.Wall // of the violation that names the limit
	limit  int64
	meets  string // what it says itself, where nobody is told: errno and count
	most   int64  // of that count
	// fills is what it uses up where nothing tells of it, as the host sees it.
	fills func(pid int) bool
}

var abuses = []abuse{
	{attack: "fork", wall: violation.Pids, limit: abusePids},
	{attack: "threads", wall: violation.Pids, limit: abusePids},
	{attack: "anonymous", wall: violation.Memory, limit: abuseMemory},
	{attack: "tmpfs", wall: violation.Memory, limit: abuseMemory},
	{attack: "kernel", wall: violation.Memory, limit: abuseMemory},
	{attack: "cache", meets: "ENOSPC", most: abuseData},
	{attack: "disk", meets: "ENOSPC", most: abuseData},
	{attack: "inodes", meets: "ENOSPC", most: abuseInodes},
	{attack: "descriptors", meets: "EMFILE", most: abuseDescriptors},
	{attack: "cpu"},
}

func abusePlugin(t *testing.T) string {
	t.Helper()
	dir := bundle(t, "abuse", "jsonrpc", map[string]string{}, "./abuse")
	if out, err := exec.Command("gcc", "-static", "-O1", "-o", dir+"/abuse", "testdata/abuse/abuse.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

func (d *daemon) abuseProfile(builtin string) string {
	d.t.Helper()
	file := d.dir + "/profiles/abuse-" + builtin + ".toml"
	if err := os.WriteFile(file, fmt.Appendf(nil, abuseProfile, builtin), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return file
}

// TestAbuseStaysInsideItsQuota runs each attack beside a neighbour. It must not
// leave its quota, the violation must name the limit, the neighbour must go on
// answering, and the daemon must not grow.
func TestAbuseStaysInsideItsQuota(t *testing.T) {
	d := startDaemon(t)
	plugin, profile := abusePlugin(t), d.abuseProfile("static")
	d.must("install", plugin, "--as", "neighbour", "--profile", "builtin:static")
	d.must("start", "neighbour")
	for _, a := range abuses {
		t.Run(a.attack, func(t *testing.T) {
			d := d.in(t)
			before := d.resident()
			d.must("install", plugin, "--as", a.attack, "--profile", profile)
			d.must("start", a.attack)
			_, _ = d.cordon("call", a.attack, a.attack, "--timeout", "1ms") // it never answers
			d.eventually("the attack meets its limit", func() bool { return a.met(d) })
			if out, err := d.cordon("call", "neighbour", "ping", "--timeout", "60s"); err != nil {
				t.Errorf("the neighbour says %q, %v", out, err)
			}
			group := d.insideQuota(a.attack)
			d.must("stop", a.attack)
			if left := d.cgroupFiles(group, "cgroup.procs"); len(left) > 0 {
				t.Errorf("its group outlived it: %v", left)
			}
			d.must("remove", a.attack)
			if now := d.resident(); now-before > 64<<20 {
				t.Errorf("the daemon grew from %d to %d bytes", before, now)
			}
		})
	}
}

// TestStressStaysInsideItsQuota is the same with attacks that are not ours.
func TestStressStaysInsideItsQuota(t *testing.T) {
	const stress = "/usr/bin/stress-ng"
	if _, err := os.Stat(stress); err != nil {
		t.Fatal("needs Debian's stress-ng: .ci/setup test installs it")
	}
	d := startDaemon(t)
	profile := d.abuseProfile("shell")
	for _, c := range []struct {
		abuse
		args []string
	}{
		{abuse{attack: "stress-fork", wall: violation.Pids, limit: abusePids}, []string{"--fork", "8", "--fork-max", "64"}},
		{abuse{attack: "stress-pthread", wall: violation.Pids, limit: abusePids}, []string{"--pthread", "2", "--pthread-max", "256"}},
		{abuse{attack: "stress-vm", wall: violation.Memory, limit: abuseMemory}, []string{"--vm", "2", "--vm-bytes", "256m", "--vm-keep"}},
		{abuse{attack: "stress-cpu"}, []string{"--cpu", "4"}},
		{abuse{attack: "stress-hdd", fills: diskIsFull}, []string{"--hdd", "2", "--hdd-bytes", "64m"}},
		{abuse{attack: "stress-dentry", fills: inodesAreUsedUp}, []string{"--dentry", "2", "--dentries", "4096"}},
		{abuse{attack: "stress-open", fills: descriptorsAreUsedUp}, []string{"--open", "2"}},
	} {
		if slow && c.fills != nil { // ours run everywhere, and these in make bench-quotas-vm
			continue
		}
		t.Run(c.attack, func(t *testing.T) {
			d := d.in(t)
			argv := append([]string{stress, "--temp-path", "/data", "--timeout", "0"}, c.args...)
			d.must("install", bundle(t, c.attack, "jsonrpc", map[string]string{}, argv...), "--profile", profile)
			d.must("start", c.attack)
			d.eventually("the attack meets its limit", func() bool { return c.met(d) })
			d.insideQuota(c.attack)
			d.must("stop", c.attack)
			d.must("remove", c.attack)
		})
	}
}

// met says whether the limit was met, by what tells of it.
func (a abuse) met(d *daemon) bool {
	switch {
	case a.wall != "":
		for each := json.NewDecoder(strings.NewReader(d.must("why", a.attack, "--json"))); ; {
			var v violation.Violation
			if err := each.Decode(&v); err != nil {
				return false
			}
			if v.Wall == a.wall {
				if v.Limit != a.limit {
					d.t.Fatalf("the violation names %d, and the limit is %d: %+v", v.Limit, a.limit, v)
				}
				return true
			}
		}
	case a.meets != "":
		said := regexp.MustCompile(a.attack + `: (\w+) after (\d+)`).FindStringSubmatch(d.must("logs", a.attack))
		if said == nil {
			return false
		}
		if count, err := strconv.ParseInt(said[2], 10, 64); err != nil || said[1] != a.meets || count > a.most {
			d.t.Fatalf("the plugin met %q, want %s after at most %d", said[0], a.meets, a.most)
		}
		return true
	}
	if a.fills != nil {
		return slices.ContainsFunc(d.members(a.attack), a.fills)
	}
	// Throttled: it wanted more time than it got.
	return d.throttled(a.attack) > 0
}

// members are the processes in a plugin's group.
func (d *daemon) members(plugin string) (pids []int) {
	for _, file := range d.cgroupFiles(d.group(plugin), "cgroup.procs") {
		text, _ := os.ReadFile(file)
		for line := range strings.Lines(string(text)) {
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// data is the file system of a process's /data. The first process of a plugin's
// namespace has another view, without it.
func data(pid int) (fs unix.Statfs_t) {
	_ = unix.Statfs(fmt.Sprintf("/proc/%d/root/data", pid), &fs)
	return fs
}

// diskIsFull says whether a plugin's data takes no more, and is no larger than it
// may be.
func diskIsFull(pid int) bool {
	fs := data(pid)
	size := int64(fs.Blocks) * fs.Bsize // #nosec G115 -- some MiB
	return size > 0 && size <= abuseData && fs.Bfree == 0
}

// inodesAreUsedUp is the same for numbers of files.
func inodesAreUsedUp(pid int) bool {
	fs := data(pid)
	return fs.Files > 0 && fs.Files <= abuseInodes && fs.Ffree == 0
}

// descriptorsAreUsedUp is the same for open files.
func descriptorsAreUsedUp(pid int) bool {
	open, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(open) == abuseDescriptors
}

// group is the name of the group that a plugin runs in, empty while it does not.
func (d *daemon) group(plugin string) string {
	var list []control.Status
	d.json(&list, "ps")
	for _, s := range list {
		if s.Name != plugin || s.PID == 0 {
			continue
		}
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", s.PID))
		if _, path, ok := strings.Cut(string(text), "/"+d.root+"/"); ok {
			name, _, _ := strings.Cut(path, "\n")
			return name
		}
	}
	return ""
}

// cgroupFiles are the files of a name in a group, in all hierarchies.
func (d *daemon) cgroupFiles(group, name string) []string {
	if group == "" {
		return nil
	}
	var found []string
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		files, _ := filepath.Glob(fmt.Sprintf("%s/%s/%s/%s", mount, d.root, group, name))
		found = append(found, files...)
	}
	return found
}

// figure is the number in the first of the files that is there, -1 if none is.
func (d *daemon) figure(group string, names ...string) int64 {
	for _, name := range names {
		for _, file := range d.cgroupFiles(group, name) {
			text, err := os.ReadFile(file)
			n, nerr := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err == nil && nerr == nil {
				return n
			}
		}
	}
	return -1
}

func (d *daemon) throttled(plugin string) int64 {
	var most int64
	for _, file := range d.cgroupFiles(d.group(plugin), "cpu.stat") {
		text, _ := os.ReadFile(file)
		for line := range strings.Lines(string(text)) {
			var n int64
			if _, err := fmt.Sscanf(line, "nr_throttled %d", &n); err == nil {
				most = max(most, n)
			}
		}
	}
	return most
}

// insideQuota looks at the group from outside, and gives its name. A plugin that
// is being restarted has none.
func (d *daemon) insideQuota(plugin string) (group string) {
	d.t.Helper()
	var peak, pids int64
	d.eventually("the figures of its group can be read", func() bool {
		group = d.group(plugin)
		peak = d.figure(group, "memory.peak", "memory.max_usage_in_bytes", "memory.current")
		pids = d.figure(group, "pids.current")
		return peak >= 0 && pids >= 0
	})
	if peak > abuseMemory+memorySlack || pids > abusePids {
		d.t.Errorf("%s has had %d bytes of %d, and has %d processes of %d", plugin, peak, abuseMemory, pids, abusePids)
	}
	return group
}

// resident is the daemon's memory in bytes.
func (d *daemon) resident() int64 {
	d.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	d.t.Fatal("cannot find VmRSS")
	return 0
}

// in is the daemon as a subtest sees it.
func (d *daemon) in(t *testing.T) *daemon {
	other := *d
	other.t = t
	return &other
}
