//go:build walltest

package escape

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles/plan"
)

var (
	reading = []string{"read_file", "read_dir"}
	writing = []string{
		"read_file", "read_dir", "write_file", "truncate", "make_reg", "make_dir", "make_sym", "make_sock", "make_fifo",
		"remove_file", "remove_dir", "refer",
	}
)

// grant shows a path of the host where it is.
func grant(path string, access []string) plan.File {
	return plan.File{Path: path, From: path, Access: access}
}

// one is a case's grant of one name in the trial's directory.
func one(name string, access []string) func(*trial) []plan.File {
	return func(t *trial) []plan.File { return []plan.File{grant(t.fileIn(name), access)} }
}

func fileCases() []escape {
	secret := func(t *trial) { t.put("secret", t.token, 0o644) }
	open := func(t *trial) { t.put("open", "mine", 0o666) }
	return inCategory("files", []escape{
		{
			name: "read what was not granted", walls: []string{"mount namespace", "landlock"}, watch: true, reports: "files read $dir/secret",
			prepare: secret, args: func(t *trial) []string { return []string{"read", t.fileIn("secret")} }, escaped: leaked,
		},
		{
			name: "write what is granted for reading", walls: []string{"read-only", "landlock", unowned}, watch: true, reports: "files write $dir/open",
			prepare: open, grants: one("open", reading),
			args:    func(t *trial) []string { return []string{"write", t.fileIn("open"), t.token} },
			escaped: written("open"),
		},
		{
			name: "truncate what is granted for reading", walls: []string{"read-only", "landlock", unowned}, lacks: landlockFrom(3),
			prepare: open, grants: one("open", reading), watch: true, reports: "files write $dir/open",
			args: func(t *trial) []string { return []string{"truncate", t.fileIn("open")} },
			escaped: func(t *trial) string {
				if info, err := os.Stat(t.fileIn("open")); err == nil && info.Size() == 0 {
					return "the host's file is empty"
				}
				return ""
			},
		},
		{
			name: "link from where it reads to where it writes", walls: []string{"mount namespace", "landlock"},
			prepare: func(t *trial) {
				t.folder("in")
				t.must(os.Chmod(t.folder("out"), 0o777))
				t.put("in/open", "mine", 0o666)
			},
			grants: func(t *trial) []plan.File {
				return []plan.File{grant(t.fileIn("in"), reading), grant(t.fileIn("out"), writing)}
			},
			args: func(t *trial) []string {
				return []string{"link", t.fileIn("in/open"), t.fileIn("out/open"), t.token}
			},
			escaped: func(t *trial) string { return written("in/open")(t) + written("out/open")(t) },
		},
		{
			name: "write through a fifo that is granted for reading", walls: []string{"landlock", unowned}, watch: true, reports: "files write $dir/in/fifo",
			prepare: func(t *trial) {
				t.folder("in")
				t.must(unix.Mkfifo(t.fileIn("in/fifo"), 0o600))
				t.must(os.Chmod(t.fileIn("in/fifo"), 0o666))
				f, err := os.OpenFile(t.fileIn("in/fifo"), os.O_RDWR|unix.O_NONBLOCK, 0)
				t.must(err)
				t.cleanup(func() { _ = f.Close() })
				t.host = f
			},
			grants: one("in", reading),
			args:   func(t *trial) []string { return []string{"write", t.fileIn("in/fifo"), t.token} },
			escaped: func(t *trial) string {
				f := t.host.(*os.File)
				var n int
				var err error
				buf := make([]byte, 256)
				raw, rawErr := f.SyscallConn()
				t.must(rawErr)
				t.must(raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buf) }))
				if err == nil && strings.Contains(string(buf[:n]), t.token) {
					return "the reader outside got it"
				}
				return ""
			},
		},
		{
			name: "open an inode by its handle", after: "shocker", walls: []string{"seccomp", privileged, "keeper"}, reports: "seccomp open_by_handle_at",
			prepare: func(t *trial) { t.folder("in"); secret(t) },
			grants:  one("in", reading), with: []string{"landlock"},
			args: func(t *trial) []string {
				handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, t.fileIn("secret"), 0)
				t.must(err)
				return []string{"by-handle", t.fileIn("in"), fmt.Sprint(handle.Type()), hex.EncodeToString(handle.Bytes())}
			},
			escaped: leaked,
		},
		{
			name: "overwrite the program that runs it", after: "CVE-2019-5736", walls: []string{"read-only", "landlock", unowned},
			prepare: func(t *trial) {
				data, err := os.ReadFile(program)
				t.must(err)
				t.put("victim", string(data), 0o777)
			},
			grants: one("victim", []string{"read_file", "execute"}),
			change: func(t *trial, p *plan.Plan) { p.Process.Argv[0] = t.fileIn("victim") },
			args:   func(t *trial) []string { return []string{"own-program", program, t.token} },
			escaped: func(t *trial) string {
				return written("victim")(t)
			},
		},
		{
			name: "run code from where it can write", walls: []string{"noexec", "landlock"},
			args:    func(t *trial) []string { return []string{"run-copy", "/tmp/copy", t.reverse(), program} },
			escaped: ran,
		},
		{
			name: "run code from memory", walls: []string{"seccomp", "memfd_noexec"}, reports: "seccomp memfd_create",
			args:    func(t *trial) []string { return []string{"run-copy", "memfd", t.reverse(), program} },
			escaped: ran,
			lacks: func(wall string) string {
				if _, err := os.Stat("/proc/sys/vm/memfd_noexec"); err != nil && wall == "memfd_noexec" {
					return "before Linux 6.3 the filter alone keeps memory from being run"
				}
				return ""
			},
		},
		{
			name: "a link planted where the next grant is", after: "CVE-2021-30465", walls: []string{"links of others"},
			prepare: func(t *trial) {
				t.folder("w")
				t.must(os.Mkdir(t.fileIn("hidden"), 0o755))
				t.put("hidden/secret", t.token, 0o644)
			},
			try: plantedLink,
		},
		{
			name: "a link swapped in while a grant is mounted", after: "CVE-2021-30465, CVE-2021-44731", walls: []string{"links of others"},
			prepare: func(t *trial) {
				t.folder("w")
				t.must(os.Mkdir(t.fileIn("hidden"), 0o755))
				t.put("hidden/secret", t.token, 0o644)
				t.must(os.Mkdir(t.fileIn("w/sub"), 0o755))
				t.must(os.Chown(t.fileIn("w/sub"), owner, owner))
				t.must(os.Symlink(t.fileIn("hidden"), t.fileIn("w/other")))
				t.must(os.Lchown(t.fileIn("w/other"), owner, owner))
			},
			try: swappedLink,
		},
		{
			name: "watch a file of the host", walls: []string{"mount namespace"},
			prepare: secret, args: func(t *trial) []string { return []string{"watch", t.fileIn("secret")} },
			escaped: func(t *trial) string {
				var st unix.Stat_t
				t.must(unix.Stat(t.fileIn("secret"), &st))
				for _, pid := range t.procs() {
					info, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/3", pid))
					if strings.Contains(string(info), fmt.Sprintf("ino:%x ", st.Ino)) {
						return "the kernel tells it of every use"
					}
				}
				return ""
			},
		},
	})
}

