package listen

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

// wait is the end of patience.
const wait = time.Minute

// freePort is one that nobody listened at a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

type desk struct {
	*capability.Call
	cut  func()
	done chan struct{}
	dir  string
	at   string
	all  *doors
}

func newDesk(t *testing.T) *desk {
	d := &desk{done: make(chan struct{}), dir: t.TempDir(), at: freePort(t)}
	d.Call = &capability.Call{
		Plugin: "p", Method: "net.listen", Target: d.at, Env: &capability.Env{},
		Takes: func(k ipc.DescriptorKind) bool { return k == ipc.KindSocket },
		Spend: func(int64) error { return nil },
		Hold: func(cut func()) (func(), error) {
			d.cut = cut
			return func() { close(d.done) }, nil
		},
		Note: func(string, map[string]any) {}, Deny: func(string) {},
	}
	return d
}

// listening is the socket that the plugin gets.
func (d *desk) listening(t *testing.T) net.Listener {
	t.Helper()
	if d.all == nil {
		d.all = &doors{dir: d.dir, open: map[string]*door{}}
	}
	got, err := d.all.serve(d.Call)
	if err != nil {
		t.Fatal(err)
	}
	with := got.(ipc.WithFiles)
	l, err := net.FileListener(with.Files[0])
	if err := errors.Join(err, with.Files[0].Close()); err != nil {
		t.Fatal(err)
	}
	if _, ok := l.(*net.UnixListener); !ok {
		t.Fatalf("the plugin holds a %T: a socket of the host's network", l)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func (d *desk) ended(t *testing.T) {
	t.Helper()
	select {
	case <-d.done:
	case <-time.After(wait):
		t.Fatal("it never ended")
	}
	left, err := os.ReadDir(d.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestWhatConnectsIsPassedIn(t *testing.T) {
	d := newDesk(t)
	l := d.listening(t)
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
	for range 3 {
		c, err := net.Dial("tcp", d.at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
		_ = c.Close()
	}
	open, err := net.Dial("tcp", d.at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	if _, err := open.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(open, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	d.cut()
	if err := open.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection outlives the grant: %v", err)
	}
	d.ended(t)
	if c, err := net.Dial("tcp", d.at); err == nil {
		_ = c.Close()
		t.Error("the host still listens")
	}
}

// TestClosedByThePlugin: when the plugin has closed its socket, the next that
// connects is refused and the host listens no longer.
func TestClosedByThePlugin(t *testing.T) {
	d := newDesk(t)
	if err := d.listening(t).Close(); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", d.at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("somebody answers, or nobody refuses: %v", err)
	}
	d.ended(t)
}

// TestTwoProcessesAtOneDoor: while a plugin is swapped both of its processes
// listen, who connects comes to the one that takes the calls, and the address is
// free when both have left.
func TestTwoProcessesAtOneDoor(t *testing.T) {
	first, second := newDesk(t), newDesk(t)
	second.at, second.Target, second.dir = first.at, first.at, first.dir
	var switched atomic.Bool
	first.Env.Standby = switched.Load
	second.Env.Standby = func() bool { return !switched.Load() }
	listeners := []net.Listener{first.listening(t)}
	second.all = first.all
	listeners = append(listeners, second.listening(t))
	for i, l := range listeners {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte{'1' + byte(i)})
				_ = c.Close()
			}
		}()
	}
	again := *first.Call
	again.Hold = func(func()) (func(), error) { return func() {}, nil }
	if _, err := first.all.serve(&again); err == nil {
		t.Error("one process listens twice")
	}
	says := func(want string) {
		t.Helper()
		c, err := net.Dial("tcp", first.at)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if got, err := io.ReadAll(c); err != nil || string(got) != want {
			t.Errorf("%q answers, want %q (%v)", got, want, err)
		}
	}
	says("1")
	switched.Store(true)
	says("2")
	first.cut()
	<-first.done
	says("2")
	second.cut()
	second.ended(t)
	if c, err := net.Dial("tcp", first.at); err == nil {
		_ = c.Close()
		t.Error("the host still listens")
	}
}

func TestTakenPort(t *testing.T) {
	d := newDesk(t)
	l, err := net.Listen("tcp", d.at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, err = (&doors{dir: d.dir, open: map[string]*door{}}).serve(d.Call)
	var answer *ipc.RPCError
	if !errors.As(err, &answer) || answer.Code != ipc.CodeConflict {
		t.Fatal(err)
	}
}

func TestTargets(t *testing.T) {
	for params, want := range map[string]string{
		`{"at":"127.0.0.1:80"}`: "127.0.0.1:80", `{"at":"[::]:80"}`: "[::]:80",
		`{"at":"localhost:80"}`: "", `{"at":"127.0.0.1:*"}`: "", `{"at":"udp:127.0.0.1:1"}`: "", `{"at":":80"}`: "", `{"at":"*:80"}`: "",
	} {
		if got, err := target(json.RawMessage(params)); (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%s is %q, %v", params, got, err)
		}
	}
}
