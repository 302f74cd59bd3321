/*
 * Mount namespaces that are prepared once for a plan: what every start of it has
 * alike and nobody can write. A start enters a copy.
 */
#include "keeper.h"

/* In the new namespace: take the steps, say how it went, stay until it was taken. */
static void prepare_tree(struct launch *l, int go, int done)
{
	char byte = take_steps(l) != 0;

	SYS(write, done, &byte, 1);
	SYS(read, go, &byte, 1);
	for (;;)
		SYS(exit_group, 0);
}

static int take_tree(struct launch *l, u32 pid, int child, int done)
{
	int failed = hear(done, child);

	if (failed < 0)
		return failed;
	return failed ? -(int)l->out->error : (int)process_file(pid, "ns/mnt", O_RDONLY_);
}

int make_template(struct launch *l)
{
	int go[2], done[2], fd, child = -1;
	i64 pid;

	*l->out = (struct outcome){.listener = -1, .failed = CK_STEP_DIED};
	pid = two_pipes(go, done);
	if (pid < 0)
		return (int)pid;
	pid = clone_for_template(l, &child, go[0], done[1]);
	if (pid == 0)
		prepare_tree(l, go[0], done[1]);
	fd = pid < 0 ? (int)pid : take_tree(l, (u32)pid, child, done[0]);
	close_both(go);
	close_both(done);
	if (pid > 0) {
		SYS(pidfd_send_signal, child, SIGKILL_, (void *)0, 0);
		SYS(waitid, 3, child, (void *)0, 4, (void *)0);
		SYS(close, child);
	}
	return fd;
}
