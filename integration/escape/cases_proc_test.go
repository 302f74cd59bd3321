//go:build walltest

package escape

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles/plan"
)

// Nothing here is ever written: to hold one of these files open for writing is
// the whole attack, and a control run must not change the machine.
func procCases() []escape {
	openFor := func(path string, flags int) func(*trial) []string {
		return func(*trial) []string { return []string{"keep-open", path, fmt.Sprint(flags)} }
	}
	full := func(_ *trial, p *plan.Plan) { p.Proc = "full" }
	return inCategory("proc and sys", []escape{
		{
			name: "core_pattern", after: "core_pattern handlers", walls: []string{"mount namespace", "landlock", anyUser},
			args: openFor("/proc/sys/kernel/core_pattern", unix.O_WRONLY), escaped: holds("core_pattern"),
		},
		{
			name: "core_pattern of a full proc", walls: []string{"landlock", anyUser}, change: full,
			args: openFor("/proc/sys/kernel/core_pattern", unix.O_WRONLY), escaped: holds("core_pattern"),
		},
		{
			name: "the release agent of a cgroup", after: "CVE-2022-0492", walls: []string{"seccomp", privileged, "cgroup namespace"}, with: []string{"landlock"},
			reports: "seccomp mount",
			args:    func(*trial) []string { return []string{"mount", "/tmp", "cgroup", "none,name=cordon-escape"} },
			unable: func() string {
				if data, err := os.ReadFile("/proc/filesystems"); err == nil && !strings.Contains(string(data), "\tcgroup\n") {
					return "this kernel has no cgroup v1"
				}
				return ""
			},
			escaped: func(t *trial) string {
				for _, pid := range t.procs() {
					if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/tmp/release_agent", pid)); err == nil {
						return "it has a release_agent of its own to write, which the kernel runs as root"
					}
				}
				return ""
			},
		},
		{
			name: "sysrq-trigger", walls: []string{"mount namespace", anyUser}, args: openFor("/proc/sysrq-trigger", unix.O_WRONLY),
			with: []string{"landlock"}, escaped: holds("sysrq-trigger"), unable: without("/proc/sysrq-trigger"),
		},
		{
			name: "kernel memory", after: "kcore", walls: []string{"mount namespace", privileged}, args: openFor("/proc/kcore", unix.O_RDONLY),
			with: []string{"landlock"}, escaped: holds("kcore"),
			unable: without("/proc/kcore"),
		},
		{
			name: "what a full proc masks", after: "CVE-2025-31133, CVE-2025-52565", walls: []string{"masks"}, change: full,
			args: func(*trial) []string { return []string{"read", "/proc/interrupts"} },
			escaped: func(t *trial) string {
				if strings.Contains(t.output(), "CPU0") {
					return "it reads the host's interrupts"
				}
				return ""
			},
		},
		{
			name: "take the masks off", after: "CVE-2025-52881", walls: []string{"seccomp", privileged}, change: full, with: []string{"landlock"},
			args: func(*trial) []string { return []string{"unmask", "/proc/interrupts"} }, reports: "seccomp umount2",
			escaped: func(t *trial) string {
				for _, pid := range t.procs() {
					if !strings.Contains(mounts(fmt.Sprint(pid)), " /proc/interrupts ") {
						return "/proc/interrupts is not masked any more"
					}
				}
				return ""
			},
		},
		{
			name: "the command line of a neighbour", walls: []string{"pid namespace+mount namespace"},
			prepare: func(t *trial) {
				_, stop := t.neighbour(nil, "unbound", t.token)
				t.cleanup(stop)
			},
			args: func(*trial) []string { return []string{"command-lines"} }, escaped: leaked,
		},
		{
			name: "the host's control groups", walls: []string{"mount namespace", "landlock"}, watch: true,
			prepare: func(t *trial) {
				t.host = cgroupWith("cordon-test-escape-" + t.token)
				t.must(os.Mkdir(t.host.(string), 0o755))
				t.cleanup(func() { t.must(os.Remove(t.host.(string))) })
			},
			args: func(t *trial) []string { return []string{"list", cgroupWith("")} }, escaped: leaked,
		},
	})
}

// without is for what a kernel may be built without.
func without(file string) func() string {
	return func() string {
		if _, err := os.Stat(file); err != nil {
			return "this kernel has no " + file
		}
		return ""
	}
}

// cgroupWith is a path in the host's unified tree.
func cgroupWith(name string) string {
	for _, dir := range []string{"/sys/fs/cgroup/unified/", "/sys/fs/cgroup/"} {
		if _, err := os.Stat(dir + "cgroup.procs"); err == nil {
			return dir + name
		}
	}
	return "/sys/fs/cgroup/" + name
}
