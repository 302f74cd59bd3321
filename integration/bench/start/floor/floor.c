/*
 * The floor: what a start costs with no daemon around it. It makes the system
 * calls of a start in one process: groups and their limits, detached trees, the
 * reaper, the plugin and every step up to its exec (the keeper's own steps.c,
 * check.c and reaper.c, on a plan that cordon compiled), the listener, the end.
 * What only a daemon needs is left out: locks, what is kept for its absence,
 * its own detectors.
 *
 * Beside that it starts whole programs (bubblewrap and others) by vfork and
 * exec, so that all of them are started alike.
 *
 *   floor CONFIG    the file has a line a setting; see read_config
 *
 * Commands on standard input, each answered by one line of nanoseconds from the
 * start to the program's first instruction and to its reaped exit:
 *   c    everything made on the spot, but the user namespace of the uid and the
 *        mount namespace that is kept for the plan
 *   m    make groups and network namespace ahead for the next p; answers 0 0
 *   p    with what m made
 *   t    as c, and what each part of it took: "STAGE=NANOSECONDS" of the stages
 *        below, of the steps as "stepN" from 0, separated by spaces
 *   sN   start program N
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "keeper.h"

#define MAX_GROUPS 8
#define MAX_SETS 16
#define MAX_FILES 64
#define MAX_SPAWNS 16
#define MAX_WORDS 64

struct set { char *file, *value; };
struct hierarchy { char *dir; int v2; struct set sets[MAX_SETS]; int nsets; int fd, use; };
enum kind { INHERITED, OUTPUT, NOTHING, DIRECTORY, KILL, TASKS, TREE, TEMPLATE };
struct file { enum kind kind; u64 n; char *path; };

static struct hierarchy groups[MAX_GROUPS];
static char *spawns[MAX_SPAWNS][MAX_WORDS];
static int hidden[MAX_SPAWNS], without_v2 = -1; /* programs that see no cgroup v2, and the mount namespace for them */
static int ngroups, nspawns, exe, own_pids, own_net, netns = -1, made;
static const char *filter_path;
static struct launch *l;
static struct plan { u8 message[CK_MAX_MESSAGE]; u64 length; struct file files[MAX_FILES]; int nfiles; } plan, template, *describing = &plan;
static int template_ns = -1;

/*
 * The times of a start that is looked at, shared with the plugin: of the stages
 * in their order, and of the beginning of each step; looking is off otherwise.
 */
enum stage { BEGUN, GROUPS, FILES, NETWORK, REAPER, PLUGIN, FIRST_STEP, LET_GO, INSTRUCTION, ENDED, STAGES };
static const char *const stages[STAGES] = {"", "groups", "files", "network", "reaper", "plugin", "switch", "let_go", "exec", "end"};
static struct { int looking; i64 stage[STAGES], step[CK_MAX_STEPS]; } *times;

static void die(const char *what, i64 ret)
{
	fprintf(stderr, "floor: cannot %s: error %ld\n", what, -ret);
	exit(1);
}

static i64 must(const char *what, i64 ret)
{
	if (ret < 0)
		die(what, ret);
	return ret;
}

static i64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000l + ts.tv_nsec;
}

static void passed(enum stage s)
{
	if (times->looking)
		times->stage[s] = now();
}

/* ---- groups and files ---- */

static void write_value(int dir, const char *file, const char *value)
{
	i64 fd = must(file, SYS(openat, dir, file, O_WRONLY_ | O_CLOEXEC_, 0));

	must(file, SYS(write, fd, value, strlen(value)));
	SYS(close, fd);
}

static void make_group(struct hierarchy *g)
{
	must(g->dir, SYS(mkdir, g->dir, 0755));
	g->fd = (int)must(g->dir, SYS(openat, AT_FDCWD_, g->dir, O_RDONLY_ | O_DIRECTORY_ | O_CLOEXEC_, 0));
	for (int i = 0; i < g->nsets; i++)
		write_value(g->fd, g->sets[i].file, g->sets[i].value);
	g->use = (int)must("join", SYS(openat, g->fd, g->v2 ? "cgroup.kill" : "tasks", O_WRONLY_ | O_CLOEXEC_, 0));
}

static void make_groups(void)
{
	for (int i = 0; i < ngroups; i++)
		make_group(&groups[i]);
}

