package reach

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
)

// fakeHost is a host of a few files: path to "mode uid" or "-> target".
type fakeHost map[string]string

func (h fakeHost) Lstat(p string) (Info, error) {
	text, ok := h[p]
	if !ok {
		return Info{}, fs.ErrNotExist
	}
	if strings.HasPrefix(text, "-> ") {
		return Info{Mode: fs.ModeSymlink | 0o777, Ino: h.inode(p)}, nil
	}
	info := Info{Ino: h.inode(p)}
	for _, word := range strings.Fields(text) {
		switch word {
		case "dir":
			info.Mode |= fs.ModeDir
		case "user":
			info.UID, info.GID = 500, 500
		case "644":
			info.Mode |= 0o644
		case "600":
			info.Mode |= 0o600
		case "755":
			info.Mode |= 0o755
		case "1777":
			info.Mode |= 0o777 | fs.ModeSticky
		case "700":
			info.Mode |= 0o700
		}
	}
	return info, nil
}

// inode gives every path one of its own, and "same as P" that of P.
func (h fakeHost) inode(p string) uint64 {
	if _, other, ok := strings.Cut(h[p], "same as "); ok {
		p = other
	}
	var n uint64 = 14695981039346656037
	for _, c := range []byte(p) {
		n = (n ^ uint64(c)) * 1099511628211
	}
	return n
}

func (h fakeHost) Readlink(p string) (string, error) { return strings.TrimPrefix(h[p], "-> "), nil }
func (h fakeHost) MountPoint(p string) bool          { return strings.Contains(h[p], "mounted") }
func (h fakeHost) Real(p string) (string, error) {
	if _, ok := h[p]; !ok {
		return "", fs.ErrNotExist
	}
	if target, ok := strings.CutPrefix(h[p], "-> "); ok {
		return path.Join(path.Dir(p), target), nil
	}
	return p, nil
}

// view is what the launcher shows of a plan: the grants, and the plugin's own.
func view(p *plan.Plan) namespaces.View {
	own := []string{"read_file", "read_dir", "write_file", "truncate", "make_reg", "make_dir", "remove_file"}
	v := namespaces.View{Devices: p.Devices, Proc: namespaces.Proc{Mode: p.Proc}}
	rule := func(at string, access ...string) {
		v.Landlock.Paths = append(v.Landlock.Paths, namespaces.PathRule{Path: at, Access: access})
	}
	for _, f := range p.Files {
		v.Mounts = append(v.Mounts, namespaces.Mount{
			Path: f.Path, From: f.From, Writable: slices.Contains(f.Access, "write_file"), Exec: slices.Contains(f.Access, "execute"),
		})
		rule(f.Path, f.Access...)
	}
	v.Mounts = append(v.Mounts,
		namespaces.Mount{Path: "/data", Writable: true, Owned: true, Mode: 0o700, Size: 1, Inodes: 1},
		namespaces.Mount{Path: "/tmp", Writable: true, Mode: 0o1777, Size: 1, Inodes: 1})
	rule("/data", own...)
	rule("/tmp", own...)
	for _, d := range p.Devices {
		rule("/dev/"+d, "read_file", "write_file")
	}
	rule("/proc", "read_file", "read_dir")
	v.Files = []namespaces.File{{Path: "/etc/passwd", Mode: 0o444}}
	rule("/etc/passwd", "read_file", "read_dir")
	return v
}

