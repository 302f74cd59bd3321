/* The kernel's surface: other ABIs, calls that are dangerous, memory that is code. */
#include "attack.h"
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>

/* What an attack exits with that could go on after a call that should end it. */
enum { WENT_ON = 42 };

/* getpid by the 32 bit entry: the numbers mean other calls there. */
static void int80(char **args)
{
	long ret = 20;

	(void)args;
	__asm__ volatile("int $0x80" : "+a"(ret) : : "memory", "r8", "r9", "r10", "r11");
	_exit(WENT_ON);
}

static void x32(char **args)
{
	(void)args;
	syscall(0x40000000L | SYS_getpid);
	_exit(WENT_ON);
}

static void personality_(char **args)
{
	(void)args;
	if (personality(READ_IMPLIES_EXEC) < 0)
		tried("personality");
}

static void uring(char **args)
{
	char params[120] = {0};

	(void)args;
	if (syscall(SYS_io_uring_setup, 4, params) < 0)
		tried("io_uring_setup");
}

static void bpf_map(char **args)
{
	union bpf_attr attr;

	(void)args;
	memset(&attr, 0, sizeof attr);
	attr.map_type = BPF_MAP_TYPE_ARRAY;
	attr.key_size = attr.value_size = 4;
	attr.max_entries = 1;
	if (syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr) < 0)
		tried("bpf");
}

static void userfault(char **args)
{
	(void)args;
	if (syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */) < 0)
		tried("userfaultfd");
}

static void perf(char **args)
{
	struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr,
				       .config = PERF_COUNT_SW_TASK_CLOCK, .exclude_kernel = 1, .exclude_hv = 1};

	(void)args;
	if (syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0) < 0)
		tried("perf_event_open");
}

static void write_and_execute(char **args)
{
	(void)args;
	if (mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
		tried("mmap");
}

static void then_execute(char **args)
{
	char *at = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)args;
	at[0] = (char)0xc3;
	if (mprotect(at, 4096, PROT_READ | PROT_EXEC) < 0)
		tried("mprotect");
}

/* A filter of its own answers before the host's listener hears of a call. */
static void own_filter(char **args)
{
	struct sock_filter allow[] = {{0x06, 0, 0, SECCOMP_RET_ALLOW}};
	struct sock_fprog program = {1, allow};

	(void)args;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
		tried("seccomp");
}

/* Characters that the shell outside would read as typed (CVE-2017-5226). */
static void type(char **args)
{
	ioctl(0, TIOCSCTTY, (void *)1);
	for (const char *c = args[0]; *c != 0; c++)
		if (ioctl(0, TIOCSTI, c) < 0)
			return tried("TIOCSTI");
}

/* Pasting a console's selection is typing, too (CVE-2023-28100). */
static void paste(char **args)
{
	char code = 3; /* TIOCL_PASTESEL */

	(void)args;
	ioctl(0, TIOCLINUX, &code);
	_exit(WENT_ON);
}

/* Each call by its number, with arguments that do nothing. */
static void calls(char **args)
{
	for (; *args != 0; args++)
		syscall(number(*args), -1, -1, -1, -1, -1, -1);
	_exit(WENT_ON);
}

const struct attack kernel[] = {
	{"int80", int80, 0},
	{"x32", x32, 0},
	{"personality", personality_, 0},
	{"uring", uring, 0},
	{"bpf", bpf_map, 0},
	{"userfault", userfault, 0},
	{"perf", perf, 0},
	{"write-and-execute", write_and_execute, 0},
	{"then-execute", then_execute, 0},
	{"own-filter", own_filter, 0},
	{"type", type, 1},
	{"paste", paste, 0},
	{"calls", calls, 1},
	{0},
};
