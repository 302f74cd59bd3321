package namespaces

import (
	"context"
	"io"
	"os"
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
	c, err := k.Launch(ctx, Launch{Steps: steps, Files: files, CgroupFile: NoFile, ReaperUID: 1900000001, ReaperGID: 1900000001})
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
	_ = k.cmd.Process.Kill()
	<-k.gone
	r := <-ended
	if r.end.Status.Signal() != syscall.SIGKILL && r.err == nil {
		t.Errorf("got %v, %v", r.end, r.err)
	}
	_ = k.cmd.Wait()
}
