package violation

import (
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
)

func ptr[T any](v T) *T { return &v }

// thumbs is a small plan with one conditional call and two grants.
func thumbs() *plan.Plan {
	return &plan.Plan{
		Profile: "thumbs",
		Proc:    "pid",
		Devices: []string{"null"},
		Files: []plan.File{
			{Path: "/usr", Access: []string{"execute", "read_dir", "read_file"}, Origin: "thumbs.toml:7"},
			{Path: "/srv", Access: []string{"read_file"}, Origin: "--ro"},
			{Path: "/data", Access: []string{"read_file", "write_file"}},
		},
		Seccomp: seccomp.Filter{Rules: []seccomp.Rule{
			{Names: []string{"read", "write"}, Action: seccomp.ActAllow},
			{Names: []string{"socket"}, Action: seccomp.ActAllow, Args: []seccomp.Condition{{Index: 0, Op: seccomp.OpEqual, Value: 1}}},
			{Names: []string{"mprotect"}, Action: seccomp.ActAllow},
			{Names: []string{"mprotect"}, Action: seccomp.ActNotify, Args: []seccomp.Condition{{Index: 2, Op: seccomp.OpMaskedEqual, Value: 4, ValueTwo: 4}}},
			{Names: []string{"kcmp"}, Action: seccomp.ActAllow, Args: []seccomp.Condition{{Index: 2, Op: seccomp.OpLess, Value: 4}}},
		}},
		Limits:    cgroups.Limits{MemoryMax: ptr(int64(64 << 20)), PidsMax: ptr(int64(32))},
		Lifecycle: plan.Lifecycle{Watchdog: 4 * time.Second},
		Time:      plan.Time{Wall: time.Minute, CPU: 30 * time.Second},
		Origins:   map[string]string{"seccomp.allow": "builtin:strict:12", "resources.memory.max": "thumbs.toml:20", "seccomp.deny.swapon": "/etc/cordon/profiles/thumbs.toml:9"},
	}
}

