/*
 * A plugin that does harm when it is told to: a call of the method NAME starts
 * the attack of that name, which goes on for ever and begins anew when it is
 * stopped by a limit. What it meets first it says on standard error, once:
 * "NAME: ERRNO after COUNT". The method "ping" is answered, by a copy of this
 * program that does no harm.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *attack;

static void met(long count)
{
	static int told;

	if (told++ == 0)
		dprintf(2, "%s: %s after %ld\n", attack, strerrorname_np(errno), count);
}

/* Everything forks, nothing waits. */
static void fork_bomb(void)
{
	for (long n = 0;; n++)
		if (fork() < 0)
			met(n);
}

static void *sleeper(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void thread_storm(void)
{
	pthread_t t;
	pthread_attr_t small;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	for (long n = 0;; n++) {
		errno = pthread_create(&t, &small, sleeper, 0);
		if (errno)
			met(n);
	}
}

/* The bombs of memory run in a child, which the kernel kills, again and again. */
static void again(void (*bomb)(void))
{
	for (;;) {
		pid_t child = fork();

		if (child == 0) {
			bomb();
			for (;;)
				pause();
		}
		while (child > 0 && waitpid(child, 0, 0) < 0 && errno == EINTR)
			;
	}
}

static void anonymous(void)
{
	for (;;) {
		char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			met(0);
		else
			memset(p, 1, 1 << 20);
	}
}

static char block[1 << 20];

/* fill writes one file until it cannot, and gives the bytes. */
static long fill(const char *name)
{
	int f = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0600);
	long all = 0, n;

	if (f < 0)
		return -1;
	memset(block, 1, sizeof block);
	while ((n = write(f, block, sizeof block)) > 0)
		all += n;
	met(all);
	close(f);
	return all;
}

static void on_tmpfs(void) { fill("/tmp/bomb"); }

/* Memory that no page of the plugin's shows: full sockets. */
static void kernel_objects(void)
{
	int two[2], size = 1 << 20;

	while (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, two) == 0) {
		for (int i = 0; i < 2; i++) {
			setsockopt(two[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
			while (write(two[i], block, 65536) > 0)
				;
		}
	}
	met(0);
}

/* Files are read and written over and over: the cache is the plugin's, too. */
static void page_cache(void)
{
	for (;;)
		if (fill("/data/cache") >= 0)
			unlink("/data/cache");
}

static void disk_filler(void)
{
	char name[64];

	for (long n = 0;; n++) {
		snprintf(name, sizeof name, "/data/f%ld", n % 64);
		fill(name);
	}
}

static void inode_filler(void)
{
	char name[64];

	for (long n = 0;; n++) {
		snprintf(name, sizeof name, "/data/i%ld", n);
		int f = open(name, O_CREAT | O_WRONLY, 0600);

		if (f < 0)
			met(n);
		else
			close(f);
	}
}

static void descriptor_hoarder(void)
{
	for (long n = 0;; n++)
		if (dup(0) < 0)
			met(n);
}

static void *spin(void *unused)
{
	for (volatile long n = 0;; n++)
		;
	return unused;
}

static void cpu_burner(void)
{
	pthread_t t;

	for (int i = 0; i < 7; i++)
		pthread_create(&t, 0, spin, 0);
	spin(0);
}

static void anonymous_bomb(void) { again(anonymous); }
static void tmpfs_bomb(void) { again(on_tmpfs); }
static void kernel_bomb(void) { again(kernel_objects); }

static const struct { const char *name; void (*run)(void); } attacks[] = {
	{"fork", fork_bomb}, {"threads", thread_storm}, {"anonymous", anonymous_bomb}, {"tmpfs", tmpfs_bomb},
	{"kernel", kernel_bomb}, {"cache", page_cache}, {"disk", disk_filler}, {"inodes", inode_filler},
	{"descriptors", descriptor_hoarder}, {"cpu", cpu_burner},
};

int main(void)
{
	static char line[65536];
	char wanted[64];

	signal(SIGPIPE, SIG_IGN);
	while (fgets(line, sizeof line, stdin)) {
		char *id = strstr(line, "\"id\":");

		if (strstr(line, "\"method\":\"ping\"") && id) {
			printf("{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":{}}\n", (int)strcspn(id + 5, ",}"), id + 5);
			fflush(stdout);
			continue;
		}
		for (unsigned i = 0; i < sizeof attacks / sizeof attacks[0]; i++) {
			snprintf(wanted, sizeof wanted, "\"method\":\"%s\"", attacks[i].name);
			if (strstr(line, wanted)) {
				attack = attacks[i].name;
				attacks[i].run();
			}
		}
	}
	return 0;
}
