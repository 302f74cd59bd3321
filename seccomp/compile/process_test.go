package compile

import (
	"encoding/binary"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/seccomp"
)

// runtimeCalls are what the Go runtime of a victim may make behind the filter.
var runtimeCalls = allow("close", "futex", "mmap", "munmap", "madvise", "nanosleep", "sched_yield", "sigaltstack", "rt_sigprocmask", "gettid", "getpid", "tgkill")

func call(nr uint64, args ...uint64) victimCall {
	c := victimCall{NR: nr}
	copy(c.Args[:], args)
	return c
}

// with puts the address of bytes in the place of an argument.
func (c victimCall) with(index int, data []byte) victimCall {
	data = append(slices.Clone(data), 0)
	if c.Data == nil {
		c.Data = map[int][]byte{}
	}
	c.Data[index] = data
	return c
}

// exact is with, without a zero byte behind.
func (c victimCall) exact(index int, data []byte) victimCall {
	c = c.with(index, nil)
	c.Data[index] = data
	return c
}

func refuse(e syscall.Errno) seccomp.Handler {
	return func(seccomp.Notification) seccomp.Verdict { return seccomp.Verdict{Errno: e} }
}

func TestProcessGetsWhatTheFilterSays(t *testing.T) {
	f := seccomp.Filter{Rules: []seccomp.Rule{
		runtimeCalls, allow("getppid", "openat"),
		when(allow("socket"), eq(0, unix.AF_UNIX)),
		errno("EXDEV", "chroot"),
		when(errno("EOWNERDEAD", "personality"), eq(0, 8)), allow("personality"),
	}}
	const minusOne = 1<<64 - 1
	for name, c := range map[string]struct {
		call     victimCall
		want     syscall.Errno
		notified bool
	}{
		"allowed":                              {call(unix.SYS_GETPPID), 0, false},
		"errno":                                {call(unix.SYS_CHROOT).with(0, []byte("/")), unix.EXDEV, false},
		"argument allowed":                     {call(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM), 0, false},
		"argument allowed, bits nobody reads":  {call(unix.SYS_SOCKET, 1<<40|unix.AF_UNIX, unix.SOCK_STREAM), 0, false},
		"argument not allowed":                 {call(unix.SYS_SOCKET, unix.AF_PACKET, unix.SOCK_RAW), unix.ENOTBLK, true},
		"exception":                            {call(unix.SYS_PERSONALITY, 8), unix.EOWNERDEAD, false},
		"exception, bits nobody reads":         {call(unix.SYS_PERSONALITY, 1<<32|8), unix.EOWNERDEAD, false},
		"beside the exception":                 {call(unix.SYS_PERSONALITY, 0xffffffff), 0, false},
		"not allowed":                          {call(unix.SYS_MOUNT), unix.ENOTBLK, true},
		"not allowed, unknown to the library":  {call(470), unix.ENOTBLK, true},
		"number in the gap":                    {call(400), unix.ENOSYS, false},
		"number behind the table":              {call(472), unix.ENOSYS, false},
		"greatest number without the x32 bit":  {call(1<<30 - 1), unix.ENOSYS, false},
		"number that a tracer leaves":          {call(minusOne), unix.ENOSYS, false},
		"close to x32, cut to its lower half":  {call(1<<32 | unix.SYS_GETPPID), 0, false},
		"read, which is always allowed, fails": {call(unix.SYS_READ, minusOne), unix.EBADF, false},
	} {
		t.Run(name, func(t *testing.T) {
			v, l := start(t, f, c.call), listen(t)
			var notified atomic.Bool
			v.serve(t, l, func(seccomp.Notification) seccomp.Verdict {
				notified.Store(true)
				return seccomp.Verdict{Errno: unix.ENOTBLK}
			})
			v.release(t)
			got := v.results(t)[0]
			if got.Errno != c.want || notified.Load() != c.notified {
				t.Errorf("the call gave %d (%v), notified %v; want %v, notified %v", got.Value, got.Errno, notified.Load(), c.want, c.notified)
			}
			if v.signal(t) != 0 {
				t.Error("the victim was killed")
			}
		})
	}
}

