package profiles

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles/strict"
)

// dangers says what calls open that no ordinary plugin needs.
var dangers = []struct {
	names []string
	what  string
}{
	{[]string{"mount", "umount2", "pivot_root", "chroot", "fsopen", "fsmount", "fsconfig", "fspick", "move_mount", "open_tree", "open_tree_attr", "mount_setattr"}, "the plugin reaches the kernel's mount code; only its missing capabilities stop it"},
	{[]string{"unshare", "setns", "clone3"}, "the plugin may make or enter namespaces, where kernel code for root is in reach"},
	{[]string{"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp"}, "the plugin's processes may read and change each other"},
	{[]string{"io_uring_setup", "io_uring_enter", "io_uring_register"}, "what it does through io_uring no filter sees"},
	{[]string{"bpf", "perf_event_open", "userfaultfd"}, "large parts of the kernel come in reach, which exploits use"},
	{[]string{"memfd_create", "memfd_secret", "execveat"}, "the plugin may run a file that nobody verified, where the kernel has no memfd_noexec"},
	{[]string{"keyctl", "add_key", "request_key"}, "the plugin reaches the kernel's keyrings"},
	{[]string{"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "iopl", "ioperm", "reboot", "swapon", "swapoff", "open_by_handle_at", "quotactl", "acct", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime"}, "only its missing capabilities stop the plugin from administering the host"},
	{[]string{"shmget", "shmat", "msgget", "semget", "mq_open"}, "System V and POSIX IPC come in reach; memory held there outlives a process"},
}

// lifted says what a guard's absence opens.
var lifted = map[string]string{
	"clone":         "the plugin may make namespaces, where kernel code for root is in reach",
	"mmap":          "memory may be writable and executable: what the plugin computes can become code",
	"mprotect":      "memory may be made executable after it was written: what the plugin computes can become code",
	"pkey_mprotect": "memory may be made executable after it was written: what the plugin computes can become code",
	"ioctl":         "every ioctl is open, those that put characters into a terminal's input too",
	"prctl":         "every prctl option is open",
	"personality":   "the plugin may switch off protections of its own memory",
	"socket":        "sockets of every address family are open",
	"socketpair":    "sockets of every address family are open",

	"open": leavesSetID, "openat": leavesSetID, "openat2": leavesSetID, "creat": leavesSetID,
	"chmod": leavesSetID, "fchmod": leavesSetID, "fchmodat": leavesSetID, "fchmodat2": leavesSetID,
	"mkdir": leavesSetID, "mkdirat": leavesSetID, "mknod": leavesSetID, "mknodat": leavesSetID,
}

const leavesSetID = "the plugin may leave programs that run as the owner of a directory which it may write"

