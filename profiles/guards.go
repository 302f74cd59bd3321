package profiles

import (
	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/seccomp"
)

// guards are the conditions under which `allow` lets calls through that are
// harmless only with some arguments. Allowing such a call by name or by group
// carries its guard. A [[seccomp.rule]] without conditions lifts it, and says
// so; one with conditions adds to it.
//
// Of the rules whose conditions hold the one with the most conditions decides,
// and where none holds the call is a violation. Arguments are compared over
// the bits that the kernel reads.
var guards = map[string]func() []seccomp.Rule{
	"clone":         guardClone,
	"mmap":          guardMmap,
	"mprotect":      guardMprotect,
	"pkey_mprotect": guardMprotect,
	"ioctl":         guardIoctl,
	"fcntl":         guardFcntl,
	"prctl":         guardPrctl,
	"personality":   guardPersonality,
	"socket":        guardSocket,
	"socketpair":    guardSocket,

	"open":      guardOpen(1, 2),
	"openat":    guardOpen(2, 3),
	"openat2":   guardMemory,
	"clone3":    guardMemory,
	"creat":     guardMode(1),
	"chmod":     guardMode(1),
	"fchmod":    guardMode(1),
	"fchmodat":  guardMode(2),
	"fchmodat2": guardMode(2),
	"mkdir":     guardMode(1),
	"mkdirat":   guardMode(2),
	"mknod":     guardMode(1),
	"mknodat":   guardMode(2),
}

// namespaceFlags are those of clone(2). CLONE_NEWTIME is not for clone: its
// bit is part of the exit signal there.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

func eq(index uint, value uint64) seccomp.Condition {
	return seccomp.Condition{Index: index, Op: seccomp.OpEqual, Value: value}
}

func masked(index uint, mask, value uint64) seccomp.Condition {
	return seccomp.Condition{Index: index, Op: seccomp.OpMaskedEqual, Value: mask, ValueTwo: value}
}

func allowIf(args ...seccomp.Condition) seccomp.Rule {
	return seccomp.Rule{Args: args, Action: seccomp.ActAllow}
}

// reportIf makes a call with these arguments a violation.
func reportIf(args ...seccomp.Condition) seccomp.Rule {
	return seccomp.Rule{Args: args, Action: seccomp.ActNotify}
}

func eachEq(index uint, rule func(...seccomp.Condition) seccomp.Rule, values ...uint64) []seccomp.Rule {
	out := make([]seccomp.Rule, 0, len(values))
	for _, v := range values {
		out = append(out, rule(eq(index, v)))
	}
	return out
}

// guardClone admits threads and processes, never a new namespace.
func guardClone() []seccomp.Rule {
	return []seccomp.Rule{allowIf(masked(0, namespaceFlags, 0))}
}

// guardMmap refuses memory that is writable and executable at once, and
// executable memory that comes from no file: files that the plugin can write
// are on noexec mounts, so what it computes does not become code.
func guardMmap() []seccomp.Rule {
	return []seccomp.Rule{
		{Action: seccomp.ActAllow},
		reportIf(masked(2, unix.PROT_WRITE|unix.PROT_EXEC, unix.PROT_WRITE|unix.PROT_EXEC)),
		reportIf(masked(2, unix.PROT_EXEC, unix.PROT_EXEC), masked(3, unix.MAP_ANONYMOUS, unix.MAP_ANONYMOUS)),
	}
}

// guardMprotect refuses to make memory executable afterwards.
func guardMprotect() []seccomp.Rule {
	return []seccomp.Rule{
		{Action: seccomp.ActAllow},
		reportIf(masked(2, unix.PROT_EXEC, unix.PROT_EXEC)),
	}
}

// What golang.org/x/sys does not have; ioctl_tty(2), asm-generic/ioctls.h.
const (
	fionread = 0x541b
	fionbio  = 0x5421
	fionclex = 0x5450
	fioclex  = 0x5451
	fioasync = 0x5452
	tcgets2  = 0x802c542a // asked instead of TCGETS by newer C libraries
)

