/* Makes each call of its arguments in a process of its own and prints what
 * became of it: "NAME errno N", "NAME value N" or "NAME signal N". A number is
 * a native call with arguments of -1; "int80" is getpid by the gate of i386. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void make(const char *call)
{
	long value;

	if (strcmp(call, "int80") == 0)
		__asm__ volatile("int $0x80" : "=a"(value) : "0"(20L) : "memory", "r8", "r9", "r10", "r11");
	else
		value = syscall(strtol(call, NULL, 0), -1L, -1L, -1L, -1L, -1L, -1L);
	if (value == -1)
		printf("%s errno %d\n", call, errno);
	else
		printf("%s value %ld\n", call, value);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		int status;
		pid_t pid = fork();

		if (pid < 0)
			return 1;
		if (pid == 0) {
			make(argv[i]);
			_exit(0);
		}
		if (waitpid(pid, &status, 0) != pid)
			return 1;
		if (WIFSIGNALED(status)) {
			printf("%s signal %d\n", argv[i], WTERMSIG(status));
			fflush(stdout);
		}
	}
	return 0;
}
