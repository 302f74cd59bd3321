package ingress

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/egress"
)

// rights are grants that a test gives and takes.
type rights struct {
	mu     sync.Mutex
	denied bool
	cuts   map[*right]func()
	notes  []string
}

type right struct{ of *rights }

func newRights() *rights { return &rights{cuts: map[*right]func(){}} }

func (r *rights) Admit(string) (egress.Lease, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.denied {
		return nil, errors.New("denied")
	}
	return &right{r}, nil
}

func (r *right) Spend(int64) error { return nil }
func (r *right) End()              {}
func (r *right) Note(outcome string, _ map[string]any) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.of.notes = append(r.of.notes, outcome)
}

func (r *right) Hold(cut func()) (done func(), err error) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	if r.of.denied {
		return nil, errors.New("denied")
	}
	r.of.cuts[r] = cut
	return func() {
		r.of.mu.Lock()
		defer r.of.mu.Unlock()
		delete(r.of.cuts, r)
	}, nil
}

// revoke takes the grant away, as the broker does.
func (r *rights) revoke() {
	r.mu.Lock()
	r.denied = true
	var cuts []func()
	for one, cut := range r.cuts {
		cuts = append(cuts, cut)
		delete(r.cuts, one)
	}
	r.mu.Unlock()
	for _, cut := range cuts {
		cut()
	}
}

func (r *rights) grant() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.denied = false
}

// host is where the tests' sockets are.
const host = "127.0.0.9"

func free(t *testing.T, host string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skip(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func enter(t *testing.T, h *House, at ...string) *Room {
	t.Helper()
	var sockets []plan.Socket
	for _, a := range at {
		sockets = append(sockets, plan.Socket{Name: "x", At: a})
	}
	r, err := h.Enter(context.Background(), sockets, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// plugin answers with a word on what it was handed, and keeps the connection
// until its peer ends it.
func plugin(t *testing.T, r *Room, word string) []net.Listener {
	t.Helper()
	var all []net.Listener
	for _, f := range r.Files() {
		l, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		all = append(all, l)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					_, _ = io.WriteString(c, word+" to "+c.RemoteAddr().String()+" at "+c.LocalAddr().String()+"\n")
					_, _ = io.Copy(io.Discard, c)
					_ = c.Close()
				}()
			}
		}()
	}
	r.Handed()
	return all
}

// caller is a connection that heard a line.
func caller(t *testing.T, at string) (c net.Conn, heard string) {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var line strings.Builder
	one := make([]byte, 1)
	for !strings.HasSuffix(line.String(), "\n") {
		if _, err := io.ReadFull(c, one); err != nil {
			t.Fatalf("after %q: %v", line.String(), err)
		}
		line.WriteByte(one[0])
	}
	return c, strings.TrimSpace(line.String())
}

func refused(t *testing.T, at string) {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("whoever connects is told %v", err)
	}
}

// TestAServerSeesItsClients: what connects arrives with the addresses of both.
func TestAServerSeesItsClients(t *testing.T) {
	for _, at := range []string{free(t, host), free(t, "::1")} {
		var h House
		defer h.Close()
		r := enter(t, &h, at)
		plugin(t, r, "hello")
		refused(t, at) // until it is served
		r.Serve(newRights())
		c, heard := caller(t, at)
		if want := "hello to " + c.LocalAddr().String() + " at " + at; heard != want {
			t.Errorf("it says %q, want %q", heard, want)
		}
		r.Close()
		h.Close()
		refused(t, at)
	}
}

// TestCutIsThereWhenItReturns: after a revocation nothing listens and nothing
// passes, and after the next grant both do, however often.
func TestCutIsThereWhenItReturns(t *testing.T) {
	at, g := free(t, host), newRights()
	var h House
	defer h.Close()
	r := enter(t, &h, at)
	plugin(t, r, "hello")
	r.Serve(g)
	for range 3 {
		c, _ := caller(t, at)
		g.revoke()
		refused(t, at)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("a connection ended by %v", err)
		}
		r.Look()
		refused(t, at)
		g.grant()
		r.Look()
		r.Look()
	}
	caller(t, at)
}

// TestRunsFollowEachOther: between two runs a connection waits, and when another
// run takes over, what the first has goes on.
func TestRunsFollowEachOther(t *testing.T) {
	at, g := free(t, host), newRights()
	var h House
	defer h.Close()
	first := enter(t, &h, at)
	plugin(t, first, "first")
	first.Serve(g)
	old, _ := caller(t, at)
	second := enter(t, &h, at)
	plugin(t, second, "second")
	first.Retire()
	if _, heard := caller(t, at); !strings.HasPrefix(heard, "first") {
		t.Errorf("before the second serves it is %q", heard)
	}
	second.Serve(g)
	if _, heard := caller(t, at); !strings.HasPrefix(heard, "second") {
		t.Errorf("after the second took over it is %q", heard)
	}
	if _, err := old.Write([]byte("x")); err != nil {
		t.Errorf("what the first had: %v", err)
	}
	first.Close()
	if _, heard := caller(t, at); !strings.HasPrefix(heard, "second") {
		t.Errorf("after the first ended it is %q", heard)
	}
	second.Close()
	waiting, err := net.Dial("tcp", at) // nobody is there
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = waiting.Close() }()
	third := enter(t, &h, at)
	plugin(t, third, "third")
	third.Serve(g)
	if err := waiting.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(waiting, got); err != nil || string(got) != "third" {
		t.Errorf("who waited hears %q, %v", got, err)
	}
}

