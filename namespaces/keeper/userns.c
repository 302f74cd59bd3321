/*
 * User namespaces: one for each uid, made by a child that owns it for a moment,
 * with its maps written and every namespace below it forbidden. The child has its
 * turn among all that start, and the loop goes on meanwhile: it comes back for the
 * child's word (FROM_OWNER) and its end (FROM_OWNER_END).
 */
#include "slot.h"

/* More than the daemon asks for at a time: those whose end is near take a place, too. */
#define OWNERS 32

static struct owner {
	u64 id; /* of who asked; 0: nobody any more */
	int child; /* pidfd; -1: the place is free */
	union {
		struct { int go, done, dir, limits, go_end, done_end; }; /* the ends are the child's */
		int fds[6]; /* -1 once it has had its say */
	};
} owners[OWNERS];

static i64 write_in_proc(i64 dir, const char *name, const char *data, u64 n)
{
	i64 fd = SYS(openat, dir, name, O_WRONLY_ | O_CLOEXEC_, 0), ret;

	if (fd < 0)
		return fd;
	ret = SYS(write, fd, data, n);
	SYS(close, fd);
	return ret < 0 ? ret : 0;
}

/*
 * Where the limits of namespaces are written. The kernel keeps a name below
 * sys/user for each namespace that looked there, all of one name in one chain
 * that each look walks (proc_sys_compare in fs/proc/proc_sysctl.c): with a
 * thousand plugins, milliseconds. The names of a proc of our own go with it.
 */
static int limits = -1;

#define LIMITS_TIMES 32

