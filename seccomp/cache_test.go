package seccomp

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
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

// Two specs have the same words only if nothing in them differs: a program that
// is found by its words is of no other filter.
func TestWordsTellSpecsApart(t *testing.T) {
	base := func() Filter {
		return Filter{
			Rules: []Rule{
				{Names: []string{"getpid", "getppid"}, Action: ActAllow},
				{Names: []string{"socket"}, Args: []Condition{{Index: 1, Op: OpMaskedEqual, Value: 3, ValueTwo: 2}}, Action: ActErrno, Errno: "EPERM"},
			},
			Watch: []string{"openat"},
		}
	}
	for kind, known := range map[reflect.Type]int{reflect.TypeFor[Filter](): 3, reflect.TypeFor[Rule](): 4, reflect.TypeFor[Condition](): 4} {
		if kind.NumField() != known {
			t.Errorf("%s has %d fields and words knows %d: another field must be in it, and here", kind, kind.NumField(), known)
		}
	}
	words := func(f Filter) string { return string(f.appendWords(nil)) }
	seen := map[string]string{words(base()): "the spec itself"}
	if first, second := words(base()), words(base()); first != second {
		t.Fatal("one spec is written in two ways")
	}
	for name, change := range map[string]func(*Filter){
		"a name":                 func(f *Filter) { f.Rules[0].Names[1] = "getuid" },
		"names joined":           func(f *Filter) { f.Rules[0].Names = []string{"getpidgetppid"} },
		"a name fewer":           func(f *Filter) { f.Rules[0].Names = f.Rules[0].Names[:1] },
		"an action":              func(f *Filter) { f.Rules[0].Action = ActLog },
		"an errno":               func(f *Filter) { f.Rules[1].Errno = "EACCES" },
		"an index":               func(f *Filter) { f.Rules[1].Args[0].Index = 2 },
		"an operator":            func(f *Filter) { f.Rules[1].Args[0].Op = OpEqual },
		"a value":                func(f *Filter) { f.Rules[1].Args[0].Value = 7 },
		"a second value":         func(f *Filter) { f.Rules[1].Args[0].ValueTwo = 1 },
		"a condition fewer":      func(f *Filter) { f.Rules[1].Args = nil },
		"a rule fewer":           func(f *Filter) { f.Rules = f.Rules[:1] },
		"the order of the rules": func(f *Filter) { f.Rules[0], f.Rules[1] = f.Rules[1], f.Rules[0] },
		"no watch":               func(f *Filter) { f.Watch = nil },
		"execve once":            func(f *Filter) { f.ExecOnce = true },
		"another watch":          func(f *Filter) { f.Watch = []string{"open"} },
	} {
		f := base()
		change(&f)
		if other, ok := seen[words(f)]; ok {
			t.Errorf("%s: the same words as %s", name, other)
		}
		seen[words(f)] = name
	}
}
