package cordon

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openFiles is how many descriptors this process has.
func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func written(t *testing.T, text string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestFiles: descriptors reach the handler, and come back with its answer.
func TestFiles(t *testing.T) {
	before := openFiles(t)
	p := New("files", "1.0.0")
	Handle(p, "upper", func(ctx context.Context, _ struct{}) (WithFiles, error) {
		files := TakeFiles(ctx)
		defer closeFiles(files)
		text, err := io.ReadAll(files[0])
		if err != nil {
			return WithFiles{}, err
		}
		m, err := NewMemory(len(text))
		if err != nil {
			return WithFiles{}, err
		}
		copy(m.Bytes(), strings.ToUpper(string(text)))
		f, err := m.Seal()
		return WithFiles{Result: len(text), Files: []*os.File{f}}, err
	})
	Handle(p, "ignore", func(context.Context, struct{}) (int, error) { return 1, nil })
	h, err := NewHarness(t.Context(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 30 { // some of them in the reader
		n := 0
		files, err := h.CallFiles(t.Context(), "upper", nil, []*os.File{written(t, "hello")}, &n)
		if err != nil || n != 5 || len(files) != 1 {
			t.Fatal(n, len(files), err)
		}
		if _, kind, err := kindOf(files[0]); err != nil || kind != kindMemfd {
			t.Errorf("%q, %v", kind, err)
		}
		got, err := io.ReadAll(io.NewSectionReader(files[0], 0, 100))
		if err != nil || string(got) != "HELLO" {
			t.Errorf("%q, %v", got, err)
		}
		closeFiles(files)
		if _, err := h.CallFiles(t.Context(), "ignore", nil, []*os.File{written(t, "x")}, nil); err != nil {
			t.Error(err)
		}
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.CallFiles(t.Context(), "ignore", nil, []*os.File{dir}, nil); err == nil {
		t.Error("a directory was sent")
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(time.Minute); openFiles(t) > before; {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors open, %d before", openFiles(t), before)
		}
		time.Sleep(time.Millisecond) //nolint:forbidigo // nothing tells when another goroutine has closed it
	}
}

// TestFilesNobodyAnnounced: the peer breaks the protocol, and they are closed.
func TestFilesNobodyAnnounced(t *testing.T) {
	for _, msg := range []string{
		`{"jsonrpc":"2.0","method":"n"}`, `{"jsonrpc":"2.0","method":"n","fds":["file"]}`,
		`{"jsonrpc":"2.0","id":5,"method":"n","fds":["file","file"]}`, `{"jsonrpc":"2.0","id":5,"method":"n","fds":1}`,
	} {
		h, err := NewHarness(t.Context(), New("p", "1"), nil)
		if err != nil {
			t.Fatal(err)
		}
		f := written(t, "x")
		_, fd, err := announce([]*os.File{f})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.write(fd, []byte(msg)); err != nil {
			t.Fatal(err)
		}
		err = <-h.plugin
		if e, ok := err.(*ProtocolError); !ok || e.Code != BreachDescriptors { //nolint:errorlint // as it is
			t.Errorf("%s: %v", msg, err)
		}
		_ = h.stream.Close()
		<-h.host
		_ = f.Close()
	}
}

// TestMemoryIsSealed: what was sealed cannot be changed by its maker.
func TestMemoryIsSealed(t *testing.T) {
	m, err := NewMemory(4096)
	if err != nil {
		t.Fatal(err)
	}
	f, err := m.Seal()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("it can be written")
	}
	if f.Truncate(0) == nil {
		t.Error("it can be cut")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if _, err := NewMemory(0); err == nil {
		t.Error("no error for no bytes")
	}
}

// TestStreams: bytes to the plugin and from it, more than one window of them.
func TestStreams(t *testing.T) {
	const size = 5<<20 + 3
	p := New("streams", "1.0.0")
	Handle(p, "take", func(ctx context.Context, _ struct{}) (int64, error) {
		s, err := TakeStream(ctx)
		if err != nil {
			return 0, err
		}
		defer s.Close()
		return io.Copy(io.Discard, s)
	})
	Handle(p, "give", func(context.Context, struct{}) (WithFiles, error) {
		ours, theirs, err := NewStream()
		if err != nil {
			return WithFiles{}, err
		}
		go func() {
			defer ours.Close()
			_, _ = ours.Write(make([]byte, size))
			_ = ours.End()
		}()
		return WithFiles{Result: size, Files: []*os.File{theirs}}, nil
	})
	h, err := NewHarness(t.Context(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := NewStream()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = ours.Write(make([]byte, size))
		_ = ours.End()
	}()
	n := 0
	if _, err := h.CallFiles(t.Context(), "take", nil, []*os.File{theirs}, &n); err != nil || n != size {
		t.Error(n, err)
	}
	files, err := h.CallFiles(t.Context(), "give", nil, nil, &n)
	if err != nil || len(files) != 1 {
		t.Fatal(len(files), err)
	}
	s, err := OpenStream(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.Copy(io.Discard, s); err != nil || got != size {
		t.Error(got, err)
	}
	if _, err := h.CallFiles(t.Context(), "take", nil, nil, nil); err == nil {
		t.Error("a request without its stream was taken")
	}
	if err := errors.Join(s.Close(), ours.Close(), h.Close()); err != nil {
		t.Error(err)
	}
}
