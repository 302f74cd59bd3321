package cordon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"testing"
)

// fakeHost serves what a host does, from here.
func fakeHost(t *testing.T) *Plugin {
	t.Helper()
	host := New("host", "0")
	Handle(host, "fs.open", func(_ context.Context, in map[string]any) (WithFiles, error) {
		if in["path"] != "/f" || in["access"] != nil && in["create"] != true {
			return WithFiles{}, Errorf(CodeDenied, "fs.open %v is not granted", in)
		}
		return WithFiles{Result: map[string]any{}, Files: []*os.File{written(t, "bits")}}, nil
	})
	Handle(host, "secret.open", func(_ context.Context, in map[string]string) (WithFiles, error) {
		m, err := NewMemory(len(in["name"]))
		if err != nil {
			return WithFiles{}, err
		}
		copy(m.Bytes(), in["name"])
		f, err := m.Seal()
		return WithFiles{Result: map[string]any{}, Files: []*os.File{f}}, err
	})
	Handle(host, "net.dial", func(_ context.Context, in map[string]string) (WithFiles, error) {
		ours, theirs, err := streams()
		if err != nil {
			return WithFiles{}, err
		}
		go func() {
			_, _ = io.WriteString(ours, "hello from "+in["to"])
			_ = ours.Close()
		}()
		f, err := theirs.(*net.UnixConn).File()
		return WithFiles{Result: map[string]any{}, Files: []*os.File{f}}, errors.Join(err, theirs.Close())
	})
	store := map[string]*string{}
	Handle(host, "kv.put", func(_ context.Context, in map[string]map[string]*string) (struct{}, error) {
		maps.Copy(store, in["set"])
		return struct{}{}, nil
	})
	Handle(host, "kv.get", func(_ context.Context, in map[string]string) (*string, error) { return store[in["key"]], nil })
	Handle(host, "host.call", func(_ context.Context, in map[string]any) (string, error) {
		return fmt.Sprint(in["function"], in["params"]), nil
	})
	return host
}

func TestServed(t *testing.T) {
	p := New("p", "1")
	Handle(p, "use", func(ctx context.Context, _ struct{}) (out []string, err error) {
		host := Host(ctx)
		say := func(v any, err error) {
			if err != nil {
				v = err
			}
			out = append(out, fmt.Sprint(v))
		}
		read := func(r io.ReadCloser, err error) {
			if err != nil {
				say(nil, err)
				return
			}
			text, err := io.ReadAll(r)
			say(string(text), errors.Join(err, r.Close()))
		}
		f, err := host.Open(ctx, "/f")
		read(f, err)
		f, err = host.OpenFile(ctx, File{Path: "/f", Write: true, Create: true})
		read(f, err)
		_, err = host.Open(ctx, "/g")
		var denied *Error
		say(errors.As(err, &denied) && denied.Code == CodeDenied, nil)
		c, err := host.Dial(ctx, "a.example:80")
		read(c, err)
		secret, err := host.Secret(ctx, "key")
		say(string(secret), err)
		one := "1"
		say("put", host.Put(ctx, map[string]*string{"a": &one}))
		v, err := host.Get(ctx, "a")
		say(*v, err)
		v, err = host.Get(ctx, "b")
		say(v == nil, err)
		var answer string
		err = host.HostCall(ctx, "f", 1, &answer)
		say(answer, err)
		return out, nil
	})
	h := start(t, p, fakeHost(t))
	defer closed(t, h)
	var got []string
	if err := h.Call(t.Context(), "use", nil, &got); err != nil {
		t.Fatal(err)
	}
	if want := "[bits bits true hello from a.example:80 key put 1 true f1]"; fmt.Sprint(got) != want {
		t.Errorf("it got %v, want %s", got, want)
	}
}