func TestForeignCallsKill(t *testing.T) {
	f := seccomp.Filter{Rules: []seccomp.Rule{allow("@known")}}
	for name, c := range map[string]victimCall{
		"x32":                     call(0x40000000 | unix.SYS_GETPID),
		"x32 call of its own":     call(0x40000000 | 512),
		"2^31-1":                  call(1<<31 - 1),
		"int 0x80":                {Int80: true},
		"killed by rule, not x32": {},
	} {
		t.Run(name, func(t *testing.T) {
			filter := f
			if name == "killed by rule, not x32" {
				filter, c = seccomp.Filter{Rules: []seccomp.Rule{runtimeCalls, {Names: []string{"ptrace"}, Action: seccomp.ActKillProcess}}}, call(unix.SYS_PTRACE)
			}
			v, l := start(t, filter, c), listen(t)
			v.serve(t, l, refuse(unix.EPERM))
			v.release(t)
			if got := v.signal(t); got != unix.SIGSYS {
				t.Errorf("the victim ended by %v; want SIGSYS", got)
			}
		})
	}
}

// No fault of a handler looks to the plugin as if the call had been made.
func TestVerdictReachesThePlugin(t *testing.T) {
	f := seccomp.Filter{Rules: []seccomp.Rule{runtimeCalls, allow("openat")}, Watch: []string{"openat"}}
	open := call(unix.SYS_OPENAT, unix.AT_FDCWD&(1<<64-1)).with(1, []byte("/dev/null"))
	for name, c := range map[string]struct {
		handle seccomp.Handler
		want   syscall.Errno
		faults int
	}{
		"errno":         {refuse(unix.EXDEV), unix.EXDEV, 0},
		"high":          {refuse(4094), 4094, 0},
		"zero":          {refuse(0), unix.EPERM, 0},
		"no errno":      {refuse(4096), unix.EPERM, 0},
		"negative":      {refuse(^syscall.Errno(0)), unix.EPERM, 0},
		"continue":      {func(seccomp.Notification) seccomp.Verdict { return seccomp.Verdict{Continue: true} }, 0, 0},
		"continue only": {func(seccomp.Notification) seccomp.Verdict { return seccomp.Verdict{Continue: true, Errno: unix.EXDEV} }, 0, 0},
		"panic":         {func(seccomp.Notification) seccomp.Verdict { panic("on purpose") }, unix.EPERM, 1},
	} {
		t.Run(name, func(t *testing.T) {
			v, l := start(t, f, open), listen(t)
			faults := 0
			l.OnFault(func(error) { faults++ })
			v.serve(t, l, c.handle)
			v.release(t)
			got := v.results(t)[0]
			if got.Errno != c.want || (got.Errno != 0) != (got.Value == 1<<64-1) {
				t.Errorf("the call gave %d (%v); want %v", got.Value, got.Errno, c.want)
			}
			if err := l.Close(); err != nil || faults != c.faults {
				t.Errorf("%d faults, %v; want %d", faults, err, c.faults)
			}
		})
	}
}

func TestNotificationIsOfTheCall(t *testing.T) {
	f := seccomp.Filter{Rules: []seccomp.Rule{runtimeCalls}}
	v, l := start(t, f, call(unix.SYS_PTRACE, 16, 1, 2, 3, 4, 5)), listen(t)
	pending := make(chan seccomp.Notification, 1)
	v.serve(t, l, func(n seccomp.Notification) seccomp.Verdict {
		pending <- n
		return seccomp.Verdict{Pending: true}
	})
	v.release(t)
	n := <-pending
	if n.Call != "ptrace" || n.NR != unix.SYS_PTRACE || n.Arch != unix.AUDIT_ARCH_X86_64 || n.Args != [6]uint64{16, 1, 2, 3, 4, 5} || n.PC == 0 || n.Time.IsZero() {
		t.Errorf("notification %+v", n)
	}
	pid, exe := n.Process()
	own, err := os.Executable()
	if err != nil || pid != v.cmd.Process.Pid || exe != own {
		t.Errorf("Process = %d, %q; want %d, %q", pid, exe, v.cmd.Process.Pid, own)
	}
	if !n.StillValid() {
		t.Error("a pending call is not valid")
	}
	if err := n.Answer(seccomp.Verdict{Errno: unix.EXDEV}); err != nil {
		t.Error(err)
	}
	if n.StillValid() {
		t.Error("an answered call is valid")
	}
	if err := n.Answer(seccomp.Verdict{Continue: true}); err != nil {
		t.Errorf("a second answer: %v", err)
	}
	if got := v.results(t)[0]; got.Errno != unix.EXDEV {
		t.Errorf("the call gave %v", got.Errno)
	}
	if v.signal(t); n.StillValid() {
		t.Error("a dead thread's call is valid")
	}
	if pid, exe := n.Process(); pid != 0 || exe != "" {
		t.Errorf("Process of a dead thread = %d, %q", pid, exe)
	}
}

