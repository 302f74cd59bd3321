/*
 * The launcher: one event loop over the daemon's socket and, for each plugin,
 * the gate of its launch, its reaper's first word and two pidfds; for a user
 * namespace on its way (userns.c) the word and the pidfd of its owner.
 *
 *   launch:  reaper cloned (new namespaces, v2 cgroup) -> plugin cloned into the
 *            reaper's pid namespace, sharing one page -> it runs its steps ->
 *            'G' on the gate: its listener is taken, and once the reaper said
 *            'R' it is let go (or STAGED, and GO) -> the gate closes at exec: STARTED
 *   end:     plugin reaped -> reaper killed, and with it the namespace ->
 *            reaper reaped: EXITED -> FORGET: what was held is let go
 *   no daemon: what runs is held for a successor, who is told of every plugin
 *            (KEPT ... ALL) and goes on; when none comes in time every group is
 *            killed, everything reaped, every group directory removed; then we end
 *
 * No plugin can hold up another: nothing here waits but epoll.
 */
#include "slot.h"

#define EVENTS 64
#define MSG_CMSG_CLOEXEC_ 0x40000000
#define MSG_TRUNC_ 0x20
#define MSG_CTRUNC_ 0x8
#define STARVED_MS 20 /* how long waits what could not be done for want of memory */

static struct launch *arenas[ARENAS];
struct slot slots[CK_MAX_SLOTS] __attribute__((aligned(PAGE)));
u32 nslots;
int control, writing, ending, greeting, telling, starved;
static int unwatched; /* something is not, for want of memory */
static int epoll, exe, self;
static u32 daemons;
int proc;

void close_fd(int *fd)
{
	if (*fd >= 0)
		SYS(close, *fd);
	*fd = -1;
}

void watch(int fd, u32 events, u32 slot, enum source source, int op)
{
	struct epoll_event_ event = {events, (u64)slot << 8 | source};
	i64 ret = SYS(epoll_ctl, epoll, op, fd, &event);

	if (ret == -ENOMEM_ || ret == -ENOSPC_) /* only to watch another takes memory */
		unwatched = 1;
}

/*
 * A closed descriptor goes on being reported while a child on its way to its
 * exec holds a copy, and the loop would spin: so it is taken off first.
 */
void unwatch(int fd)
{
	if (fd >= 0)
		SYS(epoll_ctl, epoll, 2 /* EPOLL_CTL_DEL */, fd, (void *)0);
}

static void close_watched(int *fd)
{
	unwatch(*fd);
	close_fd(fd);
}

/* ---- slots ---- */

void forget(struct slot *s)
{
	for (u32 i = 0; i < s->nheld; i++)
		close_fd(&s->held[i]);
	for (u32 i = 0; i < s->ngroups; i++)
		drop_parent(s->groups[i].parent);
	close_fd(&s->killfd);
	close_fd(&s->listener);
	s->nheld = s->ngroups = 0;
	s->state = FREE;
}

static struct slot *free_slot(void)
{
	for (u32 i = 0; i < nslots; i++)
		if (slots[i].state == FREE)
			return &slots[i];
	return nslots < CK_MAX_SLOTS ? &slots[nslots++] : 0;
}

/* Keeps what the daemon's absence needs: descriptors of our own, copied. */
static u32 keep(struct slot *s, struct launch *l)
{
	for (u32 i = 0; i < l->request->nsteps; i++) {
		const struct ck_step *step = &l->steps[i];
		u64 n;
		i64 fd;

		if (ck_op_phase[step->op] != CK_PHASE_KEEP)
			break;
		fd = copy_aside(l->fds[step->fd]);
		if (fd < 0)
			return (u32)-fd;
		if (step->op == CK_OP_KILLFD && s->killfd < 0) {
			s->killfd = (int)fd;
			s->thaws = step->a != 0;
		} else if (step->op == CK_OP_RMDIR) {
			struct group *g = &s->groups[s->ngroups++];

			g->parent = share_parent((int)fd);
			g->shared = step->a != 0;
			n = strlen(l->blob + step->s);
			if (n >= sizeof g->name)
				return ENAMETOOLONG_;
			memcpy(g->name, l->blob + step->s, n + 1);
		} else {
			s->loose[s->nheld] = step->op == CK_OP_HOLD && step->a != 0;
			s->held[s->nheld++] = (int)fd;
		}
	}
	return 0;
}