func TestExplain(t *testing.T) {
	tests := []struct {
		name               string
		v                  Violation
		rule, change, also string // also: a part of it
	}{
		{
			"mount",
			Violation{Wall: Seccomp, Call: "mount"},
			"mount is on no list of calls that are allowed (builtin:strict:12)",
			"[seccomp]\nallow = [\"mount\"]\n", "Never for a plugin you do not trust",
		},
		{
			"ptrace",
			Violation{Wall: Seccomp, What: "ptrace"},
			"ptrace is on no list of calls that are allowed (builtin:strict:12)",
			"[seccomp]\nallow = [\"ptrace\"]\n", "Never for a plugin you do not trust",
		},
		{
			"raw socket",
			Violation{Wall: Seccomp, Call: "socket", Args: []string{"AF_INET", "SOCK_RAW|SOCK_CLOEXEC", "1"}, RawArgs: []uint64{2, 0x80003, 1, 0, 0, 0}},
			"socket is allowed only where argument 0 is 1 (builtin:strict:12)",
			"[[seccomp.rule]]\nnames = [\"socket\"]\naction = \"SCMP_ACT_ALLOW\"\nargs = [\n" +
				"  { index = 0, op = \"SCMP_CMP_EQ\", value = 2 }, # AF_INET\n" +
				"  { index = 1, op = \"SCMP_CMP_MASKED_EQ\", value = 15, value_two = 3 }, # SOCK_RAW|SOCK_CLOEXEC\n" +
				"  { index = 2, op = \"SCMP_CMP_EQ\", value = 1 },\n]\n", "raw sockets forge packets",
		},
		{
			"high bits of an int do not count",
			Violation{Wall: Seccomp, Call: "ioctl", RawArgs: []uint64{0, 0xffffffff00005412}},
			"ioctl is on no list of calls that are allowed (builtin:strict:12)",
			"[[seccomp.rule]]\nnames = [\"ioctl\"]\naction = \"SCMP_ACT_ALLOW\"\nargs = [\n  { index = 1, op = \"SCMP_CMP_EQ\", value = 21522 },\n]\n", "TIOCSTI",
		},
		{
			"arguments that the plan looks at",
			Violation{Wall: Seccomp, Call: "kcmp", RawArgs: []uint64{1, 2, 9}},
			"kcmp is allowed only where argument 2 is below 4 (builtin:strict:12)",
			"[[seccomp.rule]]\nnames = [\"kcmp\"]\naction = \"SCMP_ACT_ALLOW\"\nargs = [\n  { index = 2, op = \"SCMP_CMP_EQ\", value = 9 },\n]\n", "Never",
		},
		{
			"arguments not known",
			Violation{Wall: Seccomp, Call: "socket"},
			"socket is allowed only where argument 0 is 1 (builtin:strict:12)",
			"[[seccomp.rule]]\nnames = [\"socket\"]\naction = \"SCMP_ACT_ALLOW\"\n", "every family",
		},
		{
			"larger than TOML can say",
			Violation{Wall: Seccomp, Call: "mmap", RawArgs: []uint64{0, 4096, 1<<63 | 6, 0}},
			"mmap is on no list of calls that are allowed (builtin:strict:12)",
			"[[seccomp.rule]]\nnames = [\"mmap\"]\naction = \"SCMP_ACT_ALLOW\"\n", "writable and executable",
		},
		{
			"more conditions than the rule that refuses",
			Violation{Wall: Seccomp, Call: "mprotect", RawArgs: []uint64{0x7f0000000000, 4096, 5}},
			"mprotect is refused where argument 2 masked by 0x4 is 0x4 (builtin:strict:12)",
			"[[seccomp.rule]]\nnames = [\"mprotect\"]\naction = \"SCMP_ACT_ALLOW\"\nargs = [\n  { index = 2, op = \"SCMP_CMP_EQ\", value = 5 },\n" +
				"  { index = 2, op = \"SCMP_CMP_GE\", value = 0 }, # always holds: of two rules the one with more conditions decides\n]\n", "writable and executable",
		},
		{
			"denied by the profile itself",
			Violation{Wall: Seccomp, Call: "swapon"},
			"swapon is on no list of calls that are allowed (/etc/cordon/profiles/thumbs.toml:9)",
			"[seccomp]\nallow = [\"swapon\"]\n", "First take it off the list at /etc/cordon/profiles/thumbs.toml:9",
		},
		{
			"ring",
			Violation{Wall: Seccomp, Call: "io_uring_setup"},
			"io_uring_setup is on no list of calls that are allowed (builtin:strict:12)", "", "goes round the filter",
		},
		{
			"no name",
			Violation{Wall: Seccomp, Call: "syscall_999"},
			"a call without a name in the tables is never allowed (builtin:strict:12)", "", "No line of a profile",
		},
		{
			"x32",
			Violation{Wall: Seccomp, What: "call 39 of x32 programs", Killed: true},
			"a call of another architecture is never allowed, and killed at once (builtin:strict:12)", "", "No line of a profile",
		},
		{
			"forged name",
			Violation{Wall: Seccomp, Call: "x\"]\n[files"},
			"a call without a name in the tables is never allowed (builtin:strict:12)", "", "No line of a profile",
		},
		{
			"shadow",
			Violation{Wall: Files, Path: "/etc/shadow", Access: "read"},
			"no [[files]] grant covers /etc/shadow (thumbs)",
			"[[files]]\npath = \"/etc/shadow\"\naccess = \"r\"\n", "Never for a plugin you do not trust: it holds the password hashes",
		},
		{
			"write below a grant to read",
			Violation{Wall: Files, Path: "/srv/out \"x\"", Access: "write"},
			"/srv is granted r only (--ro)",
			"[[files]]\npath = \"/srv/out \\\"x\\\"\"\naccess = \"rw\"\n", "The path must exist",
		},
		{
			"execute where one can write",
			Violation{Wall: Files, Path: "/data/a.out", Access: "execute"},
			"/data is granted rw only (thumbs)", "", "must not execute",
		},
		{
			"write where one can execute",
			Violation{Wall: Files, Path: "/usr", Access: "write"},
			"/usr is granted rx only (thumbs.toml:7)", "", "must not write",
		},
		{"plugin", Violation{Wall: Files, Path: "/plugin/x", Access: "write"}, "no [[files]] grant covers /plugin/x (thumbs)", "", "verified copy"},
		{"kernel memory", Violation{Wall: Files, Path: "/proc/kcore", Access: "read"}, "/proc shows the plugin's own processes only (thumbs)", "", "No line"},
		{
			"all of proc",
			Violation{Wall: Files, Path: "/proc/cpuinfo", Access: "read"},
			"/proc shows the plugin's own processes only (thumbs)", "[proc]\nmode = \"full\"\n", "the whole machine",
		},
		{"write to proc", Violation{Wall: Files, Path: "/proc/self/mem", Access: "write"}, "/proc shows the plugin's own processes only (thumbs)", "", "No line"},
		{
			"device",
			Violation{Wall: Files, Path: "/dev/full", Access: "read"},
			"/dev holds null only (thumbs)", "[devices]\nallow = [\"full\"]\n", "harmless",
		},
		{"disk", Violation{Wall: Files, Path: "/dev/sda", Access: "read"}, "/dev holds null only (thumbs)", "", "No line"},
		{
			"shared memory",
			Violation{Wall: Files, Path: "/dev/shm/x", Access: "write"},
			"/dev holds null only (thumbs)", "[shm]\nsize = \"16M\"\n", "memory.max",
		},
		{"relative", Violation{Wall: Files, Path: "etc/x", Access: "read"}, "no [[files]] grant covers etc/x (thumbs)", "", "by hand"},
		{"dots", Violation{Wall: Files, Path: "/srv/../etc/shadow", Access: "read"}, "/srv is granted r only (--ro)", "", "by hand"},
		{
			"escaped",
			Violation{Wall: Files, Path: "/x\"\n[seccomp]\nallow=[\"mount\"]", Access: "read"},
			`no [[files]] grant covers /x"\n[seccomp]\nallow=["mount"] (thumbs)`, "", "by hand",
		},
		{
			"memory",
			Violation{Wall: Memory, What: "memory.max", Limit: 64 << 20, Peak: 64 << 20},
			"memory.max is 64M (thumbs.toml:20)", "[resources]\nmemory.max = \"96M\"\n", "neighbours",
		},
		{"pids", Violation{Wall: Pids, Limit: -1, Peak: -1}, "pids.max is 32 (thumbs)", "[resources]\npids.max = 64\n", "Threads count"},
		{"wall time", Violation{Wall: Time, What: "time.wall"}, "time.wall is 1m (thumbs)", "[resources]\ntime.wall = \"2m\"\n", "whole life"},
		{"cpu time", Violation{Wall: Time, What: "time.cpu"}, "time.cpu is 30s (thumbs)", "[resources]\ntime.cpu = \"1m\"\n", "whole life"},
		{"protocol", Violation{Wall: IPC, What: "bad frame"}, "the protocol is not to be broken (thumbs)", "", "author's to mend"},
		{"grant", Violation{Wall: Grant, What: "net.dial"}, "a capability that was not granted is refused at every call", "", "manifest"},
		{"watchdog", Violation{Wall: Watchdog}, "watchdog_sec is 4s: a plugin that does not answer in it is taken for hung (thumbs)", "[lifecycle]\nwatchdog_sec = \"8s\"\n", "hangs"},
		{
			"a guarded call of which nothing was said",
			Violation{Wall: Seccomp, Call: "prctl", RawArgs: []uint64{15, 1, 0, 0, 0, 0}},
			"prctl is on no list of calls that are allowed (builtin:strict:12)", "[seccomp]\nallow = [\"prctl\"]\n", "comes with a guard",
		},
		{
			"a library",
			Violation{Wall: Files, Path: "/lib/x86_64-linux-gnu/libz.so.1", Access: "read"},
			"no [[files]] grant covers /lib/x86_64-linux-gnu/libz.so.1 (thumbs)",
			"[[files]]\npath = \"/usr/lib/x86_64-linux-gnu/libz.so.1\"\naccess = \"rx\"\n", "must exist",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := tt.v
			Explain(&v, thumbs())
			if v.Rule != tt.rule {
				t.Errorf("rule\n got %s\nwant %s", v.Rule, tt.rule)
			}
			if v.Change != tt.change {
				t.Errorf("change\n got %s\nwant %s", v.Change, tt.change)
			}
			if !strings.Contains(v.Also, tt.also) {
				t.Errorf("also: %q does not say %q", v.Also, tt.also)
			}
			var into map[string]any
			if _, err := toml.Decode(v.Change, &into); err != nil {
				t.Errorf("the change is no TOML: %v", err)
			}
		})
	}
}

