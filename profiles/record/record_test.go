package record

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/seccomp"
)

func call(name string, args ...uint64) seccomp.Notification {
	nr, _ := seccomp.Number(name)
	n := seccomp.Notification{NR: nr, Call: name}
	copy(n.Args[:], args)
	return n
}

func newRecorder(t *testing.T) *Recorder {
	t.Helper()
	p, err := Base()
	if err != nil {
		t.Fatal(err)
	}
	pl, err := profiles.Resolve(profiles.Input{Profile: p, Ceiling: profiles.DefaultCeiling(), Argv: []string{"/bin/true"}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRecorder(pl)
	if err != nil {
		t.Fatal(err)
	}
	if !pl.Seccomp.ExecOnce || len(pl.Seccomp.Rules) != 0 {
		t.Fatalf("calls go past the recorder: %+v", pl.Seccomp)
	}
	return r
}

// TestWhatIsDangerousIsRefused: a recording opens nothing to a program that
// nobody knows yet.
func TestWhatIsDangerousIsRefused(t *testing.T) {
	r := newRecorder(t)
	for _, n := range []seccomp.Notification{
		call("mount"), call("ptrace"), call("unshare"), call("setns"), call("bpf"), call("keyctl"), call("execveat"), call("userfaultfd"),
		call("clone", 0x10000000|17), call("clone", 1<<32|0x20000), call("ioctl", 0, 0x5412), call("prctl", 22), call("socket", 17, 3, 3),
		call("chmod", 0, 0o4755), call("openat", 0, 0, 0x40, 0o2755), call("personality", 0x400000),
	} {
		if v := r.Answer(n); v.Continue {
			t.Errorf("%s%#x goes on", n.Call, n.Args)
		}
	}
	for _, n := range []seccomp.Notification{call("clone3"), call("openat2"), call("io_uring_setup")} {
		if v := r.Answer(n); v.Continue || v.Errno != 38 {
			t.Errorf("%s is answered %+v, want ENOSYS", n.Call, v)
		}
	}
	rec := r.Recording()
	if len(rec.Calls) != 0 || rec.Refused["mount"] == nil || rec.Answered["openat2"] == nil || rec.Answered["openat2"].Errno != "ENOSYS" {
		t.Errorf("noted %+v", rec)
	}
}

// sample is a recording as a run leaves it.
func sample() *Recording {
	r := New()
	r.Runs, r.Commands = 1, [][]string{{"/opt/tool", "--\x1b[31mred\nname = 1"}}
	for _, n := range []struct {
		name string
		args Args
	}{
		{"close", Args{}},
		{"mmap", Args{2: 3, 3: 0x22}},
		{"mmap", Args{2: 5, 3: 2}},
		{"clone", Args{0x3d0f00}},
		{"ioctl", Args{1: 0x5401}},
		{"fcntl", Args{1: 3}},
		{"fcntl", Args{1: 1030}},
		{"socket", Args{1, 1, 0}},
		{"openat", Args{}},
	} {
		use(r.Calls, n.name, n.args)
	}
	use(r.Answered, "ioctl", Args{1: 0x12345})
	r.Answered["ioctl"].Errno = "ENOTTY"
	use(r.Answered, "openat2", Args{})
	r.Answered["openat2"].Errno = "ENOSYS"
	use(r.Refused, "ptrace", Args{})
	for _, lib := range []string{"liba.so", "libb.so", "libc.so", "libd.so", "libe.so"} {
		r.path("/usr/lib/tool/"+lib, "/usr/lib/tool/"+lib, "", "execute", "read_file")
	}
	r.path("/opt/tool", "/home/me/tool", "", "execute", "read_file")
	r.path("/etc/localtime", "/etc/localtime", "", "read_file")
	r.path("/srv/out/a/b", "/mnt/out/a/b", "/srv/out", "write_file")
	r.Connects = []string{"10.0.0.1:443"}
	r.MemoryPeak, r.DataPeak, r.Tasks = 100<<20, 3<<30, 40
	return r
}

const wantSample = `# Recorded from one run by cordon profile record, 2026-01-02. Read it before you use it.
#   /opt/tool --?[31mred?name = 1
# Coverage: unknown: because.
description = "recorded"

[seccomp]
execve = "once" # no other program was executed
allow = [
  "clone", "close", "mmap", "openat",
  # Not seen, but made by the same program when threads, processes or memory meet in another order:
  "brk", "clock_nanosleep", "futex", "getpid", "gettid", "madvise", "mremap", "munmap", "nanosleep",
  "restart_syscall", "rseq", "rt_sigprocmask", "sched_getaffinity", "sched_getparam",
  "sched_getscheduler", "sched_yield", "set_robust_list", "tgkill",
]

[seccomp.errno]
openat2 = "ENOSYS" # and it went on without

[[seccomp.rule]]
names = ["fcntl"]
args = [{ index = 1, op = "SCMP_CMP_EQ", value = 3 }] # F_GETFL
action = "SCMP_ACT_ALLOW"
[[seccomp.rule]]
names = ["fcntl"]
args = [{ index = 1, op = "SCMP_CMP_EQ", value = 1030 }] # F_DUPFD_CLOEXEC
action = "SCMP_ACT_ALLOW"

[[seccomp.rule]]
names = ["ioctl"]
args = [{ index = 1, op = "SCMP_CMP_EQ", value = 21505 }] # TCGETS
action = "SCMP_ACT_ALLOW"

[[seccomp.rule]]
names = ["socket"]
args = [{ index = 0, op = "SCMP_CMP_EQ", value = 1 }, { index = 1, op = "SCMP_CMP_MASKED_EQ", value = 15, value_two = 1 }, { index = 2, op = "SCMP_CMP_EQ", value = 0 }] # AF_UNIX, SOCK_STREAM
action = "SCMP_ACT_ALLOW"

[[seccomp.rule]]
names = ["ioctl"]
args = [{ index = 1, op = "SCMP_CMP_EQ", value = 74565 }]
action = "SCMP_ACT_ERRNO"
errno = "ENOTTY"

[[files]]
path = "/etc/localtime"
access = "r"

[[files]]
path = "/opt/tool"
from = "/home/me/tool"
access = "rx"

[[files]]
path = "/srv/out"
from = "/mnt/out"
access = "rw"

[[files]] # 5 paths in it were needed
path = "/usr/lib/tool"
access = "rx"

[resources]
memory.max = "256M" # at most 100M were used
pids.max = 128 # 40 processes and threads were seen
rlimit.data = "8G" # 3072M of writable memory were mapped

# It called ptrace (1 times), which no recording lets through, and which is not allowed here.
# It tried to connect to 10.0.0.1:443; there is no network.
`

func TestProfile(t *testing.T) {
	got, err := sample().Profile(Coverage{Unknown: "because"}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	if err != nil || got != wantSample {
		t.Errorf("%v\n%s", err, got)
	}
}

// TestJIT: who made memory executable after writing it has the guard lifted,
// with a comment; who did not has not.
func TestJIT(t *testing.T) {
	r := sample()
	use(r.Calls, "mprotect", Args{2: 5})
	got, err := r.Profile(Coverage{Unknown: "because"}, time.Unix(0, 0))
	if err != nil || !strings.Contains(got, "can become code.\n[[seccomp.rule]]\nnames = [\"mprotect\"]\naction") {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestMergeAddsWhatAnotherRunSaw(t *testing.T) {
	r, o := sample(), sample()
	use(o.Calls, "flock", Args{})
	use(o.Calls, "fcntl", Args{1: 4})
	o.path("/etc/localtime", "/etc/localtime", "", "execute")
	o.Execs, o.MemoryPeak = []string{"/usr/bin/id"}, 1<<30
	r.Merge(o)
	switch {
	case r.Runs != 2 || len(r.Commands) != 1 || r.Calls["close"].Count != 2 || r.Calls["flock"] == nil || len(r.Calls["fcntl"].Args) != 3:
		t.Errorf("%+v, fcntl %+v", r, r.Calls["fcntl"])
	case !slices.Equal(r.Paths["/etc/localtime"].Access, []string{"execute", "read_file"}) || r.MemoryPeak != 1<<30 || len(r.Execs) != 1:
		t.Errorf("%+v", r)
	}
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := back.Encode()
	if err != nil || string(again) != string(data) {
		t.Errorf("read back differs: %v\n%s\n%s", err, data, again)
	}
}

func TestUsesAreBounded(t *testing.T) {
	r := New()
	for i := range uint64(1000) {
		use(r.Calls, "setsockopt", Args{1: i})
	}
	if u := r.Calls["setsockopt"]; len(u.Args) != maxUses || !u.Many || u.Count != 1000 {
		t.Errorf("%d uses, many %v, %d calls", len(u.Args), u.Many, u.Count)
	}
	text, err := r.Profile(Coverage{Unknown: "because"}, time.Unix(0, 0))
	if err != nil || !strings.Contains(text, `"setsockopt"`) {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestCoverage(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"": "not found", script: "it is a script: what sh does", "/usr/bin/python3": "interpreter", self: "",
	} {
		if _, err := os.Stat(file); err != nil && file != "" {
			t.Logf("not asked: %s is not there", file)
			continue
		}
		if c := Cover(New(), file); !strings.Contains(c.Unknown, want) {
			t.Errorf("%s: %+v, want %q", file, c, want)
		}
	}
	r := New()
	use(r.Calls, "openat", Args{})
	c := r.against(map[string]bool{"openat": true, "connect": true, "write": true})
	if c.Could != 3 || c.Seen != 2 || !slices.Equal(c.Unseen, []string{"connect"}) {
		t.Errorf("%+v", c)
	}
	for function, want := range map[string]string{"fork": "clone", "socket": "socket", "__printf_chk": "write", "open64": "openat", "strlen": "", "waitpid": "wait4"} {
		if got := strings.Join(behind(function), " "); got != want {
			t.Errorf("behind %s is %q, want %q", function, got, want)
		}
	}
	for function, calls := range wrapped {
		for _, name := range calls {
			if !knownCall(name) {
				t.Errorf("%s: there is no call %s", function, name)
			}
		}
	}
}

// FuzzParse: whatever stands in a recording's file, what is read can be written
// as a profile, or is refused, and never says more than the recording.
func FuzzParse(f *testing.F) {
	data, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"calls":{"ioctl":{"count":1,"args":[[0,1,0,0,0,0]]}}}`))
	f.Add([]byte(`{"version":1,"calls":{"close":null}}`))
	f.Add([]byte(`{"version":1,"paths":{"/a":{"access":["execute"]}},"commands":[["a\nb"]],"answered":{"ioctl":{"errno":"X"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Parse(data)
		if err != nil {
			return
		}
		text, err := r.Profile(Cover(r, ""), time.Unix(0, 0))
		if err != nil {
			return
		}
		if _, err := profiles.ParseProfile("x.toml", []byte(text)); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	})
}
