//go:build walltest

package escape

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/launch"
)

func seccompCases() []escape {
	call := func(name string) func(*trial) []string { return func(*trial) []string { return []string{name} } }
	return inCategory("seccomp", []escape{
		{
			name: "calls of 32 bit programs", after: "int 0x80", walls: []string{"seccomp"}, args: call("int80"), outlived: wentOn,
			reports: killed("call 20 of 32 bit programs (i386)"),
		},
		{
			name: "calls of x32 programs", walls: []string{"seccomp"}, args: call("x32"), outlived: wentOn, reports: killed("call 39 of x32 programs"),
		},
		{
			name: "a personality without protections", walls: []string{"seccomp"}, reports: "seccomp personality", args: call("personality"),
			escaped: func(t *trial) string {
				for _, pid := range t.procs() {
					if p, _ := os.ReadFile(fmt.Sprintf("/proc/%d/personality", pid)); strings.Contains(string(p), "400000") {
						return "what it can read it can execute"
					}
				}
				return ""
			},
		},
		{name: "io_uring", walls: []string{"seccomp"}, args: call("uring"), escaped: holds("io_uring")}, // ENOSYS: programs probe for it
		{name: "bpf", walls: []string{"seccomp", privileged, "keeper"}, reports: "seccomp bpf", args: call("bpf"), escaped: holds("bpf-map"), lacks: needsRootFor("unprivileged_bpf_disabled", "0")},
		{name: "userfaultfd", walls: []string{"seccomp"}, reports: "seccomp userfaultfd", args: call("userfault"), escaped: holds("userfaultfd")},
		// Debian's kernels ask for root's own capabilities.
		{name: "perf_event_open", walls: []string{"seccomp"}, with: []string{"capabilities", "identity", "user namespace"}, reports: "seccomp perf_event_open", args: call("perf"), escaped: holds("perf_event")},
		{name: "memory that is written and executed", walls: []string{"seccomp"}, reports: "seccomp mmap", args: call("write-and-execute"), escaped: maps("rwxp")},
		{
			name: "memory that is executed after it was written", walls: []string{"seccomp"}, reports: "seccomp mprotect", args: call("then-execute"),
			escaped: func(t *trial) string {
				for _, pid := range t.procs() {
					data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
					for _, line := range strings.Split(string(data), "\n") {
						if f := strings.Fields(line); len(f) == 5 && strings.HasPrefix(f[1], "r-xp") {
							return "it has code of its own at " + f[0]
						}
					}
				}
				return ""
			},
		},
		{
			name: "a filter that answers before ours", walls: []string{"seccomp"}, reports: "seccomp seccomp", args: call("own-filter"),
			escaped: func(t *trial) string {
				ours := "2" // the keeper's among them
				if t.isOff("seccomp") {
					ours = "1"
				}
				return shows("Seccomp_filters", func(v string) bool { return v != ours })(t)
			},
		},
		{
			name: "type into the terminal", after: "CVE-2017-5226", walls: []string{"seccomp", privileged}, reports: "seccomp ioctl",
			prepare: withTerminal, request: func(t *trial, r *launch.Request) { r.Stdin = t.host.(*terminal).slave },
			args: func(t *trial) []string { return []string{"type", t.token} },
			escaped: func(t *trial) string {
				if strings.Contains(t.host.(*terminal).typed(t), t.token) {
					return "the shell outside would run it"
				}
				return ""
			},
		},
		{
			name: "paste into a console", after: "CVE-2023-28100", walls: []string{"seccomp"}, reports: "seccomp ioctl", args: call("paste"), outlived: wentOn,
		},
		{
			name: "every call of the list", walls: []string{"seccomp"}, try: everyCall, reports: "seccomp kexec_load",
		},
	})
}

// killed is what is told of a call of another ABI, where the kernel's audit can
// be read and where it cannot.
func killed(call string) string {
	deaths, err := seccomp.OpenDeaths()
	if err != nil {
		return "seccomp " + launch.KillingCall
	}
	_ = deaths.Close() // nothing was read
	return "seccomp " + call
}