// TestExplainBoundElsewhere: a bound that the profile did not set cannot be
// lifted by the profile alone, and the text says so.
func TestExplainBoundElsewhere(t *testing.T) {
	for by, want := range map[string]string{"ceiling": "cordond.toml", "manifest:4": "manifest"} {
		p := thumbs()
		p.Origins["resources.memory.max"] = by
		v := Violation{Wall: Memory}
		Explain(&v, p)
		if !strings.Contains(v.Also, want) {
			t.Errorf("bound by %s: %q does not say %q", by, v.Also, want)
		}
	}
}

func TestNextSteps(t *testing.T) {
	const m = 1 << 20
	for n, want := range map[int64]int64{0: 0, -1: 0, 1: m, 64 * m: 96 * m, 100 * m: 128 * m, 512 * m: 768 * m, 1 << 62: 0} {
		if got := nextSize(n); got != want {
			t.Errorf("nextSize(%d) = %d, want %d", n, got, want)
		}
	}
	for n, want := range map[int64]int64{0: 0, 1: 1, 2: 2, 16: 32, 100: 128, 1 << 62: 0} {
		if got := nextCount(n); got != want {
			t.Errorf("nextCount(%d) = %d, want %d", n, got, want)
		}
	}
}

func FuzzExplain(f *testing.F) {
	f.Add("mount", "/etc/shadow", "read", "x")
	f.Add("x\"]\n[files", "/a\"\n[seccomp]\nallow = [\"mount\"]\n", "write", "\x1b[2J")
	f.Add("socket", "/tmp/\u202egnp.exe", "execute", "a\r\nb")
	f.Add("io_uring_setup", "/x\xff...", "read", "\"")
	f.Fuzz(func(t *testing.T, call, name, access, arg string) {
		raw := []uint64{2, 3, 4, 5, 6, 7}
		for _, wall := range []Wall{Seccomp, Files, Memory, Time, IPC, Grant, Wall(call)} {
			v := Violation{Wall: wall, What: call, Call: call, Args: []string{arg, name, arg}, RawArgs: raw, Path: name, Access: access}
			v.Where.Exe = arg
			Explain(&v, thumbs())
			checkText(t, v)
			checkChange(t, v)
		}
	})
}

// checkText: whatever a plugin chose, the sentence is one line, and every line
// of the paragraph begins as we wrote it; nothing in it moves a cursor.
func checkText(t *testing.T, v Violation) {
	t.Helper()
	if s := Sentence(v); strings.ContainsAny(s, "\n\r\x1b\u202e") {
		t.Errorf("not one clean line: %q", s)
	}
	for line := range strings.Lines(Paragraph(v)) {
		line = strings.TrimSuffix(line, "\n")
		if Escape(line, len(line)) != line {
			t.Errorf("line is not clean: %q", line)
		}
	}
}

// checkChange: the change is TOML and holds one table only.
func checkChange(t *testing.T, v Violation) {
	t.Helper()
	var into map[string]any
	if _, err := toml.Decode(v.Change, &into); err != nil {
		t.Fatalf("the change is no TOML: %v\n%s", err, v.Change)
	}
	if len(into) > 1 {
		t.Errorf("the change says more than one thing:\n%s", v.Change)
	}
}
