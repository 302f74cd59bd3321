package namespaces

import (
	"math/rand/v2"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// choices makes a view of a fuzzer's bytes. When they end, all is the first.
type choices struct{ b []byte }

func (c *choices) of(n int) int {
	if len(c.b) == 0 {
		return 0
	}
	b := c.b[0]
	c.b = c.b[1:]
	return int(b) % n
}

func (c *choices) yes() bool { return c.of(2) == 1 }

// text takes some bytes as they stand, or one of what paths are mistaken in.
func (c *choices) text() string {
	known := []string{"/data", "/data/in", "/usr", "/usr/lib", "/opt/x", "/", "", "..", "/..", "/a/../..", "/usr/../etc", "//x", "/x/", "x", "/proc", "/proc/self", "/dev/null", "/.", "/a\x00b", "/procs"}
	if n := c.of(len(known) + 1); n < len(known) {
		return known[n]
	}
	n := min(c.of(40), len(c.b))
	s := "/" + string(c.b[:n])
	c.b = c.b[n:]
	return s
}

func (c *choices) view() (View, Host) {
	v := View{
		Hostname: "h", UID: uint32(c.of(3)), GID: uint32(c.of(3)), Proc: Proc{Mode: []string{"none", "pid", "full"}[c.of(3)]},
		Process: Process{Argv: []string{c.text()}, Env: []string{"PATH=" + c.text()}, Cwd: c.text()},
	}
	h := Host{LandlockABI: c.of(9), Kill: NoFile, UserNS: c.of(2) - 1, UID: 1000, GID: 1000, MemfdNoexec: c.yes(), ExecOnce: c.yes(), Prepared: c.yes(), Filter: make([]byte, 8*c.of(2))}
	for range c.of(6) {
		m := Mount{Path: c.text(), Writable: c.yes(), Exec: c.yes(), Optional: c.yes(), Size: int64(c.of(3)), Inodes: int64(c.of(3))}
		if c.yes() {
			m.From = c.text()
		}
		v.Mounts = append(v.Mounts, m)
		h.Sources = append(h.Sources, Source{File: len(h.Sources), Dir: c.yes(), Missing: m.From != "" && c.yes()})
	}
	for range c.of(3) {
		v.Files = append(v.Files, File{Path: c.text(), Mode: 0o444})
		v.Symlinks = append(v.Symlinks, Symlink{Path: c.text(), Target: c.text()})
		v.Landlock.Paths = append(v.Landlock.Paths, PathRule{Path: c.text(), Access: []string{[]string{"read_file", "execute", "fly"}[c.of(3)]}, Optional: c.yes()})
		v.Devices = append(v.Devices, []string{"null", "zero", "kmsg", "../x"}[c.of(4)])
		v.Rlimits = append(v.Rlimits, Rlimit{Name: []string{"core", "nofile", "none"}[c.of(3)], Hard: 1})
		v.Proc.Masked = append(v.Proc.Masked, []string{"/proc/kcore", "/proc", "/etc", "/proc/../etc", c.text()}[c.of(5)])
	}
	for n := range c.of(4) {
		h.Descriptors = append(h.Descriptors, Descriptor{File: n, Number: n})
	}
	return v, h
}

// FuzzCompile: whatever is asked for, either there are no steps, or nothing is to
// be done after the exec, nothing is mounted outside the new root, and no wall is
// left out.
func FuzzCompile(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 1, 1, 0, 0, 0, 7, 1, 1, 1, 1, 1, 3, 0, 0, 1, 0, 0, 0, 1, 2, 1, 0, 0, 1, 2, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) { compiles(t, b) })
}

// TestCompileOfAnything walks what FuzzCompile starts from: many views, of which
// enough have steps.
func TestCompileOfAnything(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	compiled, b := 0, make([]byte, 120)
	for range 30000 {
		for i := range b {
			b[i] = byte(r.UintN(256))
		}
		if compiles(t, b) {
			compiled++
		}
	}
	if compiled < 100 {
		t.Errorf("%d views had steps, which shows little", compiled)
	}
}

// compiles checks what comes of a view with something mounted, and says whether
// it has steps.
func compiles(t *testing.T, b []byte) bool {
	t.Helper()
	v, h := (&choices{b}).view()
	steps, err := Compile(v, h)
	if again, err2 := Compile(v, h); (err == nil) != (err2 == nil) || !reflect.DeepEqual(steps, again) {
		t.Fatal("the same view has other steps the second time")
	}
	if err != nil {
		return false
	}
	checkSteps(t, v, h, steps)
	return len(v.Mounts) > 0
}

func checkSteps(t *testing.T, v View, h Host, steps []Step) {
	t.Helper()
	for i, s := range steps {
		if (s.Op == OpExec) != (i == len(steps)-1) {
			t.Errorf("step %d of %d is %s", i, len(steps), s.Text)
		}
	}
	root, sealed := index(steps, OpRoot, ""), index(steps, OpSeal, "/")
	if root < 0 || sealed < root {
		t.Errorf("the root is entered in step %d and sealed in %d", root, sealed)
	}
	for i, s := range steps {
		switch s.Op {
		case OpMkdir, OpMkfile, OpSymlink, OpMknod, OpAttach, OpTmpfs, OpProc, OpMask, OpSeal:
			if i < root || !strings.HasPrefix(s.S, "/") || path.Clean(s.S) != s.S || strings.ContainsRune(s.S, 0) {
				t.Errorf("step %d leads out of the root: %s", i, s.Text)
			}
			if s.Op == OpMask && !strings.HasPrefix(s.S, "/proc/") {
				t.Errorf("step %d masks what is not /proc's: %s", i, s.Text)
			}
		default:
		}
	}
	want := []Op{OpOOMScore, OpPrivate, OpHostname, OpSetsid, OpBounding, OpSecurebits, OpIds, OpCapset, OpVerifyIds, OpVerifyCaps, OpKeyring, OpPdeathsig, OpReset, OpClose, OpNNP}
	for op, asked := range map[Op]bool{
		OpUserns: h.UserNS != NoFile, OpSeccomp: len(h.Filter) > 0, OpLandlock: h.LandlockABI > 0, OpLandlockSelf: h.LandlockABI > 0,
		OpSysctl: h.MemfdNoexec, OpOnce: h.ExecOnce, OpProc: v.Proc.Mode != "none", OpRlimit: len(v.Rlimits) > 0,
	} {
		if asked {
			want = append(want, op)
		}
	}
	for _, op := range want {
		if index(steps, op, "") < 0 {
			t.Errorf("%s is left out", op)
		}
	}
	for _, flag := range []uint64{unix.CLONE_NEWPID, unix.CLONE_NEWNS, unix.CLONE_NEWNET, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP} {
		if !slices.ContainsFunc(steps, func(s Step) bool { return s.Op == OpNamespace && s.A == flag }) {
			t.Errorf("the namespace %#x is left out", flag)
		}
	}
}

// index is where the first step of a kind is, and of a path if one is given.
func index(steps []Step, op Op, at string) int {
	return slices.IndexFunc(steps, func(s Step) bool { return s.Op == op && (at == "" || s.S == at) })
}
