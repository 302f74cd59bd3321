package seccomp

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// word is a value and its name in the kernel's headers.
type word struct {
	value uint64
	name  string
}

// pick names one value.
func pick(words []word, v uint64) (string, bool) {
	for _, w := range words {
		if w.value == v {
			return w.name, true
		}
	}
	return "", false
}

// combine names flags, the rest in hexadecimal.
func combine(words []word, v uint64) string {
	var parts []string
	for _, w := range words {
		if w.value != 0 && v&w.value == w.value {
			parts, v = append(parts, w.name), v&^w.value
		}
	}
	if v != 0 || len(parts) == 0 {
		parts = append(parts, fmt.Sprintf("%#x", v))
	}
	return strings.Join(parts, "|")
}

// flagWords are the flags of an argument that has some, by call and index.
func flagWords(call string, i int) []word {
	switch {
	case call == "unshare" && i == 0, call == "setns" && i == 1:
		return cloneFlags
	case call == "mount" && i == 3:
		return mountFlags
	case call == "umount2" && i == 1:
		return umountFlags
	case (call == "mmap" || call == "mprotect" || call == "pkey_mprotect") && i == 2:
		return protections
	case call == "mmap" && i == 3:
		return mapFlags
	case call == "memfd_create" && i == 1:
		return memfdFlags
	default:
		return nil
	}
}

// choiceWords are the values of an argument that is one of a list.
func choiceWords(call string, i int) []word {
	switch {
	case (call == "socket" || call == "socketpair") && i == 0:
		return families
	case call == "ptrace" && i == 0:
		return ptraceRequests
	case call == "keyctl" && i == 0:
		return keyctlOperations
	case call == "bpf" && i == 0:
		return bpfCommands
	case call == "prctl" && i == 0:
		return prctlOptions
	case call == "ioctl" && i == 1:
		return ioctlRequests
	case call == "fcntl" && i == 1:
		return fcntlCommands
	case call == "seccomp" && i == 0:
		return seccompOperations
	default:
		return nil
	}
}

// signalArgument is which argument of a call is a signal, or -1.
func signalArgument(call string) int {
	switch call {
	case "kill", "tkill", "rt_sigqueueinfo", "pidfd_send_signal":
		return 1
	case "tgkill", "rt_tgsigqueueinfo":
		return 2
	default:
		return -1
	}
}

// signalWord names a signal.
func signalWord(v uint64) string {
	sig := int32(v) // #nosec G115 -- an int in the kernel
	if name := unix.SignalName(unix.Signal(sig)); name != "" {
		return name
	}
	return strconv.Itoa(int(sig))
}

// openWord names the flags of open.
func openWord(v uint64) string {
	if v&(unix.O_ACCMODE|unix.O_PATH) != 0 {
		return combine(openFlags, v)
	}
	if v == 0 {
		return "O_RDONLY"
	}
	return "O_RDONLY|" + combine(openFlags, v)
}

// cloneWord names clone's flags with the signal in their lowest byte.
func cloneWord(v uint64) string {
	flags, signal := v&^0xff, v&0xff
	if signal == 0 {
		return combine(cloneFlags, flags)
	}
	if flags == 0 {
		return signalWord(signal)
	}
	return combine(cloneFlags, flags) + "|" + signalWord(signal)
}

// socketTypeWord names a type with the flags beside it.
func socketTypeWord(v uint64) string {
	const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	name, ok := pick(socketTypes, v&^flags)
	if !ok {
		name = strconv.FormatUint(v&^flags, 10)
	}
	if v&flags != 0 {
		name += "|" + combine(socketFlags, v&flags)
	}
	return name
}

// protocolWord names a protocol of a family.
func protocolWord(family, v uint64) string {
	name, ok := "", false
	switch family {
	case unix.AF_INET, unix.AF_INET6:
		name, ok = pick(internetProtocols, v)
	case unix.AF_NETLINK:
		name, ok = pick(netlinkProtocols, v)
	case unix.AF_PACKET: // in network byte order
		name, ok = pick(packetProtocols, v>>8&0xff|v&0xff<<8)
	}
	if !ok {
		return strconv.FormatUint(v, 10)
	}
	return name
}

