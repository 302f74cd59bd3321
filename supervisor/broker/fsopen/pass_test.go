package fsopen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

func newMounts(t *testing.T) *mounts {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	ms := &mounts{of: map[string]map[mountKey]*mount{}}
	t.Cleanup(func() {
		if err := ms.closed("p"); err != nil {
			t.Error(err)
		}
	})
	return ms
}

func passed(t *testing.T, ms *mounts, root, params string) (*os.File, error) {
	t.Helper()
	at, err := openTarget(json.RawMessage(params))
	if err != nil {
		return nil, err
	}
	c := &capability.Call{
		Plugin: "p", Method: "fs.open", Params: json.RawMessage(params), Target: at, Root: root, Spend: func(int64) error { return nil },
		Takes: func(k ipc.DescriptorKind) bool { return k == ipc.KindFile },
	}
	got, err := ms.open(context.Background(), c)
	if err != nil {
		return nil, err
	}
	f := got.(ipc.WithFiles).Files[0] //nolint:forcetypeassert // a panic is as good
	t.Cleanup(func() { _ = f.Close() })
	return f, nil
}

// TestPassedFilesAreNoCode: what is handed over is read or written, and nothing
// else: not executed, mapped for execution or opened again for more.
func TestPassedFilesAreNoCode(t *testing.T) {
	ms, root := newMounts(t), tree(t)
	if err := os.WriteFile(root+"/true", []byte("#!/bin/true\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := passed(t, ms, "rw:"+root, `{"path":`+quoted(root+"/true")+`}`)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(r); err != nil || string(text) != "#!/bin/true\n" {
		t.Errorf("it reads %q, %v", text, err)
	}
	if _, err := r.Write([]byte("x")); !errors.Is(err, unix.EBADF) {
		t.Errorf("what was opened for reading is written: %v", err)
	}
	self := fmt.Sprintf("/proc/self/fd/%d", r.Fd())
	if f, err := os.OpenFile(self, os.O_RDWR, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("what was opened for reading is opened again for writing: %v", err)
		_ = f.Close()
	}
	w, err := passed(t, ms, "rw:"+root, `{"path":`+quoted(root+"/true")+`,"access":"rw"}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt([]byte("#!/bin/false"), 0); err != nil {
		t.Error(err)
	}
	for _, f := range []*os.File{r, w} {
		if _, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE); !errors.Is(err, unix.EPERM) {
			t.Errorf("it is mapped for execution: %v", err)
		}
		if err := unix.Access(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.X_OK); !errors.Is(err, unix.EACCES) {
			t.Errorf("it can be executed: %v", err)
		}
	}
	made, err := passed(t, ms, "rw:"+root, `{"path":`+quoted(root+"/a/made")+`,"access":"rw","create":true}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := made.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(root + "/a/made"); err != nil || string(text) != "x" {
		t.Errorf("the new file has %q, %v", text, err)
	}
}

// TestPassIsOpen: the descriptor form opens what the byte form opens, and
// refuses what it refuses.
func TestPassIsOpen(t *testing.T) {
	ms, root := newMounts(t), tree(t)
	for _, name := range []string{
		"f", "a/f", "in", "dir/f", "up", "upin", "out/f", "abs", "loop", "a/back", "a/b/top/outside/f", "a/b/root/f", "nothing", "proc/etc/passwd", "long",
		"fifo", "a", "f/x", "no/such", strings.Repeat("x", 300),
	} {
		for _, noLinks := range []bool{false, true} {
			want, wantErr := Open("rw:"+root, root+"/"+name, unix.O_RDONLY, noLinks)
			got, _, err := ms.pass("p", "rw:"+root, root+"/"+name, unix.O_RDONLY, noLinks)
			if !errors.Is(err, wantErr) && fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Errorf("%s (no links: %v): %v, and the byte form says %v", name, noLinks, err, wantErr)
			}
			if err != nil || wantErr != nil {
				continue
			}
			a, _ := io.ReadAll(want)
			b, _ := io.ReadAll(got)
			if string(a) != string(b) {
				t.Errorf("%s: %q, and the byte form %q", name, b, a)
			}
			if err := errors.Join(want.Close(), got.Close()); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestPassFollowsTheDirectory: a directory that took the place of the granted
// one is opened, and not the one that was there before.
func TestPassFollowsTheDirectory(t *testing.T) {
	ms, root := newMounts(t), tree(t)
	if _, err := passed(t, ms, "r:"+root, `{"path":`+quoted(root+"/f")+`}`); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(root, root+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/f", []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := passed(t, ms, "r:"+root, `{"path":`+quoted(root+"/f")+`}`)
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := io.ReadAll(f); string(text) != "new" {
		t.Errorf("it reads %q", text)
	}
}

// TestNoDescriptorWhereNoneMayGo: to a plugin that takes none, and by a grant
// that counts bytes.
func TestNoDescriptorWhereNoneMayGo(t *testing.T) {
	ms, root := newMounts(t), tree(t)
	c := &capability.Call{Plugin: "p", Method: "fs.open", Params: json.RawMessage(`{"path":` + quoted(root+"/f") + `}`), Root: "r:" + root}
	var answer *ipc.RPCError
	if _, err := ms.open(t.Context(), c); !errors.As(err, &answer) || answer.Code != ipc.CodeUnsupported {
		t.Errorf("a plugin that takes none gets %v", err)
	}
	c.Takes, c.Grant.Budget = func(ipc.DescriptorKind) bool { return true }, plan.Budget{Bytes: 1 << 20}
	if _, err := ms.open(t.Context(), c); !errors.As(err, &answer) || answer.Code != ipc.CodeDenied || !strings.Contains(answer.Message, "counts bytes") {
		t.Errorf("a grant that counts bytes gives %v", err)
	}
}
