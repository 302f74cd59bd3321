package seccomp

import (
	"encoding/binary"
	"os"
	"path"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ourselves is a call that this very process would have made at a time since
// boot, and that was answered.
func ourselves(at time.Duration) Notification {
	return Notification{PID: os.Getpid(), uptime: at, source: &source{fd: -1}}
}

func TestMemoryOfAnotherThreadIsNotRead(t *testing.T) {
	secret := []byte("secret\x00")
	addr := uint64(uintptr(unsafe.Pointer(&secret[0])))
	if got, ok := ourselves(uptime()).readString(addr, maxPath); !ok || got != "secret" {
		t.Fatalf("readString = %q, %v of the thread that made the call", got, ok)
	}
	// As if the thread of that number had ended and we had got it.
	reused := ourselves(time.Millisecond)
	if got, ok := reused.readString(addr, maxPath); ok || got != "" {
		t.Errorf("readString = %q of a thread that began after the call", got)
	}
	if pid, exe := reused.Process(); pid != 0 || exe != "" {
		t.Errorf("Process = %d, %q of a thread that began after the call", pid, exe)
	}
	if got := reused.resolve(unix.AT_FDCWD, "x"); got != "x" {
		t.Errorf("resolve = %q by a directory of a thread that began after the call", got)
	}
	if got, ok := (Notification{PID: os.Getpid()}).readString(addr, maxPath); ok || got != "" {
		t.Errorf("readString = %q of no notification", got)
	}
	runtime.KeepAlive(secret)
}

func TestThreadStartIsBetweenBootAndNow(t *testing.T) {
	began, ok := threadStart(os.Getpid())
	if !ok || began <= 0 || began > uptime() {
		t.Errorf("threadStart = %v, %v; it is %v now", began, ok, uptime())
	}
	if _, ok := threadStart(0); ok {
		t.Error("thread 0 has begun")
	}
	if got := threadGroup(os.Getpid()); got != os.Getpid() {
		t.Errorf("threadGroup = %d", got)
	}
}

func TestPathsAreResolvedByDescriptor(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	n := ourselves(uptime())
	for _, c := range []struct {
		dirfd int32
		path  string
		want  string
	}{
		{unix.AT_FDCWD, "x/../y", path.Join(cwd, "y")},
		{unix.AT_FDCWD, "", cwd},
		{int32(dir.Fd()), "x", path.Join(dir.Name(), "x")},
		{int32(dir.Fd()), "/../etc", "/etc"},
		{1 << 30, "x", "x"},
	} {
		if got := n.resolve(c.dirfd, c.path); got != c.want {
			t.Errorf("resolve(%d, %q) = %q; want %q", c.dirfd, c.path, got, c.want)
		}
	}
}

func TestEscapeShowsWhatIsHidden(t *testing.T) {
	for in, want := range map[string]string{
		"/plain path": "/plain path", "a\nb": `a\nb`, "\x1b[2J": `\x1b[2J`, "\u202etxt": `\u202etxt`, "\xff": `\xff`, `a\b`: `a\\b`, `"`: `"`,
		"123456789": "12345678...", "ä": "ä",
	} {
		if got := escape(in, 8); got != want && len(in) <= 8 || len(in) == 9 && got != want {
			t.Errorf("escape(%q) = %q; want %q", in, got, want)
		}
	}
}

// Whatever a plugin passes as an address, what is shown is printable and
// bounded.
func FuzzSocketAddress(f *testing.F) {
	f.Add([]byte{1, 0, '/', 'r', 'u', 'n'})
	f.Add([]byte{1, 0, 0, 'x', '\n'})
	f.Add([]byte{2, 0, 1, 0xbb, 127, 0, 0, 1})
	f.Add(append([]byte{10, 0, 0, 80}, make([]byte, 24)...))
	f.Add(binary.NativeEndian.AppendUint16(nil, unix.AF_NETLINK))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 2 || len(b) > 128 {
			return
		}
		text, file := Notification{}.addressWord(b)
		if len(text) > 1024 || len(file) > 4*maxPath {
			t.Errorf("%d and %d bytes are shown", len(text), len(file))
		}
		if i := strings.IndexFunc(text+file, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q has something that cannot be printed", text+file)
		}
	})
}
