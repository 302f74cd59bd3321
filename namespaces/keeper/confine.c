/*
 * The keeper's own walls. It is root for as long as the daemon lives, so it
 * keeps the capabilities that its work takes and no other, may signal and trace
 * its own plugins alone, and cannot make the calls by which root changes the
 * kernel itself.
 *
 * What it makes inherits all of that, which decides the form:
 *  - The filter answers by the call's number alone, so that the kernel's bitmap
 *    of calls that are always allowed goes on working: a plugin pays nothing for
 *    it. It refuses with SECCOMP_RET_TRACE, which nobody traces: ENOSYS, and of
 *    all refusals the only one that yields to a plugin's own filter, whose
 *    listener goes on being told (seccomp(2): the first in order of precedence).
 *  - It refuses only what is of no use to anyone without capabilities on the
 *    host, so that no profile is overruled.
 *  - Landlock has scopes and no rights to files: with one of those, plugins could
 *    mount nothing any more.
 */
#include "keeper.h"

#define CAP(n) (1ul << (n))

/* Each with the work that would fail without. */
#define KEPT (CAP(CAP_DAC_OVERRIDE) /* files of cgroups and data that others own */ \
	| CAP(CAP_DAC_READ_SEARCH) /* grants that lie in others' directories */ \
	| CAP(CAP_CHOWN) | CAP(CAP_FOWNER) | CAP(CAP_FSETID) /* what a root directory is filled with */ \
	| CAP(CAP_KILL) | CAP(CAP_SYS_PTRACE) /* plugins, which run as others: to end them, to take their listener */ \
	| CAP(CAP_SETUID) | CAP(CAP_SETGID) | CAP(CAP_SETPCAP) | CAP(CAP_SETFCAP) /* identity; maps of ids */ \
	| CAP(CAP_NET_ADMIN) /* sysctls of their network namespaces */ \
	| CAP(CAP_SYS_ADMIN) | CAP(CAP_SYS_CHROOT) | CAP(CAP_MKNOD) /* namespaces, mounts, devices */ \
	| CAP(CAP_SYS_RAWIO) /* page 0, for an exec that happens once */ \
	| CAP(CAP_SYS_RESOURCE)) /* limits */

static int reduce_capabilities(void)
{
	struct { u32 version; int pid; } header = {0x20080522 /* _LINUX_CAPABILITY_VERSION_3 */, 0};
	struct { u32 effective, permitted, inheritable; } data[2];
	i64 ret = SYS(capget, &header, data);

	for (u32 cap = 0; ret == 0 && SYS(prctl, PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(KEPT & CAP(cap)))
			ret = SYS(prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
	if (ret == 0)
		ret = SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (u32 i = 0; ret == 0 && i < 2; i++) {
		data[i].permitted &= (u32)(KEPT >> (32 * i));
		data[i].effective = data[i].permitted;
		data[i].inheritable = 0;
	}
	return ret == 0 ? (int)SYS(capset, &header, data) : (int)ret;
}

/* A kernel older than 6.12 has no scopes, and one may be without Landlock: 0 then. */
static int scope(void)
{
	struct { u64 fs, net, scoped; } attr = {0, 0, 1 /* abstract unix sockets */ | 2 /* signals */};
	i64 fd = SYS(landlock_create_ruleset, &attr, sizeof attr, 0), ret;

	if (fd < 0)
		return 0;
	ret = SYS(landlock_restrict_self, fd, 0);
	SYS(close, fd);
	return (int)ret;
}

/* Two instructions each; the first and the last in the order of their numbers bound them. */
#define REFUSED 16
#define FIRST_REFUSED __NR_vhangup
#define LAST_REFUSED __NR_bpf
#define REFUSE(nr) {0x15 /* JEQ */, 0, 1, nr}, {0x06 /* RET */, 0, 0, SECCOMP_RET_TRACE}

static int filter(void)
{
	static struct sock_filter program[] = {
		{0x20 /* LD arch */, 0, 0, 4},
		{0x15, 1, 0, AUDIT_ARCH_NATIVE},
		{0x06, 0, 0, SECCOMP_RET_TRACE},
		{0x20 /* LD nr */, 0, 0, 0},
		{0x35 /* JGE */, 0, 2 * REFUSED + 1, FIRST_REFUSED},
		{0x25 /* JGT */, 2 * REFUSED, 0, LAST_REFUSED},
		REFUSE(__NR_init_module), REFUSE(__NR_finit_module), REFUSE(__NR_delete_module),
		REFUSE(__NR_kexec_load), REFUSE(__NR_kexec_file_load), REFUSE(__NR_reboot),
		REFUSE(__NR_bpf), REFUSE(__NR_iopl), REFUSE(__NR_ioperm), REFUSE(__NR_open_by_handle_at),
		REFUSE(__NR_swapon), REFUSE(__NR_swapoff), REFUSE(__NR_acct), REFUSE(__NR_vhangup),
		REFUSE(__NR_settimeofday), REFUSE(__NR_clock_settime),
		{0x06, 0, 0, SECCOMP_RET_ALLOW},
	};
	_Static_assert(sizeof program / sizeof program[0] == 2 * REFUSED + 7, "the bounds jump to the end");
	struct sock_fprog all = {sizeof program / sizeof program[0], program};

	return (int)SYS(seccomp, SECCOMP_SET_MODE_FILTER, 0, &all);
}

/* Tests make a program without these walls by another last letter. */
static const volatile char state[] = "walls of the keeper: on";

int confine(void)
{
	if (state[sizeof state - 2] != 'n')
		return 0;
	return reduce_capabilities() || scope() || filter();
}