// again gives copies.
func again(t *testing.T, files []*os.File) []*os.File {
	t.Helper()
	var out []*os.File
	for _, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, os.NewFile(uintptr(fd), "again"))
	}
	return out
}

// leftAlone ends a house as a killed daemon does: its descriptors are closed,
// and nothing more.
func leftAlone(h *House) {
	for _, d := range h.doors {
		_ = d.l.Close()
	}
}

// TestAnotherDaemonGoesOn with what was kept, and with nothing else.
func TestAnotherDaemonGoesOn(t *testing.T) {
	at, sockets := free(t, host), []plan.Socket{{Name: "x"}}
	sockets[0].At = at
	var before, after House
	defer after.Close()
	r := enter(t, &before, at)
	kept, err := r.Kept()
	if err != nil || len(kept) != KeptFiles(sockets) {
		t.Fatal(len(kept), err)
	}
	plugin(t, r, "hello")
	r.Serve(newRights())
	caller(t, at)
	for _, wrong := range []func() []*os.File{
		func() []*os.File { return nil },
		func() []*os.File { return again(t, kept[:1]) },
		func() []*os.File { return again(t, []*os.File{kept[0], kept[0]}) },
	} {
		if _, err := after.Adopt(sockets, wrong(), func(string) {}); err == nil {
			t.Error("something else is gone on with")
		}
	}
	if _, err := after.Adopt([]plan.Socket{{At: free(t, host)}}, again(t, kept), func(string) {}); err == nil {
		t.Error("a socket of another address is gone on with")
	}
	next, err := after.Adopt(sockets, kept, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	leftAlone(&before)
	next.Serve(newRights())
	caller(t, at)
}

// TestWhatThePluginDoesToItsSocket leads nowhere: the host's own is not its.
func TestWhatThePluginDoesToItsSocket(t *testing.T) {
	at := free(t, host)
	outside, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = outside.Close() }()
	var h House
	defer h.Close()
	r := enter(t, &h, at)
	fd, err := unix.Dup(int(r.Files()[0].Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	r.Handed()
	r.Serve(newRights())
	var unspecified [16]byte // AF_UNSPEC: a socket that listens is one that does not
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspecified)), uintptr(len(unspecified))); errno != 0 {
		t.Fatal(errno)
	}
	to := outside.Addr().(*net.TCPAddr)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("it reaches the host: %v", err)
	}
	c, err := net.Dial("tcp", at) // the host's socket stands
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	waiting := func() int {
		d := r.doors[0]
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.waiting)
	}
	for late := time.Now().Add(time.Minute); waiting() == 0; <-time.After(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("what connects does not wait")
		}
	}
	r.Close()
	next := enter(t, &h, at)
	plugin(t, next, "next")
	next.Serve(newRights())
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "next" {
		t.Errorf("who waited hears %q, %v", got, err)
	}
}

// TestWhoHasConnectedIsAnswered: a room that another has taken over from is idle
// when the last of its connections has ended, and not before.
func TestWhoHasConnectedIsAnswered(t *testing.T) {
	at := free(t, host)
	var h House
	defer h.Close()
	first := enter(t, &h, at)
	plugin(t, first, "first")
	first.Serve(newRights())
	c, heard := caller(t, at)
	if !strings.HasPrefix(heard, "first") {
		t.Fatalf("it says %q", heard)
	}
	second := enter(t, &h, at)
	plugin(t, second, "second")
	first.Retire()
	second.Serve(newRights())
	idle := make(chan struct{})
	first.Idle(func() { close(idle) })
	if _, heard := caller(t, at); !strings.HasPrefix(heard, "second") {
		t.Errorf("then it says %q", heard)
	}
	select {
	case <-idle:
		t.Fatal("it is idle with a connection")
	default:
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-idle:
	case <-time.After(time.Minute):
		t.Fatal("it never is idle")
	}
	called := 0
	(*Room)(nil).Idle(func() { called++ })
	enter(t, &House{}).Idle(func() { called++ })
	if called != 2 {
		t.Error("what has no connection is not idle at once")
	}
}

// TestFamiliesAreApart: every IPv6 address is no IPv4 address.
func TestFamiliesAreApart(t *testing.T) {
	six := free(t, "::")
	_, port, err := net.SplitHostPort(six)
	if err != nil {
		t.Fatal(err)
	}
	var h House
	defer h.Close()
	r := enter(t, &h, six)
	plugin(t, r, "hello")
	r.Serve(newRights())
	if _, heard := caller(t, "[::1]:"+port); !strings.Contains(heard, " at [::1]:") {
		t.Errorf("it says %q", heard)
	}
	refused(t, "127.0.0.1:"+port)
}
