package fsopen

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

// tree is a granted directory among what must not be reached from it.
func tree(t testing.TB) (root string) {
	t.Helper()
	top := t.TempDir()
	root = filepath.Join(top, "granted")
	for _, dir := range []string{"granted/a/b", "granted/d", "outside/a"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"granted/f", "granted/a/f", "granted/a/b/f", "granted/d/f", "outside/f", "outside/a/f"} {
		if err := os.WriteFile(filepath.Join(top, file), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{
		"in": "a/f", "dir": "a/b", "up": "../outside/f", "upin": "a/../f", "out": filepath.Join(top, "outside"), "abs": filepath.Join(top, "granted/f"),
		"loop": "loop2", "loop2": "loop", "a/back": "../d/f", "a/b/top": "../../..", "a/b/root": "../..", "nothing": "no", "proc": "/proc/self/root", "long": "a/b/../b/../b/root/a/back",
	} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

// walker follows a path as openat2(2) says, one component after another, in
// text: the reference. It gives the file's own path, or that there is none.
func walker(root, rel string, noLinks bool) (string, bool) {
	at, rest, links := "", strings.Split(rel, "/"), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if at == "" {
				return "", false
			}
			at = path.Dir("/" + at)[1:]
			continue
		}
		here := path.Join(at, name)
		info, err := os.Lstat(filepath.Join(root, here))
		if err != nil {
			return "", false
		}
		if info.Mode()&os.ModeSymlink == 0 {
			if len(rest) > 0 && !info.IsDir() {
				return "", false
			}
			at = here
			continue
		}
		to, err := os.Readlink(filepath.Join(root, here))
		if links++; err != nil || links > 40 || noLinks || strings.HasPrefix(to, "/") {
			return "", false
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	info, err := os.Lstat(filepath.Join(root, at))
	return at, err == nil && info.Mode().IsRegular()
}

// FuzzOpenIsTheWalkers: the kernel and the reference agree on every path, and
// what is opened is never outside.
func FuzzOpenIsTheWalkers(f *testing.F) {
	for _, seed := range []string{
		"f", "a/f", "in", "dir/f", "up", "upin", "out/f", "abs", "loop", "a/back", "a/b/top/outside/f", "a/b/root/f", "nothing", "proc/etc/passwd", "long",
		"fifo", "a", "f/x", "../outside/f", "a/../../outside/f", "./f", "a//f", "dir/../f", "dir/root/in", strings.Repeat("a/b/root/", 50) + "f",
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	root := tree(f)
	f.Fuzz(func(t *testing.T, rel string, noLinks bool) {
		if strings.ContainsRune(rel, 0) || rel == "" || len(rel) > 4000 || strings.HasPrefix(rel, "/") || strings.HasSuffix(rel, "/") || strings.HasSuffix(rel, "/.") || strings.HasSuffix(rel, "..") || rel == "." {
			return
		}
		for _, part := range strings.Split(rel, "/") {
			if len(part) > 255 {
				return
			}
		}
		dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(dir) }()
		want, ok := walker(root, rel, noLinks)
		got, err := openBeneath(dir, rel, rel, unix.O_RDONLY, noLinks)
		if (err == nil) != ok {
			t.Fatalf("%q (no links: %v): the kernel says %v, the walker %q, %v", rel, noLinks, err, want, ok)
		}
		if err != nil {
			return
		}
		defer func() { _ = got.Close() }()
		text, err := io.ReadAll(got)
		if err != nil || string(text) != path.Join("granted", want) {
			t.Fatalf("%q is %q (%v), and the walker comes to %q", rel, text, err, want)
		}
	})
}

func call(t *testing.T, root string, params string) *capability.Call {
	t.Helper()
	return &capability.Call{Params: json.RawMessage(params), Root: root, Spend: func(int64) error { return nil }}
}

func quoted(s string) string { return fmt.Sprintf("%q", s) }

func TestReadAndWrite(t *testing.T) {
	root := tree(t)
	params := `{"path":` + quoted(root+"/new") + `,"data":"aGVsbG8=","create":true}`
	if _, err := write(t.Context(), call(t, "rw:"+root, params)); err != nil {
		t.Fatal(err)
	}
	got, err := read(t.Context(), call(t, "r:"+root, `{"path":`+quoted(root+"/new")+`,"offset":1,"length":3}`))
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := json.Marshal(got); string(text) != `{"data":"ZWxs","size":5}` {
		t.Fatalf("read is %s", text)
	}
	got, err = read(t.Context(), call(t, "r:"+root+"/f", `{"path":`+quoted(root+"/f")+`,"offset":100}`))
	if text, _ := json.Marshal(got); err != nil || string(text) != `{"data":"","size":9}` {
		t.Fatalf("beyond the end of a file that was granted itself: %s, %v", text, err)
	}
}

// TestTricks: each has its stated outcome.
func TestTricks(t *testing.T) {
	root := tree(t)
	if err := os.WriteFile(root+"/suid", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root+"/suid", 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{
		"up": ipc.CodeDenied, "out/f": ipc.CodeDenied, "abs": ipc.CodeDenied, "loop": ipc.CodeDenied, "proc/etc/passwd": ipc.CodeDenied,
		"a/b/top/outside/f": ipc.CodeDenied, "nothing": ipc.CodeNotFound, "f/x": ipc.CodeNotFound, "fifo": ipc.CodeDenied, "a": ipc.CodeConflict, "suid": ipc.CodeDenied,
		"no/such": ipc.CodeNotFound,
	} {
		for verb, serve := range map[string]func() (any, error){
			"read": func() (any, error) {
				return read(t.Context(), call(t, "rw:"+root, `{"path":`+quoted(root+"/"+name)+`}`))
			},
			"write": func() (any, error) {
				return write(t.Context(), call(t, "rw:"+root, `{"path":`+quoted(root+"/"+name)+`,"data":"","create":true}`))
			},
		} {
			if verb == "read" && name == "suid" || verb == "write" && name == "nothing" {
				continue
			}
			_, err := serve()
			var answer *ipc.RPCError
			if !errors.As(err, &answer) || answer.Code != want {
				t.Errorf("%s %s: %v", verb, name, err)
			}
		}
	}
	if _, err := write(t.Context(), call(t, "rw:"+root, `{"path":`+quoted(root+"/nothing")+`,"data":"","create":true}`)); err == nil {
		t.Error("a link to nothing is created through")
	}
	for _, bad := range []string{"/", "/a/../b", "/a/./b", "/a//b", "/a/", "/a\x00b", "a"} {
		params, _ := json.Marshal(map[string]string{"path": bad})
		if at, err := target("r")(params); err == nil && bad != "a" {
			t.Errorf("%q is a target: %q", bad, at)
		}
	}
}

// TestNoMountIsEntered: what is mounted below a granted directory was not
// granted with it.
func TestNoMountIsEntered(t *testing.T) {
	if _, err := Open("r:/", "/proc/version", unix.O_RDONLY, false); err == nil {
		t.Fatal("/ can be granted")
	}
	dir, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(dir) }()
	if _, err := openBeneath(dir, "proc/version", "", unix.O_RDONLY, false); !errors.Is(err, unix.EXDEV) {
		t.Fatalf("a file on another mount: %v", err)
	}
}

// TestTheGrantedDirectoryIsReachedWithoutLinks: whoever owns a directory above
// it could otherwise turn the grant to files of root's.
func TestTheGrantedDirectoryIsReachedWithoutLinks(t *testing.T) {
	root := tree(t)
	link := filepath.Join(filepath.Dir(root), "link")
	if err := os.Symlink(root, link); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"r:" + link, "r:" + link + "/a", "r:" + link + "/f"} {
		f, err := Open(at, strings.TrimPrefix(at, "r:")+map[bool]string{true: "", false: "/f"}[strings.HasSuffix(at, "/f")], unix.O_RDONLY, false)
		if err == nil {
			t.Errorf("%s: opened %s", at, f.Name())
			_ = f.Close()
		} else if !strings.Contains(err.Error(), "grant where it leads") {
			t.Errorf("%s: %v", at, err)
		}
	}
}
