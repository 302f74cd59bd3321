package volume

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func testSpec(t *testing.T, size int64) Spec {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	if why := Missing(); why != "" {
		t.Fatalf("this host lacks %s", why)
	}
	dir := t.TempDir()
	s := Spec{Image: dir + "/p.img", Dir: dir + "/p", Size: size, Inodes: 64}
	t.Cleanup(func() {
		if err := Unmount(s.Dir); err != nil {
			t.Error(err)
		}
		if err := s.detached(t.Context()); err != nil && !errors.Is(err, os.ErrNotExist) && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return s
}

// fill writes to a file until the file system is full, and says how much it took.
func fill(t *testing.T, file string) int64 {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<16)
	for wrote := int64(0); ; {
		n, err := f.Write(block)
		wrote += int64(n)
		if errors.Is(err, unix.ENOSPC) {
			return wrote
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestVolumeBoundsWhatOutlivesARestart(t *testing.T) {
	s := testSpec(t, 8<<20)
	must(t, Mount(t.Context(), s))
	if got := fill(t, s.Dir+"/first"); got > s.Size || got < s.Size/2 {
		t.Errorf("%d bytes went into %d", got, s.Size)
	}
	must(t, Unmount(s.Dir))
	must(t, Mount(t.Context(), s))
	if got := fill(t, s.Dir+"/second"); got > 1<<16 {
		t.Errorf("after a restart %d bytes more went into it", got)
	}
	must(t, Mount(t.Context(), s)) // it is mounted: taken over
}

func TestVolumeBoundsFiles(t *testing.T) {
	s := testSpec(t, 8<<20)
	must(t, Mount(t.Context(), s))
	for n := int64(0); ; n++ {
		err := os.WriteFile(filepath.Join(s.Dir, "f"+string(rune('a'+n%26))+string(rune('a'+n/26))), nil, 0o600)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if must(t, err); n > 2*s.Inodes {
			t.Fatalf("%d files were made where %d fit in", n, s.Inodes)
		}
	}
}

func TestVolumeGrowsAndShrinksToWhatIsInIt(t *testing.T) {
	s := testSpec(t, 8<<20)
	must(t, Mount(t.Context(), s))
	small := fill(t, s.Dir+"/a")
	s.Size = 32 << 20
	must(t, Mount(t.Context(), s))
	if got := fill(t, s.Dir+"/b"); got < 20<<20 {
		t.Errorf("%d bytes more went in after it grew by 24 MiB", got)
	}
	s.Size = 16 << 20
	if err := Mount(t.Context(), s); err == nil {
		t.Fatal("it was made smaller than what is in it")
	}
	s.Size = 32 << 20
	must(t, Mount(t.Context(), s))
	if info, err := os.Stat(s.Dir + "/a"); err != nil || info.Size() != small {
		t.Errorf("after a refusal: %v", err)
	}
	must(t, os.Remove(s.Dir+"/b"))
	s.Size = 16 << 20
	must(t, Mount(t.Context(), s))
	if info, err := os.Stat(s.Image); err != nil || info.Size() != s.Size {
		t.Errorf("the image: %v, %v", info, err)
	}
}

func TestVolumeRefusals(t *testing.T) {
	s := testSpec(t, MinSize-1)
	if err := Mount(t.Context(), s); err == nil {
		t.Error("a volume without room for itself was made")
	}
	s.Size = MinSize
	must(t, os.MkdirAll(s.Dir+"/kept", 0o700))
	if err := Mount(t.Context(), s); err == nil {
		t.Error("what was in the directory is hidden")
	}
	must(t, os.Remove(s.Dir+"/kept"))
	must(t, os.WriteFile(s.Image+".new", []byte("half-made"), 0o600))
	must(t, Mount(t.Context(), s))
	must(t, Remove(s))
	for _, file := range []string{s.Image, s.Image + ".new", s.Dir} {
		if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there", file)
		}
	}
	must(t, os.WriteFile(s.Image, make([]byte, MinSize), 0o600))
	if err := Mount(t.Context(), s); err == nil {
		t.Error("what is no file system was mounted")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
