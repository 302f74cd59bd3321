/*
 * The keeper: one small static program, three entries.
 *
 *   launcher (launcher.c)  takes plans from the daemon, makes plugins, is their
 *                          parent, reports their end, ends all of them when the
 *                          daemon goes away
 *   steps    (steps.c)     what a new plugin does before its exec
 *   reaper   (reaper.c)    pid 1 of a plugin's pid namespace
 *
 * It has no libc, allocates nothing after its start but two arenas, handles no
 * signal and is never blocked by one child.
 */
#ifndef KEEPER_H
#define KEEPER_H

#include "sys.h"
#include "wire.h"

#define STACK_SIZE (64 << 10)
#define EXE_FD_NAME "reaper"
/*
 * The launcher occupies descriptors 0 to FIRST_FREE-1, so that what it receives
 * never stands where a plugin's own descriptors (0 to LAST_FD) and the gate go.
 */
#define LAST_FD 9
#define GATE_FD 10
#define FIRST_FREE 16

/*
 * One launch in flight. The child shares it until its exec, so it is never
 * used again before the child has let go of the gate.
 */
struct launch {
	u8 message[CK_MAX_MESSAGE] __attribute__((aligned(16)));
	u8 stack[STACK_SIZE] __attribute__((aligned(64)));
	const char *args[CK_MAX_ARGS + 1];
	const char *vars[CK_MAX_ARGS + 1];
	int fds[CK_MAX_FDS];
	u32 nfds;
	struct ck_request *request;
	struct ck_step *steps;
	char *blob;
	int reaper; /* pidfd */
	int keeper; /* pidfd of the keeper itself */
	int gate;   /* the child's end */
	int ruleset;
	/* Written by the child, read by the launcher after the gate closed. */
	volatile int listener;
	volatile u32 failed, error, detail;
	volatile u32 executing;
	int busy;
};

/* check.c: 0, or where the message is malformed (a nonzero place for FAILED's detail). */
u32 check_request(struct launch *l, u64 length);

/* steps.c */
void run_steps(void *launch);
const char *next_string(const char *s);

/* reaper.c: the forked half before the exec, and the entry after it. */
void become_reaper(struct launch *l, int exe, int ready);
void reaper_main(void);
int drop_privilege(u32 uid, u32 gid, u32 *detail);

/* launcher.c */
int launcher_main(int control);

#endif