static void remove_groups(void)
{
	for (int i = ngroups - 1; i >= 0; i--) {
		while (SYS(rmdir, groups[i].dir) == -EBUSY_)
			usleep(100);
		SYS(close, groups[i].use);
		SYS(close, groups[i].fd);
	}
}

static int open_tree_at(const struct file *f)
{
	struct open_how how = {.flags = O_PATH_ | O_CLOEXEC_ | O_NOFOLLOW_, .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
	struct mount_attr attr = {.attr_set = f->n, .propagation = 1 << 18};
	i64 fd = must(f->path, SYS(openat2, AT_FDCWD_, f->path, &how, sizeof how)), tree;

	tree = must(f->path, SYS(open_tree, fd, "", OPEN_TREE_CLONE | O_CLOEXEC_ | AT_EMPTY_PATH_));
	must(f->path, SYS(mount_setattr, tree, "", AT_EMPTY_PATH_, &attr, sizeof attr));
	SYS(close, fd);
	return (int)tree;
}

static int open_file(const struct file *f, int output)
{
	switch (f->kind) {
	case INHERITED:
		return (int)f->n;
	case OUTPUT:
		return output;
	case NOTHING:
		return (int)must("open /dev/null", SYS(openat, AT_FDCWD_, "/dev/null", O_RDWR_ | O_CLOEXEC_, 0));
	case DIRECTORY:
		return groups[f->n].fd;
	case KILL:
	case TASKS:
		return groups[f->n].use;
	case TREE:
		return open_tree_at(f);
	case TEMPLATE:
		return template_ns;
	}
	return -1;
}

/* ---- a start ---- */

static u64 wanted_namespaces(void)
{
	u64 flags = CLONE_NEWPID;

	for (u32 i = 0; i < l->request->nsteps; i++)
		if (l->steps[i].op == CK_OP_NAMESPACE)
			flags |= l->steps[i].a & (CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS);
	return flags;
}

static void into_group(struct clone_args *args)
{
	if (l->request->cgroup_fd == CK_NO_STRING)
		return;
	args->flags |= CLONE_INTO_CGROUP;
	args->cgroup = (u64)l->fds[l->request->cgroup_fd];
}

/* A thread makes the network namespace while the groups are made. */
static sem_t wanted, given;

static void new_network(void)
{
	must("make a network namespace", SYS(unshare, CLONE_NEWNET));
	netns = (int)must("hold it", SYS(openat, AT_FDCWD_, "/proc/thread-self/ns/net", O_RDONLY_ | O_CLOEXEC_, 0));
	must("come back", SYS(setns, own_net, CLONE_NEWNET));
}

static void *make_networks(void *nothing)
{
	for (;;) {
		while (sem_wait(&wanted) < 0)
			;
		new_network();
		sem_post(&given);
	}
	return nothing;
}

static int start_reaper(int *ready)
{
	int ends[2];
	struct clone_args args = {.flags = CLONE_PIDFD | CLONE_CLEAR_SIGHAND | wanted_namespaces(), .pidfd = (u64)&l->reaper, .exit_signal = SIGCHLD_};
	i64 ret;

	must("pipe", SYS(pipe2, ends, O_CLOEXEC_));
	into_group(&args);
	args.flags &= ~(u64)CLONE_NEWNET;
	must("enter the network namespace", SYS(setns, netns, CLONE_NEWNET));
	ret = must("make the reaper", SYS(clone3, &args, sizeof args));
	if (ret == 0) {
		take_turns_of(LONG_TURN);
		become_reaper(l, exe, ends[1]);
	}
	must("come back", SYS(setns, own_net, CLONE_NEWNET));
	SYS(close, ends[1]);
	*ready = ends[0];
	return (int)ret;
}

/* Takes the steps one by one. The last of them waits to be let go. */
static void look_at_steps(void)
{
	struct ck_step *steps = l->steps;
	u32 n = l->request->nsteps;

	passed(FIRST_STEP);
	l->request->nsteps = 1;
	for (u32 i = 0; i < n; i++) {
		l->steps = steps + i;
		times->step[i] = now();
		if (take_steps(l)) {
			l->out->failed = i;
			break;
		}
	}
	for (;;)
		SYS(exit_group, 127);
}

static int start_plugin(int *pidfd, int *gate)
{
	int ends[2];
	struct clone_args args = {.flags = CLONE_PIDFD | CLONE_CLEAR_SIGHAND, .pidfd = (u64)pidfd, .exit_signal = SIGCHLD_};
	i64 ret;

	must("socketpair", SYS(socketpair, 1, 5 | O_CLOEXEC_, 0, ends));
	into_group(&args);
	l->gate = ends[1];
	l->ruleset = -1;
	*l->out = (struct outcome){.listener = -1, .failed = CK_STEP_DIED};
	must("enter the pid namespace", SYS(setns, l->reaper, CLONE_NEWPID));
	ret = must("make the plugin", SYS(clone3, &args, sizeof args));
	if (ret == 0) {
		take_turns_of(LONG_TURN);
		times->looking ? look_at_steps() : run_steps(l);
	}
	must("come back", SYS(setns, own_pids, CLONE_NEWPID));
	SYS(close, ends[1]);
	*gate = ends[0];
	return (int)ret;
}

/* A plan that is not for this host could make the program wait for ever. */
static void await(int fd, const char *what)
{
	struct { int fd; short events, revents; } poll = {fd, 1 /* POLLIN */, 0};
	i64 minute[2] = {60, 0};

	if (SYS(ppoll, &poll, 1, minute, (void *)0, 8) != 1) {
		SYS(pidfd_send_signal, l->reaper, SIGKILL_, (void *)0, 0);
		die(what, -ECANCELED_);
	}
}

/* Waits for both at the gate, takes the listener, lets the plugin go. */
static int let_go(int pidfd, int gate, int ready)
{
	char byte;
	i64 listener = -1;

	if (SYS(read, gate, &byte, 1) != 1) {
		fprintf(stderr, "floor: step %u failed: error %u\n", l->out->failed, l->out->error);
		exit(1);
	}
	if (l->out->listener >= 0)
		listener = must("take the listener", SYS(pidfd_getfd, pidfd, l->out->listener, 0));
	if (SYS(read, ready, &byte, 1) != 1)
		die("start the reaper", -EOWNERDEAD_);
	SYS(close, ready);
	passed(LET_GO);
	must("open the gate", SYS(write, gate, "G", 1));
	await(gate, "execute within a minute");
	if (SYS(read, gate, &byte, 1) != 0 || !l->out->executing)
		die("execute", -(i64)l->out->error);
	SYS(close, gate);
	return (int)listener;
}

static void end_both(int pidfd, int listener)
{
	struct siginfo_ how;

	must("reap the plugin", SYS(waitid, 3, pidfd, &how, 4, (void *)0));
	SYS(pidfd_send_signal, l->reaper, SIGKILL_, (void *)0, 0);
	must("reap the reaper", SYS(waitid, 3, l->reaper, &how, 4, (void *)0));
	SYS(close, pidfd);
	SYS(close, l->reaper);
	if (listener >= 0)
		SYS(close, listener);
}

/*
 * The stages are of two processes: the plugin's steps begin with a switch to it,
 * and its last one ends when it is let go.
 */
static void tell_stages(i64 first, i64 reaped)
{
	u32 n = l->request->nsteps;

	times->stage[INSTRUCTION] = first;
	times->stage[ENDED] = reaped;
	for (int s = GROUPS; s < STAGES; s++)
		if (s != LET_GO)
			printf(" %s=%ld", stages[s], times->stage[s] - times->stage[s - 1]);
	for (u32 i = 0; i + 1 < n; i++)
		printf(" step%u=%ld", i, times->step[i + 1] - times->step[i]);
	printf(" %s=%ld", stages[LET_GO], times->stage[LET_GO] - times->step[n - 1]);
}

static void answer(int output, i64 begin, i64 reaped)
{
	i64 first = 0;

	if (read(output, &first, sizeof first) != sizeof first)
		die("hear from the program", 0);
	close(output);
	printf("%ld %ld", first - begin, reaped - begin);
	if (times->looking)
		tell_stages(first, reaped);
	printf("\n");
	fflush(stdout);
}

static void load_plan(const struct plan *p)
{
	u32 wrong;

	memcpy(l->message, p->message, p->length);
	l->nfds = (u32)p->nfiles;
	wrong = check_request(l, p->length);
	if (wrong)
		die("use the plan", -(i64)wrong);
}

static void open_files(const struct plan *p, int output)
{
	for (int i = 0; i < p->nfiles; i++)
		l->fds[i] = open_file(&p->files[i], output);
}

static void close_files(const struct plan *p)
{
	for (int i = 0; i < p->nfiles; i++)
		if (p->files[i].kind == TREE || p->files[i].kind == NOTHING || p->files[i].kind == OUTPUT)
			SYS(close, l->fds[i]);
}

/* What cordon keeps for a plan: made once, and a copy entered by each start. */
static void prepare_template(void)
{
	struct clone_args args = {.flags = CLONE_NEWNS | CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD_};
	int ends[2];
	char path[64], failed = 1;
	i64 pid;

	if (template.length == 0)
		return;
	open_files(&template, -1);
	load_plan(&template);
	must("pipe", SYS(pipe2, ends, O_CLOEXEC_));
	pid = must("make a mount namespace", SYS(clone3, &args, sizeof args));
	if (pid == 0) {
		failed = take_steps(l) != 0;
		SYS(write, ends[1], &failed, 1);
		for (;;)
			pause();
	}
	if (SYS(read, ends[0], &failed, 1) != 1 || failed)
		die("take the steps of the template", -(i64)l->out->error);
	snprintf(path, sizeof path, "/proc/%ld/ns/mnt", pid);
	template_ns = (int)must("hold it", open(path, O_RDONLY | O_CLOEXEC));
	SYS(kill, pid, SIGKILL_);
	waitpid((pid_t)pid, 0, 0);
	SYS(close, ends[0]);
	SYS(close, ends[1]);
	close_files(&template);
}

static void start_walled(int pooled)
{
	int output[2], ready, gate, pidfd, listener;
	i64 begin;

	must("pipe", SYS(pipe2, output, O_CLOEXEC_));
	begin = now();
	passed(BEGUN);
	if (!pooled) {
		sem_post(&wanted);
		make_groups();
	}
	passed(GROUPS);
	open_files(&plan, output[1]);
	load_plan(&plan);
	passed(FILES);
	while (!pooled && sem_wait(&given) < 0)
		;
	passed(NETWORK);
	start_reaper(&ready);
	passed(REAPER);
	start_plugin(&pidfd, &gate);
	passed(PLUGIN);
	close_files(&plan);
	listener = let_go(pidfd, gate, ready);
	end_both(pidfd, listener);
	answer(output[0], begin, now());
	remove_groups();
	close(netns);
	made = 0;
}

static void make_ahead(void)
{
	if (made)
		return;
	make_groups();
	new_network();
	made = 1;
}

/* ---- whole programs ---- */

static void start_program(int n)
{
	int output[2], status;
	i64 begin;
	pid_t pid;

	if (pipe2(output, O_CLOEXEC) < 0)
		die("pipe", -errno);
	begin = now();
	pid = vfork();
	if (pid == 0) {
		/* First, as both may stand at 9. */
		if (hidden[n] && setns(without_v2, CLONE_NEWNS) < 0)
			_exit(126);
		dup2(output[1], 1);
		if (filter_path) {
			int fd = open(filter_path, O_RDONLY);

			if (fd >= 0 && fd != 9)
				dup2(fd, 9);
		}
		execv(spawns[n][0], spawns[n]);
		_exit(127);
	}
	close(output[1]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (status != 0) {
		printf("failed with wait status %d\n", status);
		fflush(stdout);
		close(output[0]);
		return;
	}
	answer(output[0], begin, now());
}

/* A mount namespace like ours but for the v2 hierarchy beside those of v1. */
static void hide_v2(void)
{
	int ours = (int)must("hold the mounts", open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));

	must("make a mount namespace", SYS(unshare, CLONE_NEWNS));
	must("make it private", SYS(mount, "", "/", "", MS_REC | MS_PRIVATE, 0));
	must("hide cgroup v2", SYS(umount2, "/sys/fs/cgroup/unified", MNT_DETACH));
	without_v2 = (int)must("hold it", open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));
	must("come back", SYS(setns, ours, CLONE_NEWNS));
	close(ours);
}

