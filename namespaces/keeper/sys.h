/*
 * What the keeper needs of the kernel and of a C library, which it does not
 * have: types, system calls and four string functions. The sources compile
 * freestanding for use and hosted (-DHOSTED) for sanitizers and fuzzing; only
 * this header and sys_amd64.h know the difference.
 */
#ifndef SYS_H
#define SYS_H

#include <asm/unistd.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;

#include "sys_amd64.h"

/* errno values, signals and flags: asm-generic, the same on every port we build. */
enum {
	EPERM_ = 1, ENOENT_ = 2, EINTR_ = 4, E2BIG_ = 7, EAGAIN_ = 11, ENOMEM_ = 12, EACCES_ = 13, EBUSY_ = 16,
	EEXIST_ = 17, ENOTDIR_ = 20, EINVAL_ = 22, EMFILE_ = 24, ENOSPC_ = 28, ENAMETOOLONG_ = 36, EPROTO_ = 71, EBADMSG_ = 74, ENOBUFS_ = 105, ETOOMANYREFS_ = 109, ECANCELED_ = 125, EOWNERDEAD_ = 130,
};
enum { F_DUPFD_CLOEXEC_ = 1030 };
enum { SIGKILL_ = 9, SIGCHLD_ = 17 };
enum {
	O_RDONLY_ = 0, O_WRONLY_ = 1, O_RDWR_ = 2, O_CREAT_ = 0100, O_EXCL_ = 0200, O_NONBLOCK_ = 04000, O_DIRECTORY_ = 0200000,
	O_NOFOLLOW_ = 0400000, O_CLOEXEC_ = 02000000, O_PATH_ = 010000000,
};
#define AT_FDCWD_ (-100)
#define AT_EMPTY_PATH_ 0x1000
#define AT_REMOVEDIR_ 0x200

#define SYS(n, ...) SYS_N(__VA_ARGS__, 6, 5, 4, 3, 2, 1, 0)(__NR_##n, __VA_ARGS__)
#define SYS_N(a, b, c, d, e, f, n, ...) SYS_##n
#define SYS_1(n, a) raw_call(n, (i64)(a), 0, 0, 0, 0, 0)
#define SYS_2(n, a, b) raw_call(n, (i64)(a), (i64)(b), 0, 0, 0, 0)
#define SYS_3(n, a, b, c) raw_call(n, (i64)(a), (i64)(b), (i64)(c), 0, 0, 0)
#define SYS_4(n, a, b, c, d) raw_call(n, (i64)(a), (i64)(b), (i64)(c), (i64)(d), 0, 0)
#define SYS_5(n, a, b, c, d, e) raw_call(n, (i64)(a), (i64)(b), (i64)(c), (i64)(d), (i64)(e), 0)
#define SYS_6(n, a, b, c, d, e, f) raw_call(n, (i64)(a), (i64)(b), (i64)(c), (i64)(d), (i64)(e), (i64)(f))

#ifdef HOSTED
#include <string.h>
#else
void *memcpy(void *to, const void *from, u64 n);
void *memset(void *to, int c, u64 n);
u64 strlen(const char *s);
#endif

struct iovec_ { void *base; u64 len; };
struct msghdr_ { void *name; u32 namelen; u32 pad; struct iovec_ *iov; u64 iovlen; void *control; u64 controllen; u32 flags; u32 pad2; };
struct cmsghdr_ { u64 len; int level; int type; };
struct epoll_event_ { u32 events; u64 data; } __attribute__((packed));
struct siginfo_ { int signo, err, code, pad; int pid, uid, status; u8 rest[100]; };
struct rusage_ { i64 utime_s, utime_us, stime_s, stime_us, maxrss, rest[13]; };

#endif