func needsRootFor(sysctl, free string) func(string) string {
	return func(wall string) string {
		now, _ := os.ReadFile("/proc/sys/kernel/" + sysctl)
		if wall == privileged && strings.TrimSpace(string(now)) == free {
			return "this kernel lets everyone: " + sysctl + " is " + free
		}
		return ""
	}
}

func maps(kind string) func(*trial) string {
	return func(t *trial) string {
		for _, pid := range t.procs() {
			if data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid)); strings.Contains(string(data), kind) {
				return "it has memory that is " + kind
			}
		}
		return ""
	}
}

// terminal is that of somebody's session outside.
type terminal struct{ master, slave *os.File }

func withTerminal(t *trial) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	t.must(err)
	t.must(unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	t.must(err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	t.must(err)
	cmd := outsideCommand("unbound")
	cmd.Stdin = slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0, Pdeathsig: syscall.SIGKILL}
	t.must(cmd.Start())
	t.cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = slave.Close()
		_ = master.Close()
	})
	t.host = &terminal{master, slave}
}

// typed is what a shell would read: whole lines or not.
func (o *terminal) typed(t *trial) string {
	fd := int(o.slave.Fd())
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	t.must(err)
	mode.Lflag &^= unix.ICANON
	t.must(unix.IoctlSetTermios(fd, unix.TCSETS, mode))
	t.must(unix.SetNonblock(fd, true))
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// dangerous are calls that no plugin of the narrow profile has any business
// with; each must be told of, by its name.
var dangerous = strings.Fields(`
	acct add_key bpf chroot clock_adjtime clock_settime delete_module fanotify_init fanotify_mark finit_module fsconfig fsmount
	fsopen fspick init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl landlock_create_ruleset landlock_restrict_self
	lookup_dcookie mbind migrate_pages mlockall modify_ldt mount mount_setattr move_mount move_pages
	name_to_handle_at open_by_handle_at open_tree perf_event_open personality pidfd_getfd pivot_root process_madvise
	process_vm_readv process_vm_writev ptrace quotactl reboot request_key sched_setattr sched_setscheduler seccomp set_mempolicy
	setdomainname setgroups sethostname setns setpriority setresgid setresuid settimeofday setuid swapoff swapon sync syncfs syslog
	umount2 unshare userfaultfd vhangup vmsplice mknod mknodat memfd_create chown fchown lchown fchownat setfsuid setfsgid
	ioprio_set capset`)

// everyCall makes each of them. Those that nobody was told of have got through.
func everyCall(t *trial) string {
	args := []string{"calls"}
	var asked []string
	for _, name := range dangerous {
		if number, ok := seccomp.Number(name); ok {
			args, asked = append(args, fmt.Sprint(number)), append(asked, name)
		}
	}
	if len(asked) < 55 {
		t.Fatalf("only %d of the calls are known", len(asked))
	}
	c := *t.c
	c.change = func(_ *trial, p *plan.Plan) { p.Violation["seccomp"] = plan.Response{Action: "deny"} }
	life := t.again(&c)
	if t.isOff("seccomp") { // those that would do harm to the host are left out: the arguments are nonsense, but still
		args = []string{"calls", fmt.Sprint(unix.SYS_KCMP), fmt.Sprint(unix.SYS_KEYCTL), fmt.Sprint(unix.SYS_PERSONALITY)}
	}
	life.start(args)
	life.end()
	if life.startError != nil || wentOn(life) == "" {
		t.Errorf("it did not try them all: %v %s", life.startError, life.output())
	}
	var missed []string
	told := life.told()
	t.violations = life.violations
	for _, name := range asked {
		if !slices.Contains(told, "seccomp "+name) {
			missed = append(missed, name)
		}
	}
	if len(missed) > 0 {
		return "nobody was told of " + strings.Join(missed, " ")
	}
	return ""
}
