package control

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
)

// slowService takes a moment for each call and counts those that it answered.
type slowService struct {
	fakeService
	answered atomic.Int64
}

func (s *slowService) List(context.Context) ([]Status, error) {
	<-time.After(time.Millisecond)
	s.answered.Add(1)
	return []Status{}, nil
}

// stuckService answers no call before it is released.
type stuckService struct {
	fakeService
	asked, release chan struct{}
}

func (s *stuckService) Call(context.Context, CallParams) (json.RawMessage, error) {
	s.asked <- struct{}{}
	<-s.release
	return json.RawMessage("1"), nil
}

func serving(t *testing.T, s Service) (*Server, *Socket, string) {
	t.Helper()
	if unix.Geteuid() != 0 {
		t.Skip("skipped: needs root")
	}
	path := filepath.Join(t.TempDir(), "run", "cordon.sock")
	socket, err := Listen(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(s, -1, nil)
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(socket.UnixListener) }()
	t.Cleanup(func() {
		if err := socket.Close(); err != nil {
			t.Error(err)
		}
		<-served
		server.Close()
	})
	client, err := Dial(t.Context(), path) // answered once it is served
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if _, err := client.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	return server, socket, path
}

// TestPauseFailsNoCall: who calls while the server stands still waits for it.
func TestPauseFailsNoCall(t *testing.T) {
	service := &slowService{}
	server, _, path := serving(t, service)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wait sync.WaitGroup
	var made atomic.Int64
	for range 4 {
		client, err := Dial(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			defer func() { _ = client.Close() }()
			for ctx.Err() == nil {
				if _, err := client.List(ctx); err != nil && ctx.Err() == nil {
					t.Errorf("a call failed: %v", err)
				}
				made.Add(1)
			}
		})
	}
	for range 20 {
		for from := made.Load(); made.Load() < from+8; {
			<-time.After(time.Millisecond)
		}
		if err := server.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := service.answered.Load()
		if err := server.Pause(t.Context()); err == nil {
			t.Error("it can be paused twice")
		}
		server.mu.Lock()
		open := len(server.sessions)
		server.mu.Unlock()
		if after := service.answered.Load(); after != before {
			t.Errorf("%d calls were answered while it stood still, of %d connections", after-before, open)
		}
		server.Unpause()
	}
	cancel()
	wait.Wait()
}

// TestPauseGivesUp: a call that is not answered in time is let go on, and so is
// everything else.
func TestPauseGivesUp(t *testing.T) {
	service := &stuckService{asked: make(chan struct{}), release: make(chan struct{})}
	server, _, path := serving(t, service)
	client, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	answer := make(chan error, 1)
	go func() {
		_, err := client.CallPlugin(t.Context(), CallParams{Name: "p", Method: "m"})
		answer <- err
	}()
	<-service.asked
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := server.Pause(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	other, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if _, err := other.List(t.Context()); err != nil {
		t.Errorf("it does not go on: %v", err)
	}
	close(service.release)
	if err := <-answer; err != nil {
		t.Errorf("the call failed: %v", err)
	}
}

// TestHandedOverSocket is the same socket, with those who wait at it.
func TestHandedOverSocket(t *testing.T) {
	server, socket, path := serving(t, &slowService{})
	if err := server.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	waiting, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = waiting.Close() }()
	listener, lock, err := socket.Handover()
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range []int{listener, lock} {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			t.Errorf("descriptor %d ends with an exec (%v)", fd, err)
		}
	}
	if _, err := Inherit(path+"x", dup(t, listener), dup(t, lock)); err == nil {
		t.Error("another path is taken")
	}
	next, err := Inherit(path, listener, lock)
	if err != nil {
		t.Fatal(err)
	}
	next.SetUnlinkOnClose(false) // the first one's to do
	second := NewServer(&slowService{}, -1, nil)
	go second.Serve(next.UnixListener)
	if _, err := waiting.List(t.Context()); err != nil {
		t.Errorf("who waited is not served: %v", err)
	}
	_ = next.UnixListener.Close()
	second.Close()
	_ = next.lock.Close()
	server.Unpause()
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	own, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	return own
}

// TestLeavingIsNoError: only what the daemon said it had not begun is tried
// again.
func TestLeavingIsNoError(t *testing.T) {
	refused := &ipc.RPCError{Code: ipc.CodeShuttingDown}
	ended := &ipc.RPCError{Code: ipc.CodePluginGone, Local: true}
	plugins := &ipc.RPCError{Code: ipc.CodeShuttingDown, Data: json.RawMessage(`{"plugin":true}`)}
	l := &link{}
	for _, err := range []error{refused, ended, plugins} {
		if l.again(err) {
			t.Errorf("%v is tried again on a link that nobody left", err)
		}
	}
	l.leaving.Store(true)
	if !l.again(refused) || !l.again(ended) || l.again(plugins) || l.again(&ipc.RPCError{Code: ipc.CodeDenied}) {
		t.Error("the wrong ones are tried again")
	}
}