/* ---- settings ---- */

static char *word(char **rest)
{
	char *w = *rest;

	if (w == 0)
		return 0;
	*rest = strchr(w, '\t');
	if (*rest)
		*(*rest)++ = 0;
	return strdup(w);
}

static void read_message(struct plan *p, const char *path)
{
	int fd = open(path, O_RDONLY);
	i64 n = read(fd, p->message, sizeof p->message);

	if (n <= 0)
		die("read the plan", -errno);
	p->length = (u64)n;
	describing = p;
	close(fd);
}

static void add_file(enum kind kind, const char *n, char *path)
{
	describing->files[describing->nfiles++] = (struct file){kind, n ? strtoul(n, 0, 0) : 0, path};
}

/*
 *   keeper PATH, filter PATH (descriptor 9 of programs)
 *   template PATH and plan PATH, each followed by its files
 *   group v1|v2 DIR, then set FILE VALUE for it
 *   in their order: inherited N, output, null, dir GROUP, kill GROUP, tasks GROUP, tree ATTRIBUTES PATH, copy
 *   spawn PROGRAM ARG..., or spawn_v1 where the program shall see no cgroup v2
 */
static void setting(char *line)
{
	char *rest = line, *what = word(&rest);

	if (!strcmp(what, "plan"))
		read_message(&plan, word(&rest));
	else if (!strcmp(what, "template"))
		read_message(&template, word(&rest));
	else if (!strcmp(what, "keeper"))
		exe = (int)must("open the keeper", SYS(openat, AT_FDCWD_, word(&rest), O_PATH_ | O_CLOEXEC_, 0));
	else if (!strcmp(what, "filter"))
		filter_path = word(&rest);
	else if (!strcmp(what, "group")) {
		struct hierarchy *g = &groups[ngroups++];

		g->v2 = !strcmp(word(&rest), "v2");
		g->dir = word(&rest);
	} else if (!strcmp(what, "set")) {
		struct hierarchy *g = &groups[ngroups - 1];

		g->sets[g->nsets].file = word(&rest);
		g->sets[g->nsets++].value = word(&rest);
	} else if (!strcmp(what, "inherited"))
		add_file(INHERITED, word(&rest), 0);
	else if (!strcmp(what, "output"))
		add_file(OUTPUT, 0, 0);
	else if (!strcmp(what, "null"))
		add_file(NOTHING, 0, 0);
	else if (!strcmp(what, "dir"))
		add_file(DIRECTORY, word(&rest), 0);
	else if (!strcmp(what, "kill"))
		add_file(KILL, word(&rest), 0);
	else if (!strcmp(what, "tasks"))
		add_file(TASKS, word(&rest), 0);
	else if (!strcmp(what, "copy"))
		add_file(TEMPLATE, 0, 0);
	else if (!strcmp(what, "tree")) {
		char *n = word(&rest);

		add_file(TREE, n, word(&rest));
	} else if (!strcmp(what, "spawn") || !strcmp(what, "spawn_v1")) {
		hidden[nspawns] = what[5] != 0;
		if (hidden[nspawns] && without_v2 < 0)
			hide_v2();
		for (int i = 0; i < MAX_WORDS - 1 && rest; i++)
			spawns[nspawns][i] = word(&rest);
		nspawns++;
	} else
		die("understand the settings", 0);
}

