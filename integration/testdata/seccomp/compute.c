/* What builtin:strict is for: one process that computes, keeps files of its own
 * in /tmp and /data, and answers over the descriptors that it was handed. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t rang;
static void ring(int sig) { rang = sig; }

int main(void) {
	char line[256];
	unsigned sum = 0;
	size_t size = 1 << 20;
	unsigned char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < size; i++)
		sum += memory[i] = (unsigned char)(i * 7);
	munmap(memory, size);
	if (mkdir("/tmp/d", 0700) || chdir("/tmp/d") || !getcwd(line, sizeof line))
		return 2;
	int fd = open("words", O_RDWR | O_CREAT | O_EXCL, 0600);
	struct stat st;
	if (fd < 0 || write(fd, "one two\n", 8) != 8 || fsync(fd) || lseek(fd, 0, SEEK_SET) || fstat(fd, &st) || st.st_size != 8)
		return 3;
	if (read(fd, line, 8) != 8 || memcmp(line, "one two\n", 8) || ftruncate(fd, 3) || close(fd) || rename("words", "/tmp/d/kept"))
		return 4;
	DIR *dir = opendir(".");
	int names = 0;
	while (dir && readdir(dir))
		names++;
	if (names != 3 || closedir(dir) || unlink("kept") || chdir("/") || rmdir("/tmp/d"))
		return 5;
	struct sigaction act = {.sa_handler = ring};
	struct timespec now, nap = {0, 1000};
	if (sigaction(SIGUSR1, &act, NULL) || raise(SIGUSR1) || rang != SIGUSR1 || clock_gettime(CLOCK_REALTIME, &now) || nanosleep(&nap, NULL))
		return 6;
	struct pollfd in = {.fd = 0, .events = POLLIN};
	if (poll(&in, 1, -1) != 1 || read(0, line, sizeof line) < 0)
		return 7;
	printf("done %u\n", sum);
	return 0;
}
