package seccomp

// group is a named set of calls. Members are separated by blanks and may be
// groups.
type group struct {
	name    string
	about   string
	members string
}

// groups are systemd's names with our own members, sorted by name.
//
// They differ from systemd's on purpose, always to the narrow side: making and
// entering namespaces (unshare, setns) is @namespace and no part of @process;
// looking into other processes (process_vm_*, process_madvise, kcmp,
// pidfd_getfd) is @debug; io_uring, whose operations no filter sees, is
// @io-uring and no part of @aio; the keyring and userfaultfd are no part of
// @system-service.
//
// One string a group, so that a program that never expands one pays nothing
// for them at its start.
//
// Source: systemd.exec(5), SystemCallFilter=.
var groups = [...]group{
	{
		"@aio", "asynchronous input and output",
		"io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit",
	},
	{
		"@basic-io", "reading, writing and closing what is already open",
		"close close_range dup dup2 dup3 lseek pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readv write writev",
	},
	{
		"@chown", "changing the owner of files",
		"chown fchown fchownat lchown",
	},
	{
		"@clock", "setting the clock",
		"adjtimex clock_adjtime clock_settime settimeofday",
	},
	{
		"@cpu-emulation", "emulating other processors",
		"modify_ldt",
	},
	{
		"@debug", "looking into other processes and the processor",
		"kcmp lookup_dcookie perf_event_open pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
	},
	{
		"@default", "what every program does",
		"arch_prctl brk clock_getres clock_gettime clock_nanosleep execve exit exit_group futex futex_requeue futex_wait futex_waitv futex_wake " +
			"get_robust_list get_thread_area getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getrandom getresgid getresuid " +
			"getrlimit getsid gettid gettimeofday getuid map_shadow_stack membarrier mmap mprotect mseal munmap nanosleep pause prlimit64 " +
			"restart_syscall rseq rseq_slice_yield rt_sigreturn sched_getaffinity sched_yield set_robust_list set_thread_area set_tid_address " +
			"time uprobe uretprobe",
	},
	{
		"@file-system", "working with files and directories",
		"access chdir chmod close creat faccessat faccessat2 fallocate fchdir fchmod fchmodat fchmodat2 fcntl fgetxattr file_getattr " +
			"file_setattr flistxattr fremovexattr fsetxattr fstat fstatfs ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat " +
			"inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lgetxattr link linkat listxattr listxattrat llistxattr " +
			"lremovexattr lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 readlink readlinkat removexattr " +
			"removexattrat rename renameat renameat2 rmdir setxattr setxattrat stat statfs statx symlink symlinkat truncate unlink unlinkat " +
			"utime utimensat utimes",
	},
	{
		"@io-event", "waiting for events",
		"epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 poll ppoll pselect6 select",
	},
	{
		"@io-uring", "io_uring, whose operations no filter sees",
		"io_uring_enter io_uring_register io_uring_setup",
	},
	{
		"@ipc", "pipes, message queues, semaphores and shared memory",
		"memfd_create mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2 semctl " +
			"semget semop semtimedop shmat shmctl shmdt shmget",
	},
	{
		"@keyring", "the kernel's keyrings",
		"add_key keyctl request_key",
	},
	{
		"@memlock", "keeping memory from being swapped",
		"memfd_secret mlock mlock2 mlockall munlock munlockall",
	},
	{
		"@module", "kernel modules",
		"delete_module finit_module init_module",
	},
	{
		"@mount", "mounting file systems and changing the root",
		"chroot fsconfig fsmount fsopen fspick listmount mount mount_setattr move_mount open_tree open_tree_attr pivot_root statmount umount2",
	},
	{
		"@namespace", "making and entering namespaces",
		"listns setns unshare",
	},
	{
		"@network-io", "sockets of every kind",
		"accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto setsockopt " +
			"shutdown socket socketpair",
	},
	{
		"@obsolete", "calls that are out of use or were never implemented",
		"_sysctl afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms getpmsg nfsservctl putpmsg query_module security " +
			"sysfs tuxcall uselib ustat vserver",
	},
	{
		"@pkey", "memory protection keys",
		"pkey_alloc pkey_free pkey_mprotect",
	},
	{
		"@privileged", "calls that need a capability",
		"@chown @clock @module @raw-io @reboot @swap acct bpf capset chroot fanotify_init fanotify_mark open_by_handle_at pivot_root " +
			"quotactl quotactl_fd setdomainname setfsgid setfsuid setgroups sethostname setresuid setreuid setuid syslog vhangup",
	},
	{
		"@process", "making, signalling and awaiting processes",
		"capget clone clone3 execveat fork getrusage kill pidfd_open pidfd_send_signal prctl process_mrelease rt_sigqueueinfo " +
			"rt_tgsigqueueinfo tgkill times tkill vfork wait4 waitid",
	},
	{
		"@raw-io", "input and output ports",
		"ioperm iopl",
	},
	{
		"@reboot", "restarting the machine and loading kernels",
		"kexec_file_load kexec_load reboot",
	},
	{
		"@resources", "priorities, limits and placement",
		"ioprio_set mbind migrate_pages move_pages sched_setaffinity sched_setattr sched_setparam sched_setscheduler set_mempolicy " +
			"set_mempolicy_home_node setpriority setrlimit",
	},
	{
		"@sandbox", "walls that a program puts up for itself",
		"landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr lsm_list_modules lsm_set_self_attr seccomp",
	},
	{
		"@setuid", "changing user and group ids",
		"setgid setgroups setregid setresgid setresuid setreuid setuid",
	},
	{
		"@signal", "handling signals",
		"rt_sigaction rt_sigpending rt_sigprocmask rt_sigsuspend rt_sigtimedwait sigaltstack signalfd signalfd4",
	},
	{
		"@swap", "swap space",
		"swapoff swapon",
	},
	{
		"@sync", "writing files to the disk",
		"fdatasync fsync msync sync sync_file_range syncfs",
	},
	{
		"@system-service", "what an ordinary service may need",
		"@aio @basic-io @chown @default @file-system @io-event @ipc @memlock @network-io @process @resources @setuid @signal @sync @timer " +
			"cachestat capset copy_file_range fadvise64 flock get_mempolicy getcpu getpriority ioctl ioprio_get madvise mincore mremap " +
			"name_to_handle_at personality readahead remap_file_pages sched_get_priority_max sched_get_priority_min sched_getattr " +
			"sched_getparam sched_getscheduler sched_rr_get_interval sendfile setfsgid setfsuid setpgid setsid splice sysinfo tee umask " +
			"uname vmsplice",
	},
	{
		"@timer", "timers",
		"alarm getitimer setitimer timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime " +
			"timerfd_settime times",
	},
}
