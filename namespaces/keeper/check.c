/*
 * The gate of the keeper: nothing of a message is used before this has passed.
 * The daemon is trusted, its memory may not be: a malformed plan is refused
 * whole. Fuzzed hosted.
 */
#include "keeper.h"

/* A string of the blob ends inside it. */
static int string_ok(const struct launch *l, u32 at)
{
	u32 n = l->request->nblob;

	if (at >= n)
		return 0;
	for (u32 i = at; i < n; i++)
		if (l->blob[i] == 0)
			return 1;
	return 0;
}

static int strings_ok(const struct launch *l, u32 at, u64 count, u64 most)
{
	u32 n = l->request->nblob;

	if (count > most)
		return 0;
	for (; count > 0; count--) {
		if (!string_ok(l, at))
			return 0;
		while (l->blob[at] != 0)
			at++;
		at++;
		if (at > n)
			return 0;
	}
	return 1;
}

static int path_ok(const struct launch *l, u32 at)
{
	return string_ok(l, at) && l->blob[at] == '/';
}

static int bytes_ok(const struct launch *l, u32 at, u64 count)
{
	return at <= l->request->nblob && count <= l->request->nblob - at;
}

static int fd_ok(const struct launch *l, u32 at)
{
	return at < l->nfds;
}

static int step_ok(const struct launch *l, const struct ck_step *s)
{
	switch (s->op) {
	case CK_OP_HOLD:
	case CK_OP_KILLFD:
	case CK_OP_JOIN:
	case CK_OP_USERNS:
	case CK_OP_TEMPLATE:
		return fd_ok(l, s->fd);
	case CK_OP_FD:
		return fd_ok(l, s->fd) && s->a <= LAST_FD;
	case CK_OP_RMDIR:
		return fd_ok(l, s->fd) && string_ok(l, s->s);
	case CK_OP_OOM_SCORE:
	case CK_OP_HOSTNAME:
		return string_ok(l, s->s);
	case CK_OP_ROOT:
		return string_ok(l, s->t);
	case CK_OP_SYSCTL:
		return string_ok(l, s->s) && string_ok(l, s->t);
	case CK_OP_MKDIR:
	case CK_OP_MKNOD:
	case CK_OP_MASK:
	case CK_OP_SEAL:
	case CK_OP_CHDIR:
	case CK_OP_LANDLOCK_PATH:
	case CK_OP_LANDLOCK_TRY:
		return path_ok(l, s->s);
	case CK_OP_MKFILE:
		return path_ok(l, s->s) && bytes_ok(l, s->t, s->b);
	case CK_OP_SYMLINK:
	case CK_OP_TMPFS:
	case CK_OP_PROC:
		return path_ok(l, s->s) && string_ok(l, s->t);
	case CK_OP_ATTACH:
		return fd_ok(l, s->fd) && path_ok(l, s->s);
	case CK_OP_SECCOMP:
		return bytes_ok(l, s->t, s->b) && s->b % 8 == 0 && s->b > 0 && s->b <= 8 * 4096 && s->t % 8 == 0;
	case CK_OP_EXEC:
		return s->a > 0 && s->b > 0 && strings_ok(l, s->s, s->a, 64) && s->b <= CK_MAX_ARGS && s->c <= CK_MAX_ARGS &&
		       strings_ok(l, s->t, s->b + s->c, 2 * CK_MAX_ARGS);
	default: /* the rest has numbers only, which the kernel judges */
		return s->op > 0 && s->op < CK_OP_END;
	}
}

/* Every launch ends in exactly one exec, and no step goes back to an earlier phase. */
static u32 check_steps(const struct launch *l)
{
	u32 n = l->request->nsteps, phase = 0, held = 0, groups = 0;

	if (n == 0 || l->steps[n - 1].op != CK_OP_EXEC)
		return 5;
	for (u32 i = 0; i < n; i++) {
		const struct ck_step *s = &l->steps[i];

		if (!step_ok(l, s) || ck_op_phase[s->op] < phase)
			return 0x10000 + i;
		if (s->op == CK_OP_EXEC && i != n - 1)
			return 0x10000 + i;
		phase = ck_op_phase[s->op];
		held += s->op == CK_OP_HOLD || s->op == CK_OP_KILLFD; /* a second KILLFD is held, too */
		groups += s->op == CK_OP_RMDIR;
	}
	return held <= CK_MAX_HOLD && groups <= CK_MAX_HOLD ? 0 : 6;
}

/* What is prepared is mounts and what lies in them, nothing else. */
static u32 check_template(const struct launch *l)
{
	for (u32 i = 0; i < l->request->nsteps; i++)
		if (!step_ok(l, &l->steps[i]) || ck_op_phase[l->steps[i].op] != CK_PHASE_MOUNT)
			return 0x10000 + i;
	return l->request->nsteps > 0 ? 0 : 5;
}

u32 check_request(struct launch *l, u64 length)
{
	struct ck_request *r = (struct ck_request *)l->message;

	if (length < sizeof *r || r->magic != CK_MAGIC)
		return 1;
	if (r->version != CK_VERSION)
		return 2;
	if (r->nsteps > CK_MAX_STEPS || r->nblob > CK_MAX_MESSAGE || r->nfds != l->nfds)
		return 3;
	if (length != sizeof *r + (u64)r->nsteps * sizeof(struct ck_step) + r->nblob)
		return 4;
	l->request = r;
	l->steps = (struct ck_step *)(l->message + sizeof *r);
	l->blob = (char *)(l->steps + r->nsteps);
	if (r->cgroup_fd != CK_NO_STRING && !fd_ok(l, r->cgroup_fd))
		return 7;
	if (r->netns_fd != CK_NO_STRING && !fd_ok(l, r->netns_fd))
		return 7;
	switch (r->kind) {
	case CK_KIND_LAUNCH:
		return r->reaper_uid == 0 || r->reaper_uid == 0xffffffff || r->reaper_gid == 0 || r->reaper_gid == 0xffffffff ? 8
														      : check_steps(l);
	case CK_KIND_TEMPLATE:
		return check_template(l);
	case CK_KIND_USERNS:
		return strings_ok(l, 0, 2, 2) && r->nsteps == 0 ? 0 : 9;
	case CK_KIND_FORGET:
	case CK_KIND_GO:
	case CK_KIND_LOOSE:
		return r->nsteps == 0 ? 0 : 9;
	case CK_KIND_KEEP:
		return r->nsteps == 0 && l->nfds <= 1 ? 0 : 9;
	default:
		return 10;
	}
}
