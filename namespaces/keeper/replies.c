/*
 * What the launcher tells the daemon. Nothing here waits: what does not fit, or
 * finds no memory, is said when there is room.
 */
#include "slot.h"

int send_reply(struct ck_reply *reply, const int *fds, u32 nfds)
{
	struct { struct cmsghdr_ header; int fds[CK_MAX_HOLD + 2]; } control_data = {{sizeof(struct cmsghdr_) + nfds * sizeof(int), 1, 1}, {0}};
	struct iovec_ iov = {reply, sizeof *reply};
	struct msghdr_ message = {0, 0, 0, &iov, 1, 0, 0, 0, 0};
	i64 ret;

	for (u32 i = 0; i < nfds; i++)
		control_data.fds[i] = fds[i];
	if (nfds) {
		message.control = &control_data;
		message.controllen = sizeof(struct cmsghdr_) + ((nfds * sizeof(int) + 7) & ~7ul);
	}
	ret = SYS(sendmsg, control, &message, MSG_DONTWAIT_ | MSG_NOSIGNAL_);
	switch (-ret) {
	case EAGAIN_:
		if (!writing) {
			writing = 1;
			watch(control, IN | OUT, 0, FROM_DAEMON, 3 /* EPOLL_CTL_MOD */);
		}
		return -1;
	case ENOBUFS_: /* the kernel is short of memory, or of descriptors in flight: nothing tells when it is not */
	case ENOMEM_:
	case ETOOMANYREFS_:
	case EINTR_:
		starved = 1;
		return -1;
	}
	return 0; /* any other error: the daemon is gone, which the loop sees */
}

/* All that a successor needs of a plugin; what has ended by then it is told next. */
static int say_kept(const struct slot *s, struct ck_reply r)
{
	int fds[CK_MAX_HOLD + 2];
	u32 n = 0;

	r.kind = CK_KIND_KEPT;
	r.detail = (s->plugin >= 0 ? CK_HAS_PIDFD : 0) | (s->listener >= 0 ? CK_HAS_LISTENER : 0);
	if (s->plugin >= 0)
		fds[n++] = s->plugin;
	if (s->listener >= 0)
		fds[n++] = s->listener;
	for (u32 i = 0; i < s->nheld; i++)
		if (s->held[i] >= 0)
			fds[n++] = s->held[i];
	return send_reply(&r, fds, n);
}

void say_all(void)
{
	struct ck_reply r = {.magic = CK_MAGIC, .version = CK_VERSION, .kind = CK_KIND_ALL};

	for (u32 i = 0; i < nslots; i++)
		if (slots[i].say & SAY_KEPT)
			return;
	if (telling && !send_reply(&r, 0, 0))
		telling = 0;
}

/* Sends what a slot has to say, in order; what does not fit waits for EPOLLOUT. */
void speak(struct slot *s)
{
	struct ck_reply r = {.magic = CK_MAGIC, .version = CK_VERSION, .id = s->id};
	int fds[2] = {s->plugin, s->listener};

	if (ending)
		s->say = 0;
	if (control < 0 || greeting) /* what is left to say is a successor's, once it knows who says it */
		return;
	r.pid = s->plugin_pid;
	r.reaper = s->reaper_pid;
	if (s->say & SAY_KEPT) {
		if (say_kept(s, r))
			return;
		s->say &= ~(u32)SAY_KEPT;
	}
	if (s->say & SAY_STAGED) {
		r.kind = CK_KIND_STAGED;
		if (send_reply(&r, 0, 0))
			return;
		s->say &= ~(u32)SAY_STAGED;
	}
	if (s->say & SAY_STARTED) {
		r.kind = CK_KIND_STARTED;
		if (send_reply(&r, fds, s->plugin < 0 ? 0 : s->listener < 0 ? 1 : 2))
			return;
		s->say &= ~(u32)SAY_STARTED;
		if (!may_hold())
			close_fd(&s->listener); /* the daemon's from here on */
	}
	if (s->say & SAY_FAILED) {
		r.kind = CK_KIND_FAILED;
		r.step = s->step;
		r.error = s->error;
		r.detail = s->detail;
		if (send_reply(&r, 0, 0))
			return;
		s->say = 0;
		forget(s);
	}
	if (s->say & SAY_EXITED) {
		r.kind = CK_KIND_EXITED;
		r.code = (u32)s->how.code;
		r.status = (u32)s->how.status;
		r.utime = (u64)(s->usage.utime_s * 1000000 + s->usage.utime_us);
		r.stime = (u64)(s->usage.stime_s * 1000000 + s->usage.stime_us);
		r.maxrss = (u64)s->usage.maxrss;
		if (send_reply(&r, 0, 0))
			return;
		s->say = 0;
	}
}

/* A refusal that never had a slot; lost if the daemon does not read, as it then also times out. */
void refuse(u64 id, u32 step, u32 error, u32 detail)
{
	struct ck_reply r = {.magic = CK_MAGIC, .version = CK_VERSION, .id = id, .kind = CK_KIND_FAILED,
			     .step = step, .error = error, .detail = detail};

	send_reply(&r, 0, 0);
}
