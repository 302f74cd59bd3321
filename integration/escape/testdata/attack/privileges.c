/* Namespaces, ids, capabilities, and other processes. */
#include "attack.h"
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static void unshare_(char **args)
{
	pid_t pid = fork();

	if (pid == 0 && unshare((int)number(args[0])) < 0)
		tried("unshare");
	if (pid != 0)
		for (;;)
			pause();
}

static void clone_(char **args)
{
	long pid = syscall(SYS_clone, (unsigned long)number(args[0]) | SIGCHLD, 0, 0, 0, 0);

	if (pid < 0)
		return tried("clone");
	if (pid != 0)
		for (;;)
			pause();
}

static void clone3_(char **args)
{
	struct clone_args a = {.flags = (uint64_t)number(args[0]), .exit_signal = SIGCHLD};
	long pid = syscall(SYS_clone3, &a, sizeof a);

	if (pid < 0)
		return tried("clone3");
	if (pid != 0)
		for (;;)
			pause();
}

static void mount_(char **args)
{
	if (mount("none", args[0], args[1], 0, args[2]) < 0)
		tried("mount");
}

static void remount(char **args)
{
	if (mount("none", args[0], 0, MS_REMOUNT | MS_BIND, 0) < 0)
		tried("mount");
}

static void unmask(char **args)
{
	if (umount2(args[0], MNT_DETACH) < 0)
		tried("umount2");
}

static void fsopen_(char **args)
{
	if (syscall(SYS_fsopen, args[0], 0) < 0)
		tried("fsopen");
}

static void join(char **args)
{
	int fd = open(args[0], O_RDONLY);

	if (setns(fd, 0) < 0) /* also where there is nothing to join */
		tried("setns");
}

/* A program with a set-id bit or capabilities of its own reads for us. */
static void by_program(char **args)
{
	char *argv[] = {args[0], "read", args[1], 0};

	execv(args[0], argv);
	tried("execv");
}

static void become(char **args)
{
	uid_t uid = (uid_t)number(args[0]);

	if (syscall(SYS_setresuid, uid, uid, uid) < 0)
		tried("setresuid");
}

/* Debuggers have power over what they trace. */
static void trace(char **args)
{
	if (ptrace(PTRACE_SEIZE, (pid_t)number(args[0]), 0, 0) < 0)
		tried("ptrace");
}

static void write_memory(char **args)
{
	struct iovec mine = {args[2], strlen(args[2])}, theirs = {(void *)number(args[1]), strlen(args[2])};

	if (process_vm_writev((pid_t)number(args[0]), &mine, 1, &theirs, 1, 0) < 0)
		tried("process_vm_writev");
}

static void steal_descriptor(char **args)
{
	int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)number(args[0]), 0);
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)number(args[1]), 0);

	if (fd < 0)
		return tried("pidfd_getfd");
	lseek(fd, 0, SEEK_SET);
	copy_out(fd);
}

static void kill_(char **args)
{
	if (kill((pid_t)number(args[0]), SIGKILL) < 0)
		tried("kill");
}

static void read_key(char **args)
{
	char data[256];
	long n = syscall(SYS_keyctl, 11 /* KEYCTL_READ */, number(args[0]), data, sizeof data, 0);

	if (n < 0)
		return tried("keyctl");
	got(data, (size_t)n);
}

static void environment(char **args)
{
	(void)args;
	for (char **e = environ; *e != 0; e++)
		got(*e, strlen(*e));
}

static void command_lines(char **args)
{
	char path[64], buf[4096];

	(void)args;
	for (int pid = 1; pid < 32768; pid++) {
		int fd;
		ssize_t n;

		snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
		fd = open(path, O_RDONLY);
		n = fd < 0 ? 0 : read(fd, buf, sizeof buf);
		if (n > 0)
			got(buf, (size_t)n);
		close(fd);
	}
}

static void host_name(char **args)
{
	char name[256] = "";

	(void)args;
	gethostname(name, sizeof name - 1);
	got(name, strlen(name));
}

static void shared_memory(char **args)
{
	long id = syscall(SYS_shmget, number(args[0]), 0, 0);
	char *at = id < 0 ? (char *)-1 : (char *)syscall(SYS_shmat, id, 0, 0);

	if (at == (char *)-1)
		return tried("shmat");
	strcpy(at, args[1]);
}

static void sysctl(char **args)
{
	if (open(args[0], O_WRONLY) < 0)
		tried("open");
}

const struct attack privileges[] = {
	{"unshare", unshare_, 1},
	{"clone", clone_, 1},
	{"clone3", clone3_, 1},
	{"mount", mount_, 3},
	{"remount", remount, 1},
	{"unmask", unmask, 1},
	{"fsopen", fsopen_, 1},
	{"join", join, 1},
	{"by-program", by_program, 2},
	{"become", become, 1},
	{"trace", trace, 1},
	{"write-memory", write_memory, 3},
	{"steal-descriptor", steal_descriptor, 2},
	{"kill", kill_, 1},
	{"read-key", read_key, 1},
	{"environment", environment, 0},
	{"command-lines", command_lines, 0},
	{"host-name", host_name, 0},
	{"shared-memory", shared_memory, 2},
	{"sysctl", sysctl, 1},
	{0},
};
