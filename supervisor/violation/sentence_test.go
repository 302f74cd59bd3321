package violation

import (
	"strings"
	"testing"
)

func TestSentence(t *testing.T) {
	tests := []struct {
		v    Violation
		want string
	}{
		{
			Violation{Wall: Seccomp, Call: "mount", Args: []string{`"none"`, `"/mnt"`, `"tmpfs"`}, Action: Quarantine},
			`seccomp refused mount("none", "/mnt", "tmpfs"); the plugin was killed and is in quarantine`,
		},
		{
			Violation{Wall: Seccomp, What: "call 39 of x32 programs", Killed: true, Action: Deny},
			"seccomp refused call 39 of x32 programs; the kernel killed the process that made it",
		},
		{
			Violation{Wall: Seccomp, What: "ptrace", Action: Log, NotEnforced: true},
			"seccomp is not enforced (complain mode): ptrace(), which no rule allows, was recorded and then made",
		},
		{Violation{Wall: Seccomp, What: "ptrace", Action: Deny}, "seccomp refused ptrace(); the plugin went on without it"},
		{
			Violation{Wall: Files, Path: "/etc/shadow", Access: "read", Call: "openat", Action: Kill},
			"the files wall refused to read /etc/shadow (openat); the plugin was killed",
		},
		{Violation{Wall: Memory, Limit: 64 << 20, Action: Log}, "the memory wall was hit: memory.max (64M) is used up; it was only recorded"},
		{Violation{Wall: Pids, Limit: 16}, "the pids wall was hit: pids.max (16) is used up"},
		{Violation{Wall: Time, What: "time.wall"}, "the time wall was hit: time.wall is used up"},
		{Violation{Wall: Time, What: "time.wall", Limit: 60e9}, "the time wall was hit: time.wall (1m) is used up"},
		{Violation{Wall: IPC, What: "frame of 9 bytes"}, "the protocol was broken: frame of 9 bytes"},
		{
			Violation{Wall: Seccomp, Call: "mount", Args: []string{"\x1b[2J\n", strings.Repeat("a", 300), "3", "4", "5", "6", "7", "8", "9"}},
			`seccomp refused mount(\x1b[2J\n, ` + strings.Repeat("a", maxArg) + `..., 3, 4, 5, 6, 7, 8, ...)`,
		},
		{Violation{Wall: "new\nwall", What: "x\ry"}, `the wall new\nwall refused x\ry`},
	}
	for _, tt := range tests {
		if got := Sentence(tt.v); got != tt.want {
			t.Errorf("\n got %s\nwant %s", got, tt.want)
		}
	}
}

func TestParagraph(t *testing.T) {
	v := Violation{
		Plugin: "acme.thumbs", Wall: Seccomp, Call: "mount", Args: []string{`"none"`}, Action: Kill,
		Where: Where{PID: 41, TID: 42, PC: 0x1000, Exe: "/usr/bin/node"}, Unverified: true,
	}
	Explain(&v, thumbs())
	want := `Seccomp refused mount("none"); the plugin was killed.
Where: plugin acme.thumbs, process 41, thread 42, /usr/bin/node, at 0x1000, unverified: the text comes from the plugin's memory
Rule: mount is on no list of calls that are allowed (builtin:strict:12)
To allow it, add to the profile:
    [seccomp]
    allow = ["mount"]
But: Never for a plugin you do not trust: it lets a plugin try to rearrange the tree that holds its files wall. The kernel would still refuse it, because no plugin has the capability it needs.
`
	if got := Paragraph(v); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestEscape(t *testing.T) {
	tests := []struct {
		in    string
		limit int
		want  string
	}{
		{"plain \"text\" é 日本", 99, "plain \"text\" é 日本"},
		{"\x00\a\x1b\n\t\x7f\xff\u0085\u202e\u2028", 99, `\x00\a\x1b\n\t\x7f\xff\u0085\u202e\u2028`},
		{"abcdef", 3, "abc..."},
		{"ab\n", 3, "ab..."},
		{"aé", 2, "a..."},
		{"", 0, ""},
	}
	for _, tt := range tests {
		if got := Escape(tt.in, tt.limit); got != tt.want {
			t.Errorf("Escape(%q, %d) = %q, want %q", tt.in, tt.limit, got, tt.want)
		}
	}
}

func TestEscapeLines(t *testing.T) {
	if got, want := EscapeLines("a\x1b\n\nlong\n\n", 6), "a\\x1b\n\nlong"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
