/* The end of plugins' groups where no daemon is left to remove them. */
#include "keeper.h"

/*
 * The directories above the groups are few and the same for every plugin, which
 * each brings its own descriptors of: one of each is kept.
 */
static struct { u64 device, inode; int fd; u32 uses; } parents[64];

/* Takes fd over and gives the one to use, which drop_parent gives back. */
int share_parent(int fd)
{
	u64 stat[18] = {0}; /* struct stat: the device and the inode come first */
	int room = -1;

	if (SYS(fstat, fd, stat) < 0)
		return fd;
	for (int i = 0; i < (int)(sizeof parents / sizeof *parents); i++) {
		if (parents[i].uses == 0) {
			room = room < 0 ? i : room;
		} else if (parents[i].device == stat[0] && parents[i].inode == stat[1]) {
			SYS(close, fd);
			parents[i].uses++;
			return parents[i].fd;
		}
	}
	if (room >= 0) { /* else it is this plugin's alone */
		parents[room].device = stat[0];
		parents[room].inode = stat[1];
		parents[room].fd = fd;
		parents[room].uses = 1;
	}
	return fd;
}

void drop_parent(int fd)
{
	for (u32 i = 0; i < sizeof parents / sizeof *parents; i++)
		if (parents[i].uses > 0 && parents[i].fd == fd && --parents[i].uses > 0)
			return;
	SYS(close, fd);
}

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
 * Another keeper may have removed the directory while we waited for its lock:
 * then the name is a successor's, whose lock is on another directory. One that
 * was removed has no files.
 */
static int still_there(int fd)
{
	i64 file = SYS(openat, fd, "cgroup.procs", O_PATH_ | O_CLOEXEC_, 0);

	if (file < 0)
		return 0;
	SYS(close, file);
	return 1;
}

struct entry { u64 inode; i64 offset; u16 length; u8 type; char name[]; };

/* What a daemon had made ahead and nobody took: "ready-*", empty. */
static void remove_ready(const struct group *g)
{
	static u8 buf[4096] __attribute__((aligned(8)));
	i64 dir = SYS(openat, g->parent, g->name, O_RDONLY_ | O_DIRECTORY_ | O_CLOEXEC_ | O_NOFOLLOW_, 0), n;

	if (dir < 0)
		return;
	while ((n = SYS(getdents64, dir, buf, sizeof buf)) > 0)
		for (i64 at = 0; at < n; at += ((struct entry *)(buf + at))->length) {
			const char *name = ((struct entry *)(buf + at))->name, *ready = "ready-";

			while (*ready != 0 && *name == *ready)
				name++, ready++;
			if (*ready == 0)
				SYS(unlinkat, dir, ((struct entry *)(buf + at))->name, AT_REMOVEDIR_);
		}
	SYS(close, dir);
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
	if (lock_alone((int)fd) && still_there((int)fd))
		for (u32 g = 0; g < n; g++)
			if (groups[g].shared) {
				remove_ready(&groups[g]);
				SYS(unlinkat, groups[g].parent, groups[g].name, AT_REMOVEDIR_);
			}
	SYS(close, fd);
}
