package compile

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/seccomp"
)

var update = flag.Bool("update", false, "write the golden listings")

// Whole programs: a small one that has one of everything, and one that compares
// arguments in every way and width.
func TestListingIsGolden(t *testing.T) {
	t.Run("small", func(t *testing.T) {
		golden(t, "small.bpf.txt", seccomp.Filter{
			Rules: []seccomp.Rule{
				allow("getpid", "openat"),
				when(allow("socket"), eq(0, unix.AF_UNIX)), when(allow("socket"), eq(0, unix.AF_INET)),
				allow("ioctl"), when(errno("EPERM", "ioctl"), eq(1, unix.TIOCSTI)),
				errno("ENOSYS", "clone3"),
				{Names: []string{"ptrace"}, Action: seccomp.ActKillProcess},
				{Names: []string{"uname"}, Action: seccomp.ActLog},
			},
			Watch: []string{"openat"},
		})
	})
	t.Run("arguments", func(t *testing.T) {
		const wide = 1<<32 | 2
		cond := func(index uint, op seccomp.Operator, value, two uint64) seccomp.Condition {
			return seccomp.Condition{Index: index, Op: op, Value: value, ValueTwo: two}
		}
		golden(t, "arguments.bpf.txt", seccomp.Filter{Rules: []seccomp.Rule{
			allow("getpid"),
			when(allow("munmap"), cond(1, seccomp.OpLess, wide, 0)),
			when(allow("mprotect"), cond(2, seccomp.OpMaskedEqual, unix.PROT_EXEC, 0)),
			when(allow("chmod"), cond(1, seccomp.OpLessEqual, 0o777, 0)),
			allow("mmap"), when(errno("EPERM", "mmap"), cond(1, seccomp.OpGreaterEqual, wide, 0), cond(2, seccomp.OpNotEqual, unix.PROT_READ, 0)),
			allow("lseek"), when(errno("EINVAL", "lseek"), cond(1, seccomp.OpGreater, wide, 0), cond(2, seccomp.OpEqual, unix.SEEK_END, 0)),
			allow("clone"), when(seccomp.Rule{Names: []string{"clone"}, Action: seccomp.ActNotify}, cond(0, seccomp.OpMaskedEqual, unix.CLONE_NEWUSER, unix.CLONE_NEWUSER)),
		}})
	})
}

// golden compares the listing of a filter's program with a file.
func golden(t *testing.T, file string, f seccomp.Filter) {
	t.Helper()
	if Version() != "2.5.4" {
		t.Skipf("the listing is of libseccomp 2.5.4, this is %s", Version())
	}
	program, err := Compile(f)
	if err != nil {
		t.Fatal(err)
	}
	got, err := seccomp.Listing(program)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the listing differs from %s (go test -update writes it):\n%s", path, got)
	}
}

func BenchmarkCompile(b *testing.B) {
	f := filters(b)["service"]
	for b.Loop() {
		if _, err := Compile(f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCachedInMemory(b *testing.B) {
	f := filters(b)["service"]
	cache := seccomp.NewCache("", Compile)
	for b.Loop() {
		if _, err := cache.Program(f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCachedInFile(b *testing.B) {
	f := filters(b)["service"]
	dir := b.TempDir()
	for b.Loop() {
		if _, err := seccomp.NewCache(dir, Compile).Program(f); err != nil {
			b.Fatal(err)
		}
	}
}