static void end_all(struct slot *s)
{
	if (s->plugin >= 0)
		SYS(pidfd_send_signal, s->plugin, SIGKILL_, (void *)0, 0);
	if (s->reaper >= 0)
		SYS(pidfd_send_signal, s->reaper, SIGKILL_, (void *)0, 0);
	if (s->killfd >= 0) /* last: what v1 froze dies once it is thawed */
		SYS(write, s->killfd, s->thaws ? "THAWED" : "1", s->thaws ? 6 : 1);
}

/* The launch is over, one way or the other: its arena is free again. */
static void release_arena(struct slot *s)
{
	struct launch *l = s->launch;

	if (l == 0)
		return;
	for (u32 i = 0; i < l->nfds; i++)
		close_fd(&l->fds[i]);
	l->nfds = 0;
	close_fd(&l->reaper);
	memset(l->message, 0, l->length); /* environments hold secrets */
	l->busy = 0;
	s->launch = 0;
	watch(control, IN | (writing ? OUT : 0), 0, FROM_DAEMON, 3);
}

static void fail(struct slot *s, u32 step, u32 error, u32 detail)
{
	if (!(s->say & SAY_FAILED) && !s->adrift) {
		s->say |= SAY_FAILED;
		s->step = step;
		s->error = error;
		s->detail = detail;
	}
	s->state = ENDING;
	end_all(s);
}

/* Both processes are gone: say so. */
static void settle(struct slot *s)
{
	if (s->plugin >= 0 || s->reaper >= 0)
		return;
	close_watched(&s->gate);
	close_watched(&s->ready);
	close_fd(&s->gate_end);
	close_fd(&s->ready_end);
	release_arena(s);
	s->state = ENDED;
	if (!(s->say & SAY_FAILED))
		s->say |= SAY_EXITED;
	speak(s);
}

/* ---- launching ---- */

static u32 clone_reaper(struct slot *s, struct launch *l, u32 index)
{
	int ends[2];
	i64 ret = SYS(pipe2, ends, O_CLOEXEC_ | O_NONBLOCK_);

	if (ret < 0)
		return (u32)-ret;
	ret = clone_for_reaper(l, &l->reaper, exe, ends[1]);
	if (ret == 0)
		become_reaper(l, exe, ends[1]);
	s->ready = ends[0];
	s->ready_end = ends[1];
	if (ret < 0) {
		l->reaper = -1;
		return (u32)-ret;
	}
	s->reaper_pid = (u32)ret;
	ret = copy_aside(l->reaper);
	s->reaper = ret < 0 ? l->reaper : (int)ret;
	if (ret < 0)
		l->reaper = -1;
	watch(s->ready, IN, index, FROM_READY, 1 /* EPOLL_CTL_ADD */);
	watch(s->reaper, IN, index, FROM_REAPER, 1);
	return ret < 0 ? (u32)-ret : 0;
}

static u32 clone_plugin(struct slot *s, struct launch *l, u32 index)
{
	int ends[2];
	i64 ret = SYS(socketpair, 1 /* AF_UNIX */, 5 /* SOCK_SEQPACKET */ | O_CLOEXEC_, 0, ends);

	if (ret < 0)
		return (u32)-ret;
	l->gate = ends[1];
	l->ruleset = -1;
	*l->out = (struct outcome){.listener = -1, .failed = CK_STEP_DIED};
	ret = clone_for_plugin(l, &s->plugin, ends[1]);
	if (ret == 0)
		run_steps(l);
	s->gate = ends[0];
	s->gate_end = ends[1];
	if (ret < 0) {
		s->plugin = -1;
		return (u32)-ret;
	}
	s->plugin_pid = (u32)ret;
	s->plugin = set_aside(s->plugin);
	watch(s->gate, IN, index, FROM_GATE, 1);
	watch(s->plugin, IN, index, FROM_PLUGIN, 1);
	return 0;
}

