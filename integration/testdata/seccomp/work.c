/* A static program's day: threads, processes, pipes, files, memory, sockets. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void *thread(void *sum)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

	for (int i = 0; i < 1000; i++) {
		pthread_mutex_lock(&lock);
		++*(long *)sum;
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[4];
	long sum = 0;
	int pair[2], status, fd;
	char b[16];
	struct stat st;
	struct timespec nap = {0, 1000000};

	for (int i = 0; i < 4; i++)
		if (pthread_create(&threads[i], NULL, thread, &sum))
			return 1;
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return 2;
	if (fork() == 0)
		_exit(write(pair[1], "child", 5) == 5 ? 0 : 1);
	struct pollfd p = {pair[0], POLLIN, 0};
	if (poll(&p, 1, 10000) != 1 || read(pair[0], b, 5) != 5 || wait(&status) < 0 || status != 0)
		return 3;
	if ((fd = open("/tmp/a", O_RDWR | O_CREAT | O_EXCL, 0600)) < 0 || write(fd, "abc", 3) != 3 || fsync(fd) || fstat(fd, &st) || st.st_size != 3)
		return 4;
	char *m = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED || memcmp(m, "abc", 3) || munmap(m, 4096) || rename("/tmp/a", "/tmp/b") || unlink("/tmp/b"))
		return 5;
	signal(SIGUSR1, SIG_IGN);
	raise(SIGUSR1);
	nanosleep(&nap, NULL);
	printf("done %ld\n", sum);
	return sum != 4000;
}
