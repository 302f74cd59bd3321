package manifest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bundle writes a small, right bundle and gives its directory.
func bundle(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "b")
	put(t, filepath.Join(dir, FileName), sixLines, 0o644)
	put(t, filepath.Join(dir, "run.sh"), "#!/bin/sh\n", 0o755)
	put(t, filepath.Join(dir, "lib/a.js"), "a", 0o600)
	put(t, filepath.Join(dir, "lib/deep/b.js"), strings.Repeat("b", 1<<20), 0o640)
	link(t, "../a.js", filepath.Join(dir, "lib/deep/to-a"))
	link(t, "lib", filepath.Join(dir, "to-lib"))
	link(t, "nothing", filepath.Join(dir, "lib/dangling"))
	return dir
}

func put(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func link(t testing.TB, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func home(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sealed")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func seal(t testing.TB, dir, into string) *Sealed {
	t.Helper()
	b := open(t, dir)
	s, err := b.Seal(into)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t testing.TB, dir string) *Bundle {
	t.Helper()
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func list1(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestSeal(t *testing.T) {
	dir, into := bundle(t), home(t)
	s := seal(t, dir, into)
	if s.Path != filepath.Join(into, strings.TrimPrefix(s.Digest, "sha256:")) || s.Manifest.Name != "everything" || s.Files != 10 {
		t.Errorf("sealed %+v", s)
	}
	for path, want := range map[string]string{
		".": "drwxr-xr-x", "lib": "drwxr-xr-x", "lib/a.js": "-rw-r--r--", "run.sh": "-rwxr-xr-x", "lib/deep/b.js": "-rw-r--r--",
		"to-lib": "Lrwxrwxrwx", "lib/dangling": "Lrwxrwxrwx",
	} {
		info, err := os.Lstat(filepath.Join(s.Path, path))
		if err != nil {
			t.Fatal(err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if info.Mode().String() != want || info.ModTime().Unix() != sealedTime[0].Sec || !ok || int(st.Uid) != os.Geteuid() {
			t.Errorf("%s is %s of %s, want %s", path, info.Mode(), info.ModTime(), want)
		}
	}
	if got := list1(t, into); len(got) != 1 {
		t.Errorf("left in the sealed directory: %q", got)
	}
	again := seal(t, dir, into)
	if again.Digest != s.Digest || len(list1(t, into)) != 1 {
		t.Errorf("sealing again gives %+v, and %q", again, list1(t, into))
	}
	if o, err := OpenSealed(s.Path, s.Digest); err != nil || o.Files != s.Files || o.Bytes != s.Bytes || o.Manifest.Name != "everything" {
		t.Errorf("OpenSealed: %+v, %v", o, err)
	}
}

// TestDigestIsCanonical: owner, times, group bits and the order in which files
// were made are not in the digest; names, contents, kinds, targets and the
// execute bit are.
func TestDigestIsCanonical(t *testing.T) {
	into := home(t)
	want := seal(t, bundle(t), into).Digest
	const pinned = "sha256:298fd1e3" // the same on every machine; a new value is a new digestVersion
	for name, change := range map[string]func(dir string) error{
		"group bits": func(d string) error { return os.Chmod(filepath.Join(d, "lib/a.js"), 0o664) },
		"times":      func(d string) error { return os.Chtimes(filepath.Join(d, "run.sh"), time.Unix(1, 0), time.Unix(1, 0)) },
		"dir mode":   func(d string) error { return os.Chmod(filepath.Join(d, "lib"), 0o700) },
	} {
		dir := bundle(t)
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if got := seal(t, dir, into).Digest; got != want {
			t.Errorf("%s changes the digest", name)
		}
	}
	for name, change := range map[string]func(dir string) error{
		"content":     func(d string) error { return os.WriteFile(filepath.Join(d, "lib/a.js"), []byte("b"), 0o600) },
		"execute bit": func(d string) error { return os.Chmod(filepath.Join(d, "lib/a.js"), 0o700) },
		"name":        func(d string) error { return os.Rename(filepath.Join(d, "lib/a.js"), filepath.Join(d, "lib/c.js")) },
		"a directory": func(d string) error { return os.Mkdir(filepath.Join(d, "empty"), 0o755) },
		"a target": func(d string) error {
			return replace(filepath.Join(d, "to-lib"), func(p string) error { return os.Symlink("lib/deep", p) })
		},
		"a kind": func(d string) error {
			return replace(filepath.Join(d, "to-lib"), func(p string) error { return os.WriteFile(p, []byte("lib"), 0o600) })
		},
	} {
		dir := bundle(t)
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if got := seal(t, dir, into).Digest; got == want {
			t.Errorf("%s does not change the digest", name)
		}
	}
	if !strings.HasPrefix(want, pinned) {
		t.Errorf("digest of the sample is %s, want %s...", want, pinned)
	}
}

func replace(path string, with func(string) error) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return with(path)
}

// TestBadTrees: what a bundle may not hold is refused when it is opened, and
// again when it is sealed, because its owner can change it in between; nothing
// is left behind.
func TestBadTrees(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	put(t, outside, "secret", 0o600)
	for name, c := range map[string]struct {
		change func(d string) error
		want   string
	}{
		"fifo":              {func(d string) error { return unix.Mkfifo(filepath.Join(d, "lib/x"), 0o644) }, "it is a fifo"},
		"socket":            {func(d string) error { return unix.Mknod(filepath.Join(d, "x"), unix.S_IFSOCK|0o644, 0) }, "it is a socket"},
		"device":            {func(d string) error { return unix.Mknod(filepath.Join(d, "x"), unix.S_IFCHR|0o644, 0x103) }, "it is a device"},
		"set-uid":           {func(d string) error { return os.Chmod(filepath.Join(d, "run.sh"), 0o755|os.ModeSetuid) }, "set-id bit"},
		"set-gid":           {func(d string) error { return os.Chmod(filepath.Join(d, "run.sh"), 0o755|os.ModeSetgid) }, "set-id bit"},
		"hard link out":     {func(d string) error { return os.Link(outside, filepath.Join(d, "x")) }, "hard link outside"},
		"absolute link":     {func(d string) error { return os.Symlink("/etc/passwd", filepath.Join(d, "x")) }, "leads out"},
		"link up":           {func(d string) error { return os.Symlink("../../etc", filepath.Join(d, "lib/x")) }, "leads out"},
		"link to the top's": {func(d string) error { return os.Symlink("..", filepath.Join(d, "x")) }, "leads out"},
		// By its words the link stays inside; by the link on its way it does not.
		"link by a link": {func(d string) error { return os.Symlink("lib/deep/to-top/../x", filepath.Join(d, "x")) }, ""},
		"loop":           {func(d string) error { return os.Symlink("x", filepath.Join(d, "x")) }, "in a circle"},
		"case twins":     {func(d string) error { return os.WriteFile(filepath.Join(d, "lib/A.js"), nil, 0o600) }, "differ in case only"},
		"kelvin twins":   {func(d string) error { return twins(d, "k", "\u212a") }, "differ in case only"},
		"newline":        {func(d string) error { return os.WriteFile(filepath.Join(d, "a\nb"), nil, 0o600) }, "control character"},
		"not utf-8":      {func(d string) error { return os.WriteFile(filepath.Join(d, "a\xff"), nil, 0o600) }, "not UTF-8"},
		"too deep": {func(d string) error {
			return os.MkdirAll(filepath.Join(d, strings.Repeat("a/", MaxDepth+2)), 0o755)
		}, "directories deep"},
		"too long": {func(d string) error {
			return os.MkdirAll(filepath.Join(d, strings.Repeat(strings.Repeat("a", 200)+"/", 6)), 0o755)
		}, "longer than 1024"},
		"too large": {func(d string) error {
			put(t, filepath.Join(d, "big"), "", 0o644)
			return os.Truncate(filepath.Join(d, "big"), MaxBytes+1)
		}, "more than 2147483648 bytes"},
		"manifest a link": {func(d string) error {
			return replace(filepath.Join(d, FileName), func(p string) error { return os.Symlink("lib/a.js", p) })
		}, "plugin.toml"},
		"manifest a fifo": {func(d string) error {
			return replace(filepath.Join(d, FileName), func(p string) error { return unix.Mkfifo(p, 0o644) })
		}, "plugin.toml"},
		"no manifest": {func(d string) error { return os.Remove(filepath.Join(d, FileName)) }, "there is no plugin.toml"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, into := bundle(t), home(t)
			good := open(t, dir)
			if name == "link by a link" {
				link(t, "../../..", filepath.Join(dir, "lib/deep/to-top")) // itself out
				c.want = "leads out"
			}
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Open: %v, want %q", err, c.want)
			}
			_, err := good.Seal(into)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Seal: %v, want %q", err, c.want)
			}
			if left := list1(t, into); len(left) != 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func twins(d, a, b string) error {
	for _, name := range []string{a, b} {
		if err := os.WriteFile(filepath.Join(d, name), nil, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func TestHardLinksInside(t *testing.T) {
	dir := bundle(t)
	if err := os.Link(filepath.Join(dir, "lib/a.js"), filepath.Join(dir, "lib/again.js")); err != nil {
		t.Fatal(err)
	}
	s := seal(t, dir, home(t))
	info, err := os.Lstat(filepath.Join(s.Path, "lib/again.js"))
	if err != nil || info.Sys().(*syscall.Stat_t).Nlink != 1 {
		t.Errorf("the copy shares an inode: %v, %v", info, err)
	}
}

// TestTampered: every way to change a sealed copy is noticed, on the first
// opening in a process and after it.
func TestTampered(t *testing.T) {
	for name, change := range map[string]func(p string) error{
		"content of the same size": func(p string) error { return os.WriteFile(filepath.Join(p, "lib/a.js"), []byte("x"), 0o644) },
		"a file more":              func(p string) error { return os.WriteFile(filepath.Join(p, "new"), nil, 0o644) },
		"a file less":              func(p string) error { return os.Remove(filepath.Join(p, "run.sh")) },
		"renamed":                  func(p string) error { return os.Rename(filepath.Join(p, "run.sh"), filepath.Join(p, "x.sh")) },
		"mode":                     func(p string) error { return os.Chmod(filepath.Join(p, "run.sh"), 0o644) },
		"writable":                 func(p string) error { return os.Chmod(filepath.Join(p, "run.sh"), 0o757) },
		"writable top":             func(p string) error { return os.Chmod(p, 0o777) },
		"owner":                    func(p string) error { return os.Chown(filepath.Join(p, "run.sh"), 1000, 0) },
		"a hard link":              func(p string) error { return os.Link(filepath.Join(p, "run.sh"), filepath.Join(filepath.Dir(p), "x")) },
		"a link's target": func(p string) error {
			return replace(filepath.Join(p, "to-lib"), func(q string) error { return os.Symlink("lib/deep", q) })
		},
		"replaced": func(p string) error {
			return replace(filepath.Join(p, "run.sh"), func(q string) error { return os.WriteFile(q, []byte("#!/bin/zh\n"), 0o755) })
		},
	} {
		for _, warm := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, warm %v", name, warm), func(t *testing.T) {
				s := seal(t, bundle(t), home(t))
				if warm {
					trust(t, s)
				}
				if err := change(s.Path); err != nil {
					t.Fatal(err)
				}
				if _, err := OpenSealed(s.Path, s.Digest); err == nil {
					t.Error("the change is not noticed")
				}
			})
		}
	}
}

// trust makes the copy known as if its last change were long ago.
func trust(t *testing.T, s *Sealed) {
	t.Helper()
	w, err := look(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	print, _ := fingerprintOf(w.entries)
	proven.Lock()
	defer proven.Unlock()
	proven.by[s.Path+"\x00"+s.Digest] = proof{print, s.Manifest}
}

// TestYoungIsReadAgain: a copy whose last change is as young as the reading
// is not trusted by its fingerprint.
func TestYoungIsReadAgain(t *testing.T) {
	s := seal(t, bundle(t), home(t))
	if _, err := OpenSealed(s.Path, s.Digest); err != nil {
		t.Fatal(err)
	}
	proven.Lock()
	defer proven.Unlock()
	if _, ok := proven.by[s.Path+"\x00"+s.Digest]; ok {
		t.Error("a copy made this second is trusted without being read")
	}
}

func TestWrongDigest(t *testing.T) {
	s := seal(t, bundle(t), home(t))
	if _, err := OpenSealed(s.Path, "sha256:"+strings.Repeat("0", 64)); err == nil || !strings.Contains(err.Error(), "it was changed") {
		t.Errorf("got %v", err)
	}
}

// TestDamagedCopyIsNotReused: a Seal that finds its name taken by something
// else refuses, and leaves it as it is.
func TestDamagedCopyIsNotReused(t *testing.T) {
	dir, into := bundle(t), home(t)
	s := seal(t, dir, into)
	if err := os.WriteFile(filepath.Join(s.Path, "lib/a.js"), []byte("evil"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir).Seal(into); err == nil {
		t.Error("a damaged copy was used")
	}
	if got := list1(t, into); len(got) != 1 {
		t.Errorf("left behind: %q", got)
	}
}

func TestHomeMustBeRoots(t *testing.T) {
	b := open(t, bundle(t))
	shared := home(t)
	if err := os.Chmod(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	others := home(t)
	if err := os.Chown(others, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	linked := filepath.Join(t.TempDir(), "l")
	link(t, home(t), linked)
	for _, into := range []string{shared, others, linked, filepath.Join(shared, "none")} {
		if _, err := b.Seal(into); err == nil {
			t.Errorf("sealed into %s", into)
		}
	}
}

// TestSwappedUnderTheWalk: while a bundle is sealed again and again, its owner
// swaps a file for links and others. Whatever comes out is what the digest
// says, and never the file outside.
func TestSwappedUnderTheWalk(t *testing.T) {
	dir, into := bundle(t), home(t)
	outside := filepath.Join(t.TempDir(), "secret")
	put(t, outside, "secret", 0o600)
	b := open(t, dir)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p := filepath.Join(dir, "lib/a.js")
		for i := 0; ctx.Err() == nil; i++ {
			tmp := filepath.Join(filepath.Dir(dir), "tmp")
			switch i % 3 {
			case 0:
				_ = os.Symlink(outside, tmp)
			case 1:
				_ = os.WriteFile(tmp, []byte("a"), 0o600)
			case 2:
				_ = os.Mkdir(tmp, 0o755)
				_ = os.Remove(p)
			}
			_ = os.Rename(tmp, p)
			_ = os.RemoveAll(tmp)
		}
	}()
	for range 40 {
		s, err := b.Seal(into)
		if err != nil {
			continue // refused: it saw the swap
		}
		data, err := os.ReadFile(filepath.Join(s.Path, "lib/a.js"))
		if err == nil && string(data) == "secret" {
			t.Error("a file from outside was sealed")
		}
		if _, err := OpenSealed(s.Path, s.Digest); err != nil {
			t.Error(err)
		}
	}
	stop()
	<-done
	for _, name := range list1(t, into) {
		if strings.HasPrefix(name, tempPrefix) {
			t.Errorf("left behind: %s", name)
		}
	}
}

// TestSweep removes what a dead process left, and nothing that is at work.
func TestSweep(t *testing.T) {
	into := home(t)
	if err := os.MkdirAll(filepath.Join(into, ".tmp-dead/x"), 0o700); err != nil {
		t.Fatal(err)
	}
	alive, err := newTemp(into)
	if err != nil {
		t.Fatal(err)
	}
	if err := Sweep(into); err != nil {
		t.Fatal(err)
	}
	if got := list1(t, into); len(got) != 1 || got[0] != filepath.Base(alive.path) {
		t.Errorf("after the sweep there are %q", got)
	}
	if err := alive.discard(); err != nil {
		t.Fatal(err)
	}
}

// TestNoDescriptorsLeft: opening, sealing and refusing give every descriptor
// back.
func TestNoDescriptorsLeft(t *testing.T) {
	dir, into := bundle(t), home(t)
	bad := bundle(t)
	if err := unix.Mkfifo(filepath.Join(bad, "lib/x"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := list1(t, "/proc/self/fd")
	for range 5 {
		b, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Seal(into); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(bad); err == nil {
			t.Fatal("a fifo was accepted")
		}
	}
	if after := list1(t, "/proc/self/fd"); len(after) != len(before) {
		t.Errorf("%d descriptors before, %d after", len(before), len(after))
	}
}

func BenchmarkSeal(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "b")
	put(b, filepath.Join(dir, FileName), sixLines, 0o644)
	for i := range 2000 {
		put(b, filepath.Join(dir, fmt.Sprintf("node_modules/p%d/f%d.js", i/10, i)), strings.Repeat("x", 7000), 0o644)
	}
	for b.Loop() {
		seal(b, dir, home(b))
	}
}

func BenchmarkOpenSealedAgain(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "b")
	put(b, filepath.Join(dir, FileName), sixLines, 0o644)
	for i := range 2000 {
		put(b, filepath.Join(dir, fmt.Sprintf("node_modules/p%d/f%d.js", i/10, i)), strings.Repeat("x", 7000), 0o644)
	}
	s := seal(b, dir, home(b))
	w, err := look(s.Path)
	if err != nil {
		b.Fatal(err)
	}
	print, _ := fingerprintOf(w.entries)
	proven.by[s.Path+"\x00"+s.Digest] = proof{print, s.Manifest}
	for b.Loop() {
		if _, err := OpenSealed(s.Path, s.Digest); err != nil {
			b.Fatal(err)
		}
	}
}

// TestOpenAfterSwap swaps a file for something else between the look at its
// name and the opening, which is the window that a race aims at.
func TestOpenAfterSwap(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	put(t, outside, "secret", 0o600)
	for name, swap := range map[string]func(p string) error{
		"a link":       func(p string) error { return os.Symlink(outside, p) },
		"another file": func(p string) error { return os.Link(outside, p) },
		"a directory":  func(p string) error { return os.Mkdir(p, 0o755) },
		"a fifo":       func(p string) error { return unix.Mkfifo(p, 0o644) },
	} {
		dir := t.TempDir()
		put(t, filepath.Join(dir, "a"), "a", 0o644)
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		e := &entry{path: "a"}
		if err := unix.Fstatat(int(d.Fd()), "a", &e.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "was-a")); err != nil { // keeps the inode taken
			t.Fatal(err)
		}
		if err := swap(filepath.Join(dir, "a")); err != nil {
			t.Fatal(err)
		}
		if f, err := (&walker{}).open(d, "a", e, 0); err == nil {
			t.Errorf("%s is opened in place of the file", name)
			_ = f.Close()
		}
		_ = d.Close()
	}
}