static void launch(struct launch *l)
{
	struct slot *s = free_slot();
	u32 index, err;

	if (s == 0) {
		refuse(l->request->id, CK_STEP_FULL, EAGAIN_, 0);
		for (u32 i = 0; i < l->nfds; i++)
			close_fd(&l->fds[i]);
		l->nfds = 0;
		return;
	}
	index = (u32)(s - slots);
	*s = (struct slot){.state = LAUNCHING, .id = l->request->id, .launch = l, .stage = l->request->flags & CK_FLAG_STAGE, .plugin = -1, .reaper = -1,
			   .gate = -1, .ready = -1, .gate_end = -1, .ready_end = -1, .listener = -1, .killfd = -1};
	l->busy = 1;
	l->reaper = -1;
	l->keeper = self;
	err = keep(s, l);
	if (err)
		fail(s, CK_STEP_REQUEST, err, 0);
	else if ((err = clone_reaper(s, l, index)) != 0)
		fail(s, CK_STEP_REAPER, err, 0);
	else if ((err = clone_plugin(s, l, index)) != 0)
		fail(s, CK_STEP_CLONE, err, 0);
	settle(s);
}

/* Lets the plugin go on to its exec when its listener is ours and the reaper is up. */
static void open_gate(struct slot *s)
{
	if (!s->gate_waiting || !s->reaper_up || s->state != LAUNCHING)
		return;
	if (s->stage) {
		s->say |= SAY_STAGED;
		speak(s);
	} else
		SYS(sendto, s->gate, "G", 1, MSG_NOSIGNAL_ | MSG_DONTWAIT_, (void *)0, 0);
}

/* over: the plugin has ended, and what it said before means nothing any more. */
static void on_gate(struct slot *s, int over)
{
	struct launch *l = s->launch;
	char byte;
	i64 n;

	do
		n = SYS(recvfrom, s->gate, &byte, 1, MSG_DONTWAIT_, (void *)0, (void *)0);
	while (over && n == 1);
	if (n == -EAGAIN_ && !over)
		return;
	close_fd(&s->gate_end); /* it has spoken: it has its own */
	if (n == 1) {
		if (l->out->listener >= 0) {
			i64 fd = SYS(pidfd_getfd, s->plugin, l->out->listener, 0);

			if (fd < 0)
				return fail(s, CK_STEP_CLONE, (u32)-fd, 0);
			s->listener = set_aside((int)fd);
		}
		s->gate_waiting = 1;
		return open_gate(s);
	}
	/* Closed: executed, or ended before it could. */
	close_watched(&s->gate);
	if (s->state != LAUNCHING)
		return;
	if (!l->out->executing)
		return fail(s, l->out->failed, l->out->error, l->out->detail);
	release_arena(s);
	s->state = RUNNING;
	s->say |= SAY_STARTED;
	speak(s);
}

static void on_ready(struct slot *s, int over)
{
	u32 words[2] = {0, 0};
	i64 n = SYS(read, s->ready, words, sizeof words);

	if (n == -EAGAIN_ && !over)
		return;
	close_watched(&s->ready);
	close_fd(&s->ready_end);
	if (n == 1) {
		s->reaper_up = 1;
		return open_gate(s);
	}
	if (s->state == LAUNCHING)
		fail(s, CK_STEP_REAPER, n == sizeof words ? words[1] : EOWNERDEAD_, words[0]);
}

static void on_plugin_end(struct slot *s)
{
	i64 ret = SYS(waitid, 3 /* P_PIDFD */, s->plugin, &s->how, 4 /* WEXITED */ | 1 /* WNOHANG */, &s->usage);

	if (ret < 0 || s->how.pid == 0)
		return;
	if (s->gate >= 0) /* its end can be seen before the end of the gate */
		on_gate(s, 1);
	if (s->say & SAY_STARTED) /* STARTED could not be sent yet and takes the pidfd along */
		speak(s);
	if (s->state == RUNNING)
		s->state = ENDING;
	close_watched(&s->plugin);
	if (s->reaper >= 0)
		SYS(pidfd_send_signal, s->reaper, SIGKILL_, (void *)0, 0);
	settle(s);
}

