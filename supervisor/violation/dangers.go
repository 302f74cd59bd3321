package violation

import (
	"slices"
	"strings"
)

// danger is what allowing some calls means beyond the one refusal.
type danger struct {
	calls []string
	text  string
}

const (
	neverUntrusted = "Never for a plugin you do not trust: "
	noCapability   = " The kernel would still refuse it, because no plugin has the capability it needs."
)

// dangers are read from the top; the first row that names a call answers.
// Sources: the manual page of each call, and capabilities(7).
var dangers = []danger{
	{
		[]string{"mount", "umount2", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree", "mount_setattr", "pivot_root", "chroot"},
		neverUntrusted + "it lets a plugin try to rearrange the tree that holds its files wall." + noCapability,
	},
	{
		[]string{"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"},
		neverUntrusted + "it opens the memory or descriptors of other processes of the same plugin, and so every check that one of them makes for another.",
	},
	{
		[]string{"unshare", "setns"},
		neverUntrusted + "new namespaces hand out capabilities inside them and with these most of the kernel's attack surface.",
	},
	{
		[]string{"clone"},
		"The rule allows exactly these flags. Never allow flags that make namespaces (CLONE_NEW...) for a plugin you do not trust.",
	},
	{
		[]string{"bpf", "perf_event_open", "userfaultfd"},
		neverUntrusted + "it has been the way into the kernel many times.",
	},
	{
		[]string{"add_key", "request_key", "keyctl"},
		neverUntrusted + "the kernel's key rings are not divided between plugins.",
	},
	{
		[]string{"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "iopl", "ioperm", "acct", "quotactl", "quotactl_fd", "syslog", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime", "sethostname", "setdomainname", "vhangup", "nfsservctl", "mknod", "mknodat", "lookup_dcookie"},
		"Never: it changes the whole machine." + noCapability,
	},
	{
		[]string{"open_by_handle_at", "name_to_handle_at"},
		neverUntrusted + "file handles go round the paths that the files wall is made of." + noCapability,
	},
	{
		[]string{"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid", "setfsgid", "capset"},
		"It gains the plugin nothing: it has one user id, no groups and no capabilities." + noCapability,
	},
	{
		[]string{"personality"},
		"The rule allows this one value. Never allow READ_IMPLIES_EXEC or ADDR_NO_RANDOMIZE for a plugin you do not trust: data becomes code and addresses can be guessed.",
	},
	{
		[]string{"mmap", "mprotect", "pkey_mprotect"},
		"It allows memory that is writable and executable, or made executable after writing: data can become code that nobody verified. Only for runtimes that compile while they run.",
	},
	{
		[]string{"memfd_create"},
		"It allows a file in memory. Where the kernel cannot refuse to execute it, code can run that nobody verified.",
	},
	{
		[]string{"execve", "execveat"},
		"It lets the plugin become another program that it can see.",
	},
	{
		[]string{"seccomp"},
		"It lets the plugin add filters of its own; what these refuse is no longer reported.",
	},
	{
		[]string{"ioctl"},
		"The rule allows this one request on every descriptor that the plugin has. Never allow TIOCSTI or TIOCLINUX: they type on the terminal of whoever started it.",
	},
	{
		[]string{"prctl", "fcntl", "arch_prctl", "setsockopt", "getsockopt", "madvise", "prlimit64"},
		"The rule allows this one operation with whatever further arguments.",
	},
	{
		[]string{"open", "openat", "creat", "chmod", "fchmod", "fchmodat", "fchmodat2", "mkdir", "mkdirat"},
		"Never allow a mode with a set-id bit where a plugin may write on the host: every local user could run what it leaves there as the owner of that directory.",
	},
	{
		[]string{"sched_setscheduler", "sched_setattr", "setpriority", "ioprio_set", "mlock", "mlock2", "mlockall"},
		"It lets the plugin take time or memory from its neighbours, within its quotas.",
	},
	{
		[]string{"inotify_init", "inotify_init1", "inotify_add_watch", "fanotify_init", "fanotify_mark"},
		"It tells the plugin who else uses the files that it can see.",
	},
}

// callDanger says what else allowing v's use of call would allow.
func callDanger(call string, v *Violation) string {
	if call == "socket" || call == "socketpair" {
		return socketDanger(v.RawArgs)
	}
	for _, d := range dangers {
		if slices.Contains(d.calls, call) {
			return d.text
		}
	}
	return "It allows " + call + " with whatever arguments. Look up " + call + "(2), and allow it only if the plugin needs it for what it is for."
}

// Address families and socket types of socket(2) that deserve a sentence of
// their own; the numbers are the kernel's and the same on all architectures
// but for the types on MIPS.
const (
	afUnix    = 1
	afInet    = 2
	afInet6   = 10
	afNetlink = 16
	sockRaw   = 3
)

func socketDanger(raw []uint64) string {
	if len(raw) < 2 {
		return "It allows sockets of every family. The network namespace still holds loopback and nothing else."
	}
	family, kind := uint32(raw[0]), raw[1]&sockType
	switch {
	case family == afUnix:
		return "It allows unix sockets; the plugin still finds only those that lie in paths it was granted."
	case family == afNetlink:
		return "It lets the plugin talk to the kernel over netlink, a large surface, though about its own empty network namespace only."
	case kind == sockRaw:
		return neverUntrusted + "raw sockets forge packets of any kind." + noCapability
	case family == afInet || family == afInet6:
		return "The plugin could then open such a socket, but its network namespace holds loopback and nothing else: no destination becomes reachable."
	}
	return neverUntrusted + "a rare address family is code of the kernel that few people have looked at."
}

// neverCalls are refused by the filter's own construction; no line can allow
// them.
var neverCalls = map[string]string{
	"io_uring":      "No line of a profile lifts this: a ring does what calls do and goes round the filter. Programs fall back to ordinary calls.",
	"execveat":      "No line of a profile lifts this: it would execute files that have no path. Use execve.",
	"openat2":       "No line of a profile lifts this: its mode lies in the plugin's memory, where the filter cannot look. Programs fall back to openat.",
	"clone3":        "No line of a profile lifts this: its arguments lie in the plugin's memory, where the filter cannot look. Programs fall back to clone.",
	"uselib":        "No line of a profile lifts this: the call is obsolete.",
	"modify_ldt":    "No line of a profile lifts this: the call is for 16-bit programs and changes how addresses are read.",
	"create_module": "No line of a profile lifts this: the call is obsolete.",
}

// neverCall says whether no line of a profile can allow call, and why.
func neverCall(call string) (why string, never bool) {
	if strings.HasPrefix(call, "io_uring_") {
		call = "io_uring"
	}
	why, never = neverCalls[call]
	return why, never
}
