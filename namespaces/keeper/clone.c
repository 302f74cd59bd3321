/* How the two processes of a launch are made, and in which namespaces. */
#include "keeper.h"

/*
 * Children are made in the namespaces that we are in for them. Coming back can
 * fail (the kernel wants memory); then the next launch comes back first.
 */
static int own_pids, own_net;
static u64 away; /* CLONE_NEW* flags */

int remember_home(void)
{
	own_pids = (int)SYS(openat, AT_FDCWD_, "/proc/self/ns/pid", O_RDONLY_ | O_CLOEXEC_, 0);
	own_net = (int)SYS(openat, AT_FDCWD_, "/proc/self/ns/net", O_RDONLY_ | O_CLOEXEC_, 0);
	return own_pids < 0 || own_net < 0;
}

static i64 come_home(void)
{
	i64 ret = 0;

	if (away & CLONE_NEWPID)
		ret = SYS(setns, own_pids, CLONE_NEWPID);
	if (ret == 0 && (away & CLONE_NEWNET))
		ret = SYS(setns, own_net, CLONE_NEWNET);
	if (ret == 0)
		away = 0;
	return ret;
}

static i64 go_to(int fd, u64 flag)
{
	away |= flag;
	return SYS(setns, fd, flag);
}

/* The namespaces that the steps name, of those that the reaper is made with. */
static u64 named(const struct launch *l)
{
	u64 flags = 0;

	for (u32 i = 0; i < l->request->nsteps; i++)
		if (l->steps[i].op == CK_OP_NAMESPACE)
			flags |= l->steps[i].a & (CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS);
	return flags;
}

/* The keeper's table is shared for a moment, and never by a child that goes on. */
i64 clone_child(struct clone_args *args, const struct own *o)
{
	i64 ret;

	args->flags |= CLONE_FILES | CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
	args->exit_signal = SIGCHLD_;
	ret = SYS(clone3, args, sizeof *args);
	if (ret == 0 && own_table(o) < 0)
		for (;;)
			SYS(exit_group, 126);
	if (ret == 0)
		take_turns_of(LONG_TURN);
	return ret;
}

/* No child has the memory of another launch: environments hold secrets. */
static i64 clone_with(const struct launch *l, u64 flags, int *pidfd, struct own *o)
{
	struct clone_args args = {.flags = flags, .pidfd = (u64)pidfd};
	i64 ret;

	for (u32 i = 0; i < l->nfds; i++)
		add_own(o, l->fds[i]);

	if (l->request->cgroup_fd != CK_NO_STRING) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (u64)l->fds[l->request->cgroup_fd];
	}
	SYS(madvise, l, sizeof *l, 11 /* MADV_DOFORK */);
	ret = clone_child(&args, o);
	if (ret != 0)
		SYS(madvise, l, sizeof *l, 10 /* MADV_DONTFORK */);
	return ret;
}

i64 clone_for_reaper(const struct launch *l, int *pidfd, int exe, int ready)
{
	struct own o = {.n = 0};
	u64 flags = named(l) | CLONE_NEWPID; /* always: its end is the plugin's end */
	i64 ret = come_home();

	if (ret == 0 && l->request->netns_fd != CK_NO_STRING) {
		flags &= ~(u64)CLONE_NEWNET;
		ret = go_to(l->fds[l->request->netns_fd], CLONE_NEWNET);
	}
	add_own(&o, l->keeper);
	add_own(&o, exe);
	add_own(&o, ready);
	if (ret == 0 && (ret = clone_with(l, flags, pidfd, &o)) == 0)
		return 0;
	come_home();
	return ret;
}

i64 clone_for_plugin(const struct launch *l, int *pidfd, int gate)
{
	struct own o = {.n = 0};
	i64 ret = come_home();

	if (ret == 0 && (named(l) & CLONE_NEWPID))
		ret = go_to(l->reaper, CLONE_NEWPID);
	add_own(&o, l->keeper);
	add_own(&o, l->reaper);
	add_own(&o, gate);
	if (ret == 0 && (ret = clone_with(l, 0, pidfd, &o)) == 0)
		return 0;
	come_home();
	return ret;
}

i64 clone_for_template(const struct launch *l, int *pidfd, int go, int done)
{
	struct own o = {.n = 0};
	i64 ret = come_home();

	add_own(&o, go);
	add_own(&o, done);
	return ret ? ret : clone_with(l, CLONE_NEWNS, pidfd, &o);
}