static void on_reaper_end(struct slot *s)
{
	struct siginfo_ how;

	how.pid = 0;
	if (SYS(waitid, 3, s->reaper, &how, 4 | 1, (void *)0) < 0 || how.pid == 0)
		return;
	if (s->ready >= 0)
		on_ready(s, 1);
	close_watched(&s->reaper);
	if (s->plugin >= 0) /* it is in the namespace that has just ended */
		SYS(pidfd_send_signal, s->plugin, SIGKILL_, (void *)0, 0);
	settle(s);
}

static void answer_template(struct launch *l)
{
	struct ck_reply r = {.magic = CK_MAGIC, .version = CK_VERSION, .id = l->request->id, .kind = CK_KIND_TEMPLATE_MADE};
	int fd = make_template(l);

	if (fd < 0)
		return refuse(r.id, l->out->failed, (u32)-fd, l->out->detail);
	if (send_reply(&r, &fd, 1))
		refuse(r.id, CK_STEP_FULL, EAGAIN_, 0);
	SYS(close, fd);
}

/* ---- the daemon ---- */

static void end_everything(void)
{
	ending = 1;
	keep_for(-1, 0);
	hold_ends();
	for (u32 i = 0; i < nslots; i++)
		if (slots[i].state != FREE)
			end_all(&slots[i]);
}

/* Watches everything that is to be; what is already, is. */
static void watch_all(void)
{
	unwatched = 0;
	if (control >= 0)
		watch(control, IN | (writing ? OUT : 0), 0, FROM_DAEMON, 1);
	else if (!ending && hold_left() >= 0)
		watch(hold_begins(), IN, 0, FROM_SUCCESSOR, 1);
	for (u32 i = 0; i < nslots; i++) {
		const struct slot *s = &slots[i];
		int fds[] = {s->gate, s->ready, s->plugin, s->reaper};

		for (u32 n = 0; n < 4 && s->state != FREE; n++)
			if (fds[n] >= 0)
				watch(fds[n], IN, i, FROM_GATE + n, 1);
	}
	watch_owners();
}

/* Says all that is left to say; a successor is told first who says it. */
static void speak_all(void)
{
	struct ck_reply r = {.magic = CK_MAGIC, .version = CK_VERSION, .kind = CK_KIND_KEEPER};

	starved = 0;
	if (control < 0)
		return;
	if (greeting) {
		r.pid = (u32)SYS(getpid, 0);
		r.detail = daemons;
		if (send_reply(&r, &self, 1))
			return;
		greeting = 0;
	}
	for (u32 i = 0; i < nslots; i++)
		if (slots[i].say)
			speak(&slots[i]);
	say_all();
}

/* What had not reached its exec ends; whoever comes is told of all the same. */
static void await_successor(void)
{
	for (u32 i = 0; i < nslots; i++) {
		struct slot *s = &slots[i];

		if (s->state == FREE)
			continue;
		s->adrift = 1;
		s->say = s->state == ENDED ? SAY_EXITED : 0;
		if (s->state == LAUNCHING)
			fail(s, CK_STEP_DIED, ECANCELED_, 0);
	}
}

static int all_ended(void)
{
	for (u32 i = 0; i < nslots; i++)
		if (slots[i].state != FREE && slots[i].state != ENDED)
			return 0;
	return 1;
}

static void daemon_gone(void)
{
	int fd;

	close_watched(&control);
	writing = greeting = telling = starved = 0;
	forget_owners();
	if (all_ended() || (fd = hold_begins()) < 0)
		return end_everything();
	await_successor();
	watch(fd, IN, 0, FROM_SUCCESSOR, 1 /* EPOLL_CTL_ADD */);
}

static void on_successor(void)
{
	int fd = take_successor(), listening = hold_begins();

	if (fd < 0)
		return;
	SYS(epoll_ctl, epoll, 2 /* EPOLL_CTL_DEL */, listening, (void *)0);
	hold_ends();
	control = fd;
	watch(control, IN, 0, FROM_DAEMON, 1);
	daemons++;
	greeting = telling = 1;
	for (u32 i = 0; i < nslots; i++)
		if (slots[i].state != FREE)
			slots[i].say |= SAY_KEPT;
	speak_all();
}

