/* Outliving whoever supervises. */
#include "attack.h"
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>

static void deaf(void)
{
	for (int s = 1; s < 32; s++)
		signal(s, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
}

static void stay(void)
{
	close(0);
	close(1);
	close(2);
	for (;;)
		pause();
}

/* The daemon's classic: forked twice, in a session of its own; its parent ends. */
static void orphan(char **args)
{
	(void)args;
	deaf();
	if (fork() == 0) {
		setsid();
		if (fork() == 0)
			stay();
		_exit(0);
	}
	_exit(0);
}

/*
 * Each copy makes the next and ends: a list of processes is old when it is
 * made. A beat on standard output says that it goes on, the end of standard
 * input that the test has seen enough.
 */
static void chain(char **args)
{
	struct pollfd input = {0, POLLIN, 0};

	(void)args;
	deaf();
	if (fork() != 0)
		return;
	while (poll(&input, 1, 1) == 0) {
		pid_t pid = fork();

		if (pid > 0)
			_exit(0);
		if (pid == 0) {
			setsid();
			got(".", 1);
		}
	}
	_exit(0);
}

/* Whoever made it may die: it asked not to be told. */
static void unbound(char **args)
{
	(void)args;
	deaf();
	if (prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0) < 0)
		tried("prctl");
}

/* Another group may have other limits, and is not the one that is killed. */
static void move(char **args)
{
	int fd = open(args[0], O_WRONLY);

	if (fd < 0 || write(fd, "0", 1) < 0)
		tried("write");
}

static void leave(char **args)
{
	_exit((int)number(args[0]));
}

static void stay_stopped(char **args)
{
	(void)args;
	deaf();
	if (fork() == 0)
		for (;;)
			kill(getpid(), SIGSTOP);
}

const struct attack supervision[] = {
	{"orphan", orphan, 0},
	{"chain", chain, 0},
	{"unbound", unbound, 0},
	{"move", move, 1},
	{"leave", leave, 1},
	{"stay-stopped", stay_stopped, 0},
	{0},
};
