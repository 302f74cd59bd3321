/* What the keeper takes once, at its start. */
#include "keeper.h"

/* Each plugin takes some ten descriptors of ours; its own limit is a step's. */
void raise_descriptors(void)
{
	u64 limit[2];

	if (SYS(prlimit64, 0, 7 /* RLIMIT_NOFILE */, (void *)0, limit) < 0)
		return;
	limit[0] = limit[1];
	SYS(prlimit64, 0, 7, limit, (void *)0);
}

static void *map(u64 size, int flags)
{
	i64 at = SYS(mmap, (void *)0, size, 3 /* PROT_READ | PROT_WRITE */, 0x20 /* MAP_ANONYMOUS */ | flags, -1, 0);

	return at < 0 && at > -4096 ? 0 : (void *)at;
}

/*
 * No child has it, nor pays for a copy of it: what is known of a thousand plugins
 * is some 600 pages. The last page may be others' as well and stays.
 */
int keep_to_us(void *at, u64 size)
{
	return SYS(madvise, at, size & ~(u64)(PAGE - 1), 10 /* MADV_DONTFORK */) < 0;
}

/* Pages are the kernel's at first use; a child has those of its own launch alone. */
int make_arenas(struct launch **arenas, u32 n)
{
	for (u32 i = 0; i < n; i++) {
		arenas[i] = map(sizeof *arenas[i], 2 /* MAP_PRIVATE */);
		if (arenas[i] == 0 || (arenas[i]->out = map(sizeof *arenas[i]->out, 1 /* MAP_SHARED */)) == 0)
			return 1;
		if (SYS(madvise, arenas[i], sizeof *arenas[i], 10 /* MADV_DONTFORK */) < 0)
			return 1;
	}
	return 0;
}
