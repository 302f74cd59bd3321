/* The end of plugins' groups where no daemon is left to remove them. */
#include "keeper.h"

/* The groups are empty; the kernel may still be letting go of the last task. */
void remove_group(const struct group *g)
{
	i64 pause[2] = {0, 2000000};

	for (int tries = 0; tries < 200; tries++) {
		if (SYS(unlinkat, g->parent, g->name, AT_REMOVEDIR_) != -EBUSY_)
			return;
		SYS(nanosleep, pause, (void *)0);
	}
}

/*
 * The daemon's own lock goes with it, but the kernel may be a while in closing
 * its descriptors (inotify's wait for readers). Who still has a lock after a
 * second is a successor.
 */
static int lock_alone(int fd)
{
	i64 pause[2] = {0, 10000000};

	for (int tries = 0; tries < 100; tries++) {
		if (SYS(flock, fd, 2 /* LOCK_EX */ | 4 /* LOCK_NB */) == 0)
			return 1;
		SYS(nanosleep, pause, (void *)0);
	}
	return 0;
}

/*
 * The directories above the groups are shared with others, such as the daemon's
 * successor: whoever uses them holds a lock on the last one. They go only under
 * that lock, the last one last, and only those that are empty.
 */
void remove_shared(const struct group *groups, u32 n)
{
	const struct group *last = 0;
	i64 fd;

	for (u32 g = 0; g < n; g++)
		if (groups[g].shared)
			last = &groups[g];
	if (last == 0)
		return;
	fd = SYS(openat, last->parent, last->name, O_RDONLY_ | O_DIRECTORY_ | O_CLOEXEC_ | O_NOFOLLOW_, 0);
	if (fd < 0)
		return;
	if (lock_alone((int)fd))
		for (u32 g = 0; g < n; g++)
			if (groups[g].shared)
				SYS(unlinkat, groups[g].parent, groups[g].name, AT_REMOVEDIR_);
	SYS(close, fd);
}
