/*
 * The keeper under sanitizers, fed with malformed plans. Hosted build only; no
 * system call is made: each is answered here, at random, after what it would
 * read was read and what it would write was written, so that the sanitizers see
 * it. Arguments: a seed, a number of rounds, files with well-formed requests.
 *
 * A round changes a request in a few places, lets the launcher obey it, has the
 * events of a launch happen in any order, and runs the steps of what was
 * accepted as the plugin's process would.
 */
#include <sanitizer/asan_interface.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include "launcher.c"

static u64 state;
static jmp_buf ended;
static u64 eaten; /* what was read, so that reading is not optimised away */
static u32 accepted, refused, executed;
/* In every second round the kernel refuses things; in the others all goes well, so that the last steps are reached. */
static int moody;
static i64 sending; /* what sendmsg answers; 0: anything */
static i64 refusing; /* what epoll_ctl answers */
static int silent; /* nothing can be read */
static enum { SOME, NONE, EVERY } over; /* which children have ended */
static u32 sent; /* replies */
static u32 watches; /* which sources were watched */
/* What was set is what is read back. */
static u32 uid, gid;
static u64 bits;

static u64 any(u64 n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return n ? state % n : 0;
}

static int well(void)
{
	return !moody || any(16);
}

static void eat(const void *p, u64 n)
{
	for (u64 i = 0; i < n; i++)
		eaten += ((const u8 *)p)[i];
}

static void eat_string(i64 s)
{
	eaten += strlen((const char *)s);
}

static void eat_strings(i64 list)
{
	for (const char **s = (const char **)list; *s; s++)
		eat_string((i64)*s);
}

static i64 a_descriptor(void)
{
	return well() ? 20 + (i64)any(1000) : -24;
}

static i64 two_descriptors(int *ends)
{
	if (!well())
		return -24;
	ends[0] = 20 + (int)any(1000);
	ends[1] = 20 + (int)any(1000);
	return 0;
}

static i64 wait_for(struct siginfo_ *how, struct rusage_ *usage)
{
	if (over == NONE) /* how is as it was */
		return 0;
	if (over == EVERY && how)
		how->pid = 100;
	if (over == EVERY)
		return 0;
	if (!any(8))
		return -10;
	if (how) {
		memset(how, 0, sizeof *how);
		how->pid = any(3) ? 100 : 0;
		how->status = (int)any(256);
	}
	if (usage) {
		memset(usage, 0, sizeof *usage);
		usage->utime_s = (i64)any(1000);
	}
	return 0;
}

static i64 clone_answer(struct clone_args *args)
{
	if (!well())
		return -12;
	*(int *)args->pidfd = 20 + (int)any(1000);
	return 100;
}

static i64 receive_into(i64 buf, i64 n)
{
	i64 got = moody ? (i64)any(4) - 1 : any(32) > 0; /* everyone falls silent once */

	if (got < 0)
		return -11;
	got = got > n ? n : got;
	memset((void *)buf, 'G', (u64)got);
	return got;
}

