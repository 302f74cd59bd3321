package ipc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// memfd makes one that holds text, sealed if it shall be.
func memfd(t *testing.T, text string, seals int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	return f
}

// regular makes a file that holds text.
func regular(t *testing.T, text string) *os.File {
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

// contents reads a descriptor from its start.
func contents(t *testing.T, f *os.File) string {
	t.Helper()
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestKindOf(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	open := func(path string, flags int) int {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	holes := memfd(t, "", 0)
	if err := holes.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(holes.Fd(), unix.F_ADD_SEALS, immutable); err != nil {
		t.Fatal(err)
	}
	sealed, half, file := memfd(t, "x", immutable), memfd(t, "x", unix.F_SEAL_SHRINK), regular(t, "x")
	defer closeFiles([]*os.File{holes, sealed, half, file})
	dir, device, path := open(t.TempDir(), unix.O_RDONLY), open("/dev/null", unix.O_RDONLY), open(file.Name(), unix.O_PATH)
	for _, c := range []struct {
		what string
		fd   int
		want DescriptorKind
	}{
		{"a file", int(file.Fd()), KindFile},
		{"a sealed memfd", int(sealed.Fd()), KindMemfd},
		{"a memfd that can be written", int(half.Fd()), KindFile},
		{"a sealed memfd with holes", int(holes.Fd()), KindFile},
		{"a socket", pair[0], KindSocket},
		{"a directory", dir, ""},
		{"a device", device, ""},
		{"a path", path, ""},
		{"nothing", 1 << 20, ""},
	} {
		if got, err := KindOf(c.fd); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: %q, %v", c.what, got, err)
		}
	}
	for _, fd := range []int{pair[0], pair[1], dir, device, path} {
		_ = unix.Close(fd)
	}
}

// descriptive is both ends of a connection over a socket whose methods take and
// give descriptors.
func descriptive(t *testing.T, o1, o2 Options) (host, plugin *running) {
	t.Helper()
	a, b := socketpair(t)
	o1.PeerTakes, o2.PeerTakes = kinds, kinds
	return run(NewConn(SocketTransport(a), o1)), run(NewConn(SocketTransport(b), o2))
}

func acceptAny(string) int { return maxDescriptors }

// TestDescriptorsBothWays: in requests and in answers, from either end, each
// with the message that it was given to, and closed afterwards.
func TestDescriptorsBothWays(t *testing.T) {
	before := descriptors(t)
	// turned answers the files that came, in the opposite order, with their text.
	turned := func(_ context.Context, r *Request) (any, error) {
		var texts []string
		with := WithFiles{}
		for i := range r.Files {
			f := r.Take(len(r.Files) - 1 - i)
			texts = append(texts, contents(t, f))
			with.Files = append(with.Files, f)
		}
		with.Result = texts
		return with, nil
	}
	o := Options{Handler: turned, AcceptFiles: acceptAny}
	host, plugin := descriptive(t, o, o)
	for i := range 20 {
		for _, c := range []*Conn{host.Conn, plugin.Conn} {
			first, second := fmt.Sprint("first ", i), fmt.Sprint("second ", i)
			a, err := c.CallFiles(t.Context(), "turn", map[string]string{"pad": strings.Repeat("x", 100*i)},
				[]*os.File{regular(t, first), memfd(t, second, immutable)}, 2)
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf(`[%q,%q]`, second, first); string(a.Result) != want || len(a.Files) != 2 {
				t.Fatalf("%s with %d files, want %s", a.Result, len(a.Files), want)
			}
			if a.Files[0].Kind != KindMemfd || contents(t, a.Files[0].File) != second || contents(t, a.Files[1].File) != first {
				t.Errorf("files came as %v", a.Files)
			}
			CloseDescriptors(a.Files)
		}
	}
	stop(t, host, plugin)
	none(t, before)
}

func stop(t *testing.T, host, plugin *running) {
	t.Helper()
	_ = host.Close()
	<-host.ended
	<-plugin.ended
}

// TestDescriptorsPipelined: many at once, among messages without any, over a
// socket that is full most of the time.
func TestDescriptorsPipelined(t *testing.T) {
	before := descriptors(t)
	o := Options{AcceptFiles: acceptAny, Limits: Limits{MaxDescriptors: 128}, Handler: func(_ context.Context, r *Request) (any, error) {
		texts := []string{}
		for _, d := range r.Files {
			texts = append(texts, contents(t, d.File))
		}
		return texts, nil
	}}
	host, plugin := descriptive(t, o, o)
	const calls = 200
	done := make(chan error, calls)
	for i := range calls {
		go func() {
			var files []*os.File
			want := []string{}
			for n := range i % 3 {
				want = append(want, fmt.Sprint(i, n))
				files = append(files, memfd(t, want[n], immutable))
			}
			pad := strings.Repeat("x", i%7*10000)
			a, err := host.CallFiles(t.Context(), "read", []string{pad}, files, 0)
			if got, _ := marshal(want); err == nil && !bytes.Equal(a.Result, got) {
				err = fmt.Errorf("%s, want %s", a.Result, got)
			}
			done <- err
		}()
	}
	for range calls {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	stop(t, host, plugin)
	none(t, before)
}

// TestDescriptorsUntaken: what a handler leaves, panics over or gets twice too
// much of is closed.
func TestDescriptorsUntaken(t *testing.T) {
	before := descriptors(t)
	o := Options{AcceptFiles: acceptAny, Handler: func(_ context.Context, r *Request) (any, error) {
		switch r.Method {
		case "panic":
			panic("on purpose")
		case "fail":
			return WithFiles{Files: []*os.File{r.Take(0)}}, io.ErrUnexpectedEOF
		case "same": // without taking it
			return WithFiles{Result: 1, Files: []*os.File{r.Files[0].File}}, nil
		case "big":
			return WithFiles{Result: strings.Repeat("x", 5<<20), Files: []*os.File{r.Take(0)}}, nil
		}
		return len(r.Files), nil
	}}
	host, plugin := descriptive(t, o, o)
	for _, method := range []string{"leave", "panic", "fail", "same", "big"} {
		a, err := host.CallFiles(t.Context(), method, nil, []*os.File{regular(t, "x")}, 1)
		switch {
		case method == "leave" && (err != nil || string(a.Result) != "1"),
			method == "same" && (err != nil || len(a.Files) != 1 || contents(t, a.Files[0].File) != "x"),
			method == "panic" && rpcCode(err) != CodeInternal,
			method == "fail" && rpcCode(err) != CodeInternal,
			method == "big" && rpcCode(err) != CodeTooLarge:
			t.Errorf("%s: %s %d %v", method, a.Result, len(a.Files), err)
		}
		CloseDescriptors(a.Files)
	}
	if held := plugin.box.held.Load(); held != 0 {
		t.Errorf("%d descriptors still held", held)
	}
	stop(t, host, plugin)
	none(t, before)
}

// TestDescriptorsNotSent: what the peer does not take, or nobody may send, is
// an error of the sender and closed.
func TestDescriptorsNotSent(t *testing.T) {
	before := descriptors(t)
	a, b := socketpair(t)
	host := run(NewConn(SocketTransport(a), Options{PeerTakes: []DescriptorKind{KindSocket, "door"}}))
	plugin := run(NewConn(SocketTransport(b), Options{Handler: echo, AcceptFiles: acceptAny}))
	if host.Takes(KindFile) || !host.Takes(KindSocket) || host.Takes("door") {
		t.Error("the peer's kinds are mistaken")
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	closed := regular(t, "x")
	_ = closed.Close()
	for what, files := range map[string][]*os.File{
		"file": {regular(t, "x")}, "directory": {dir}, "closed": {closed},
		"many": make([]*os.File, maxDescriptors+1),
	} {
		if _, err := host.CallFiles(t.Context(), "m", nil, files, 0); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	pair, other, err := Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(uintptr(pair.R.(*socket).fd), unix.F_DUPFD_CLOEXEC, 0) //nolint:forcetypeassert // it is one
	f := os.NewFile(uintptr(fd), "socket")
	if err != nil {
		t.Fatal(err)
	}
	_ = errors.Join(pair.close(), other.Close())
	if _, err := host.CallFiles(t.Context(), "m", nil, []*os.File{f}, 0); err != nil {
		t.Error(err)
	}
	if f.Close() == nil {
		t.Error("a descriptor that was sent is still open")
	}
	stop(t, host, plugin)
	if _, err := host.CallFiles(t.Context(), "m", nil, []*os.File{memfd(t, "", immutable)}, 0); err == nil {
		t.Error("no error once it has ended")
	}
	none(t, before)
}

// TestDescriptorsNeverRead: descriptors for a peer that does not read are
// bounded, and closed in the end.
func TestDescriptorsNeverRead(t *testing.T) {
	before := descriptors(t)
	a, b := socketpair(t)
	host := run(NewConn(SocketTransport(a), Options{PeerTakes: kinds, Limits: Limits{MaxInFlight: 4096}}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2000)
	for range cap(done) {
		go func() {
			_, err := host.CallFiles(ctx, "m", nil, []*os.File{memfd(t, "", immutable)}, 0)
			done <- err
		}()
	}
	until(t, func() bool {
		host.out.mu.Lock()
		defer host.out.mu.Unlock()
		return len(host.out.marks.pending)+len(host.out.marks.active) == maxDescriptors
	})
	cancel()
	for range cap(done) {
		if err := <-done; err == nil {
			t.Error("a call nobody read was answered")
		}
	}
	_ = host.Close()
	<-host.ended
	_ = b.Close()
	none(t, before)
}

// none waits until no more descriptors are open than before: that of the timer
// of those who linger goes last.
func none(t *testing.T, before int) {
	t.Helper()
	until(t, func() bool { return descriptors(t) <= before })
}

// endOf waits, for a minute, until a connection has ended.
func endOf(t *testing.T, r *running) error {
	t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the connection goes on")
		return nil
	}
}

// until waits for a condition, for a minute.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatal("waited in vain for a minute")
		}
		time.Sleep(time.Millisecond) //nolint:forbidigo // the kernel has no signal for it
	}
}

// TestHostileDescriptors: what a peer may do wrong with descriptors, one life
// each. All end the connection, and none leaves a descriptor behind.
func TestHostileDescriptors(t *testing.T) {
	request := func(fds string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"take","params":{}` + fds + `}`
	}
	file := regular(t, "x")
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	memory := memfd(t, "x", unix.F_SEAL_SHRINK)
	// Their numbers are in use below, which keeps no file from being collected.
	t.Cleanup(func() { runtime.KeepAlive([]*os.File{file, dir, memory}) })
	one := []int{int(file.Fd())}
	many := func(n int) (fds []int) {
		for range n {
			fds = append(fds, one...)
		}
		return fds
	}
	kindsOf := func(n int) string {
		return `,"fds":[` + strings.TrimSuffix(strings.Repeat(`"file",`, n), ",") + `]`
	}
	for _, c := range []struct {
		what, msg string
		fds       []int
	}{
		{"announced by no message", request(""), one},
		{"announced and not sent", request(`,"fds":["file"]`), nil},
		{"more announced than sent", request(`,"fds":["file","file"]`), one},
		{"more sent than announced", request(`,"fds":["file"]`), many(2)},
		{"more than the limit", request(kindsOf(5)), many(5)},
		{"253 of them", request(kindsOf(253)), many(253)},
		{"a file for a socket", request(`,"fds":["socket"]`), one},
		{"a file for a memfd", request(`,"fds":["memfd"]`), one},
		{"an unsealed memfd", request(`,"fds":["memfd"]`), []int{int(memory.Fd())}},
		{"a directory", request(`,"fds":["file"]`), []int{int(dir.Fd())}},
		{"an unknown kind", request(`,"fds":["door"]`), one},
		{"kinds that are no array", request(`,"fds":"file"`), one},
		{"kinds that are no strings", request(`,"fds":[1]`), one},
		{"ten thousand kinds", request(kindsOf(10000)), one},
		{"a request that takes none", strings.Replace(request(`,"fds":["file"]`), "take", "none", 1), one},
		{"a request that takes one", strings.Replace(request(`,"fds":["file","file"]`), "take", "one", 1), many(2)},
		{"a notification", `{"jsonrpc":"2.0","method":"take","fds":["file"]}`, one},
		{"an answer", `{"jsonrpc":"2.0","id":1,"result":1,"fds":["file"]}`, one},
		{"half a message and no more", "", one},
	} {
		t.Run(c.what, func(t *testing.T) {
			before := descriptors(t)
			a, b := socketpair(t)
			host := run(NewConn(SocketTransport(a), Options{
				Limits: Limits{MaxDescriptors: 4},
				AcceptFiles: func(method string) int {
					return map[string]int{"take": 4, "one": 1}[method]
				},
				Handler: func(context.Context, *Request) (any, error) { return nil, nil },
			}))
			asked := make(chan error, 1)
			if strings.Contains(c.msg, "result") {
				go func() {
					_, err := host.Call(t.Context(), "m", nil)
					asked <- err
				}()
				if _, err := b.Read(make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
			}
			raw := appendFrame(nil, FramingLength, []byte(c.msg))
			if c.msg == "" {
				raw = []byte{0, 0, 1}
			}
			var oob []byte
			if c.fds != nil {
				oob = unix.UnixRights(c.fds...)
			}
			if _, _, err := b.WriteMsgUnix(raw, oob, nil); err != nil {
				t.Fatal(err)
			}
			want := BreachDescriptors
			if c.msg == "" {
				want = BreachTruncated
				_ = b.CloseWrite()
			}
			if err := endOf(t, host); code(err) != want {
				t.Errorf("ended with %v, want %s", err, want)
			}
			_ = b.Close()
			none(t, before)
		})
	}
}

// TestDescriptorsHeld: handlers hold no more than the limit together; what is
// beyond is answered, and closed.
func TestDescriptorsHeld(t *testing.T) {
	release := make(chan struct{})
	o := Options{Limits: Limits{MaxDescriptors: 3}, AcceptFiles: acceptAny, Handler: func(_ context.Context, r *Request) (any, error) {
		<-release
		return len(r.Files), nil
	}}
	host, plugin := descriptive(t, o, o)
	held := make(chan error, 1)
	go func() {
		_, err := plugin.CallFiles(t.Context(), "m", nil, []*os.File{regular(t, "x"), regular(t, "y")}, 0)
		held <- err
	}()
	until(t, func() bool { return host.box.held.Load() == 2 })
	_, err := plugin.CallFiles(t.Context(), "m", nil, []*os.File{regular(t, "x"), regular(t, "y")}, 0)
	if rpcCode(err) != CodeOverloaded {
		t.Errorf("beyond the limit: %v", err)
	}
	close(release)
	if err := <-held; err != nil {
		t.Error(err)
	}
	if a, err := plugin.CallFiles(t.Context(), "m", nil, []*os.File{regular(t, "x"), regular(t, "y")}, 0); err != nil || string(a.Result) != "2" {
		t.Errorf("afterwards: %s %v", a.Result, err)
	}
	stop(t, host, plugin)
}

// FuzzDescriptors: whatever a message says, whatever comes along with it and
// wherever the bytes are cut, no descriptor is left and nobody panics.
func FuzzDescriptors(f *testing.F) {
	for _, fds := range []string{``, `,"fds":["file"]`, `,"fds":["file","memfd"]`, `,"fds":[]`, `,"fds":["door"]`, `,"fds":3`} {
		f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"take"`+fds+`}`), uint8(1), uint16(0))
		f.Add([]byte(`{"jsonrpc":"2.0","id":1,"result":1`+fds+`}`), uint8(2), uint16(9))
	}
	f.Fuzz(func(t *testing.T, msg []byte, n uint8, cut uint16) {
		file, err := os.Open("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		before := descriptors(t)
		a, b := socketpair(t)
		host := run(NewConn(SocketTransport(a), Options{
			Limits: Limits{MaxDescriptors: 3, MaxFrame: 1 << 16}, AcceptFiles: func(string) int { return 2 },
			Handler: func(_ context.Context, r *Request) (any, error) {
				_ = r.Take(len(r.Params)).Close() // of nothing as a rule
				return len(r.Files), nil
			},
		}))
		raw := appendFrame(nil, FramingLength, msg[:min(len(msg), 1<<16)])
		at := int(cut) % len(raw)
		_, _ = b.Write(raw[:at])
		var fds []int
		for range n % 6 {
			fds = append(fds, int(file.Fd()))
		}
		_, _, _ = b.WriteMsgUnix(raw[at:], unix.UnixRights(fds...), nil)
		_ = b.CloseWrite()
		_, _ = io.Copy(io.Discard, b)
		<-host.ended
		_ = b.Close()
		none(t, before)
	})
}
