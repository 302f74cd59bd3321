package launch

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/plan"
)

// badInput is a start that cannot be, and what it says.
type badInput struct {
	name   string
	change func(t *testing.T, dir string, p *plan.Plan)
	says   string
}

// granted shows one path of the host under the same name.
func granted(name string, access ...string) plan.File {
	return plan.File{Path: name, From: name, Access: access}
}

func write(t *testing.T, name, data string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(data), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// runs grants a program and makes it the command.
func runs(p *plan.Plan, program string) {
	p.Files = append(p.Files, granted(program, "execute", "read_file"))
	p.Process.Argv = []string{program}
}

func badInputs() []badInput {
	return []badInput{
		{"a missing program", func(_ *testing.T, _ string, p *plan.Plan) { p.Process.Argv = []string{"/no/such"} }, "not found in the plugin's view"},
		{"another machine's program", func(t *testing.T, dir string, p *plan.Plan) {
			runs(p, write(t, dir+"/arm", "\x7fELF\x02\x01\x01"+strings.Repeat("\x00", 9)+"\x02\x00\xb7\x00"+strings.Repeat("\x00", 100)))
		}, "not a program of this machine"},
		{"a script without its interpreter", func(t *testing.T, dir string, p *plan.Plan) {
			runs(p, write(t, dir+"/script", "#!/no/such/interpreter\n"))
		}, "or its interpreter is not"},
		{"a vanished source", func(_ *testing.T, dir string, p *plan.Plan) {
			p.Files = append(p.Files, granted(dir+"/vanished", "read_file"))
		}, "no such file or directory"},
		{"a socket", func(t *testing.T, dir string, p *plan.Plan) {
			l, err := net.Listen("unix", dir+"/socket")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			p.Files = append(p.Files, granted(dir+"/socket", "read_file"))
		}, "it is a socket, which would reach a host service"},
		{"a link that anybody could have made", func(t *testing.T, dir string, p *plan.Plan) {
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/etc", dir+"/link"); err != nil {
				t.Fatal(err)
			}
			p.Files = append(p.Files, granted(dir+"/link", "read_file", "read_dir"))
		}, "is a symbolic link in a directory that others than root can write"},
		{"a target over a file", func(t *testing.T, dir string, p *plan.Plan) {
			write(t, dir+"/file", "x")
			p.Files = append(p.Files, granted(dir+"/file", "read_file"),
				plan.File{Path: dir + "/file/below", From: "/etc/hostname", Access: []string{"read_file"}})
		}, "one is a file and not a directory"},
		{"a directory over a file", func(t *testing.T, dir string, p *plan.Plan) {
			if err := os.MkdirAll(dir+"/tree", 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, dir+"/tree/file", "x")
			p.Files = append(p.Files, granted(dir+"/tree", "read_file", "read_dir"),
				plan.File{Path: dir + "/tree/file", From: "/usr", Access: []string{"read_file", "read_dir"}})
		}, "one is a file and not a directory"},
		{"too little memory", func(_ *testing.T, _ string, p *plan.Plan) {
			page := int64(4096)
			p.Limits.MemoryMax = &page
		}, "memory.max"},
	}
}

// TestBadInputHasItsOwnSentence: and leaves nothing.
func TestBadInputHasItsOwnSentence(t *testing.T) {
	l := testLauncher(t)
	if _, err := run(t, l, testPlan(t, "shell", nil, "true")); err != nil {
		t.Fatal(err)
	}
	for _, bad := range badInputs() {
		t.Run(strings.ReplaceAll(bad.name, " ", "_"), func(t *testing.T) {
			dir := t.TempDir()
			for d := dir; d != "/" && d != "/tmp"; d = filepath.Dir(d) {
				if err := os.Chmod(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			p := testPlan(t, "shell", nil, "true")
			bad.change(t, dir, p)
			before := look(t, l)
			proc, err := l.Start(t.Context(), Request{Name: "bad", Plan: p})
			if err == nil {
				<-proc.Done()
				if err := proc.Release(); err != nil {
					t.Error(err)
				}
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), bad.says) {
				t.Errorf("it says %q, want %q in it", err, bad.says)
			}
			if after, ok := settled(t, l, before); !ok {
				t.Errorf("left %+v, before %+v", after, before)
			}
		})
	}
}

// TestDescriptorsRunOut: of this process and of the keeper, at each place of a
// start in turn. Every failure says of what there is too little, and leaves
// nothing.
func TestDescriptorsRunOut(t *testing.T) {
	l := testLauncher(t)
	p := testPlan(t, "shell", nil, "true")
	if _, err := run(t, l, p); err != nil {
		t.Fatal(err)
	}
	for who, pid := range map[string]int{"this process": os.Getpid(), "the keeper": l.keeper.PID()} {
		before := look(t, l)
		failed := 0
		for limit := range uint64(400) {
			err := startWithin(t, l, p, pid, limit)
			if err == nil {
				break
			}
			failed++
			if !strings.Contains(err.Error(), "no descriptor left") {
				t.Errorf("%s with descriptors below %d: it says %q", who, limit, err)
			}
			if after, ok := settled(t, l, before); !ok {
				t.Errorf("%s with descriptors below %d: left %+v, before %+v", who, limit, after, before)
			}
		}
		if failed < 3 {
			t.Errorf("%s: %d starts failed for want of descriptors", who, failed)
		}
	}
	if _, err := run(t, l, p); err != nil {
		t.Errorf("a start after all of them: %v", err)
	}
}

// startWithin starts p while a process can have new descriptors below limit only.
func startWithin(t *testing.T, l *Launcher, p *plan.Plan, pid int, limit uint64) error {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: limit, Max: old.Max}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &few, nil); err != nil {
		t.Fatal(err)
	}
	proc, err := l.Start(t.Context(), Request{Name: "few", Plan: p})
	if e := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &old, nil); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		return err
	}
	<-proc.Done()
	return proc.Release()
}

// TestAFullRangeOfUids: the last pair is taken, and free again after it.
func TestAFullRangeOfUids(t *testing.T) {
	dir := t.TempDir()
	var held []*lease
	for range 2 {
		one, err := leaseUID(dir, 1900200000, 8, 0)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, one)
	}
	if _, err := leaseUID(dir, 1900200000, 8, 0); err == nil || !strings.Contains(err.Error(), "every pair is in use") {
		t.Errorf("got %v", err)
	}
	for _, one := range held {
		if err := one.release(); err != nil {
			t.Error(err)
		}
	}
	again, err := leaseUID(dir, 1900200000, 8, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.release(); err != nil {
		t.Error(err)
	}
}

// TestWhatIsExhaustedIsNamed, and who sets how much there is.
func TestWhatIsExhaustedIsNamed(t *testing.T) {
	for errno, says := range map[syscall.Errno]string{
		unix.ENOMEM: "memory", unix.EAGAIN: "pids.max", unix.EMFILE: "descriptor", unix.ENFILE: "descriptor", unix.ENOSPC: "user.max_",
	} {
		err := startError(&namespaces.StepError{Step: -1, Text: "make the plugin's process", Errno: errno}, "x")
		if !strings.Contains(err.Error(), says) || !errors.Is(err, errno) {
			t.Errorf("%v: it says %q, want %q in it", errno, err, says)
		}
	}
}
