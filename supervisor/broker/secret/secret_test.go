package secret

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

func TestSources(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(at, mode); err != nil {
			t.Fatal(err)
		}
		return at
	}
	if err := os.Symlink(file("good", "hush", 0o600), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	t.Setenv("HUSH", "from the environment")
	for _, c := range []struct {
		source Source
		want   string
		fails  string
	}{
		{Source{File: filepath.Join(dir, "good")}, "hush", ""},
		{Source{File: file("open", "hush", 0o640)}, "", "nobody else can read"},
		{Source{File: filepath.Join(dir, "link")}, "", "too many levels"},
		{Source{File: dir}, "", "regular file"},
		{Source{File: file("long", strings.Repeat("x", maxSecret+1), 0o600)}, "", "longer than"},
		{Source{Credential: "good"}, "hush", ""},
		{Source{Command: []string{"/bin/echo", "hush"}}, "hush", ""},
		{Source{Command: []string{"/bin/sh", "-c", "echo $HUSH"}}, "", ""},
		{Source{Command: []string{"/bin/sh", "-c", "echo hush; exit 1"}}, "", "exit status 1"},
		{Source{Command: []string{"/bin/sh", "-c", "yes"}}, "", "/bin/sh"},
	} {
		if err := c.source.Check(); err != nil {
			t.Fatal(err)
		}
		got, err := c.source.Read(t.Context())
		if string(got) != c.want || (err == nil) != (c.fails == "") || err != nil && (!strings.Contains(err.Error(), c.fails) || strings.Contains(err.Error(), "hush")) {
			t.Errorf("%+v: %q, %v", c.source, got, err)
		}
	}
	for _, bad := range []Source{{}, {File: "x"}, {File: "/a/../b"}, {Credential: "a/b"}, {Credential: ".."}, {Command: []string{"sh"}}, {File: "/a", Credential: "b"}} {
		if bad.Check() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestServedSecretIsHiddenFirst(t *testing.T) {
	var hidden []string
	c := &capability.Call{
		Plugin: "p", Target: "k", Params: json.RawMessage(`{"name":"k"}`), Spend: func(int64) error { return nil },
		Env: &capability.Env{Redact: func(s string) { hidden = append(hidden, s) }},
	}
	find := func(name string) (Source, bool) {
		return Source{Command: []string{"/bin/echo", "hush"}}, name == "k"
	}
	got, err := serve(t.Context(), c, find)
	if text, _ := json.Marshal(got); err != nil || string(text) != `{"data":"aHVzaA=="}` || len(hidden) != 1 || hidden[0] != "hush" {
		t.Fatalf("served is %s, %v; hidden %q", text, err, hidden)
	}
	c.Target = "other"
	var answer *ipc.RPCError
	if _, err := serve(t.Context(), c, find); !errors.As(err, &answer) || answer.Code != ipc.CodeNotFound {
		t.Fatalf("a secret that the host does not have: %v", err)
	}
}

// TestASecretIsHandedOverSealed: nobody can change it, and a plugin that takes
// no memory gets none.
func TestASecretIsHandedOverSealed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hush")
	if err := os.WriteFile(file, []byte("hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var hidden []string
	c := &capability.Call{
		Method: "secret.open", Target: "x", Spend: func(int64) error { return nil },
		Env: &capability.Env{Redact: func(s string) { hidden = append(hidden, s) }},
	}
	find := func(string) (Source, bool) { return Source{File: file}, true }
	var answer *ipc.RPCError
	if _, err := pass(t.Context(), c, find); !errors.As(err, &answer) || answer.Code != ipc.CodeUnsupported {
		t.Fatalf("a plugin that takes none gets %v", err)
	}
	c.Takes = func(k ipc.DescriptorKind) bool { return k == ipc.KindMemfd }
	got, err := pass(t.Context(), c, find)
	if err != nil {
		t.Fatal(err)
	}
	f := got.(ipc.WithFiles).Files[0] //nolint:forcetypeassert // a panic is as good
	defer f.Close()
	if kind, err := ipc.KindOf(int(f.Fd())); err != nil || kind != ipc.KindMemfd {
		t.Errorf("it is a %s, %v", kind, err)
	}
	if text, err := io.ReadAll(f); err != nil || string(text) != "hush\n" {
		t.Errorf("it reads %q, %v", text, err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("it can be changed")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("it can be cut")
	}
	if _, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		t.Error("it can be mapped for writing")
	}
	if !slices.Equal(hidden, []string{"hush"}) {
		t.Errorf("what is redacted is %q", hidden)
	}
}