i64 raw_call(i64 n, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f)
{
	switch (n) {
	case __NR_exit_group:
		longjmp(ended, 1);
	case __NR_mmap: {
		void *p = aligned_alloc(4096, ((u64)b + 4095) & ~4095ul);

		memset(p, 0, (u64)b);
		return (i64)p;
	}
	case __NR_clone3:
		return clone_answer((struct clone_args *)a);
	case __NR_ppoll:
		if ((u64)b < 2) /* the keeper is there */
			return well() ? 0 : 1;
		((struct { int fd; short events, revents; } *)a)->revents = (short)any(2);
		return well() ? 1 : -12;
	case __NR_pipe2:
		return two_descriptors((int *)a);
	case __NR_socketpair:
		return two_descriptors((int *)d);
	case __NR_waitid:
		return wait_for((struct siginfo_ *)c, (struct rusage_ *)e);
	case __NR_recvfrom:
	case __NR_read:
		return silent ? -11 : receive_into(b, c);
	case __NR_write:
		eat((void *)b, (u64)c);
		return well() ? c : -1;
	case __NR_epoll_ctl:
		if (b != 2 && !refusing)
			watches |= 1u << (((struct epoll_event_ *)d)->data & 0xff);
		return b == 2 ? 0 : refusing ? refusing : well() ? 0 : -ENOSPC_;
	case __NR_sendmsg: {
		const struct msghdr_ *m = (struct msghdr_ *)b;

		eat(m->iov->base, m->iov->len);
		eat(m->control, m->controllen);
		sent++;
		if (sending)
			return sending;
		return any(4) ? (i64)m->iov->len : any(3) ? -EAGAIN_ : any(2) ? -ENOBUFS_ : -32 /* EPIPE */;
	}
	case __NR_openat:
	case __NR_openat2:
	case __NR_unlinkat:
	case __NR_mkdirat:
	case __NR_mknodat:
	case __NR_fchmodat:
	case __NR_open_tree:
		eat_string(b);
		if (n == __NR_openat && !strcmp((char *)b, "/") && !moody)
			return -EACCES_; /* what Landlock's read-back wants */
		return well() ? a_descriptor() : -2;
	case __NR_symlinkat:
		eat_string(a);
		eat_string(c);
		return 0;
	case __NR_fsopen:
	case __NR_chdir:
	case __NR_pivot_root:
	case __NR_umount2:
		eat_string(a);
		return n == __NR_fsopen ? a_descriptor() : 0;
	case __NR_fsconfig:
		if (c)
			eat_string(c);
		if (d)
			eat_string(d);
		return well() ? 0 : -22;
	case __NR_sethostname:
		eat((void *)a, (u64)b);
		return 0;
	case __NR_getcwd:
		strcpy((char *)a, well() ? "/" : "(unreachable)/");
		return 2;
	case __NR_seccomp: {
		const struct sock_fprog *p = (struct sock_fprog *)c;

		eat(p->filter, p->len * sizeof *p->filter);
		return well() ? 30 : -22;
	}
	case __NR_execve:
		eat_string(a);
		eat_strings(b);
		eat_strings(c);
		executed++;
		return -2;
	case __NR_setresuid:
		uid = (u32)a;
		return 0;
	case __NR_setresgid:
		gid = (u32)a;
		return 0;
	case __NR_getresuid:
		*(u32 *)a = *(u32 *)b = *(u32 *)c = uid;
		return 0;
	case __NR_getresgid:
		*(u32 *)a = *(u32 *)b = *(u32 *)c = gid;
		return 0;
	case __NR_capget:
		memset((void *)b, moody && !any(8), 2 * sizeof(struct { u32 sets[3]; }));
		return 0;
	case __NR_prctl:
		if (a == PR_CAPBSET_READ) /* 41 capabilities, or the loops over them would not end */
			return (u64)b < 41 ? (moody ? (i64)any(2) : 0) : -22;
		if (a == PR_SET_SECUREBITS)
			bits = (u64)b;
		return a == PR_GET_SECUREBITS ? (i64)bits : a == PR_GET_NO_NEW_PRIVS ? 1 : well() ? 0 : -1;
	case __NR_fcntl:
	case __NR_pidfd_getfd:
	case __NR_accept4:
		return a_descriptor();
	case __NR_getsockopt:
		memset((void *)d, 0, 12); /* root */
		((u32 *)d)[1] = any(4) ? 0 : 1000;
		return well() ? 0 : -22;
	case __NR_clock_gettime:
		((i64 *)b)[0] = (i64)any(100);
		((i64 *)b)[1] = 0;
		return 0;
	case __NR_flock:
	case __NR_nanosleep:
	case __NR_madvise:
		return 0;
	case __NR_getdents64:
		return 0;
	default:
		return well() ? 0 : -(i64)any(40) - 1;
	}
}

