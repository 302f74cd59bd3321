/* How the scheduler treats a launch on its way. */
#include "keeper.h"

/*
 * How long we go on while others want the processor: a child on its way is in no
 * hurry, and whoever wakes to do a moment's work (a call's reply, say) goes first
 * (sched_setattr(2) since Linux 6.12: of SCHED_OTHER, sched_runtime; 0 is the
 * kernel's own). Its share stays what it is. An older kernel does not look at it.
 */
void take_turns_of(u64 ns)
{
	struct { u32 size, policy; u64 flags; int nice; u32 priority; u64 runtime, deadline, period; } attr = {0};

	if (SYS(sched_getattr, 0, &attr, sizeof attr, 0) < 0)
		return;
	attr.runtime = ns;
	SYS(sched_setattr, 0, &attr, 0);
}
