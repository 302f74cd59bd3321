package seccomp

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// counted compiles to a fixed program and counts how often.
type counted struct {
	program []byte
	times   int
}

func (c *counted) compile(Filter) ([]byte, error) {
	c.times++
	return c.program, nil
}

var twoInstructions = []byte("0123456789abcdef")

func cacheDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ask asks a cache of a new process, and fails if it gives anything else than
// the program.
func ask(t *testing.T, dir string, c *counted, vary ...string) {
	t.Helper()
	got, err := NewCache(dir, c.compile, vary...).Program(Filter{})
	if err != nil || !bytes.Equal(got, c.program) {
		t.Fatalf("Program = %q, %v", got, err)
	}
}

// theFile is the only one in the directory.
func theFile(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the cache holds %q, %v; want one file", files, err)
	}
	hidden, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(hidden) != 0 {
		t.Fatalf("the cache holds %q, %v", hidden, err)
	}
	return files[0]
}

func TestProgramIsCompiledOnce(t *testing.T) {
	dir, c := cacheDir(t), &counted{program: twoInstructions}
	cache := NewCache(dir, c.compile, "2.5.4")
	for range 3 {
		if got, err := cache.Program(Filter{}); err != nil || !bytes.Equal(got, twoInstructions) {
			t.Fatalf("Program = %q, %v", got, err)
		}
	}
	ask(t, dir, c, "2.5.4")
	if c.times != 1 {
		t.Errorf("compiled %d times; want once", c.times)
	}
	st, err := os.Stat(theFile(t, dir))
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("the file has mode %v, %v; want 0600", st.Mode(), err)
	}
}

func TestAnotherFilterOrVersionIsCompiledAgain(t *testing.T) {
	dir, c := cacheDir(t), &counted{program: twoInstructions}
	ask(t, dir, c, "2.5.4")
	ask(t, dir, c, "2.5.5")
	if _, err := NewCache(dir, c.compile, "2.5.4").Program(Filter{Rules: []Rule{allow("dup")}}); err != nil {
		t.Fatal(err)
	}
	if c.times != 3 {
		t.Errorf("compiled %d times; want 3", c.times)
	}
}

func TestTamperedFileIsNotTaken(t *testing.T) {
	rewrite := func(change func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, change(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tamper := range map[string]func(*testing.T, string){
		"program changed": rewrite(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }),
		"key changed":     rewrite(func(b []byte) []byte { b[len(cacheMagic)] ^= 1; return b }),
		"magic changed":   rewrite(func(b []byte) []byte { b[0] ^= 1; return b }),
		"cut":             rewrite(func(b []byte) []byte { return b[:len(b)-8] }),
		"empty":           rewrite(func([]byte) []byte { return nil }),
		"longer":          rewrite(func(b []byte) []byte { return append(b, 0, 0, 0, 0, 0, 0, 0, 0) }),
		"huge":            rewrite(func(b []byte) []byte { return append(b, make([]byte, maxFile)...) }),
		"of another filter": func(t *testing.T, file string) {
			other, err := pack(NewCache("", nil).key(Filter{Rules: []Rule{allow("mount")}}), []byte("fedcba9876543210"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, other, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"no program": func(t *testing.T, file string) {
			key := filepath.Base(file)
			other, err := pack(key[:len(key)-len(".bpf")], []byte("0123"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, other, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"writable by others": func(t *testing.T, file string) {
			if err := os.Chmod(file, 0o602); err != nil { // #nosec G302 -- the point
				t.Fatal(err)
			}
		},
		"owned by another": func(t *testing.T, file string) {
			if os.Geteuid() != 0 {
				t.Skip("needs root to give a file away")
			}
			if err := os.Chown(file, 12345, 12345); err != nil {
				t.Fatal(err)
			}
		},
		"a symbolic link": func(t *testing.T, file string) {
			if err := errors.Join(os.Rename(file, filepath.Dir(filepath.Dir(file))+"/elsewhere"), os.Symlink("../elsewhere", file)); err != nil {
				t.Fatal(err)
			}
		},
		"a hard link": func(t *testing.T, file string) {
			if err := os.Link(file, filepath.Dir(filepath.Dir(file))+"/elsewhere"); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, c := cacheDir(t), &counted{program: twoInstructions}
			ask(t, dir, c)
			tamper(t, theFile(t, dir))
			ask(t, dir, c)
			if c.times != 2 {
				t.Fatalf("compiled %d times; want the file not to be taken", c.times)
			}
			ask(t, dir, c)
			if c.times != 2 {
				t.Errorf("the file was not replaced by a good one")
			}
		})
	}
}

func TestDirectoryOfOthersIsNotUsed(t *testing.T) {
	dir, c := cacheDir(t), &counted{program: twoInstructions}
	ask(t, dir, c)
	if err := os.Chmod(dir, 0o777); err != nil { // #nosec G302 -- the point
		t.Fatal(err)
	}
	ask(t, dir, c)
	if c.times != 2 {
		t.Errorf("compiled %d times; want the directory not to be trusted", c.times)
	}
}

func TestFailingToKeepIsNoFailure(t *testing.T) {
	c := &counted{program: twoInstructions}
	ask(t, "", c)
	ask(t, "/proc/nothing/here", c)
	if c.times != 2 {
		t.Errorf("compiled %d times", c.times)
	}
}

func TestFailingToCompileIsAFailureAndNotKept(t *testing.T) {
	dir := cacheDir(t)
	broken := errors.New("broken")
	if got, err := NewCache(dir, func(Filter) ([]byte, error) { return nil, broken }).Program(Filter{}); !errors.Is(err, broken) || got != nil {
		t.Errorf("Program = %q, %v", got, err)
	}
	if got, err := NewCache(dir, func(Filter) ([]byte, error) { return []byte("odd"), nil }).Program(Filter{}); err == nil || got != nil {
		t.Errorf("Program = %q, %v; want an error for what is no program", got, err)
	}
	c := &counted{program: twoInstructions}
	ask(t, dir, c)
}

func FuzzCacheFile(f *testing.F) {
	key := NewCache("", nil).key(Filter{})
	good, err := pack(key, twoInstructions)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(cacheMagic))
	f.Fuzz(func(t *testing.T, content []byte) {
		program, err := unpack(key, content)
		if err != nil {
			return
		}
		again, err := pack(key, program)
		if err != nil || !bytes.Equal(again, content) {
			t.Fatalf("unpack took %q, which pack would not write", content)
		}
	})
}