/* A few bytes, words of the header or of a step, or the length are changed. */
static u64 change(u8 *m, u64 n)
{
	static const u32 words[] = {0, 1, 8, 64, 300, 2000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, CK_MAX_MESSAGE, CK_MAX_STEPS, 4096};

	for (u64 times = any(6); times > 0; times--) {
		u64 at = any(8) ? any(n < 4096 ? n : 4096) : any(n);

		if (any(2) && at + 4 <= n)
			memcpy(m + (at & ~3ul), &words[any(sizeof words / sizeof *words)], 4);
		else
			m[at] = (u8)any(256);
	}
	return any(16) ? n : any(n + 1);
}

static void happen(struct slot *s)
{
	switch (any(8)) {
	case 7:
		on_owner((u32)any(64), (int)any(2));
		break;
	case 0:
		if (s->gate >= 0)
			on_gate(s, (int)any(2));
		break;
	case 1:
		if (s->ready >= 0)
			on_ready(s, (int)any(2));
		break;
	case 2:
		if (s->plugin >= 0)
			on_plugin_end(s);
		break;
	case 3:
		if (s->reaper >= 0)
			on_reaper_end(s);
		break;
	case 4:
		if (any(4))
			speak(s);
		else
			speak_all();
		if (unwatched)
			watch_all();
		break;
	case 5: /* the daemon goes, or its successor comes */
		if (control < 0)
			on_successor();
		else if (may_hold())
			daemon_gone();
		if (ending) { /* go on all the same */
			ending = 0;
			control = 20;
		}
		break;
	default:
		on_word(s, any(3) ? any(2) ? CK_KIND_GO : CK_KIND_FORGET : CK_KIND_LOOSE);
	}
}

static void give_descriptors(struct launch *l, u32 n)
{
	l->nfds = n > CK_MAX_FDS ? CK_MAX_FDS : n;
	for (u32 i = 0; i < l->nfds; i++)
		l->fds[i] = 20 + (int)i;
}

/* What was accepted must be safe to run, whatever the kernel answers. */
static void run_accepted(const u8 *data, u64 n)
{
	static struct outcome out;
	static struct launch one, *l = &one;

	memcpy(l->message, data, n);
	ASAN_POISON_MEMORY_REGION(l->message + n, sizeof l->message - n); /* nothing is behind a message */
	l->out = &out;
	give_descriptors(l, n >= sizeof(struct ck_request) ? ((struct ck_request *)l->message)->nfds : 0);
	if (check_request(l, n) == 0) {
		accepted++;
		if (l->request->kind == CK_KIND_LAUNCH && setjmp(ended) == 0)
			run_steps(l);
	} else
		refused++;
	ASAN_UNPOISON_MEMORY_REGION(l->message, sizeof l->message);
}

static void round_of(const u8 *data, u64 n)
{
	static u8 changed[CK_MAX_MESSAGE];
	struct launch *l = free_arena();

	memcpy(changed, data, n);
	n = change(changed, n);
	run_accepted(changed, n);
	if (l != 0) {
		memcpy(l->message, changed, n);
		l->length = n;
		give_descriptors(l, n >= sizeof(struct ck_request) ? ((struct ck_request *)changed)->nfds : 0);
		if (setjmp(ended) == 0)
			obey(l, n);
	}
	for (u64 i = any(24); i > 0 && nslots > 0; i--) {
		struct slot *s = &slots[any(nslots)];

		if (s->state != FREE)
			happen(s);
	}
}