// The words of linux/sched.h, linux/mount.h, linux/prctl.h and their like: those
// that a refused call is likely to have, not all there are.
var (
	cloneFlags = []word{
		{unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
		{unix.CLONE_NEWNS, "CLONE_NEWNS"},
		{unix.CLONE_NEWPID, "CLONE_NEWPID"},
		{unix.CLONE_NEWNET, "CLONE_NEWNET"},
		{unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
		{unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
		{unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
		{unix.CLONE_NEWTIME, "CLONE_NEWTIME"},
		{unix.CLONE_VM, "CLONE_VM"},
		{unix.CLONE_FS, "CLONE_FS"},
		{unix.CLONE_FILES, "CLONE_FILES"},
		{unix.CLONE_SIGHAND, "CLONE_SIGHAND"},
		{unix.CLONE_THREAD, "CLONE_THREAD"},
		{unix.CLONE_SYSVSEM, "CLONE_SYSVSEM"},
		{unix.CLONE_PTRACE, "CLONE_PTRACE"},
		{unix.CLONE_VFORK, "CLONE_VFORK"},
		{unix.CLONE_PARENT, "CLONE_PARENT"},
		{unix.CLONE_SETTLS, "CLONE_SETTLS"},
		{unix.CLONE_PARENT_SETTID, "CLONE_PARENT_SETTID"},
		{unix.CLONE_CHILD_SETTID, "CLONE_CHILD_SETTID"},
		{unix.CLONE_CHILD_CLEARTID, "CLONE_CHILD_CLEARTID"},
		{unix.CLONE_UNTRACED, "CLONE_UNTRACED"},
		{unix.CLONE_PIDFD, "CLONE_PIDFD"},
		{unix.CLONE_IO, "CLONE_IO"},
		{unix.CLONE_INTO_CGROUP, "CLONE_INTO_CGROUP"},
	}
	mountFlags = []word{
		{unix.MS_RDONLY, "MS_RDONLY"},
		{unix.MS_NOSUID, "MS_NOSUID"},
		{unix.MS_NODEV, "MS_NODEV"},
		{unix.MS_NOEXEC, "MS_NOEXEC"},
		{unix.MS_REMOUNT, "MS_REMOUNT"},
		{unix.MS_BIND, "MS_BIND"},
		{unix.MS_MOVE, "MS_MOVE"},
		{unix.MS_REC, "MS_REC"},
		{unix.MS_PRIVATE, "MS_PRIVATE"},
		{unix.MS_SLAVE, "MS_SLAVE"},
		{unix.MS_SHARED, "MS_SHARED"},
		{unix.MS_UNBINDABLE, "MS_UNBINDABLE"},
	}
	umountFlags = []word{
		{unix.MNT_FORCE, "MNT_FORCE"}, {unix.MNT_DETACH, "MNT_DETACH"}, {unix.MNT_EXPIRE, "MNT_EXPIRE"}, {unix.UMOUNT_NOFOLLOW, "UMOUNT_NOFOLLOW"},
	}
	openFlags = []word{
		{unix.O_WRONLY, "O_WRONLY"},
		{unix.O_RDWR, "O_RDWR"},
		{unix.O_CREAT, "O_CREAT"},
		{unix.O_EXCL, "O_EXCL"},
		{unix.O_NOCTTY, "O_NOCTTY"},
		{unix.O_TRUNC, "O_TRUNC"},
		{unix.O_APPEND, "O_APPEND"},
		{unix.O_NONBLOCK, "O_NONBLOCK"},
		{unix.O_SYNC, "O_SYNC"},
		{unix.O_TMPFILE, "O_TMPFILE"},
		{unix.O_DIRECTORY, "O_DIRECTORY"},
		{unix.O_NOFOLLOW, "O_NOFOLLOW"},
		{unix.O_CLOEXEC, "O_CLOEXEC"},
		{unix.O_PATH, "O_PATH"},
		{unix.O_DIRECT, "O_DIRECT"},
		{unix.O_NOATIME, "O_NOATIME"},
	}
	protections = []word{{unix.PROT_READ, "PROT_READ"}, {unix.PROT_WRITE, "PROT_WRITE"}, {unix.PROT_EXEC, "PROT_EXEC"}}
	mapFlags    = []word{
		{unix.MAP_SHARED_VALIDATE, "MAP_SHARED_VALIDATE"},
		{unix.MAP_SHARED, "MAP_SHARED"},
		{unix.MAP_PRIVATE, "MAP_PRIVATE"},
		{unix.MAP_FIXED, "MAP_FIXED"},
		{unix.MAP_ANONYMOUS, "MAP_ANONYMOUS"},
		{unix.MAP_NORESERVE, "MAP_NORESERVE"},
		{unix.MAP_STACK, "MAP_STACK"},
	}
	memfdFlags = []word{
		{unix.MFD_CLOEXEC, "MFD_CLOEXEC"},
		{unix.MFD_ALLOW_SEALING, "MFD_ALLOW_SEALING"},
		{unix.MFD_HUGETLB, "MFD_HUGETLB"},
		{unix.MFD_NOEXEC_SEAL, "MFD_NOEXEC_SEAL"},
		{unix.MFD_EXEC, "MFD_EXEC"},
	}
	families = []word{
		{unix.AF_UNSPEC, "AF_UNSPEC"},
		{unix.AF_UNIX, "AF_UNIX"},
		{unix.AF_INET, "AF_INET"},
		{unix.AF_AX25, "AF_AX25"},
		{unix.AF_IPX, "AF_IPX"},
		{unix.AF_INET6, "AF_INET6"},
		{unix.AF_KEY, "AF_KEY"},
		{unix.AF_NETLINK, "AF_NETLINK"},
		{unix.AF_PACKET, "AF_PACKET"},
		{unix.AF_RDS, "AF_RDS"},
		{unix.AF_LLC, "AF_LLC"},
		{unix.AF_CAN, "AF_CAN"},
		{unix.AF_TIPC, "AF_TIPC"},
		{unix.AF_BLUETOOTH, "AF_BLUETOOTH"},
		{unix.AF_ALG, "AF_ALG"},
		{unix.AF_NFC, "AF_NFC"},
		{unix.AF_VSOCK, "AF_VSOCK"},
		{unix.AF_KCM, "AF_KCM"},
		{unix.AF_QIPCRTR, "AF_QIPCRTR"},
		{unix.AF_SMC, "AF_SMC"},
		{unix.AF_XDP, "AF_XDP"},
	}
	socketTypes = []word{
		{unix.SOCK_STREAM, "SOCK_STREAM"},
		{unix.SOCK_DGRAM, "SOCK_DGRAM"},
		{unix.SOCK_RAW, "SOCK_RAW"},
		{unix.SOCK_RDM, "SOCK_RDM"},
		{unix.SOCK_SEQPACKET, "SOCK_SEQPACKET"},
		{unix.SOCK_DCCP, "SOCK_DCCP"},
		{unix.SOCK_PACKET, "SOCK_PACKET"},
	}
	socketFlags       = []word{{unix.SOCK_CLOEXEC, "SOCK_CLOEXEC"}, {unix.SOCK_NONBLOCK, "SOCK_NONBLOCK"}}
	internetProtocols = []word{
		{unix.IPPROTO_ICMP, "IPPROTO_ICMP"},
		{unix.IPPROTO_TCP, "IPPROTO_TCP"},
		{unix.IPPROTO_UDP, "IPPROTO_UDP"},
		{unix.IPPROTO_ICMPV6, "IPPROTO_ICMPV6"},
		{unix.IPPROTO_SCTP, "IPPROTO_SCTP"},
		{unix.IPPROTO_RAW, "IPPROTO_RAW"},
		{unix.IPPROTO_MPTCP, "IPPROTO_MPTCP"},
	}
	netlinkProtocols = []word{
		{unix.NETLINK_ROUTE, "NETLINK_ROUTE"},
		{unix.NETLINK_SOCK_DIAG, "NETLINK_SOCK_DIAG"},
		{unix.NETLINK_XFRM, "NETLINK_XFRM"},
		{unix.NETLINK_SELINUX, "NETLINK_SELINUX"},
		{unix.NETLINK_AUDIT, "NETLINK_AUDIT"},
		{unix.NETLINK_NETFILTER, "NETLINK_NETFILTER"},
		{unix.NETLINK_KOBJECT_UEVENT, "NETLINK_KOBJECT_UEVENT"},
		{unix.NETLINK_GENERIC, "NETLINK_GENERIC"},
		{unix.NETLINK_CRYPTO, "NETLINK_CRYPTO"},
	}
	packetProtocols = []word{{unix.ETH_P_ALL, "ETH_P_ALL"}, {unix.ETH_P_IP, "ETH_P_IP"}, {unix.ETH_P_ARP, "ETH_P_ARP"}, {unix.ETH_P_IPV6, "ETH_P_IPV6"}}
	ptraceRequests  = []word{
		{unix.PTRACE_TRACEME, "PTRACE_TRACEME"},
		{unix.PTRACE_PEEKTEXT, "PTRACE_PEEKTEXT"},
		{unix.PTRACE_PEEKDATA, "PTRACE_PEEKDATA"},
		{unix.PTRACE_POKETEXT, "PTRACE_POKETEXT"},
		{unix.PTRACE_POKEDATA, "PTRACE_POKEDATA"},
		{unix.PTRACE_CONT, "PTRACE_CONT"},
		{unix.PTRACE_KILL, "PTRACE_KILL"},
		{unix.PTRACE_GETREGS, "PTRACE_GETREGS"},
		{unix.PTRACE_SETREGS, "PTRACE_SETREGS"},
		{unix.PTRACE_ATTACH, "PTRACE_ATTACH"},
		{unix.PTRACE_DETACH, "PTRACE_DETACH"},
		{unix.PTRACE_SEIZE, "PTRACE_SEIZE"},
		{unix.PTRACE_INTERRUPT, "PTRACE_INTERRUPT"},
		{unix.PTRACE_SYSCALL, "PTRACE_SYSCALL"},
		{unix.PTRACE_SETOPTIONS, "PTRACE_SETOPTIONS"},
	}
	keyctlOperations = []word{
		{unix.KEYCTL_GET_KEYRING_ID, "KEYCTL_GET_KEYRING_ID"},
		{unix.KEYCTL_JOIN_SESSION_KEYRING, "KEYCTL_JOIN_SESSION_KEYRING"},
		{unix.KEYCTL_UPDATE, "KEYCTL_UPDATE"},
		{unix.KEYCTL_REVOKE, "KEYCTL_REVOKE"},
		{unix.KEYCTL_CHOWN, "KEYCTL_CHOWN"},
		{unix.KEYCTL_SETPERM, "KEYCTL_SETPERM"},
		{unix.KEYCTL_DESCRIBE, "KEYCTL_DESCRIBE"},
		{unix.KEYCTL_CLEAR, "KEYCTL_CLEAR"},
		{unix.KEYCTL_LINK, "KEYCTL_LINK"},
		{unix.KEYCTL_UNLINK, "KEYCTL_UNLINK"},
		{unix.KEYCTL_SEARCH, "KEYCTL_SEARCH"},
		{unix.KEYCTL_READ, "KEYCTL_READ"},
		{unix.KEYCTL_INSTANTIATE, "KEYCTL_INSTANTIATE"},
		{unix.KEYCTL_SET_TIMEOUT, "KEYCTL_SET_TIMEOUT"},
		{unix.KEYCTL_GET_PERSISTENT, "KEYCTL_GET_PERSISTENT"},
	}
	bpfCommands = []word{
		{unix.BPF_MAP_CREATE, "BPF_MAP_CREATE"},
		{unix.BPF_MAP_LOOKUP_ELEM, "BPF_MAP_LOOKUP_ELEM"},
		{unix.BPF_MAP_UPDATE_ELEM, "BPF_MAP_UPDATE_ELEM"},
		{unix.BPF_MAP_DELETE_ELEM, "BPF_MAP_DELETE_ELEM"},
		{unix.BPF_MAP_GET_NEXT_KEY, "BPF_MAP_GET_NEXT_KEY"},
		{unix.BPF_PROG_LOAD, "BPF_PROG_LOAD"},
		{unix.BPF_OBJ_PIN, "BPF_OBJ_PIN"},
		{unix.BPF_OBJ_GET, "BPF_OBJ_GET"},
		{unix.BPF_PROG_ATTACH, "BPF_PROG_ATTACH"},
		{unix.BPF_BTF_LOAD, "BPF_BTF_LOAD"},
		{unix.BPF_LINK_CREATE, "BPF_LINK_CREATE"},
	}
	prctlOptions = []word{
		{unix.PR_SET_PDEATHSIG, "PR_SET_PDEATHSIG"},
		{unix.PR_GET_PDEATHSIG, "PR_GET_PDEATHSIG"},
		{unix.PR_GET_DUMPABLE, "PR_GET_DUMPABLE"},
		{unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"},
		{unix.PR_GET_KEEPCAPS, "PR_GET_KEEPCAPS"},
		{unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"},
		{unix.PR_SET_NAME, "PR_SET_NAME"},
		{unix.PR_GET_NAME, "PR_GET_NAME"},
		{unix.PR_GET_SECCOMP, "PR_GET_SECCOMP"},
		{unix.PR_SET_SECCOMP, "PR_SET_SECCOMP"},
		{unix.PR_CAPBSET_READ, "PR_CAPBSET_READ"},
		{unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"},
		{unix.PR_GET_SECUREBITS, "PR_GET_SECUREBITS"},
		{unix.PR_SET_SECUREBITS, "PR_SET_SECUREBITS"},
		{unix.PR_SET_TIMERSLACK, "PR_SET_TIMERSLACK"},
		{unix.PR_SET_MM, "PR_SET_MM"},
		{unix.PR_SET_PTRACER, "PR_SET_PTRACER"},
		{unix.PR_SET_CHILD_SUBREAPER, "PR_SET_CHILD_SUBREAPER"},
		{unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"},
		{unix.PR_GET_NO_NEW_PRIVS, "PR_GET_NO_NEW_PRIVS"},
		{unix.PR_SET_THP_DISABLE, "PR_SET_THP_DISABLE"},
		{unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"},
		{unix.PR_SET_SPECULATION_CTRL, "PR_SET_SPECULATION_CTRL"},
		{unix.PR_SCHED_CORE, "PR_SCHED_CORE"},
		{unix.PR_SET_MDWE, "PR_SET_MDWE"},
		{unix.PR_SET_VMA, "PR_SET_VMA"},
	}
	ioctlRequests = []word{
		{unix.TCGETS, "TCGETS"},
		{unix.TCSETS, "TCSETS"},
		{unix.TIOCSTI, "TIOCSTI"},
		{unix.TIOCSCTTY, "TIOCSCTTY"},
		{unix.TIOCGWINSZ, "TIOCGWINSZ"},
		{unix.TIOCLINUX, "TIOCLINUX"},
		{unix.TIOCSETD, "TIOCSETD"},
		{unix.TIOCINQ, "FIONREAD"},
		{0x5421, "FIONBIO"},
		{0x5451, "FIOCLEX"},
		{unix.FICLONE, "FICLONE"},
		{unix.FS_IOC_GETFLAGS, "FS_IOC_GETFLAGS"},
		{unix.FS_IOC_SETFLAGS, "FS_IOC_SETFLAGS"},
		{unix.SIOCGIFCONF, "SIOCGIFCONF"},
		{unix.SIOCGIFFLAGS, "SIOCGIFFLAGS"},
		{unix.SIOCSIFFLAGS, "SIOCSIFFLAGS"},
		{unix.TUNSETIFF, "TUNSETIFF"},
	}
	fcntlCommands = []word{
		{unix.F_DUPFD, "F_DUPFD"},
		{unix.F_GETFD, "F_GETFD"},
		{unix.F_SETFD, "F_SETFD"},
		{unix.F_GETFL, "F_GETFL"},
		{unix.F_SETFL, "F_SETFL"},
		{unix.F_GETLK, "F_GETLK"},
		{unix.F_SETLK, "F_SETLK"},
		{unix.F_SETLKW, "F_SETLKW"},
		{unix.F_SETOWN, "F_SETOWN"},
		{unix.F_GETOWN, "F_GETOWN"},
		{unix.F_SETSIG, "F_SETSIG"},
		{unix.F_OFD_SETLK, "F_OFD_SETLK"},
		{unix.F_OFD_GETLK, "F_OFD_GETLK"},
		{unix.F_SETLEASE, "F_SETLEASE"},
		{unix.F_NOTIFY, "F_NOTIFY"},
		{unix.F_DUPFD_CLOEXEC, "F_DUPFD_CLOEXEC"},
		{unix.F_SETPIPE_SZ, "F_SETPIPE_SZ"},
		{unix.F_GETPIPE_SZ, "F_GETPIPE_SZ"},
		{unix.F_ADD_SEALS, "F_ADD_SEALS"},
		{unix.F_GET_SEALS, "F_GET_SEALS"},
	}
	seccompOperations = []word{
		{unix.SECCOMP_SET_MODE_STRICT, "SECCOMP_SET_MODE_STRICT"},
		{unix.SECCOMP_SET_MODE_FILTER, "SECCOMP_SET_MODE_FILTER"},
		{unix.SECCOMP_GET_ACTION_AVAIL, "SECCOMP_GET_ACTION_AVAIL"},
		{unix.SECCOMP_GET_NOTIF_SIZES, "SECCOMP_GET_NOTIF_SIZES"},
	}
)
