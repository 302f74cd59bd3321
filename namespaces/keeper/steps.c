/*
 * What a new plugin does before its exec, one step after the other, in a child
 * that shares one page with the keeper.
 *
 * A step returns 0 or an errno; the launch remembers which one failed.
 */
#include "keeper.h"

#define CLONE_NEW_ENTERED (CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)

struct landlock_ruleset { u64 fs, net, scoped; };
struct landlock_path { u64 access; int parent; } __attribute__((packed));
struct landlock_port { u64 access, port; };
enum { LANDLOCK_PATH_BENEATH = 1, LANDLOCK_NET_PORT = 2 };
enum { LANDLOCK_OF_FILES = 1 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15 }; /* execute, write, read, truncate, ioctl */
struct cap_header { u32 version; int pid; };
struct cap_data { u32 effective, permitted, inheritable; };
enum { CAP_VERSION_3 = 0x20080522 };

const char *next_string(const char *s)
{
	return s + strlen(s) + 1;
}

static int errno_of(i64 ret)
{
	return ret < 0 ? (int)-ret : 0;
}

/* Writes all of it or fails: these files take one write. */
static int write_file(int dir, const char *path, const char *data, u64 n)
{
	i64 fd = SYS(openat, dir, path, O_WRONLY_ | O_CLOEXEC_ | O_NOFOLLOW_, 0), ret;

	if (fd < 0)
		return errno_of(fd);
	ret = SYS(write, fd, data, n);
	SYS(close, fd);
	return ret < 0 ? errno_of(ret) : (u64)ret == n ? 0 : EAGAIN_;
}

/*
 * Targets of mounts are opened without following anything: a bound tree may
 * hold links that a plugin made in an earlier life.
 */
static i64 open_target(const char *path)
{
	struct open_how how = {.flags = O_PATH_ | O_CLOEXEC_, .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};

	return SYS(openat2, AT_FDCWD_, path, &how, sizeof how);
}