static void renew_limits(void)
{
	static u32 times;
	i64 fresh = -1;

	if (limits < 0)
		limits = (int)SYS(fcntl, proc, F_DUPFD_CLOEXEC_, 0);
	if (++times % LIMITS_TIMES == 0)
		fresh = detached("proc", "", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (fresh < 0) /* the old one does, slower */
		return;
	SYS(close, limits);
	limits = (int)fresh;
}

/*
 * In the new namespace: no namespace of any kind may be made below it. Run when
 * the maps are written; the keeper takes the namespace while we wait.
 */
static void own_namespace(int limits, int go, int done)
{
	static const char *const files[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
	char path[] = "sys/user/max_xxxxxx_namespaces", byte = 1;
	i64 ret = SYS(read, go, &byte, 1) == 1 ? 0 : -EOWNERDEAD_;

	for (u32 i = 0; ret == 0 && i < 8; i++) {
		u64 n = strlen(files[i]);

		memcpy(path + 13, files[i], n);
		memcpy(path + 13 + n, "_namespaces", 12);
		ret = write_in_proc(limits, path, "0", 1);
	}
	byte = (char)-ret;
	SYS(write, done, &byte, 1);
	SYS(read, go, &byte, 1);
	for (;;)
		SYS(exit_group, 0);
}

static u64 decimal(char *to, u32 n)
{
	char digits[10];
	u64 len = 0, at = 0;

	do
		digits[len++] = (char)('0' + n % 10);
	while ((n /= 10) != 0);
	while (len > 0)
		to[at++] = digits[--len];
	to[at] = 0;
	return at;
}

/* A file of a process that is ours and not reaped: a descriptor, or minus an errno. */
i64 process_file(u32 pid, const char *name, int flags)
{
	char path[16];
	i64 dir, fd;

	decimal(path, pid);
	dir = SYS(openat, proc, path, O_PATH_ | O_DIRECTORY_ | O_CLOEXEC_, 0);
	if (dir < 0 || name == 0)
		return dir;
	fd = SYS(openat, dir, name, flags | O_CLOEXEC_, 0);
	SYS(close, dir);
	return fd;
}

/* Its end of the pipe is open here too: only the process tells of its own end. */
int hear(int done, int child)
{
	struct { int fd; short events, revents; } poll[2] = {{done, 1 /* POLLIN */, 0}, {child, 1, 0}};
	i64 ret = SYS(ppoll, poll, 2, (void *)0, (void *)0, 8);
	u8 byte = 0;

	if (ret < 0)
		return (int)ret;
	return (poll[0].revents & 1) && SYS(read, done, &byte, 1) == 1 ? byte : -EOWNERDEAD_;
}

/* Two pipes or none: minus an errno. Nobody waits for what is done by reading it. */
int two_pipes(int go[2], int done[2])
{
	i64 ret = SYS(pipe2, go, O_CLOEXEC_);

	if (ret < 0)
		return (int)ret;
	ret = SYS(pipe2, done, O_CLOEXEC_ | O_NONBLOCK_);
	if (ret < 0)
		close_both(go);
	return (int)ret;
}

void close_both(const int ends[2])
{
	SYS(close, ends[0]);
	SYS(close, ends[1]);
}

/* What it was made with is its own by now, or it has ended; its pidfd stays. */
static void let_go(struct owner *o)
{
	unwatch(o->done);
	for (u32 i = 0; i < sizeof o->fds / sizeof *o->fds; i++)
		close_fd(&o->fds[i]);
	SYS(pidfd_send_signal, o->child, SIGKILL_, (void *)0, 0);
}

/* Waits for the end of one that was let go. */
static void reap(struct owner *o)
{
	SYS(waitid, 3 /* P_PIDFD */, o->child, (void *)0, 4 /* WEXITED */, (void *)0);
	unwatch(o->child);
	close_fd(&o->child);
}

static struct owner *free_owner(void)
{
	for (u32 i = 0; i < OWNERS; i++)
		if (owners[i].child < 0)
			return &owners[i];
	for (u32 i = 0; i < OWNERS; i++)
		if (owners[i].done < 0) {
			reap(&owners[i]);
			return &owners[i];
		}
	return 0;
}

static i64 write_maps(struct owner *o, u32 pid, const char *uid_map, const char *gid_map)
{
	i64 ret = o->dir = (int)process_file(pid, 0, 0);

	if (ret >= 0)
		ret = write_in_proc(o->dir, "uid_map", uid_map, strlen(uid_map));
	if (ret == 0)
		ret = write_in_proc(o->dir, "gid_map", gid_map, strlen(gid_map));
	if (ret == 0 && SYS(write, o->go, "g", 1) != 1)
		ret = -EOWNERDEAD_;
	return ret;
}

/* 0, or minus an errno and nothing is left. */
static i64 begin(struct owner *o, const char *uid_map, const char *gid_map)
{
	struct clone_args args = {.flags = CLONE_NEWUSER, .pidfd = (u64)&o->child};
	struct own own = {.n = 0};
	int go[2], done[2];
	i64 ret = two_pipes(go, done);

	if (ret < 0)
		return ret;
	renew_limits();
	*o = (struct owner){.child = -1, .go = go[1], .go_end = go[0], .done = done[0], .done_end = done[1], .dir = -1};
	/* Its own: ours may be another before the child has its table. */
	o->limits = (int)SYS(fcntl, limits, F_DUPFD_CLOEXEC_, FIRST_FREE);
	add_own(&own, o->go_end);
	add_own(&own, o->done_end);
	add_own(&own, o->limits);
	ret = o->limits < 0 ? o->limits : clone_child(&args, &own);
	if (ret == 0)
		own_namespace(o->limits, o->go_end, o->done_end);
	if (ret < 0)
		o->child = -1;
	else if ((ret = write_maps(o, (u32)ret, uid_map, gid_map)) >= 0)
		return 0;
	let_go(o);
	if (o->child >= 0)
		reap(o);
	return ret;
}

void begin_userns(u64 id, const char *uid_map, const char *gid_map)
{
	struct owner *o = free_owner();
	i64 ret = o ? begin(o, uid_map, gid_map) : -EAGAIN_;

	if (ret < 0)
		return refuse(id, CK_STEP_CLONE, (u32)-ret, 0);
	o->id = id;
	watch(o->done, IN, (u32)(o - owners), FROM_OWNER, 1 /* EPOLL_CTL_ADD */);
	watch(o->child, IN, (u32)(o - owners), FROM_OWNER_END, 1);
}

/* Its word, or, over, that it has none; then the namespace is the daemon's. */
static void hear_owner(struct owner *o, int over)
{
	struct ck_reply r = {.magic = CK_MAGIC, .version = CK_VERSION, .id = o->id, .kind = CK_KIND_USERNS_MADE};
	i64 fd = -EOWNERDEAD_, n;
	u8 byte = 0;
	int file;

	n = SYS(read, o->done, &byte, 1);
	if (n == -EAGAIN_ && !over)
		return;
	if (n == 1)
		fd = byte ? -(i64)byte : SYS(openat, o->dir, "ns/user", O_RDONLY_ | O_CLOEXEC_, 0);
	let_go(o);
	if (o->id != 0 && fd < 0)
		refuse(r.id, CK_STEP_CLONE, (u32)-fd, 0);
	if (fd < 0)
		return;
	file = (int)fd;
	if (o->id != 0 && send_reply(&r, &file, 1))
		refuse(r.id, CK_STEP_FULL, EAGAIN_, 0);
	SYS(close, file);
}

void on_owner(u32 index, int over)
{
	struct owner *o = &owners[index & (OWNERS - 1)];
	struct siginfo_ how;

	if (o->child < 0)
		return;
	how.pid = 0; /* an event may be of who had the place before */
	if (over && (SYS(waitid, 3, o->child, &how, 4 | 1 /* WNOHANG */ | 0x01000000 /* WNOWAIT */, (void *)0) < 0 || how.pid == 0))
		return;
	if (o->done >= 0)
		hear_owner(o, over);
	if (over)
		reap(o);
}

/* A successor did not ask, and may ask something else by the same number. */
void forget_owners(void)
{
	for (u32 i = 0; i < OWNERS; i++)
		owners[i].id = 0;
}

void watch_owners(void)
{
	for (u32 i = 0; i < OWNERS; i++) {
		if (owners[i].child >= 0)
			watch(owners[i].child, IN, i, FROM_OWNER_END, 1);
		if (owners[i].child >= 0 && owners[i].done >= 0)
			watch(owners[i].done, IN, i, FROM_OWNER, 1);
	}
}

void no_owners(void)
{
	for (u32 i = 0; i < OWNERS; i++)
		owners[i].child = -1;
}

void end_owners(void)
{
	for (u32 i = 0; i < OWNERS; i++)
		if (owners[i].child >= 0) {
			if (owners[i].done >= 0)
				let_go(&owners[i]);
			reap(&owners[i]);
		}
}