// TestWhatTakesTimeHoldsUpNobody: while who took a call goes on with it, the calls
// of others, and more of the same plugin, are answered; a fault of it is a refusal.
func TestWhatTakesTimeHoldsUpNobody(t *testing.T) {
	f := seccomp.Filter{Rules: []seccomp.Rule{runtimeCalls}}
	l := listen(t)
	faults := make(chan error, 8)
	l.OnFault(func(err error) { faults <- err })
	slow, other := start(t, f, call(unix.SYS_MOUNT), call(unix.SYS_PTRACE)), start(t, f, call(unix.SYS_MOUNT))
	taken, goOn := make(chan struct{}), make(chan struct{})
	slow.serve(t, l, func(n seccomp.Notification) seccomp.Verdict {
		if n.NR == unix.SYS_PTRACE {
			return seccomp.Verdict{Pending: true, Then: func() { panic("on purpose") }}
		}
		return seccomp.Verdict{Pending: true, Then: func() {
			close(taken)
			<-goOn
			if err := n.Answer(seccomp.Verdict{Errno: unix.EXDEV}); err != nil {
				t.Error(err)
			}
		}}
	})
	other.serve(t, l, refuse(unix.EROFS))
	slow.release(t)
	select {
	case <-taken:
	case <-time.After(time.Minute):
		t.Fatal("the call did not come")
	}
	other.release(t)
	late := time.AfterFunc(time.Minute, func() {
		t.Error("the other plugin was held up")
		close(goOn)
	})
	if got := other.results(t)[0]; got.Errno != unix.EROFS {
		t.Errorf("the other plugin's call gave %v", got.Errno)
	}
	if late.Stop() {
		close(goOn)
	}
	if got := slow.results(t); got[0].Errno != unix.EXDEV || got[1].Errno != unix.EPERM {
		t.Errorf("the calls gave %v and %v", got[0].Errno, got[1].Errno)
	}
	select {
	case err := <-faults:
		if !strings.Contains(err.Error(), "on purpose") {
			t.Errorf("the fault is %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("nobody was told of the fault")
	}
}

func TestRemovedPluginIsRefused(t *testing.T) {
	f := seccomp.Filter{Rules: []seccomp.Rule{runtimeCalls}}
	for name, end := range map[string]func(l *seccomp.Listener, remove func()) error{
		"remove": func(_ *seccomp.Listener, remove func()) error {
			remove()
			remove()
			return nil
		},
		"close": func(l *seccomp.Listener, _ func()) error { return l.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			v, l := start(t, f, call(unix.SYS_MOUNT), call(unix.SYS_MOUNT)), listen(t)
			pending := make(chan seccomp.Notification, 2)
			remove := v.serve(t, l, func(n seccomp.Notification) seccomp.Verdict {
				pending <- n
				return seccomp.Verdict{Pending: true}
			})
			v.release(t)
			n := <-pending
			if err := end(l, remove); err != nil {
				t.Fatal(err)
			}
			if n.StillValid() || n.Answer(seccomp.Verdict{Continue: true}) != nil {
				t.Error("a removed plugin's call can be answered")
			}
			got := v.results(t)
			if got[0].Errno != unix.EPERM {
				t.Errorf("the pending call gave %v; want EPERM", got[0].Errno)
			}
			// Nobody holds the listener any more.
			if got[1].Errno != unix.ENOSYS {
				t.Errorf("the next call gave %v; want ENOSYS", got[1].Errno)
			}
			if l.Len() != 0 {
				t.Errorf("%d plugins are served", l.Len())
			}
		})
	}
}

func TestClosedListenerTakesNobody(t *testing.T) {
	l := listen(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	v := start(t, seccomp.Filter{Rules: []seccomp.Rule{runtimeCalls}})
	if _, err := l.Add(v.listener, refuse(0)); err == nil {
		t.Error("a closed listener takes a plugin")
	}
	if _, err := listen(t).Add(-1, refuse(0)); err == nil {
		t.Error("a listener takes no descriptor for one")
	}
	if err := unix.Close(v.listener); err != nil {
		t.Error(err)
	}
}

// Several plugins in one loop, one of which is killed while its call waits;
// the end of each takes it out.
func TestOneLoopServesMany(t *testing.T) {
	f := seccomp.Filter{Rules: []seccomp.Rule{runtimeCalls}}
	l := listen(t)
	var mu sync.Mutex
	count := map[int]int{}
	var all []*running
	hang := make(chan seccomp.Notification, 1)
	dying := start(t, f, call(unix.SYS_MOUNT))
	dying.serve(t, l, func(n seccomp.Notification) seccomp.Verdict {
		hang <- n
		return seccomp.Verdict{Pending: true}
	})
	for range 3 {
		v := start(t, f, slices.Repeat([]victimCall{call(unix.SYS_MOUNT)}, 50)...)
		pid := v.cmd.Process.Pid
		v.serve(t, l, func(seccomp.Notification) seccomp.Verdict {
			mu.Lock()
			defer mu.Unlock()
			count[pid]++
			return seccomp.Verdict{Errno: unix.EACCES}
		})
		all = append(all, v)
	}
	if l.Len() != 4 {
		t.Errorf("%d plugins are served", l.Len())
	}
	dying.release(t)
	n := <-hang
	for _, v := range all {
		v.release(t)
	}
	if err := dying.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		for i, r := range v.results(t) {
			if r.Errno != unix.EACCES {
				t.Errorf("call %d gave %v", i, r.Errno)
			}
		}
		v.signal(t)
	}
	dying.signal(t)
	for l.Len() > 0 { // each end wakes the loop; the test's deadline bounds this
		runtime.Gosched()
	}
	if err := n.Answer(seccomp.Verdict{}); err != nil {
		t.Errorf("the answer to a dead thread: %v", err)
	}
	for pid, times := range count {
		if times != 50 {
			t.Errorf("victim %d was notified %d times", pid, times)
		}
	}
}

// described runs calls that are all refused, and returns what is made of them.
func described(t *testing.T, calls ...victimCall) (notes []seccomp.Notification, args [][]string, paths []string, access []string) {
	t.Helper()
	v, l := start(t, seccomp.Filter{Rules: []seccomp.Rule{runtimeCalls}}, calls...), listen(t)
	pending := make(chan seccomp.Notification, 1)
	v.serve(t, l, func(n seccomp.Notification) seccomp.Verdict {
		pending <- n
		return seccomp.Verdict{Pending: true}
	})
	v.release(t)
	for range calls {
		n := <-pending
		a, p := seccomp.Describe(n)
		file, how := seccomp.OpenAccess(n)
		notes, args, paths = append(notes, n), append(args, a), append(paths, p)
		access = append(access, strings.TrimSpace(how+" "+file))
		if err := n.Answer(seccomp.Verdict{}); err != nil {
			t.Fatal(err)
		}
	}
	v.results(t)
	return notes, args, paths, access
}

func le(size int, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(nil, v)[:size]
}

func TestCallsAreDescribed(t *testing.T) {
	const cwd = unix.AT_FDCWD & (1<<64 - 1)
	inet := slices.Concat(le(2, unix.AF_INET), []byte{0x01, 0xbb, 93, 184, 216, 34}, make([]byte, 8))
	inet6 := slices.Concat(le(2, unix.AF_INET6), []byte{0, 80}, le(4, 0), make([]byte, 15), []byte{1}, le(4, 0))
	how := slices.Concat(le(8, unix.O_RDWR|unix.O_CREAT), le(8, 0o600), le(8, 8))
	clone := slices.Concat(le(8, unix.CLONE_NEWUSER|unix.CLONE_NEWNET), make([]byte, 24), le(8, uint64(unix.SIGCHLD)))
	long := []byte("/" + strings.Repeat("a", 5000))
	for _, c := range []struct {
		call   victimCall
		args   string
		path   string
		access string
	}{
		{call(unix.SYS_MOUNT, 0, 0, 0, unix.MS_NOSUID|unix.MS_BIND, 0).with(0, []byte("none")).with(1, []byte("/mnt/../x")).with(2, []byte("tmpfs")), `"none" "/mnt/../x" "tmpfs" MS_NOSUID|MS_BIND NULL`, "/x", ""},
		{call(unix.SYS_UMOUNT2, 0, unix.MNT_DETACH).with(0, []byte("/proc")), `"/proc" MNT_DETACH`, "/proc", ""},
		{call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1, 0, 0), `PTRACE_ATTACH 1 0x0 0x0`, "", ""},
		{call(unix.SYS_SOCKET, 1<<32|unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0x300), `AF_PACKET SOCK_RAW|SOCK_CLOEXEC ETH_P_ALL`, "", ""},
		{call(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT), `AF_NETLINK SOCK_RAW NETLINK_AUDIT`, "", ""},
		{call(unix.SYS_SOCKET, 99, 77, 6), `99 77 6`, "", ""},
		{call(unix.SYS_CONNECT, 5, 0, 16).exact(1, inet), `5 93.184.216.34:443 16`, "", ""},
		{call(unix.SYS_CONNECT, 5, 0, 28).exact(1, inet6), `5 [::1]:80 28`, "", ""},
		{call(unix.SYS_BIND, 5, 0, 12).exact(1, append(le(2, unix.AF_UNIX), "/run/\x1b[0m\x00"...)), `5 unix:/run/\x1b[0m 12`, `/run/\x1b[0m`, ""},
		{call(unix.SYS_BIND, 5, 0, 5).exact(1, append(le(2, unix.AF_UNIX), "\x00ab"...)), `5 unix:@ab 5`, "", ""},
		{call(unix.SYS_BIND, 5, 0, 2).exact(1, le(2, unix.AF_UNIX)), `5 unix:unnamed 2`, "", ""},
		{call(unix.SYS_SENDTO, 5, 0, 0, 0, 0, 16).exact(4, inet), `5 NULL 0 0x0 93.184.216.34:443 16`, "", ""},
		{call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER|unix.CLONE_NEWNS), `CLONE_NEWUSER|CLONE_NEWNS`, "", ""},
		{call(unix.SYS_CLONE, unix.CLONE_NEWPID|uint64(unix.SIGCHLD)), `CLONE_NEWPID|SIGCHLD NULL NULL NULL 0x0`, "", ""},
		{call(unix.SYS_CLONE3, 0, 40).exact(0, clone), `{flags=CLONE_NEWUSER|CLONE_NEWNET, exit_signal=SIGCHLD} 40`, "", ""},
		{call(unix.SYS_SETNS, 7, unix.CLONE_NEWNET), `7 CLONE_NEWNET`, "", ""},
		{call(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 1), `KEYCTL_JOIN_SESSION_KEYRING 0x1 0x0 0x0 0x0`, "", ""},
		{call(unix.SYS_BPF, unix.BPF_PROG_LOAD, 0, 120), `BPF_PROG_LOAD NULL 120`, "", ""},
		{call(unix.SYS_PERSONALITY, 0x40000), `0x40000`, "", ""},
		{call(unix.SYS_IOCTL, 0, unix.TIOCSTI, 1), `0 TIOCSTI 0x1`, "", ""},
		{call(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1), `PR_SET_DUMPABLE 0x1 0x0 0x0 0x0`, "", ""},
		{call(unix.SYS_KILL, 1<<64-1, uint64(unix.SIGKILL)), `-1 SIGKILL`, "", ""},
		{call(unix.SYS_CHMOD, 0, 0o4755).with(0, []byte("x")), `"x" 04755`, "/tmp/x", ""},
		{call(unix.SYS_CHOWN, 0, 0, 0).with(0, []byte("/x")), `"/x" 0 0`, "/x", ""},
		{call(unix.SYS_SYMLINK).with(0, []byte("../../etc")).with(1, []byte("here")), `"../../etc" "here"`, "/tmp/here", ""},
		{call(unix.SYS_RENAME).with(0, []byte("/a")).with(1, []byte("/b")), `"/a" "/b"`, "/a", ""},
		{call(unix.SYS_UNLINKAT, cwd, 0, 0).with(1, []byte("a\nb")), `AT_FDCWD "a\nb" 0x0`, `/tmp/a\nb`, ""},
		{call(unix.SYS_MKNOD, 0, 0o20600, 259).with(0, []byte("/dev/x")), `"/dev/x" 020600 0x103`, "/dev/x", ""},
		{call(unix.SYS_OPEN, 0, unix.O_CLOEXEC).with(0, []byte("/etc/shadow")), `"/etc/shadow" O_RDONLY|O_CLOEXEC 0`, "/etc/shadow", "read /etc/shadow"},
		{call(unix.SYS_OPENAT, cwd, 0, unix.O_WRONLY|unix.O_TRUNC, 0).with(1, []byte("./y")), `AT_FDCWD "./y" O_WRONLY|O_TRUNC 0`, "/tmp/y", "write /tmp/y"},
		{call(unix.SYS_OPENAT, 999, 0, 0, 0).with(1, []byte("y")), `999 "y" O_RDONLY 0`, "y", "read"},
		{call(unix.SYS_OPENAT, 999, 0, unix.O_PATH|unix.O_RDWR, 0).with(1, []byte("/y")), `999 "/y" O_RDWR|O_PATH 0`, "/y", "read /y"},
		{call(unix.SYS_OPENAT2, cwd, 0, 0, 24).with(1, []byte("z")).exact(2, how), `AT_FDCWD "z" {flags=O_RDWR|O_CREAT, mode=0600, resolve=0x8} 24`, "/tmp/z", "write /tmp/z"},
		{call(unix.SYS_CREAT, 0, 0o644).with(0, []byte("/c")), `"/c" 0644`, "/c", "write /c"},
		{call(unix.SYS_OPEN).with(0, []byte(`/a" O_RDONLY "`)), `"/a\" O_RDONLY \"" O_RDONLY 0`, `/a" O_RDONLY "`, `read /a" O_RDONLY "`},
		{call(unix.SYS_OPEN, 16), `0x10 O_RDONLY 0`, "", "read"},
		{call(unix.SYS_OPEN).exact(0, []byte("/no end")), `"/no end" O_RDONLY 0`, "", "read"},
		{call(unix.SYS_OPEN).with(0, long), `"/` + strings.Repeat("a", 255) + `"... O_RDONLY 0`, "", "read"},
		{call(unix.SYS_OPEN).with(0, append(slices.Repeat([]byte("/a"), 2047), '/')), `"` + strings.Repeat("/a", 128) + `"... O_RDONLY 0`, strings.Repeat("/a", 2047), "read " + strings.Repeat("/a", 2047)},
		{call(unix.SYS_EXECVEAT, 3, 0, 0, 0, unix.AT_EMPTY_PATH).with(1, nil), `3 "" NULL NULL 0x1000`, "", ""},
		{call(182, 1, 2, 3), `0x1 0x2 0x3 0x0 0x0 0x0`, "", ""},
	} {
		_, args, paths, access := described(t, c.call)
		name := seccomp.Name(int(c.call.NR))
		got, path, how := strings.Join(args[0], " "), paths[0], access[0]
		if name == "execveat" { // the target of descriptor 3 is a pipe here
			path = ""
		}
		if got != c.args || path != c.path || how != c.access {
			t.Errorf("%s\n got %s, path %q, %q\nwant %s, path %q, %q", name, got, path, how, c.args, c.path, c.access)
		}
	}
}

// What is decoded after the answer is of the same thread, or nothing.
func TestDescribeAfterTheAnswer(t *testing.T) {
	f := seccomp.Filter{Rules: []seccomp.Rule{runtimeCalls}}
	v, l := start(t, f, call(unix.SYS_CHDIR).with(0, []byte("/one")), call(unix.SYS_MOUNT)), listen(t)
	notes := make(chan seccomp.Notification, 2)
	v.serve(t, l, func(n seccomp.Notification) seccomp.Verdict {
		notes <- n
		return seccomp.Verdict{Pending: n.Call == "mount"}
	})
	v.release(t)
	first, second := <-notes, <-notes
	if first.StillValid() {
		t.Error("an answered call is valid")
	}
	if args, path := seccomp.Describe(first); path != "/one" {
		t.Errorf("Describe of an answered call = %q, %q", args, path)
	}
	if err := second.Answer(seccomp.Verdict{}); err != nil {
		t.Error(err)
	}
	v.signal(t)
	if args, path := seccomp.Describe(first); path != "" || strings.Contains(args[0], "one") {
		t.Errorf("Describe of a dead thread's call = %q, %q", args, path)
	}
}
