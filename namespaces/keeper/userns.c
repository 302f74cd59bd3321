/*
 * User namespaces: one for each uid, made by a child that owns it for a moment,
 * with its maps written and every namespace below it forbidden.
 */
#include "keeper.h"

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
 * the maps are written; the parent takes the namespace while we wait.
 */
static void namespace_owner(int go, int done)
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

static i64 take_namespace(u32 pid, int child, const char *uid_map, const char *gid_map, int go, int done)
{
	i64 dir = process_file(pid, 0, 0), ret, fd;

	if (dir < 0)
		return dir;
	ret = write_in_proc(dir, "uid_map", uid_map, strlen(uid_map));
	if (ret == 0)
		ret = write_in_proc(dir, "gid_map", gid_map, strlen(gid_map));
	if (ret == 0 && SYS(write, go, "g", 1) != 1)
		ret = -EOWNERDEAD_;
	if (ret == 0 && (ret = hear(done, child)) > 0)
		ret = -ret;
	fd = ret < 0 ? ret : SYS(openat, dir, "ns/user", O_RDONLY_ | O_CLOEXEC_, 0);
	SYS(close, dir);
	return fd;
}

/* A pair of pipes or none: an errno. */
int two_pipes(int go[2], int done[2])
{
	i64 ret = SYS(pipe2, go, O_CLOEXEC_);

	if (ret < 0)
		return (int)ret;
	ret = SYS(pipe2, done, O_CLOEXEC_);
	if (ret < 0)
		close_both(go);
	return (int)ret;
}

void close_both(const int ends[2])
{
	SYS(close, ends[0]);
	SYS(close, ends[1]);
}

int make_userns(const char *uid_map, const char *gid_map)
{
	int go[2], done[2], fd, child = -1;
	struct clone_args args = {.flags = CLONE_NEWUSER, .pidfd = (u64)&child};
	struct own o = {.n = 0};
	i64 pid = two_pipes(go, done);

	if (pid < 0)
		return (int)pid;
	renew_limits();
	add_own(&o, go[0]);
	add_own(&o, done[1]);
	add_own(&o, limits);
	pid = clone_child(&args, &o);
	if (pid == 0)
		namespace_owner(go[0], done[1]);
	fd = pid < 0 ? (int)pid : (int)take_namespace((u32)pid, child, uid_map, gid_map, go[1], done[0]);
	close_both(go);
	close_both(done);
	if (pid > 0) {
		SYS(pidfd_send_signal, child, SIGKILL_, (void *)0, 0);
		SYS(waitid, 3, child, (void *)0, 4, (void *)0);
		SYS(close, child);
	}
	return fd;
}
