package dial

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
	"github.com/cordonhq/cordon/supervisor/egress"
)

// wait is the end of patience.
const wait = time.Minute

// desk is a call with what its host keeps of it.
type desk struct {
	*capability.Call
	mu     sync.Mutex
	cut    func()
	done   chan struct{}
	notes  []string
	denied []string
}

func newDesk(target string) *desk {
	d := &desk{done: make(chan struct{})}
	d.Call = &capability.Call{
		Plugin: "p", Method: "net.dial", Target: target, Env: &capability.Env{},
		Takes: func(k ipc.DescriptorKind) bool { return k == ipc.KindSocket },
		Spend: func(int64) error { return nil },
		Hold: func(cut func()) (func(), error) {
			d.cut = cut
			return func() { close(d.done) }, nil
		},
		Note: func(outcome string, _ map[string]any) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.notes = append(d.notes, outcome)
		},
		Deny: func(rule string) { d.denied = append(d.denied, rule) },
	}
	return d
}

func (d *desk) ended(t *testing.T) {
	t.Helper()
	select {
	case <-d.done:
	case <-time.After(wait):
		t.Fatal("it never ended")
	}
}

// echo gives back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// dialled is the socket that the plugin gets.
func (d *desk) dialled(t *testing.T) *net.UnixConn {
	t.Helper()
	got, err := (&dialer{connect: connect}).serve(t.Context(), d.Call)
	if err != nil {
		t.Fatal(err)
	}
	with := got.(ipc.WithFiles)
	c, err := net.FileConn(with.Files[0])
	if err := errors.Join(err, with.Files[0].Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	unix, ok := c.(*net.UnixConn)
	if !ok {
		t.Fatalf("the plugin holds a %T: a socket of the host's network", c)
	}
	if err := unix.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	return unix
}

func TestDialled(t *testing.T) {
	d := newDesk(echo(t))
	c := d.dialled(t)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
	d.ended(t)
	if got := strings.Join(d.notes, " "); got != "connected ended" {
		t.Errorf("noted is %q", got)
	}
}

func TestRevokedIsShut(t *testing.T) {
	d := newDesk(echo(t))
	c := d.dialled(t)
	d.cut()
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes after the cut, %v", n, err)
	}
	d.ended(t)
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("what is written after the cut goes somewhere")
	}
}

// TestNamesThatLeadAstray are refused, and told of.
func TestNamesThatLeadAstray(t *testing.T) {
	d := newDesk("a.example:80")
	astray := func(context.Context, *capability.Call, grant.Target) (egress.End, error) {
		return nil, &egress.RefusedError{Host: "a.example", Addr: netip.MustParseAddr("169.254.169.254")}
	}
	_, err := (&dialer{connect: astray}).serve(t.Context(), d.Call)
	var answer *ipc.RPCError
	if !errors.As(err, &answer) || answer.Code != ipc.CodeDenied || len(d.denied) != 1 {
		t.Fatalf("%v; denied are %q", err, d.denied)
	}
	d.ended(t)
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk(l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = (&dialer{connect: connect}).serve(t.Context(), d.Call)
	var answer *ipc.RPCError
	if !errors.As(err, &answer) || answer.Code != ipc.CodeNotFound {
		t.Fatalf("%v", err)
	}
	d.ended(t)
}

func TestOnlyForWhoTakesSockets(t *testing.T) {
	d := newDesk("127.0.0.1:1")
	d.Takes = nil
	if _, err := (&dialer{connect: connect}).serve(context.Background(), d.Call); err == nil || !strings.Contains(err.Error(), "takes none of that kind") {
		t.Fatal(err)
	}
}

func TestTargets(t *testing.T) {
	for params, want := range map[string]string{
		`{"to":"API.example.com.:443"}`: "api.example.com:443", `{"to":"10.0.0.5:1"}`: "10.0.0.5:1", `{"to":"[::1]:1"}`: "[::1]:1",
		`{"to":"*.example.com:443"}`: "", `{"to":"a.example:*"}`: "", `{"to":"udp:a.example:1"}`: "", `{"to":"/run/s"}`: "", `{"to":"0x7f000001:80"}`: "", `{"to":"127.1:80"}`: "",
	} {
		if got, err := target(json.RawMessage(params)); (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%s is %q, %v", params, got, err)
		}
	}
}