func inCategory(name string, cases []escape) []escape {
	for i := range cases {
		cases[i].category = name
	}
	return cases
}

// reverse is the token backwards, so that what the attack was told is not taken
// for what it got.
func (t *trial) reverse() string {
	b := []byte(t.token)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}

// ran: a program runs from a file that was not granted.
func ran(t *trial) string {
	for _, pid := range t.procs() {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && exe != program {
			return "it runs " + exe
		}
	}
	return ""
}

// plantedLink is two lives: in the first a plugin plants a link in a directory
// that it may write, in the second an operator grants what seems to be a
// directory of it.
func plantedLink(t *trial) string {
	first := *t.c
	first.grants = one("w", writing)
	planting := t.again(&first)
	planting.start([]string{"plant", t.fileIn("hidden"), t.fileIn("w/sub")})
	planting.end()
	if _, err := os.Lstat(t.fileIn("w/sub")); err != nil {
		t.Fatalf("nothing was planted: %v", planting.output())
	}
	second := *t.c
	second.grants = one("w/sub", reading)
	life := t.again(&second)
	life.start([]string{"read", t.fileIn("w/sub/secret")})
	got := leaked(life)
	life.end()
	if life.startError == nil && got == "" {
		t.Errorf("the start was not refused: %s", life.output())
	}
	return got
}

// swappedLink starts plugins whose grant an ordinary user exchanges with a link
// all the time.
func swappedLink(t *trial) string {
	defer t.outside("swap", t.fileIn("w/sub"), t.fileIn("w/other"))()
	c := *t.c
	c.grants = one("w/sub", reading)
	refused, started := 0, 0
	for i := 0; i < 300 && (i < 20 || refused < 3 || started < 3); i++ {
		life := t.again(&c)
		life.start([]string{"read", t.fileIn("w/sub/secret")})
		got := leaked(life)
		life.end()
		if life.startError != nil {
			refused++
		} else {
			started++
		}
		if got != "" {
			return got
		}
	}
	return ""
}

var starts int

// again is another start on the same host in the same trial.
func (t *trial) again(c *escape) *trial {
	starts++
	return &trial{
		T: t.T, c: c, off: t.off, dir: t.dir, token: t.token, launcher: t.launcher,
		name: fmt.Sprintf("again-%d", starts), host: t.host,
	}
}
