/* More than one's share. Each stops at a bound that does no harm to the host. */
#include "attack.h"
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

static void forks(char **args)
{
	for (long n = number(args[0]); n > 0; n--) {
		pid_t pid = fork();

		if (pid == 0)
			for (;;)
				pause();
		if (pid < 0)
			return tried("fork");
	}
}

static void anonymous(char **args)
{
	size_t n = (size_t)number(args[0]) << 20;
	char *at = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return tried("mmap");
	for (size_t i = 0; i < n; i += 4096)
		at[i] = 1;
}

static void fill(int fd, long megabytes)
{
	static char block[1 << 16];

	for (long i = 0; i < megabytes * 16; i++)
		if (write(fd, block, sizeof block) < 0)
			return tried("write");
}

/* rlimits do not see this memory. */
static void memory_file(char **args)
{
	fill((int)syscall(SYS_memfd_create, "x", 0), number(args[0]));
}

/* A file without a name is still there. */
static void unlinked(char **args)
{
	int fd = open(args[0], O_RDWR | O_CREAT, 0600);

	if (fd < 0)
		return tried("open");
	unlink(args[0]);
	fill(fd, number(args[1]));
}

static void inodes(char **args)
{
	char name[256];

	for (long n = number(args[1]); n > 0; n--) {
		int fd;

		snprintf(name, sizeof name, "%s/%ld", args[0], n);
		fd = open(name, O_WRONLY | O_CREAT, 0600);
		if (fd < 0)
			return tried("open");
		close(fd);
	}
}

static void burn(char **args)
{
	struct timespec now = {0, 0};
	long until = number(args[0]) * 1000000;

	while (now.tv_sec * 1000000000 + now.tv_nsec < until)
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
}

static void descriptors(char **args)
{
	for (long n = number(args[0]); n > 0; n--)
		if (open("/dev/null", O_RDONLY) < 0)
			return tried("open");
}

static void priority(char **args)
{
	struct sched_param one = {1};

	if (sched_setscheduler(0, SCHED_FIFO, &one) < 0)
		tried("sched_setscheduler");
	if (setpriority(PRIO_PROCESS, 0, (int)number(args[0])) < 0)
		tried("setpriority");
}

/* Longer than it may; with an end of its own, by which it is told from one that was ended. */
static void linger(char **args)
{
	long ms = number(args[0]);
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, 0);
	_exit(42);
}

const struct attack resources[] = {
	{"forks", forks, 1},
	{"anonymous", anonymous, 1},
	{"memory-file", memory_file, 1},
	{"unlinked", unlinked, 2},
	{"inodes", inodes, 2},
	{"burn", burn, 1},
	{"descriptors", descriptors, 1},
	{"priority", priority, 1},
	{"linger", linger, 1},
	{0},
};