static int attach(int tree, const char *path)
{
	i64 target = open_target(path), ret;

	if (target < 0)
		return errno_of(target);
	ret = SYS(move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	SYS(close, target);
	return errno_of(ret);
}

/* Options are "key=value" or a bare flag, comma separated, at most 255 bytes. */
static int configure(int fs, const char *options)
{
	char buf[256];
	u64 n = strlen(options);
	i64 ret;

	if (n >= sizeof buf)
		return ENAMETOOLONG_;
	memcpy(buf, options, n + 1);
	for (char *key = buf; *key != 0;) {
		char *value = 0, *end = key;

		for (; *end != 0 && *end != ','; end++)
			if (*end == '=' && value == 0) {
				*end = 0;
				value = end + 1;
			}
		char *next = *end == 0 ? end : end + 1;
		*end = 0;
		ret = SYS(fsconfig, fs, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, key, value, 0);
		if (ret < 0)
			return errno_of(ret);
		key = next;
	}
	return errno_of(SYS(fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0));
}

/* A fresh file system that is nowhere yet: a descriptor, or minus an errno. */
i64 detached(const char *type, const char *options, u64 attributes)
{
	i64 fs = SYS(fsopen, type, FSOPEN_CLOEXEC), mount;
	int err;

	if (fs < 0)
		return fs;
	err = configure(fs, options);
	mount = err ? -err : SYS(fsmount, fs, FSMOUNT_CLOEXEC, attributes);
	SYS(close, fs);
	return mount;
}

static int fresh(const char *type, const char *options, u64 attributes, const char *path)
{
	i64 mount = detached(type, options, attributes);
	int err;

	if (mount < 0)
		return errno_of(mount);
	err = attach(mount, path);
	SYS(close, mount);
	return err;
}

/* The file system behind a mount becomes read-only, whatever mount it is reached by. */
static i64 seal_file_system(i64 mount)
{
	i64 fs = SYS(fspick, mount, "", FSPICK_EMPTY_PATH | FSPICK_CLOEXEC), ret;

	if (fs < 0)
		return fs;
	ret = SYS(fsconfig, fs, FSCONFIG_SET_FLAG, "ro", 0, 0);
	if (ret == 0)
		ret = SYS(fsconfig, fs, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0);
	SYS(close, fs);
	return ret;
}

static int set_attributes(const char *path, u64 set, u64 whole)
{
	struct mount_attr attr = {.attr_set = set};
	i64 fd = open_target(path), ret;

	if (fd < 0)
		return errno_of(fd);
	ret = SYS(mount_setattr, fd, "", AT_EMPTY_PATH_, &attr, sizeof attr);
	if (ret == 0 && whole)
		ret = seal_file_system(fd);
	SYS(close, fd);
	return errno_of(ret);
}

static int step_private(void)
{
	struct mount_attr attr = {.propagation = 1 << 18 /* MS_PRIVATE */};

	return errno_of(SYS(mount_setattr, AT_FDCWD_, "/", 0x8000 /* AT_RECURSIVE */, &attr, sizeof attr));
}

/*
 * The new root is mounted over the old one, entered, and the old one dropped
 * from beneath it, as pivot_root(2) describes for ".", ".". From here on
 * nothing of the host has a name; trees to attach came as descriptors.
 */
static int step_root(const char *options)
{
	i64 root = detached("tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC), ret;

	if (root < 0)
		return errno_of(root);
	ret = SYS(move_mount, root, "", AT_FDCWD_, "/", MOVE_MOUNT_F_EMPTY_PATH);
	if (ret == 0)
		ret = SYS(fchdir, root);
	SYS(close, root);
	if (ret == 0)
		ret = SYS(pivot_root, ".", ".");
	if (ret == 0)
		ret = SYS(umount2, ".", 2 /* MNT_DETACH */);
	if (ret == 0)
		ret = SYS(chdir, "/");
	return errno_of(ret);
}

static int make_file(const char *path, u32 mode, const char *data, u64 n)
{
	i64 fd = SYS(openat, AT_FDCWD_, path, O_WRONLY_ | O_CREAT_ | O_EXCL_ | O_CLOEXEC_ | O_NOFOLLOW_, 0600), ret;

	if (fd < 0)
		return errno_of(fd);
	ret = n ? SYS(write, fd, data, n) : 0;
	if (ret >= 0)
		ret = (u64)ret == n ? SYS(fchmod, fd, mode) : -EAGAIN_;
	SYS(close, fd);
	return errno_of(ret);
}

static int make_node(const char *path, u32 mode, u64 device)
{
	i64 ret = SYS(mknodat, AT_FDCWD_, path, 0020000 /* S_IFCHR */ | mode, device);

	/* mknod is subject to the umask; the mode asked for is what is wanted. */
	return errno_of(ret < 0 ? ret : SYS(fchmodat, AT_FDCWD_, path, mode));
}

static int make_dir(const char *path, u32 mode)
{
	i64 ret = SYS(mkdirat, AT_FDCWD_, path, 0700);

	if (ret == -EEXIST_) /* inside a bound tree the directory may be there */
		return 0;
	return errno_of(ret < 0 ? ret : SYS(fchmodat, AT_FDCWD_, path, mode));
}

/* /dev/null of the new root covers a file; an empty read-only tmpfs a directory. */
static int mask(const char *path)
{
	i64 fd = open_target(path), tree;
	int err;

	if (fd == -ENOENT_)
		return 0;
	if (fd < 0)
		return errno_of(fd);
	SYS(close, fd);
	fd = SYS(openat, AT_FDCWD_, path, O_PATH_ | O_DIRECTORY_ | O_CLOEXEC_ | O_NOFOLLOW_, 0);
	if (fd >= 0) {
		SYS(close, fd);
		return fresh("tmpfs", "size=0,nr_inodes=1,mode=0555",
			     MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, path);
	}
	tree = SYS(open_tree, AT_FDCWD_, "/dev/null", OPEN_TREE_CLONE | O_CLOEXEC_);
	if (tree < 0)
		return errno_of(tree);
	err = attach(tree, path);
	SYS(close, tree);
	return err;
}

static int enter_namespace(struct launch *l, u64 flag)
{
	if (flag == CLONE_NEWPID) /* the launcher made us inside it */
		return 0;
	if (flag == CLONE_NEWCGROUP)
		return errno_of(SYS(unshare, CLONE_NEWCGROUP));
	if ((flag & ~(u64)CLONE_NEW_ENTERED) != 0)
		return EINVAL_;
	return errno_of(SYS(setns, l->reaper, flag));
}

/* What was prepared stays as it is: what is mounted from here on is in our copy. */
static int enter_copy(int template)
{
	i64 ret = SYS(setns, template, CLONE_NEWNS);

	return errno_of(ret < 0 ? ret : SYS(unshare, CLONE_NEWNS));
}

static int drop_bounding(u32 *detail)
{
	i64 ret = SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);

	for (u32 cap = 0; ret == 0 && SYS(prctl, PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
		*detail = cap;
		ret = SYS(prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
	}
	return errno_of(ret);
}

static int set_ids(u32 uid, u32 gid)
{
	i64 ret;

	if (uid == 0 || uid == 0xffffffff || gid == 0 || gid == 0xffffffff)
		return EINVAL_; /* -1 would be "leave as it is", and succeed */
	ret = SYS(setgroups, 0, (void *)0);
	if (ret == 0)
		ret = SYS(setresgid, gid, gid, gid);
	if (ret == 0)
		ret = SYS(setresuid, uid, uid, uid);
	return errno_of(ret);
}

static int empty_caps(void)
{
	struct cap_header header = {CAP_VERSION_3, 0};
	struct cap_data data[2] = {{0, 0, 0}, {0, 0, 0}};

	return errno_of(SYS(capset, &header, data));
}

static int verify_ids(u32 uid, u32 gid, u32 *detail)
{
	u32 r = 0, e = 0, s = 0;
	i64 ret = SYS(getresuid, &r, &e, &s);

	*detail = e;
	if (ret < 0 || r != uid || e != uid || s != uid)
		return EPERM_;
	ret = SYS(getresgid, &r, &e, &s);
	*detail = e;
	if (ret < 0 || r != gid || e != gid || s != gid)
		return EPERM_;
	return SYS(getgroups, 0, (void *)0) == 0 ? 0 : EPERM_;
}

static int verify_caps(u64 securebits, u32 *detail)
{
	struct cap_header header = {CAP_VERSION_3, 0};
	struct cap_data data[2];
	i64 ret = SYS(capget, &header, data);

	for (int i = 0; ret == 0 && i < 2; i++)
		if (data[i].effective | data[i].permitted | data[i].inheritable)
			return EPERM_;
	for (u32 cap = 0; ret == 0; cap++) {
		i64 bound = SYS(prctl, PR_CAPBSET_READ, cap, 0, 0, 0);

		if (bound < 0)
			break;
		*detail = cap;
		if (bound || SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) > 0)
			return EPERM_;
	}
	return ret == 0 && SYS(prctl, PR_GET_SECUREBITS, 0, 0, 0, 0) == (i64)securebits ? 0 : EPERM_;
}

int drop_privilege(u32 uid, u32 gid, u32 *detail)
{
	int err = drop_bounding(detail);

	if (!err)
		err = set_ids(uid, gid);
	if (!err)
		err = empty_caps();
	if (!err)
		err = errno_of(SYS(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	return err ? err : verify_ids(uid, gid, detail);
}

/* The signal is armed first and the keeper looked at then: no gap between. */
static int die_with_keeper(struct launch *l)
{
	struct { int fd; short events, revents; } poll = {l->keeper, 1 /* POLLIN: it has ended */, 0};
	i64 zero[2] = {0, 0};
	i64 ret = SYS(prctl, PR_SET_PDEATHSIG, SIGKILL_, 0, 0, 0);

	if (ret < 0)
		return errno_of(ret);
	ret = SYS(ppoll, &poll, 1, zero, (void *)0, 8);
	return ret < 0 ? errno_of(ret) : ret > 0 ? EOWNERDEAD_ : 0;
}

/* Handlers were cleared by CLONE_CLEAR_SIGHAND; the rest of what exec keeps. */
static int reset(u32 mask)
{
	u64 none = 0;
	i64 ret = SYS(rt_sigprocmask, 2 /* SIG_SETMASK */, &none, (void *)0, 8);

	SYS(umask, mask);
	take_turns_of(0);
	if (ret == 0)
		ret = SYS(prctl, PR_SET_TIMERSLACK, 0, 0, 0, 0);
	if (ret == 0)
		ret = SYS(personality, 0);
	return ret < 0 ? errno_of(ret) : 0;
}

static int change_dir(const char *path)
{
	char buf[4096];
	i64 ret = SYS(chdir, path);

	if (ret == 0)
		ret = SYS(getcwd, buf, sizeof buf);
	if (ret < 0)
		return errno_of(ret);
	return buf[0] == '/' ? 0 : EPERM_; /* "(unreachable)": outside the root */
}

/*
 * Closed now rather than at exec: the steps that follow open descriptors of
 * their own, and a keeper with many plugins has more than a plugin may have.
 */
static int close_from(struct launch *l, u32 first)
{
	i64 ret = SYS(dup3, l->gate, GATE_FD, O_CLOEXEC_);

	if (ret >= 0 && first < GATE_FD)
		ret = SYS(close_range, first, GATE_FD - 1, 0);
	if (ret >= 0)
		ret = SYS(close_range, GATE_FD + 1, ~0u, 0);
	l->gate = GATE_FD;
	return ret < 0 ? errno_of(ret) : 0;
}

/*
 * A rule may name a file, or a link, inside a granted tree, which only we can
 * tell from a directory; what the kernel then refuses are a directory's rights.
 */
static int landlock_path(struct launch *l, const char *path, u64 access)
{
	i64 fd = SYS(openat, AT_FDCWD_, path, O_PATH_ | O_CLOEXEC_ | O_NOFOLLOW_, 0), ret;
	struct landlock_path rule = {access, (int)fd};

	if (fd < 0)
		return errno_of(fd);
	ret = SYS(landlock_add_rule, l->ruleset, LANDLOCK_PATH_BENEATH, &rule, 0);
	if (ret == -EINVAL_ && (access & ~(u64)LANDLOCK_OF_FILES) != 0) {
		rule.access = access & LANDLOCK_OF_FILES;
		ret = rule.access ? SYS(landlock_add_rule, l->ruleset, LANDLOCK_PATH_BENEATH, &rule, 0) : 0;
	}
	SYS(close, fd);
	return errno_of(ret);
}

static int landlock_new(struct launch *l, const struct ck_step *s)
{
	struct landlock_ruleset attr = {s->a, s->b, s->c};
	i64 fd = SYS(landlock_create_ruleset, &attr, sizeof attr, 0);

	l->ruleset = (int)fd;
	return errno_of(fd);
}

static int landlock_try(const char *path)
{
	i64 fd = SYS(openat, AT_FDCWD_, path, O_RDONLY_ | O_DIRECTORY_ | O_CLOEXEC_, 0);

	if (fd >= 0)
		SYS(close, fd);
	return fd == -EACCES_ ? 0 : fd < 0 ? errno_of(fd) : EPERM_;
}

static int load_filter(struct launch *l, const struct ck_step *s)
{
	struct sock_fprog program = {(u16)(s->b / 8), (struct sock_filter *)(l->blob + s->t)};
	i64 ret = SYS(seccomp, SECCOMP_SET_MODE_FILTER, s->a, &program);

	if (ret >= 0 && (s->a & SECCOMP_FILTER_FLAG_NEW_LISTENER))
		l->out->listener = (int)ret;
	return errno_of(ret);
}

/*
 * Waits until the launcher has the listener and the reaper is up. Only read and
 * write are used: the filter is on, and every filter allows them.
 */
static int pass_gate(struct launch *l)
{
	char byte = 'G';
	i64 ret = SYS(write, l->gate, &byte, 1);

	if (ret == 1)
		ret = SYS(read, l->gate, &byte, 1);
	return ret == 1 ? 0 : ret < 0 ? errno_of(ret) : EOWNERDEAD_;
}

/*
 * An exec that may happen once: the filter lets execve through with a path in
 * page 0 alone, which the child maps while it has the host's CAP_SYS_RAWIO. What
 * is executed has another memory, where it can map nothing below
 * vm.mmap_min_addr.
 */
static int map_page_zero(struct launch *l)
{
	i64 ret = SYS(mmap, 0, ONCE_PAGE, 3 /* PROT_READ | PROT_WRITE */,
		      0x100022 /* MAP_FIXED_NOREPLACE | MAP_ANONYMOUS | MAP_PRIVATE */, -1, 0);

	if (ret != 0) /* an older kernel takes the address as a hint, and finds another */
		return ret < 0 ? errno_of(ret) : EINVAL_;
	l->once = ONCE_FIRST;
	return 0;
}

/* Where execve is to take the path from; 0 if there is no room for it. */
static const char *exec_path(struct launch *l, const char *path)
{
	char *to = (char *)(u64)l->once;
	u64 n = strlen(path) + 1;

	if (l->once == 0)
		return path;
	if (n > ONCE_PAGE - ONCE_FIRST)
		return 0;
	__asm__("" : "+r"(to)); /* the compiler holds that nothing is there */
	memcpy(to, path, n);
	return to;
}

static int execute(struct launch *l, const struct ck_step *s)
{
	const char *path = l->blob + s->s, *string = l->blob + s->t;
	int err = pass_gate(l), denied = 0;

	if (err)
		return err;
	for (u64 i = 0; i < s->b; i++, string = next_string(string))
		l->args[i] = string;
	l->args[s->b] = 0;
	for (u64 i = 0; i < s->c; i++, string = next_string(string))
		l->vars[i] = string;
	l->vars[s->c] = 0;
	l->out->executing = 1;
	for (u64 i = 0; i < s->a; i++, path = next_string(path)) {
		const char *at = exec_path(l, path);

		err = at ? errno_of(SYS(execve, at, l->args, l->vars)) : ENAMETOOLONG_;
		if (err == EACCES_)
			denied = err;
		else if (err != ENOENT_ && err != ENOTDIR_)
			break;
	}
	l->out->executing = 0;
	return denied ? denied : err;
}

static int run_step(struct launch *l, const struct ck_step *s)
{
	const char *str = l->blob + (s->s == CK_NO_STRING ? 0 : s->s);
	const char *text = l->blob + (s->t == CK_NO_STRING ? 0 : s->t);
	u32 detail = 0;
	int err = 0;

	switch (s->op) {
	case CK_OP_HOLD:
	case CK_OP_KILLFD:
	case CK_OP_RMDIR:
		break; /* the launcher's */
	case CK_OP_JOIN:
		err = errno_of(SYS(write, l->fds[s->fd], "0", 1));
		break;
	case CK_OP_OOM_SCORE:
		err = write_file(AT_FDCWD_, "/proc/thread-self/oom_score_adj", str, strlen(str));
		break;
	case CK_OP_SYSCTL: {
		i64 dir = SYS(openat, AT_FDCWD_, "/proc/sys", O_PATH_ | O_DIRECTORY_ | O_CLOEXEC_, 0);

		err = dir < 0 ? errno_of(dir) : write_file((int)dir, str, text, strlen(text));
		SYS(close, dir);
		if (err == ENOENT_ && s->a)
			err = 0;
		break;
	}
	case CK_OP_NAMESPACE:
		err = enter_namespace(l, s->a);
		break;
	case CK_OP_PRIVATE:
		err = step_private();
		break;
	case CK_OP_ROOT:
		err = step_root(text);
		break;
	case CK_OP_MKDIR:
		err = make_dir(str, (u32)s->a);
		break;
	case CK_OP_MKFILE:
		err = make_file(str, (u32)s->a, text, s->b);
		break;
	case CK_OP_SYMLINK:
		err = errno_of(SYS(symlinkat, text, AT_FDCWD_, str));
		break;
	case CK_OP_MKNOD:
		err = make_node(str, (u32)s->a, s->b);
		break;
	case CK_OP_ATTACH:
		err = attach(l->fds[s->fd], str);
		break;
	case CK_OP_TMPFS:
		err = fresh("tmpfs", text, s->a, str);
		break;
	case CK_OP_PROC:
		err = fresh("proc", text, s->a, str);
		break;
	case CK_OP_MASK:
		err = mask(str);
		break;
	case CK_OP_SEAL:
		err = set_attributes(str, s->a, s->b);
		break;
	case CK_OP_HOSTNAME:
		err = errno_of(SYS(sethostname, str, strlen(str)));
		break;
	case CK_OP_RLIMIT: {
		u64 limit[2] = {s->b, s->c};

		err = errno_of(SYS(prlimit64, 0, s->a, limit, (void *)0));
		break;
	}
	case CK_OP_KEYRING:
		err = errno_of(SYS(keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, (void *)0));
		break;
	case CK_OP_SETSID:
		err = errno_of(SYS(setsid, 0));
		break;
	case CK_OP_USERNS:
		err = errno_of(SYS(setns, l->fds[s->fd], CLONE_NEWUSER));
		break;
	case CK_OP_BOUNDING:
		err = drop_bounding(&detail);
		break;
	case CK_OP_IDS:
		err = set_ids((u32)s->a, (u32)s->b);
		break;
	case CK_OP_SECUREBITS:
		err = errno_of(SYS(prctl, PR_SET_SECUREBITS, s->a, 0, 0, 0));
		break;
	case CK_OP_CAPSET:
		err = empty_caps();
		break;
	case CK_OP_VERIFY_IDS:
		err = verify_ids((u32)s->a, (u32)s->b, &detail);
		break;
	case CK_OP_VERIFY_CAPS:
		err = verify_caps(s->a, &detail);
		break;
	case CK_OP_PDEATHSIG:
		err = die_with_keeper(l);
		break;
	case CK_OP_RESET:
		err = reset((u32)s->a);
		break;
	case CK_OP_CHDIR:
		err = change_dir(str);
		break;
	case CK_OP_FD:
		err = errno_of(SYS(dup3, l->fds[s->fd], s->a, 0));
		break;
	case CK_OP_CLOSE:
		err = close_from(l, (u32)s->a);
		break;
	case CK_OP_NNP:
		err = errno_of(SYS(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		if (!err && SYS(prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
			err = EPERM_;
		break;
	case CK_OP_LANDLOCK:
		err = landlock_new(l, s);
		break;
	case CK_OP_LANDLOCK_PATH:
		err = landlock_path(l, str, s->a);
		if (err == ENOENT_ && s->b)
			err = 0;
		break;
	case CK_OP_LANDLOCK_PORT: {
		struct landlock_port rule = {s->a, s->b};

		err = errno_of(SYS(landlock_add_rule, l->ruleset, LANDLOCK_NET_PORT, &rule, 0));
		break;
	}
	case CK_OP_LANDLOCK_SELF:
		err = errno_of(SYS(landlock_restrict_self, l->ruleset, s->a));
		break;
	case CK_OP_LANDLOCK_TRY:
		err = landlock_try(str);
		break;
	case CK_OP_SECCOMP:
		err = load_filter(l, s);
		break;
	case CK_OP_EXEC:
		err = execute(l, s);
		break;
	case CK_OP_ONCE:
		err = map_page_zero(l);
		break;
	case CK_OP_TEMPLATE:
		err = enter_copy(l->fds[s->fd]);
		break;
	default:
		err = EINVAL_;
	}
	l->out->detail = detail;
	return err;
}

int take_steps(struct launch *l)
{
	u32 n = l->request->nsteps;

	for (u32 i = 0; i < n; i++) {
		int err = run_step(l, &l->steps[i]);

		if (err) {
			l->out->error = (u32)err;
			l->out->failed = i;
			return err;
		}
	}
	return 0;
}

void run_steps(void *launch)
{
	take_steps(launch);
	for (;;)
		SYS(exit_group, 127);
}