static void read_config(const char *path)
{
	static char line[1 << 16];
	FILE *f = fopen(path, "r");

	if (!f)
		die("read the settings", -errno);
	while (fgets(line, sizeof line, f)) {
		line[strcspn(line, "\n")] = 0;
		if (line[0])
			setting(line);
	}
	fclose(f);
}

int main(int argc, char **argv)
{
	char line[64];
	pthread_t networks;

	if (argc != 2)
		return 2;
	SYS(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	l = aligned_alloc(64, sizeof *l);
	l->out = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	times = mmap(0, sizeof *times, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	own_pids = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	own_net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	read_config(argv[1]);
	l->keeper = (int)must("pidfd", SYS(pidfd_open, getpid(), 0));
	prepare_template();
	if (sem_init(&wanted, 0, 0) || sem_init(&given, 0, 0) || pthread_create(&networks, 0, make_networks, 0))
		die("start a thread", -errno);
	while (fgets(line, sizeof line, stdin)) {
		switch (line[0]) {
		case 'c':
			start_walled(0);
			break;
		case 't':
			times->looking = 1;
			start_walled(0);
			times->looking = 0;
			break;
		case 'm':
			make_ahead();
			puts("0 0");
			fflush(stdout);
			break;
		case 'p':
			start_walled(1);
			break;
		case 's':
			start_program(atoi(line + 1));
			break;
		}
	}
	return 0;
}