static struct launch *free_arena(void)
{
	for (u32 i = 0; i < ARENAS; i++)
		if (!arenas[i]->busy)
			return arenas[i];
	return 0;
}

/*
 * One message into an arena, with its descriptors; 0 when the daemon is gone,
 * minus EBADMSG when it did not fit or its descriptors did not (the header is
 * there all the same, so that the refusal finds who asked).
 */
static i64 receive(struct launch *l)
{
	static struct { struct cmsghdr_ header; int fds[CK_MAX_FDS]; } data __attribute__((aligned(8)));
	struct iovec_ iov = {l->message, sizeof l->message};
	struct msghdr_ message = {0, 0, 0, &iov, 1, &data, sizeof data, 0, 0};
	i64 n = SYS(recvmsg, control, &message, MSG_DONTWAIT_ | MSG_CMSG_CLOEXEC_);

	l->nfds = 0;
	l->length = n > 0 ? (u64)n : 0;
	if (n >= 0 && n < (i64)sizeof(struct ck_request))
		((struct ck_request *)l->message)->id = 0;
	if (n >= 0 && message.controllen >= sizeof(struct cmsghdr_) && data.header.level == 1 && data.header.type == 1)
		l->nfds = (u32)((data.header.len - sizeof(struct cmsghdr_)) / sizeof(int));
	for (u32 i = 0; i < l->nfds; i++)
		l->fds[i] = data.fds[i];
	return n > 0 && (message.flags & (MSG_TRUNC_ | MSG_CTRUNC_)) ? -EBADMSG_ : n;
}

/* What the daemon says of a plugin; out of its time it means nothing. */
static void on_word(struct slot *s, u32 kind)
{
	if (kind == CK_KIND_FORGET && s->state == ENDED)
		forget(s);
	else if (kind == CK_KIND_FORGET && s->state == LAUNCHING) /* nobody waits for it any more */
		fail(s, CK_STEP_DIED, ECANCELED_, 0);
	else if (kind == CK_KIND_FORGET && s->state == RUNNING) { /* its descriptors did not arrive */
		s->state = ENDING;
		end_all(s);
	}
	for (u32 i = 0; kind == CK_KIND_LOOSE && i < s->nheld; i++)
		if (s->loose[i])
			close_fd(&s->held[i]);
	if (kind == CK_KIND_GO && s->state == LAUNCHING && s->stage) {
		s->stage = 0;
		open_gate(s);
	}
}

static void obey(struct launch *l, u64 n)
{
	u32 wrong = check_request(l, n);
	u64 id = n >= sizeof(struct ck_request) ? ((struct ck_request *)l->message)->id : 0;

	if (!wrong && l->request->kind == CK_KIND_LAUNCH)
		return launch(l);
	if (wrong)
		refuse(id, CK_STEP_REQUEST, EBADMSG_, wrong);
	else if (l->request->kind == CK_KIND_USERNS)
		begin_userns(id, l->blob, next_string(l->blob));
	else if (l->request->kind == CK_KIND_TEMPLATE)
		answer_template(l);
	else if (l->request->kind == CK_KIND_KEEP)
		keep_for(l->nfds ? l->fds[0] : -1, l->request->flags);
	else
		for (u32 i = 0; i < nslots; i++)
			if (slots[i].state != FREE && slots[i].id == id)
				on_word(&slots[i], l->request->kind);
	for (u32 i = 0; i < l->nfds; i++)
		close_fd(&l->fds[i]);
	l->nfds = 0;
}

static void on_daemon(u32 events)
{
	struct launch *l = free_arena();
	i64 n;

	if (writing && (events & OUT)) {
		writing = 0;
		speak_all();
		watch(control, IN | (writing ? OUT : 0), 0, FROM_DAEMON, 3);
	}
	if (!(events & (IN | HUP)))
		return;
	if (l == 0) { /* all arenas are in flight: the next to land watches again */
		watch(control, writing ? OUT : 0, 0, FROM_DAEMON, 3);
		if (events & HUP)
			daemon_gone();
		return;
	}
	n = receive(l);
	if (n == -EAGAIN_ || n == -EINTR_)
		return;
	if (n == -EBADMSG_) {
		for (u32 i = 0; i < l->nfds; i++)
			close_fd(&l->fds[i]);
		l->nfds = 0;
		return refuse(((struct ck_request *)l->message)->id, CK_STEP_REQUEST, EBADMSG_, 11);
	}
	if (n <= 0)
		return daemon_gone();
	obey(l, (u64)n);
}