func model(t *testing.T, text string, h fakeHost) *Model {
	t.Helper()
	p, err := profiles.ParseProfile("test.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	pl, err := profiles.Resolve(profiles.Input{Profile: p, Argv: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(pl, view(pl), h, 7)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const treeProfile = `extends = ["builtin:static"]
[[files]]
path = "/ro"
from = "/srv/ro"
access = "rx"
[[files]]
path = "/rw"
from = "/srv/rw"
access = "rw"
[[files]]
path = "/ro/dir"
from = "/srv/over"
access = ["read_file"]
`

var treeHost = fakeHost{
	"/srv/ro": "dir 755", "/srv/ro/plain": "644", "/srv/ro/secret": "600", "/srv/ro/prog": "755",
	"/srv/ro/dir": "dir 755", "/srv/ro/dir/under": "644", "/srv/ro/closed": "dir 700", "/srv/ro/closed/x": "644",
	"/srv/ro/abs": "-> /rw/file", "/srv/ro/up": "-> ../rw/file", "/srv/ro/dangling": "-> /nowhere",
	"/srv/ro/loop": "-> loop", "/srv/ro/disk": "dir 755 mounted", "/srv/ro/disk/x": "644",
	"/srv/ro/tools": "-> dir", "/srv/ro/hard": "644 same as /srv/rw/file",
	"/srv/rw": "dir 755 user", "/srv/rw/file": "644 user", "/srv/rw/roots": "644",
	"/srv/over": "dir 755", "/srv/over/in": "644", "/proc/self/fd": "dir 755",
}

func TestFiles(t *testing.T) {
	m := model(t, treeProfile, treeHost)
	for question, want := range map[string]string{ // "" is yes, else the first wall that refuses
		"read /ro/plain":           "",
		"read /ro/secret":          "permissions",
		"read /ro/closed/x":        "permissions",
		"write /ro/plain":          "mount",
		"execute /ro/prog":         "",
		"execute /ro/plain":        "permissions",
		"execute /rw/file":         "mount",
		"read /ro/abs":             "",
		"write /ro/abs":            "", // the link leads to where it may write
		"write /ro/up":             "",
		"read /ro/dangling":        "mount",
		"read /ro/loop":            "mount",
		"read /ro/dir/under":       "mount", // another tree is mounted over it
		"read /ro/dir/in":          "",
		"read /ro/tools/in":        "", // through the link into the mount
		"read /ro/dir/../plain":    "",
		"list /ro/dir":             "", // the rule on /ro is above it, and Landlock's rules add up
		"list /ro/plain":           "mount",
		"read /ro/disk/x":          "mount",
		"write /ro/hard":           "mount", // Landlock would let the inode through, the mount does not
		"write /rw/file":           "",
		"write /rw/roots":          "permissions",
		"create /rw/new":           "",
		"create /rw/file":          "mount",
		"create /ro/new":           "mount",
		"create /tmp/new":          "",
		"create /new":              "mount",
		"mkdir /data/sub":          "",
		"remove /rw/roots":         "permissions", // EOVERFLOW, though the directory would let it
		"remove /ro/plain":         "mount",
		"remove /ro/dir":           "mount",
		"remove /rw/gone":          "mount",
		"read /etc/passwd":         "",
		"read /etc/shadow":         "mount",
		"write /etc/passwd":        "mount",
		"write /dev/null":          "",
		"read /dev/mem":            "mount",
		"truncate /dev/null":       "", // nothing is truncated there
		"list /dev/fd":             "",
		"read /proc/1/status":      "mount",
		"list /":                   "landlock",
		"list /tmp":                "",
		"read /proc/cpuinfo":       "mount",
		"read relative":            "mount",
		"read /ro/plain/":          "mount",
		"read /ro/plain/x":         "mount",
		"truncate /rw/file":        "",
		"read /ro/../../ro/plain":  "",
		"write /ro/../ro/../rw/up": "mount",
	} {
		verb, file, _ := strings.Cut(question, " ")
		a, err := m.Can(verb, file)
		got := ""
		if !a.Can && len(a.Why) > 0 {
			got = a.Why[0].Wall
		}
		if err != nil || a.Can != (want == "") || got != want {
			t.Errorf("%s: %v, %+v (%v); want %q", question, a.Can, a.Why, err, want)
		}
	}
}

func TestAnswersNameRuleAndWay(t *testing.T) {
	m := model(t, treeProfile, treeHost)
	a, err := m.Can("write", "/ro/up")
	if err != nil || len(a.Why) != 1 || a.Why[0].Origin != "test.toml:6" || a.Why[0].Text != "/rw is granted rw" {
		t.Errorf("%+v, %v", a.Why, err)
	}
	want := []string{
		"/ro is in /srv/ro at /ro (read-only, executable)", "/ro/up is a link to ../rw/file",
		"/rw is in /srv/rw at /rw (writable, noexec)",
	}
	if strings.Join(a.Path, "\n") != strings.Join(want, "\n") {
		t.Errorf("the way is\n%s", strings.Join(a.Path, "\n"))
	}
}

func TestNothingCanBeAskedOfWhatWouldNotStart(t *testing.T) {
	h := fakeHost{"/srv/rw": "dir 755", "/srv/ro": "dir 755", "/srv/over": "dir 755", "/srv/ro/dir": "dir 755"}
	p, err := profiles.ParseProfile("test.toml", []byte(treeProfile))
	if err != nil {
		t.Fatal(err)
	}
	pl, err := profiles.Resolve(profiles.Input{Profile: p, Argv: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	v := namespaces.View{Mounts: []namespaces.Mount{{Path: "/rw", From: "/srv/rw", Writable: true}}}
	if _, err := New(pl, v, h, 7); err == nil || !strings.Contains(err.Error(), "belongs to root") {
		t.Errorf("a writable grant of root's tree: %v", err)
	}
	h["/srv/rw"] = "dir 1777"
	if _, err := New(pl, v, h, 7); err == nil || !strings.Contains(err.Error(), "anyone may write there") {
		t.Errorf("a writable grant of a tree that everybody writes to: %v", err)
	}
}

func TestCalls(t *testing.T) {
	m := model(t, `extends = ["builtin:static"]
[seccomp]
deny = ["getcwd"]
[seccomp.errno]
mount = "EXDEV"
[[seccomp.rule]]
names = ["bpf"]
action = "SCMP_ACT_KILL_PROCESS"
`, fakeHost{})
	for question, want := range map[string]bool{
		"call getpid": true, "call mount": false, "call getcwd": false, "call bpf": false, "call read": true, "call clone": true,
		"call socket 1 1 0": true, "call socket 2 1 0": false, "call socket": true, "call ptrace": false,
		"call ioctl -1 0x5401": true, "call ioctl -1 0x5412": false, "call ioctl 3 0x1": false,
		"call mmap 0 4096 6 0x22": false, "call mmap 0 4096 3 0x22": true,
		"call socket 0x100000001 1 0": true, // the kernel reads 32 bits
		"call clone3":                 false,
	} {
		words := strings.Fields(question)
		a, err := m.Can(words[0], words[1:]...)
		if err != nil || a.Can != want || len(a.Why) == 0 {
			t.Errorf("%s: %v, %+v (%v)", question, a.Can, a.Why, err)
		}
	}
	if v := m.Decide("mount", nil); v.Action != seccomp.ActErrno || v.Errno != "EXDEV" {
		t.Errorf("mount: %+v", v)
	}
	if a, _ := m.Can("call", "mount"); a.Why[0].Origin != "test.toml:5" {
		t.Errorf("mount: %+v", a.Why)
	}
	for _, wrong := range []string{"call muont", "call @mount", "call mount x", "call mount 1 2 3 4 5 6 7", "fly away", "read", "use magic 1", "use memory much"} {
		words := strings.Fields(wrong)
		if _, err := m.Can(words[0], words[1:]...); err == nil {
			t.Errorf("%s has an answer", wrong)
		}
	}
}

func TestQuotasAndIdentity(t *testing.T) {
	m := model(t, "[seccomp]\nallow = [\"prlimit64\"]\n[resources]\nmemory.max = \"100M\"\ntime.wall = \"1m\"\nrlimit.nofile = { soft = 10, hard = 20 }\n[tmp]\nsize = \"200M\"\n", fakeHost{})
	for question, want := range map[string]bool{
		"use memory 100M": true, "use memory 101M": false, "use pids 32": true, "use pids 33": false,
		"use files 20": true, "use files 21": false, "use tmp 100M": true, "use tmp 150M": false, "use shm 1K": false,
		"use time 1m": true, "use time 61s": false, "use cpu-time 100h": true, "use data 64M": true, "use data 65M": false,
		"become root": false, "become 1000": true, "become 1001": false, "hold sys_admin": false, "hold CAP_CHOWN": false,
		"connect example.com:443": false,
	} {
		words := strings.Fields(question)
		a, err := m.Can(words[0], words[1:]...)
		if err != nil || a.Can != want || len(a.Why) == 0 {
			t.Errorf("%s: %v, %+v (%v)", question, a.Can, a.Why, err)
		}
	}
}

// TestAnswersSeeEveryWall: an answer that left one out would be yes, or no, where
// the kernel says otherwise.
func TestAnswersSeeEveryWall(t *testing.T) {
	const base = "extends = [\"builtin:static\"]\n[[files]]\npath = \"/bin/x\"\naccess = \"rx\"\n"
	const egress = "[network]\negress = [\"a.example.com:443\"]\n"
	host := fakeHost{"/bin": "dir 755", "/bin/x": "755"}
	for _, c := range []struct {
		profile, question string
		want              bool
		wall              string // of the first reason
	}{
		{base, "execute /bin/x", true, "files"},
		{base + "[seccomp]\nexecve = \"once\"\n", "execute /bin/x", false, "seccomp"},
		{base + "[seccomp]\nexecve = \"once\"\n[violation]\nseccomp = \"log\"\n", "execute /bin/x", true, "files"},
		{base + "[seccomp]\nexecve = \"once\"\n[violation]\nseccomp = \"log\"\n", "call execve", true, "seccomp"},
		{base + "[seccomp]\ndeny = [\"open\", \"openat\", \"openat2\"]\n", "read /bin/x", false, "seccomp"},
		{base + "[seccomp]\ndeny = [\"open\", \"openat\", \"openat2\"]\n[violation]\nseccomp = \"log\"\n", "read /bin/x", true, "files"},
		{base + egress, "connect a.example.com:443", true, "net namespace"},
		{base + egress, "connect a.example.com:80", false, "net namespace"},
		{base + egress, "call socket 2 1 6", true, "seccomp"},
		{base + egress, "call socket 10 2 17", true, "seccomp"},
		{base + egress, "call socket 2 1 262", false, "seccomp"}, // Multipath TCP
		{base + egress, "call socket 2 2 1", false, "seccomp"},   // ICMP
		{base + "[network]\nlisten = [\"web=127.0.0.1:8080\"]\n", "listen 127.0.0.1:8080", true, "net namespace"},
		{base + "[network]\nlisten = [\"web=127.0.0.1:8080\"]\n", "listen 0.0.0.0:8080", false, "net namespace"},
		{base + egress + "[seccomp]\ndeny = [\"socket\"]\n", "connect a.example.com:443", false, "seccomp"},
		{base + egress + "[seccomp]\ndeny = [\"connect\"]\n", "connect a.example.com:443", false, "seccomp"},
		{base + egress + "[seccomp]\ndeny = [\"connect\"]\n[violation]\nseccomp = \"log\"\n", "connect a.example.com:443", true, "net namespace"},
		{base + "[resources]\nrlimit.nproc = 5\n", "use pids 5", true, "pids"},
		{base + "[resources]\nrlimit.nproc = 5\n", "use pids 6", false, "rlimits"},
	} {
		words := strings.Fields(c.question)
		a, err := model(t, c.profile, host).Can(words[0], words[1:]...)
		if err != nil || a.Can != c.want || len(a.Why) == 0 || a.Why[0].Wall != c.wall {
			t.Errorf("%s\n%s: %v, %+v (%v)", c.profile, c.question, a.Can, a.Why, err)
		}
	}
	m := model(t, "[resources]\nmemory.max = \"2G\"\nrlimit.fsize = \"1M\"\n", fakeHost{})
	for _, question := range []string{"memory 1500M", "tmp 2M"} {
		words := strings.Fields(question)
		if a, err := m.Can("use", words...); err != nil || !a.Can || !strings.Contains(a.Note, "alone") {
			t.Errorf("use %s: %+v, %v", question, a, err)
		}
	}
}
