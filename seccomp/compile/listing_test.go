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

// The whole of a small program that has one of everything.
func TestListingIsGolden(t *testing.T) {
	if Version() != "2.5.4" {
		t.Skipf("the listing is of libseccomp 2.5.4, this is %s", Version())
	}
	program, err := Compile(seccomp.Filter{
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
	if err != nil {
		t.Fatal(err)
	}
	got, err := seccomp.Listing(program)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "small.bpf.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the listing differs from %s (go test -update writes it):\n%s", golden, got)
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