// weakened is one sentence for each thing that opens a wall, in a fixed order.
func (b *builder) weakened() []string {
	var out []string
	sentence := func(by, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if by != "" {
			text += " (" + by + ")"
		}
		out = append(out, text)
	}
	say := func(key, format string, args ...any) { sentence(b.plan.Origins[key], format, args...) }
	b.weakCalls(say)
	b.weakQuotas(say)
	if b.plan.Proc == "full" {
		say("proc.mode", "/proc shows the whole machine: its processors, memory, load and kernel version")
	}
	if b.plan.Data.Persistent {
		say("data.persistent", "/data is kept between starts, and so is what an attacker leaves there")
	}
	for _, to := range b.plan.Network.Egress {
		if strings.Contains(to, "*") {
			say("network.egress."+to, "the plugin reaches every name that %s covers, and what it knows can leave by any, within the name too", to)
			continue
		}
		say("network.egress."+to, "the plugin reaches %s, and what it knows can leave by it", to)
	}
	for _, s := range b.plan.Network.Listen {
		if strings.HasPrefix(s.At, "0.0.0.0:") || strings.HasPrefix(s.At, "[::]:") {
			say("network.listen."+s.At, "whoever reaches any address of this host reaches the plugin, at port %s", s.At[strings.LastIndexByte(s.At, ':')+1:])
			continue
		}
		say("network.listen."+s.At, "whoever reaches %s of this host reaches the plugin", s.At)
	}
	for _, network := range b.plan.Network.Addresses {
		say("network.addresses", "names that it reaches may lead to %s: services there trust who can reach them", network)
	}
	for _, name := range b.plan.Process.Pass {
		say("environment.pass", "cordon run passes %s of its caller on", name)
	}
	b.weakFiles(say)
	for i := range b.plan.Capabilities {
		c := &b.plan.Capabilities[i]
		switch c.Name {
		case "net.dial":
			sentence(c.Origin, "the plugin is connected to %s when it asks, and what it knows can leave by it", strings.Join(c.Target, ", "))
		case "net.listen":
			sentence(c.Origin, "whoever reaches %s of this host reaches the plugin", strings.Join(c.Target, ", "))
		default:
			sentence(c.Origin, "the host serves %s to it%s", c.Name, forWhat(c.Target))
		}
	}
	for _, wall := range sortedKeys(b.plan.Require) {
		if b.plan.Require[wall].Mode == bestEffort {
			say("require."+wall, "the plugin starts without %s where the host cannot give it", wall)
		}
	}
	for _, wall := range sortedKeys(b.plan.Violation) {
		r := b.plan.Violation[wall]
		switch {
		case r.Action == "log" && wall == "seccomp":
			say("violation.seccomp", "calls that are not allowed are recorded and let through: there is no seccomp wall")
		case r.Action == "log":
			say("violation."+wall, "violations of %s are recorded and nothing is done", wall)
		}
	}
	return out
}

func (b *builder) weakCalls(say func(key, format string, args ...any)) {
	for _, d := range dangers {
		var names []string
		for _, name := range d.names {
			if b.calls.may(name) {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			c := b.calls.of(names[0])
			say(c.key+"."+names[0], "%s allowed: %s", strings.Join(names, ", "), d.what)
		}
	}
	for _, name := range sortedKeys(lifted) {
		if b.calls.open(name) {
			say(b.calls.of(name).key+"."+name, "%s allowed whatever its arguments: %s", name, lifted[name])
		}
	}
}

// forWhat names the targets of a grant.
func forWhat(targets []string) string {
	if len(targets) == 0 {
		return ""
	}
	return " for " + few(targets)
}

// weakFiles says what of the host changes by the plugin's hand, or answers it
// as no file does.
func (b *builder) weakFiles(say func(key, format string, args ...any)) {
	for i := range b.plan.Files {
		f := &b.plan.Files[i]
		if slices.ContainsFunc(f.Access, changes) {
			say("files."+f.Path, "the plugin changes %s of the host, and whoever reads there reads its words", f.From)
		}
		for _, right := range f.Access {
			if what := special[right]; what != "" {
				say("files."+f.Path, "%s at %s: %s", right, f.Path, what)
			}
		}
	}
}

// special is what rights open that no shorthand has.
var special = map[string]string{
	"ioctl_dev":    "device drivers are kernel code in reach",
	"resolve_unix": "what listens on a unix socket there answers the plugin",
}

func changes(right string) bool {
	return right == "write_file" || right == "truncate" || right == "refer" || strings.HasPrefix(right, "make_") || strings.HasPrefix(right, "remove_")
}

func (b *builder) weakQuotas(say func(key, format string, args ...any)) {
	l := b.plan.Limits
	if l.MemoryMax == nil {
		say("resources.memory.max", "memory.max is %q: the plugin may take the host's memory", strict.Size(strict.Unlimited))
	}
	if l.MemoryMax != nil && (l.MemorySwapMax == nil || *l.MemorySwapMax > 0) {
		say("resources.memory.swap.max", "memory.swap.max is above 0: the plugin may fill the host's swap")
	}
	if l.PidsMax == nil {
		say("resources.pids.max", "pids.max is %q: the plugin may take the host's process numbers", strict.Count(strict.Unlimited))
	}
	if l.CPUMax == nil {
		say("resources.cpu.max", "cpu.max is %q: the plugin may take every processor", strict.Percent(strict.Unlimited))
	}
}
