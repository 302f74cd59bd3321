/*
 * Pid 1 of a plugin's pid namespace: it reaps orphans and, by ending, ends
 * everything in the namespace. Its uid is not the plugin's, so the plugin can
 * neither signal it nor touch its memory; it has no capability, no descriptor
 * and a filter of eight calls.
 */
#include "keeper.h"

#define READY_FD 3

/* Tells the launcher where it went wrong: two words instead of one byte. */
static void give_up(int ready, u32 where, int err)
{
	u32 words[2] = {where, (u32)err};

	SYS(write, ready, words, sizeof words);
	for (;;)
		SYS(exit_group, 126);
}

/*
 * Runs in a copy of the keeper's memory, which may hold other plugins' plans,
 * so it ends in an exec as soon as it can.
 */
void become_reaper(struct launch *l, int exe, int ready)
{
	static const char *args[] = {EXE_FD_NAME, 0};
	static const char *vars[] = {0};
	struct { int fd; short events, revents; } poll = {l->keeper, 1, 0};
	i64 zero[2] = {0, 0};
	u32 detail = 0;
	int err;

	for (u32 i = 0; i < l->request->nsteps; i++)
		if (l->steps[i].op == CK_OP_JOIN && (err = (int)-SYS(write, l->fds[l->steps[i].fd], "0", 1)) > 0)
			give_up(ready, 1, err);
	for (u32 i = 0; i < l->request->nsteps; i++) /* not the host's files, even for one that opens none */
		if (l->steps[i].op == CK_OP_TEMPLATE && (err = (int)-SYS(setns, l->fds[l->steps[i].fd], CLONE_NEWNS)) > 0)
			give_up(ready, 7, err);
	SYS(setsid, 0);
	err = drop_privilege(l->request->reaper_uid, l->request->reaper_gid, &detail);
	if (err)
		give_up(ready, 2, err);
	SYS(prctl, PR_SET_PDEATHSIG, SIGKILL_, 0, 0, 0);
	if (SYS(ppoll, &poll, 1, zero, (void *)0, 8) != 0)
		give_up(ready, 3, EOWNERDEAD_);
	if (ready != READY_FD && SYS(dup3, ready, READY_FD, 0) < 0)
		give_up(ready, 4, EINVAL_);
	/* exe is above READY_FD: the launcher opened it first. */
	SYS(close_range, READY_FD + 1, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */);
	err = (int)-SYS(execveat, exe, "", args, vars, AT_EMPTY_PATH_);
	give_up(READY_FD, 5, err);
}

#define ALLOW(nr) {0x15 /* JEQ */, 0, 1, nr}, {0x06 /* RET */, 0, 0, SECCOMP_RET_ALLOW}

static int lock_down(void)
{
	static struct sock_filter filter[] = {
		{0x20 /* LD arch */, 0, 0, 4},
		{0x15, 1, 0, AUDIT_ARCH_NATIVE},
		{0x06, 0, 0, SECCOMP_RET_KILL_PROCESS},
		{0x20 /* LD nr */, 0, 0, 0},
		ALLOW(__NR_wait4),
		ALLOW(__NR_rt_sigtimedwait),
		ALLOW(__NR_write),
		ALLOW(__NR_close),
		ALLOW(__NR_restart_syscall),
		ALLOW(__NR_exit_group),
		{0x06, 0, 0, SECCOMP_RET_KILL_PROCESS},
	};
	struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};

	return SYS(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || SYS(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0;
}

void reaper_main(void)
{
	u64 sigchld = 1ul << (SIGCHLD_ - 1), all = ~0ul;
	char up = 'R';

	/* Blocked signals stay pending for rt_sigtimedwait; exec kept the mask. */
	SYS(rt_sigprocmask, 2 /* SIG_SETMASK */, &all, (void *)0, 8);
	SYS(prctl, PR_SET_NAME, "cordon-reaper", 0, 0, 0);
	if (lock_down())
		give_up(READY_FD, 6, EPERM_);
	SYS(write, READY_FD, &up, 1);
	SYS(close, READY_FD);
	for (;;) {
		while (SYS(wait4, -1, (void *)0, 1 /* WNOHANG */, (void *)0) > 0)
			;
		SYS(rt_sigtimedwait, &sigchld, (void *)0, (void *)0, 8);
	}
}