static void handle(const struct epoll_event_ *event)
{
	struct slot *s = &slots[event->data >> 8 & (CK_MAX_SLOTS - 1)];

	switch ((enum source)(event->data & 0xff)) {
	case FROM_DAEMON:
		if (!ending && control >= 0)
			on_daemon(event->events);
		break;
	case FROM_SUCCESSOR:
		if (!ending && control < 0)
			on_successor();
		break;
	case FROM_GATE:
		if (s->gate >= 0)
			on_gate(s, 0);
		break;
	case FROM_READY:
		if (s->ready >= 0)
			on_ready(s, 0);
		break;
	case FROM_PLUGIN:
		if (s->plugin >= 0)
			on_plugin_end(s);
		break;
	case FROM_REAPER:
		if (s->reaper >= 0)
			on_reaper_end(s);
		break;
	case FROM_OWNER:
	case FROM_OWNER_END:
		on_owner((u32)(event->data >> 8), (event->data & 0xff) == FROM_OWNER_END);
		break;
	}
}

static void remove_groups(void)
{
	for (u32 i = 0; i < nslots; i++)
		for (u32 g = 0; g < slots[i].ngroups; g++)
			if (!slots[i].groups[g].shared)
				remove_group(&slots[i].groups[g]);
	for (u32 i = 0; i < nslots; i++)
		remove_shared(slots[i].groups, slots[i].ngroups);
}

static int prepare(void)
{
	u64 all = ~0ul;
	i64 fd;

	SYS(rt_sigprocmask, 2, &all, (void *)0, 8);
	SYS(setsid, 0);
	SYS(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	SYS(prctl, PR_SET_NAME, "cordon-keeper", 0, 0, 0);
	/* 0 to FIRST_FREE-1 are /dev/null from here on; see LAST_FD. */
	control = (int)SYS(fcntl, control, F_DUPFD_CLOEXEC_, FIRST_FREE);
	fd = SYS(openat, AT_FDCWD_, "/dev/null", O_RDWR_ | O_CLOEXEC_, 0);
	for (int i = 0; i < FIRST_FREE; i++)
		if (i != fd)
			SYS(dup3, fd, i, O_CLOEXEC_);
	SYS(close_range, control + 1, ~0u, 0);
	SYS(umask, 0);
	raise_descriptors();
	exe = (int)SYS(openat, AT_FDCWD_, "/proc/self/exe", O_PATH_ | O_CLOEXEC_, 0);
	proc = (int)SYS(openat, AT_FDCWD_, "/proc", O_PATH_ | O_DIRECTORY_ | O_CLOEXEC_, 0);
	self = (int)SYS(pidfd_open, SYS(getpid, 0), 0);
	epoll = (int)SYS(epoll_create1, O_CLOEXEC_);
	if (fd < 0 || control < 0 || exe < 0 || proc < 0 || self < 0 || epoll < 0 || remember_home() || make_arenas(arenas, ARENAS) || keep_to_us(slots, sizeof slots))
		return 1;
	if (confine())
		return 1;
	no_owners();
	watch(control, IN, 0, FROM_DAEMON, 1);
	return 0;
}

/* How long to wait for what happens: -1 is for ever. */
static int patience(void)
{
	int left = hold_left();

	return (starved || unwatched) && (left < 0 || left > STARVED_MS) ? STARVED_MS : left;
}

int launcher_main(int daemon)
{
	static struct epoll_event_ events[EVENTS];

	control = daemon;
	if (prepare())
		return 1;
	while (!ending || !all_ended()) {
		i64 n = SYS(epoll_pwait, epoll, events, EVENTS, patience(), (void *)0, 8);

		for (i64 i = 0; i < n; i++)
			handle(&events[i]);
		if (unwatched)
			watch_all();
		if (starved)
			speak_all();
		if (hold_left() == 0)
			end_everything();
	}
	end_owners();
	remove_groups();
	return 0;
}
