/*
 * The keeper's descriptors, and which of them a child gets.
 *
 *   0 to FIRST_FREE-1   /dev/null: where a plugin's own and its gate go
 *   FIRST_FREE ...      what the keeper needs for itself, and what launches in
 *                       flight brought, which the kernel puts lowest
 *   FIRST_KEPT ...      what is held of plugins that run: a dozen for each
 *
 * A child begins with the keeper's own table (CLONE_FILES), and the first thing
 * it does is to take one with a copy of what is its own. To copy and close that
 * of a thousand plugins, twice for each launch, costs more than all the rest of
 * it. Until a child has said a word, or has ended, the launcher leaves open what
 * that child was made with.
 */
#include "keeper.h"

/* A copy for long, out of the way of launches; anywhere where there is no room. */
i64 copy_aside(int fd)
{
	i64 ret = SYS(fcntl, fd, F_DUPFD_CLOEXEC_, FIRST_KEPT);

	/* EINVAL: this process may not have so many descriptors. */
	return ret == -EINVAL_ || ret == -EMFILE_ ? SYS(fcntl, fd, F_DUPFD_CLOEXEC_, FIRST_FREE) : ret;
}

int set_aside(int fd)
{
	i64 ret = copy_aside(fd);

	if (ret < 0)
		return fd;
	SYS(close, fd);
	return (int)ret;
}

void add_own(struct own *o, int fd)
{
	u32 at = o->n;

	if (fd < FIRST_FREE || o->n == OWN_FDS)
		return; /* those below are everyone's */
	for (; at > 0 && o->fds[at - 1] > fd; at--)
		o->fds[at] = o->fds[at - 1];
	o->fds[at] = fd;
	o->n++;
}

/*
 * In the child: what is above the last of its own is never copied
 * (close_range(2): CLOSE_RANGE_UNSHARE), what is between is closed.
 */
i64 own_table(const struct own *o)
{
	int next = o->n > 0 ? o->fds[o->n - 1] + 1 : FIRST_FREE;
	i64 ret = SYS(close_range, next, ~0u, 2 /* CLOSE_RANGE_UNSHARE */);

	next = FIRST_FREE;
	for (u32 i = 0; ret == 0 && i < o->n; i++) {
		if (o->fds[i] > next)
			ret = SYS(close_range, next, o->fds[i] - 1, 0);
		next = o->fds[i] + 1;
	}
	return ret;
}
