package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeV2 is a directory tree that looks like a pure v2 host as far as files go:
// a new directory is filled with the files that the kernel would put there for
// the controllers that its parent's subtree_control lists.
type fakeV2 struct {
	point   string
	devices []string // the groups whose devices were closed
	broken  string   // a file that mkdir does not make
}

const fakeControllers = "cpuset cpu io memory pids"

func newFakeV2(t *testing.T) (*fakeV2, *layout) {
	t.Helper()
	f := &fakeV2{point: filepath.Join(t.TempDir(), "sys/fs/cgroup")}
	if err := os.MkdirAll(f.point, 0o755); err != nil {
		t.Fatal(err)
	}
	f.put(f.point, "cgroup.controllers", fakeControllers)
	f.put(f.point, "cgroup.subtree_control", "")
	f.put(f.point, "cgroup.procs", "")
	mounts, err := parseMountinfo(fmt.Appendf(nil, "28 24 0:25 / %s rw - cgroup2 cgroup2 rw\n", f.point))
	if err != nil {
		t.Fatal(err)
	}
	l, err := findLayout(mounts, os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	return f, l
}

func (f *fakeV2) kernel() kernel {
	return kernel{
		mkdir: f.mkdir,
		rmdir: func(path string) error {
			if below, _ := subdirs(path); len(below) > 0 {
				return unix.ENOTEMPTY
			}
			return os.RemoveAll(path)
		},
		closeDevices: func(d *dir) error {
			f.devices = append(f.devices, strings.TrimPrefix(d.path, f.point))
			return nil
		},
		forget: func() error { return nil },
	}
}

func (f *fakeV2) put(dir, name, text string) {
	if name != f.broken {
		_ = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
	}
}

func (f *fakeV2) mkdir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	enabled, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cgroup.subtree_control"))
	on := strings.ReplaceAll(string(enabled), "+", "")
	files := map[string]string{
		"cgroup.controllers": on, "cgroup.subtree_control": "", "cgroup.procs": "", "cgroup.kill": "", "cgroup.freeze": "0",
		"cgroup.events": "populated 0\nfrozen 0\n", "cpu.stat": "usage_usec 12\n",
	}
	for _, c := range strings.Fields(on) {
		for name, text := range map[string]map[string]string{
			"memory": {"memory.max": "max", "memory.high": "max", "memory.swap.max": "max", "memory.current": "4096", "memory.peak": "8192", "memory.events": "oom_kill 0\n"},
			"pids":   {"pids.max": "max", "pids.current": "1", "pids.events": "max 0\n"},
			"cpu":    {"cpu.max": "max 100000", "cpu.weight": "100"},
			"cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
			"io":     {"io.max": ""},
		}[c] {
			files[name] = text
		}
	}
	for name, text := range files {
		f.put(path, name, text)
	}
	return nil
}

// Without root the mark cannot be set: trusted.* wants CAP_SYS_ADMIN.
func needXattr(t *testing.T) {
	t.Helper()
	if err := unix.Setxattr(t.TempDir(), markXattr, []byte{'1'}, 0); err != nil {
		t.Skipf("needs root and %s on the temporary directory: %v", markXattr, err)
	}
}

func TestV2FileWrites(t *testing.T) {
	needXattr(t)
	f, l := newFakeV2(t)
	tree, err := openTree("a/b", l, f.kernel())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", "a", "a/b"} {
		on, _ := os.ReadFile(filepath.Join(f.point, dir, "cgroup.subtree_control"))
		if string(on) != "+cpuset +cpu +io +memory +pids" {
			t.Errorf("subtree_control of %q is %q", dir, on)
		}
	}
	if tree.Mode() != ModeV2 || len(tree.Unsupported(Limits{MemoryHigh: ptr(int64(1)), Cpuset: "0"})) > 0 {
		t.Errorf("mode %s, features %+v", tree.Mode(), tree.Features())
	}
	asked := Limits{
		MemoryMax: ptr(int64(64 << 20)), MemoryHigh: ptr(int64(48 << 20)), PidsMax: ptr(int64(0)),
		CPUMax: &CPUMax{Quota: 20000, Period: 50000}, CPUWeight: ptr(uint64(250)), Cpuset: "0-1",
	}
	g, err := tree.New("x", asked)
	if err != nil {
		t.Fatal(err)
	}
	have, err := g.Read()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range asked.Values() {
		if have[name] != want {
			t.Errorf("%s is %q, want %q", name, have[name], want)
		}
	}
	if g.Dir() == nil || g.KillFile() == nil || len(g.Joins()) > 0 || !slices.Equal(g.Paths(), []string{f.point + "/a/b/x"}) {
		t.Errorf("dir %v, kill file %v, joins %v, paths %v", g.Dir(), g.KillFile(), g.Joins(), g.Paths())
	}
	if u, err := g.Usage(); err != nil || u != (Usage{MemoryCurrent: 4096, MemoryPeak: 8192, PidsCurrent: 1, CPUUsec: 12}) {
		t.Errorf("usage %+v, %v", u, err)
	}
	if err := g.Update(Limits{PidsMax: ptr(int64(7))}); err != nil {
		t.Error(err)
	}
	// A program is attached once: the library would stack another at each call.
	if !slices.Equal(f.devices, []string{"/a/b/x"}) {
		t.Errorf("devices were closed in %q", f.devices)
	}
	if err := errors.Join(g.FreezeNow(), g.Remove(), tree.Close()); err != nil {
		t.Error(err)
	}
	if left, _ := subdirs(f.point); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestV2UndoesAFailedLimit(t *testing.T) {
	needXattr(t)
	f, l := newFakeV2(t)
	tree, err := openTree("a", l, f.kernel())
	if err != nil {
		t.Fatal(err)
	}
	f.broken = "pids.max"
	if g, err := tree.New("x", Limits{PidsMax: ptr(int64(1))}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("New gave %v, %v", g, err)
	}
	mustHold(t, tree, "x")
	if err := tree.Close(); err != nil {
		t.Error(err)
	}
}

func TestV2ProcessesInAnInnerGroupAreExplained(t *testing.T) {
	err := explainEnable("/sys/fs/cgroup/box", []string{"+memory"}, unix.EBUSY)
	if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "processes live in it") || !strings.Contains(err.Error(), "/sys/fs/cgroup/box") {
		t.Errorf("the error is %v", err)
	}
}

func TestV2MissingController(t *testing.T) {
	needXattr(t)
	f, _ := newFakeV2(t)
	f.put(f.point, "cgroup.controllers", "cpu pids")
	mounts, _ := parseMountinfo(fmt.Appendf(nil, "28 24 0:25 / %s rw - cgroup2 cgroup2 rw\n", f.point))
	l, err := findLayout(mounts, os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := openTree("a", l, f.kernel())
	if err != nil {
		t.Fatal(err)
	}
	_, err = tree.New("x", Limits{MemoryMax: ptr(int64(1 << 20))})
	if missing := (*UnsupportedError)(nil); !errors.As(err, &missing) || missing.Limit != "memory.max" || !strings.Contains(missing.Need, "CONFIG_MEMCG") {
		t.Errorf("New gave %v", err)
	}
	if err := tree.Close(); err != nil {
		t.Error(err)
	}
}