/* What cannot be said for want of room or memory is said later, to a successor after who says it; to a daemon that is gone nothing is. */
static int nothing_is_lost(void)
{
	static const struct { i64 answer; int kept; } cases[] = {{-EAGAIN_, 1}, {-ENOBUFS_, 1}, {-ENOMEM_, 1}, {-ETOOMANYREFS_, 1}, {-EINTR_, 1}, {-32, 0}, {-104, 0}};
	int held = 1;

	control = 20;
	nslots = 1;
	for (u32 i = 0; i < sizeof cases / sizeof *cases; i++)
		for (int new = 0; new < 2; new++) {
			slots[0] = (struct slot){.state = ENDED, .say = SAY_EXITED, .plugin = -1, .reaper = -1, .listener = -1, .killfd = -1, .gate = -1, .ready = -1};
			greeting = new;
			writing = starved = 0;
			sending = cases[i].answer;
			speak_all();
			held &= !!slots[0].say == cases[i].kept && greeting == (new && cases[i].kept);
			held &= !cases[i].kept || writing + starved == 1; /* someone will call again */
			sending = 1;
			speak_all();
			held &= slots[0].say == 0 && !greeting && !starved;
		}
	/* What could not be watched is, once there is room for it. */
	refusing = -ENOSPC_;
	slots[0] = (struct slot){.state = RUNNING, .plugin = 21, .reaper = 22, .listener = -1, .killfd = -1, .gate = -1, .ready = -1};
	watch(21, IN, 0, FROM_PLUGIN, 1);
	held &= unwatched && patience() == STARVED_MS;
	watch_all();
	held &= unwatched;
	refusing = watches = 0;
	watch_all();
	held &= !unwatched && watches == (1 << FROM_DAEMON | 1 << FROM_PLUGIN | 1 << FROM_REAPER) && patience() == -1;
	slots[0].state = FREE;
	sending = control = writing = 0;
	nslots = 0;
	return held;
}

/*
 * A user namespace on its way: an event of who had the place before says nothing of
 * this one, its word does, and of one that nobody waits for any more nothing is said.
 */
static int owners_are_heard(void)
{
	int held;

	control = 20;
	sending = 1;
	silent = 1;
	over = NONE;
	sent = 0;
	begin_userns(7, "1 1 1", "1 1 1");
	on_owner(0, 0);
	on_owner(0, 1);
	held = sent == 0;
	silent = 0;
	on_owner(0, 0);
	held &= sent == 1;
	on_owner(0, 0);
	over = EVERY;
	on_owner(0, 1);
	on_owner(0, 1);
	held &= sent == 1;
	begin_userns(8, "1 1 1", "1 1 1"); /* ends without a word */
	silent = 1;
	on_owner(0, 1);
	held &= sent == 2;
	begin_userns(9, "1 1 1", "1 1 1");
	forget_owners();
	silent = 0;
	on_owner(0, 0);
	on_owner(0, 1);
	held &= sent == 2;
	sending = control = silent = 0;
	over = SOME;
	return held;
}

int main(int argc, char **argv)
{
	static u8 seeds[16][CK_MAX_MESSAGE];
	u64 lengths[16], n = 0;

	if (argc < 4)
		return 2;
	state = strtoul(argv[1], 0, 0) * 2 + 1;
	for (int i = 3; i < argc && n < 16; i++) {
		FILE *f = fopen(argv[i], "r");

		if (!f)
			return 2;
		lengths[n] = fread(seeds[n], 1, sizeof seeds[n], f);
		fclose(f);
		n++;
	}
	if (make_arenas(arenas, ARENAS))
		return 3;
	no_owners();
	if (!nothing_is_lost()) {
		printf("something that could not be said was forgotten\n");
		return 5;
	}
	if (!owners_are_heard()) {
		printf("what came of a user namespace was not said, or said of another\n");
		return 6;
	}
	for (u64 i = strtoul(argv[2], 0, 0); i > 0; i--) {
		u64 which = any(n);

		moody = (int)any(2);
		round_of(seeds[which], lengths[which]);
	}
	printf("%u accepted and %u of them executed, %u refused\n", accepted, executed, refused);
	return executed > 0 && refused > 0 ? 0 : 4;
}
