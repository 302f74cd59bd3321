/* What the launcher has of each plugin, and what it says of it (replies.c). */
#ifndef SLOT_H
#define SLOT_H

#include "keeper.h"

#define MSG_DONTWAIT_ 0x40
#define MSG_NOSIGNAL_ 0x4000

enum { IN = 1, OUT = 4, HUP = 16 };
enum source { FROM_DAEMON, FROM_GATE, FROM_READY, FROM_PLUGIN, FROM_REAPER, FROM_SUCCESSOR, FROM_OWNER, FROM_OWNER_END }; /* watch_all() counts on the order */
enum state { FREE, LAUNCHING, RUNNING, ENDING, ENDED };
enum { SAY_STARTED = 1, SAY_FAILED = 2, SAY_EXITED = 4, SAY_STAGED = 8, SAY_KEPT = 16 };

struct slot {
	enum state state;
	u64 id;
	struct launch *launch;
	int plugin, reaper, gate, ready, listener, killfd; /* -1: none */
	int gate_end, ready_end; /* the children's, until they surely have their copies */
	int thaws; /* killfd is a freezer.state */
	int gate_waiting, reaper_up, stage; /* stage: the daemon has not said GO */
	int adrift; /* the daemon that launched it has gone: nobody waits for how that went */
	u32 say; /* replies not sent yet */
	u32 step, error, detail;
	u32 plugin_pid, reaper_pid;
	struct siginfo_ how;
	struct rusage_ usage;
	u32 nheld, ngroups;
	int held[CK_MAX_HOLD];
	u8 loose[CK_MAX_HOLD];
	struct group groups[CK_MAX_HOLD];
};

/* launcher.c */
extern struct slot slots[CK_MAX_SLOTS];
extern u32 nslots; /* slots[nslots..] were never used */
extern int control, writing, ending;
extern int greeting, telling; /* a successor has not been told who we are; of all */
extern int starved; /* something could not be said for want of memory: it is tried again soon */
void close_fd(int *fd);
void unwatch(int fd);
void watch(int fd, u32 events, u32 slot, enum source source, int op);
void forget(struct slot *s);

/* replies.c: nonzero if the daemon does not take it now; what a slot has to say waits then. */
int send_reply(struct ck_reply *reply, const int *fds, u32 nfds);
void speak(struct slot *s);
void say_all(void);
void refuse(u64 id, u32 step, u32 error, u32 detail);

#endif
