package namespaces

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needRoot names the feature that a test of the namespaces tier needs.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
}

// hasMemfdNoexec says whether the kernel has the sysctl (Linux 6.3).
func hasMemfdNoexec() bool {
	_, err := os.Stat("/proc/sys/vm/memfd_noexec")
	return err == nil
}

// testLaunch runs argv behind every wall that this package has.
func testLaunch(t *testing.T, k *Keeper, v View) (out string, end ChildEnd, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ns, err := k.UserNS(ctx, "1000 1900000000 1", "1000 1900000000 1")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	files := []*os.File{ns, null, w}
	h := Host{
		LandlockABI: LandlockABI(), Kill: NoFile, UserNS: 0, UID: 1900000000, GID: 1900000000,
		Descriptors: []Descriptor{{1, 0}, {2, 1}, {2, 2}}, MemfdNoexec: hasMemfdNoexec(),
	}
	for _, m := range v.Mounts {
		if m.From == "" {
			h.Sources = append(h.Sources, Source{File: NoFile})
			continue
		}
		tree, err := OpenTree(m, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer tree.File.Close()
		h.Sources = append(h.Sources, Source{File: len(files), Dir: tree.Dir})
		files = append(files, tree.File)
	}
	steps, err := Compile(v, h)
	if err != nil {
		t.Fatal(err)
	}
	c, err := k.Launch(ctx, Launch{Steps: steps, Files: files, CgroupFile: NoFile, NetNSFile: NoFile, ReaperUID: 1900000001, ReaperGID: 1900000001})
	w.Close()
	if err != nil {
		return "", ChildEnd{}, err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if err := c.Forget(); err != nil {
		t.Error(err)
	}
	return string(data), c.End(), nil
}

func testView(argv ...string) View {
	all := []string{"read_file", "read_dir", "execute"}
	return View{
		Hostname: "plugin", UID: 1000, GID: 1000, Devices: []string{"null", "zero"},
		Proc: Proc{Mode: "pid"},
		Mounts: []Mount{
			{Path: "/usr", From: "/usr", Exec: true},
			{Path: "/tmp", Size: 1 << 20, Inodes: 64, Mode: 0o1777},
			{Path: "/data", Size: 1 << 20, Inodes: 64, Mode: 0o700, Owned: true},
		},
		Files:    []File{{Path: "/etc/passwd", Data: []byte("plugin:x:1000:1000::/data:/bin/sh\n"), Mode: 0o444}},
		Symlinks: []Symlink{{"/bin", "usr/bin"}, {"/lib", "usr/lib"}, {"/lib64", "usr/lib64"}},
		Landlock: Landlock{Paths: []PathRule{
			{Path: "/usr", Access: all},
			{Path: "/proc", Access: all[:2]},
			{Path: "/etc", Access: all[:2]},
			{Path: "/dev/null", Access: []string{"read_file", "write_file"}},
			{Path: "/tmp", Access: []string{"read_file", "read_dir", "write_file", "make_reg", "remove_file"}},
			{Path: "/data", Access: []string{"read_file", "read_dir", "write_file", "make_reg", "remove_file"}},
		}},
		Rlimits: []Rlimit{{"nofile", 64, 64}},
		Process: Process{Argv: argv, Env: []string{"PATH=/usr/bin"}, Cwd: "/data"},
	}
}

func testKeeper(t *testing.T) *Keeper {
	t.Helper()
	needRoot(t)
	k, err := StartKeeper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func TestLaunchSeesOnlyItsView(t *testing.T) {
	k := testKeeper(t)
	out, end, err := testLaunch(t, k, testView("sh", "-c",
		`id -u; pwd; echo $$; ls -1d /*; grep -E 'Cap|NoNew|Groups' /proc/self/status; cat /proc/mounts; hostname 2>/dev/null; ls / 2>&1; ls /proc; echo x >/data/f && cat /data/f; cat /proc/self/uid_map; ls -l /proc/self/fd; ulimit -n`))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)
	if end.Status.ExitStatus() != 0 {
		t.Errorf("status %v", end.Status)
	}
	for _, want := range []string{"1000\n/data\n", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "x\n", "1000 1900000000"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the output", want)
		}
	}
}

func TestLaunchNamesTheStepThatFails(t *testing.T) {
	k := testKeeper(t)
	_, _, err := testLaunch(t, k, testView("no-such-command"))
	var step *StepError
	if !asStep(err, &step) || step.Op != OpExec || step.Errno != unix.ENOENT {
		t.Fatalf("got %v", err)
	}
	v := testView("sh")
	v.Process.Cwd = "/nowhere"
	_, _, err = testLaunch(t, k, v)
	if !asStep(err, &step) || step.Op != OpChdir || step.Errno != syscall.ENOENT {
		t.Fatalf("got %v", err)
	}
}

func asStep(err error, to **StepError) bool {
	e, ok := err.(*StepError) //nolint:errorlint // exactly this type is returned
	*to = e
	return ok
}

func TestKeeperEndsItsPlugins(t *testing.T) {
	needRoot(t)
	k, err := StartKeeper()
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		end ChildEnd
		err error
	}
	ended := make(chan result, 1)
	go func() {
		_, end, err := testLaunch(t, k, testView("sleep", "1000"))
		ended <- result{end, err}
	}()
	for started := false; !started; {
		select {
		case r := <-ended:
			t.Fatalf("ended too soon: %v, %v", r.end, r.err)
		default:
			k.mu.Lock()
			started = len(k.children) == 1
			k.mu.Unlock()
			runtime.Gosched()
		}
	}
	_ = syscall.Kill(k.PID(), syscall.SIGKILL)
	<-k.gone
	r := <-ended
	if r.end.Status.Signal() != syscall.SIGKILL && r.err == nil {
		t.Errorf("got %v, %v", r.end, r.err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// TestKilledKeeperLeavesNoLaunch: also a plugin that waits behind its walls, of
// which nobody but the keeper knew, is ended and reaped.
func TestKilledKeeperLeavesNoLaunch(t *testing.T) {
	needRoot(t)
	k, err := StartKeeper()
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(t.TempDir(), "ran")
	staged := 0
	l := bareLaunch("/usr/bin/touch", mark)
	l.Steps = append([]Step{{Op: OpNamespace, File: NoFile, A: unix.CLONE_NEWPID, Text: "enter"}}, l.Steps...)
	l.Staged = func(pid int) {
		staged = pid
		if err := syscall.Kill(k.PID(), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		<-k.gone
	}
	if _, err := k.Launch(t.Context(), l); !errors.Is(err, ErrKeeperGone) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", staged)); staged == 0 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the staged plugin %d is still there: %v", staged, err)
	}
	if left := orphansOf(k.PID()); len(left) > 0 {
		t.Errorf("not reaped: %v", left)
	}
	if _, err := os.Stat(mark); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it ran: %v", err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// TestKeeperEndsWhatIsFrozen: on v1 a frozen process does not die, and a daemon
// may die after it froze one.
func TestKeeperEndsWhatIsFrozen(t *testing.T) {
	needRoot(t)
	group, err := os.MkdirTemp("/sys/fs/cgroup/freezer", "cordon-test-")
	if err != nil {
		t.Skip("skipped: needs a v1 freezer hierarchy")
	}
	defer func() {
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	}()
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(group, name), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	k, err := StartKeeper()
	if err != nil {
		t.Fatal(err)
	}
	l := bareLaunch("/bin/sleep", "1000")
	l.Files = []*os.File{open("tasks"), open("freezer.state")}
	l.Steps = append([]Step{
		{Op: OpKillfd, File: 1, A: 1, Text: "keep freezer.state at hand"},
		{Op: OpJoin, File: 0, Text: "join the v1 group"},
		{Op: OpNamespace, File: NoFile, A: unix.CLONE_NEWPID, Text: "enter the pid namespace"},
	}, l.Steps...)
	c, err := k.Launch(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Files[1].WriteString("FROZEN"); err != nil {
		t.Fatal(err)
	}
	for state := ""; state != "FROZEN\n"; runtime.Gosched() {
		b, err := os.ReadFile(filepath.Join(group, "freezer.state"))
		if err != nil {
			t.Fatal(err)
		}
		state = string(b)
	}
	closed := make(chan error, 1)
	go func() { closed <- k.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the keeper cannot end a frozen plugin")
		_, _ = l.Files[1].WriteString("THAWED")
		<-closed
	}
	<-c.Done()
}

func bareLaunch(argv ...string) Launch {
	return Launch{
		Steps:      []Step{{Op: OpExec, File: NoFile, Paths: argv[:1], Args: argv, Text: "execute"}},
		CgroupFile: NoFile, NetNSFile: NoFile, ReaperUID: 1900000001, ReaperGID: 1900000001,
	}
}

// TestKeeperKeepsItsOOMScore: a plugin in the making offers itself to be killed
// when memory ends; had it the keeper's memory, the kernel would offer the
// keeper, too.
func TestKeeperKeepsItsOOMScore(t *testing.T) {
	k := testKeeper(t)
	read := func(pid int) string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(b))
	}
	before := read(k.PID())
	var keeper, plugin string
	l := bareLaunch("/bin/true")
	l.Steps = append([]Step{
		{Op: OpOOMScore, File: NoFile, S: "500", Text: "be killed first"},
		{Op: OpNamespace, File: NoFile, A: unix.CLONE_NEWPID, Text: "enter the pid namespace"},
	}, l.Steps...)
	l.Staged = func(pid int) { keeper, plugin = read(k.PID()), read(pid) }
	c, err := k.Launch(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if err := c.Forget(); err != nil {
		t.Error(err)
	}
	if plugin != "500" || keeper != before || before == "500" {
		t.Errorf("with the plugin at its gate: it has %s, want 500; the keeper has %s and had %s", plugin, keeper, before)
	}
}

// TestLostDescriptorsEndTheLaunch: a plugin whose pidfd does not arrive could be
// neither watched nor signalled; it must not run on.
func TestLostDescriptorsEndTheLaunch(t *testing.T) {
	k := testKeeper(t)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	started := 0
	l := bareLaunch("/bin/sleep", "1000")
	l.Steps = append([]Step{{Op: OpNamespace, File: NoFile, A: unix.CLONE_NEWPID, Text: "enter"}}, l.Steps...)
	l.Staged = func(pid int) {
		started = pid
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: before.Max}); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := k.Launch(ctx, l)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("got %v, %v", c, err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", started)); started == 0 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the plugin %d is still there: %v", started, err)
	}
}

// TestNoNamespaceIsMadeBelowAUserNamespace: of many in a row, as the keeper
// changes the proc by which it writes the limits.
func TestNoNamespaceIsMadeBelowAUserNamespace(t *testing.T) {
	k := testKeeper(t)
	for i := range 70 {
		m := fmt.Sprintf("1000 %d 1", 1900000000+i)
		ns, err := k.UserNS(t.Context(), m, m)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		cmd := exec.CommandContext(t.Context(), "nsenter", "--user=/proc/self/fd/3", "--preserve-credentials",
			"sh", "-c", "cat /proc/sys/user/max_*_namespaces")
		cmd.ExtraFiles = []*os.File{ns}
		out, err := cmd.CombinedOutput()
		if limits := strings.Fields(string(out)); err != nil || len(limits) != 8 || strings.Trim(strings.Join(limits, ""), "0") != "" {
			t.Fatalf("namespace %d: %v, its limits are %q, want eight times 0", i, err, out)
		}
	}
}
