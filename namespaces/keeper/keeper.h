/*
 * The keeper: one small static program, three entries.
 *
 *   launcher (launcher.c)  takes plans from the daemon, makes plugins, is their
 *                          parent, reports their end, hands them to the daemon's
 *                          successor (holder.c) or ends them all
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

#define EXE_FD_NAME "reaper"
/*
 * The launcher occupies descriptors 0 to FIRST_FREE-1, so that what it receives
 * never stands where a plugin's own descriptors (0 to LAST_FD) and the gate go.
 */
#define LAST_FD 9
#define GATE_FD 10
#define FIRST_FREE 16
/* More than the launcher itself and all launches in flight have; see table.c. */
#define FIRST_KEPT 1792
#define ARENAS (CK_MAX_LAUNCHES + 1)
/* Where in page 0 the path of an exec goes that may happen once. */
#define ONCE_PAGE 4096
#define ONCE_FIRST 64

/*
 * What the child tells before its exec: the one page that it shares with the
 * launcher, which reads it after the gate closed. Everything else the child has
 * as a copy, so that what ends it, or gets hold of it, does not reach us.
 */
struct outcome {
	int listener;
	u32 failed, error, detail;
	u32 executing;
};

/* One launch in flight. Not in the memory of any other launch's processes. */
struct launch {
	u8 message[CK_MAX_MESSAGE] __attribute__((aligned(16)));
	u64 length; /* of the message */
	const char *args[CK_MAX_ARGS + 1];
	const char *vars[CK_MAX_ARGS + 1];
	int fds[CK_MAX_FDS];
	u32 nfds;
	struct ck_request *request;
	struct ck_step *steps;
	char *blob;
	int reaper; /* pidfd, in flight alone */
	int keeper; /* pidfd of the keeper itself */
	int gate;   /* the child's end */
	int ruleset;
	volatile struct outcome *out;
	u32 once; /* where in page 0 the path of the exec goes; 0: it stays */
	int busy;
};

/* check.c: 0, or where the message is malformed (a nonzero place for FAILED's detail). */
u32 check_request(struct launch *l, u64 length);

/* steps.c */
int take_steps(struct launch *l); /* until one fails: its errno, the rest in l->out */
void run_steps(void *launch);
const char *next_string(const char *s);
i64 detached(const char *type, const char *options, u64 attributes); /* a mount, or minus an errno */

/* reaper.c: the forked half before the exec, and the entry after it. */
void become_reaper(struct launch *l, int exe, int ready);
void reaper_main(void);
int drop_privilege(u32 uid, u32 gid, u32 *detail);

/*
 * table.c: a copy (or minus an errno) or the descriptor itself moved, to where
 * what is held for long stands; and what a child has of the keeper's.
 */
#define OWN_FDS (CK_MAX_FDS + 8)
struct own { u32 n; int fds[OWN_FDS]; }; /* ascending */
i64 copy_aside(int fd);
int set_aside(int fd);
void add_own(struct own *o, int fd);
i64 own_table(const struct own *o);

/*
 * clone.c: a pid, 0 in the child, or minus an errno. The child has what the
 * launch brought, and of the keeper's descriptors those that it is given here
 * (-1: none). remember_home comes first; nonzero if it fails.
 */
int remember_home(void);
i64 clone_for_reaper(const struct launch *l, int *pidfd, int exe, int ready);
i64 clone_for_plugin(const struct launch *l, int *pidfd, int gate);
i64 clone_for_template(const struct launch *l, int *pidfd, int go, int done);
i64 clone_child(struct clone_args *args, const struct own *o);

/* turns.c */
#define LONG_TURN 20000000ul /* nanoseconds */
void take_turns_of(u64 ns);

/*
 * userns.c: begin_userns has one made, and who asked by that id answered. The maps
 * as in /proc/PID/uid_map. on_owner is for the word, or (over) the end, of a child
 * that owns one for a moment; no_owners comes first, end_owners last. hear is the
 * byte that a child said, or minus an errno if it ended without.
 */
void begin_userns(u64 id, const char *uid_map, const char *gid_map);
void on_owner(u32 index, int over);
void no_owners(void);
void watch_owners(void);
void forget_owners(void);
void end_owners(void);
int two_pipes(int go[2], int done[2]);
void close_both(const int ends[2]);
int hear(int done, int child);
i64 process_file(u32 pid, const char *name, int flags);

/* template.c: the mount namespace, or minus an errno; what failed is in l->out. */
int make_template(struct launch *l);

/* groups.c: a directory below parent; shared ones go only if nothing else is in them. */
struct group { int parent; int shared; char name[80]; };
int share_parent(int fd);
void drop_parent(int fd);
void remove_group(const struct group *g);
void remove_shared(const struct group *groups, u32 n);

/*
 * holder.c: waiting for the daemon's successor. keep_for takes the listening
 * socket (or -1, to go on with the one it has); hold_begins says whether there
 * is anything to wait by; hold_left is in milliseconds, -1 while nobody waits;
 * take_successor gives root's connection or -1.
 */
void keep_for(int fd, u32 ms);
int may_hold(void);
int hold_begins(void);
void hold_ends(void);
int hold_left(void);
int take_successor(void);

/* room.c: nonzero if it cannot be had. What is kept to us begins with a page. */
#define PAGE 4096
int keep_to_us(void *at, u64 size);
int make_arenas(struct launch **arenas, u32 n);
void raise_descriptors(void);

/* confine.c: nonzero unless the keeper stands behind walls of its own. */
int confine(void);

/* launcher.c */
extern int proc; /* the directory, opened before anything was mounted */
int launcher_main(int control);

#endif
