/* Does what its arguments say, one after the other, and prints done:
 * read:PATH, write:PATH (a file that is there), mem:MiB, procs:N, cpu:MS. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int processes(int n) {
	int hold[2], failed = 0;
	char c;
	if (pipe(hold))
		return 1;
	for (int i = 0; i < n; i++) {
		pid_t pid = fork();
		if (pid < 0)
			failed = 1;
		if (pid == 0) {
			close(hold[1]);
			_exit(read(hold[0], &c, 1) != 0);
		}
	}
	close(hold[1]);
	while (wait(NULL) > 0)
		;
	return failed;
}

static int task(const char *word) {
	char line[64];
	const char *at = strchr(word, ':');
	if (!at++)
		return 1;
	if (!strncmp(word, "read", 4) || !strncmp(word, "write", 5)) {
		int fd = open(at, word[0] == 'r' ? O_RDONLY : O_WRONLY);
		if (fd < 0)
			return 1;
		int bad = word[0] == 'r' ? read(fd, line, sizeof line) < 1 : write(fd, "x\n", 2) != 2;
		return close(fd) || bad;
	}
	if (!strncmp(word, "mem", 3)) {
		size_t size = (size_t)atoi(at) << 20;
		char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return 1;
		memset(p, 1, size);
		return munmap(p, size);
	}
	if (!strncmp(word, "procs", 5))
		return processes(atoi(at));
	while (clock() < (clock_t)atoi(at) * (CLOCKS_PER_SEC / 1000))
		;
	return 0;
}

int main(int argc, char **argv) {
	for (int i = 1; i < argc; i++) {
		if (task(argv[i])) {
			perror(argv[i]);
			return 1;
		}
	}
	puts("done");
	return 0;
}
