/*
 * Holding what a daemon left: for how long, and who may have it. A socket in the
 * daemon's own directory, whose place only root can connect to, is listened on
 * while nobody is connected; the first of root's programs that connects is the
 * daemon from then on, and no other is let in beside it.
 */
#include "keeper.h"

static int listening = -1;
static u32 grace; /* milliseconds */
static i64 until; /* 0: nobody is waited for */

static i64 now_ms(void)
{
	i64 time[2] = {0, 0};

	SYS(clock_gettime, 1 /* CLOCK_MONOTONIC */, time);
	return time[0] * 1000 + time[1] / 1000000;
}

void keep_for(int fd, u32 ms)
{
	i64 own = fd < 0 ? -1 : copy_aside(fd);

	if (listening >= 0 && (own >= 0 || ms == 0))
		SYS(close, listening);
	if (own >= 0 || ms == 0)
		listening = (int)own;
	grace = ms > 0x7fffffff ? 0x7fffffff : ms;
}

int may_hold(void) { return listening >= 0 && grace > 0; }

/* The listening socket, or -1. */
int hold_begins(void)
{
	if (!may_hold())
		return -1;
	if (until == 0)
		until = now_ms() + grace;
	return listening;
}

void hold_ends(void)
{
	until = 0;
}

int hold_left(void)
{
	i64 left = until - now_ms();

	return until == 0 ? -1 : left < 0 ? 0 : (int)left;
}

int take_successor(void)
{
	struct { int pid; u32 uid, gid; } who = {0, ~0u, ~0u};
	u32 size = sizeof who;
	i64 fd = SYS(accept4, listening, (void *)0, (void *)0, O_CLOEXEC_);

	if (fd < 0)
		return -1;
	if (SYS(getsockopt, (int)fd, 1 /* SOL_SOCKET */, 17 /* SO_PEERCRED */, &who, &size) < 0 || who.uid != 0) {
		SYS(close, (int)fd);
		return -1;
	}
	return (int)fd;
}