// guardIoctl admits what programs ask of files, pipes and sockets. Anything
// else is answered as by a file that does not know it, but putting characters
// into a terminal's input (TIOCSTI, TIOCLINUX; CVE-2017-5226) is a violation.
func guardIoctl() []seccomp.Rule {
	out := []seccomp.Rule{{Action: seccomp.ActErrno, Errno: "ENOTTY"}}
	out = append(out, eachEq(1, allowIf,
		unix.TCGETS, tcgets2, unix.TIOCGWINSZ, unix.TIOCGPGRP,
		fionread, fionbio, fioasync, fioclex, fionclex)...)
	return append(out, eachEq(1, reportIf, unix.TIOCSTI, unix.TIOCLINUX)...)
}

// guardFcntl admits what programs do with their descriptors and locks. What
// makes the kernel signal somebody when others use a file (leases, F_NOTIFY,
// F_SETSIG) fails as for a file that has no such thing; F_SETOWN alone only
// names the plugin's own processes, which are all it can name.
func guardFcntl() []seccomp.Rule {
	out := []seccomp.Rule{{Action: seccomp.ActAllow}}
	for _, command := range []uint64{unix.F_SETLEASE, unix.F_NOTIFY, unix.F_SETSIG} {
		out = append(out, seccomp.Rule{Args: []seccomp.Condition{eq(1, command)}, Action: seccomp.ActErrno, Errno: "EINVAL"})
	}
	return out
}

// guardPrctl admits the options that runtimes use on themselves. Others fail
// as on a kernel without them, but those that change privilege, or who may
// trace the plugin, are violations.
func guardPrctl() []seccomp.Rule {
	out := []seccomp.Rule{{Action: seccomp.ActErrno, Errno: "EINVAL"}}
	out = append(out, eachEq(0, allowIf,
		unix.PR_SET_NAME, unix.PR_GET_NAME, unix.PR_SET_PDEATHSIG, unix.PR_GET_PDEATHSIG,
		unix.PR_GET_DUMPABLE, unix.PR_SET_NO_NEW_PRIVS, unix.PR_GET_NO_NEW_PRIVS, unix.PR_CAPBSET_READ,
		unix.PR_SET_TIMERSLACK, unix.PR_GET_TIMERSLACK, unix.PR_SET_VMA, unix.PR_GET_THP_DISABLE, unix.PR_SET_THP_DISABLE)...)
	return append(out, eachEq(0, reportIf,
		unix.PR_SET_SECCOMP, unix.PR_CAP_AMBIENT, unix.PR_SET_MM, unix.PR_SET_SECUREBITS,
		unix.PR_SET_KEEPCAPS, unix.PR_CAPBSET_DROP, unix.PR_SET_PTRACER)...)
}

// guardPersonality admits asking (0xffffffff) and the default: others switch
// protections off, such as READ_IMPLIES_EXEC and ADDR_NO_RANDOMIZE.
func guardPersonality() []seccomp.Rule {
	return eachEq(0, allowIf, 0, 0xffffffff)
}

// guardSocket admits unix sockets. The network namespace is empty all the
// same: this keeps the code of other families out of reach.
func guardSocket() []seccomp.Rule {
	return []seccomp.Rule{allowIf(eq(0, unix.AF_UNIX))}
}

// setID are the bits of a mode that make a program run as its file's owner or
// group, and a directory hand its group on.
const setID = unix.S_ISUID | unix.S_ISGID

// creates are the flags of open(2) with which it reads its mode. What the
// library leaves in that argument otherwise means nothing. O_TMPFILE has the
// bits of O_DIRECTORY too, which create nothing.
const creates = unix.O_CREAT | (unix.O_TMPFILE &^ unix.O_DIRECTORY)

// guardMode refuses modes with a set-id bit. In the plugin's view they have no
// effect (nosuid), but what it makes where it was granted writing belongs to
// the owner of that directory, and lies on the host outside that view: there
// every local user could run it as that owner.
func guardMode(mode uint) func() []seccomp.Rule {
	return func() []seccomp.Rule { return []seccomp.Rule{allowIf(masked(mode, setID, 0))} }
}

// guardOpen is guardMode for calls that make a file only with some flags.
func guardOpen(flags, mode uint) func() []seccomp.Rule {
	return func() []seccomp.Rule {
		return []seccomp.Rule{allowIf(masked(flags, creates, 0)), allowIf(masked(mode, setID, 0))}
	}
}

// guardMemory answers calls whose flags and modes lie in memory, where no
// filter can look at them, as a kernel before them would: programs fall back to
// the call that passes them in registers, which has its guard.
func guardMemory() []seccomp.Rule {
	return []seccomp.Rule{{Action: seccomp.ActErrno, Errno: "ENOSYS"}}
}
