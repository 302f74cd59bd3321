package ipc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pairOf is a socket and its peer, which blocks.
func pairOf(t *testing.T) (*socket, *os.File) {
	t.Helper()
	ours, theirs, err := Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ours.R.Close(), theirs.Close() })
	return ours.R.(*socket), theirs
}

// parked waits until somebody waits for these events.
func (s *socket) parked(t *testing.T, events uint32) {
	t.Helper()
	until(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.armed&events == events
	})
}

// outcome is how a read or write ended.
type outcome struct {
	n    int
	text string
	err  error
}

// cameOf waits for one, for a minute.
func cameOf(c <-chan outcome) outcome {
	select {
	case o := <-c:
		return o
	case <-time.After(time.Minute):
		return outcome{err: errors.New("it goes on after a minute")}
	}
}

// reading reads once, in the background.
func reading(s *socket) (came func() (string, error)) {
	c := make(chan outcome, 1)
	go func() {
		b := make([]byte, 64)
		n, err := s.Read(b)
		c <- outcome{text: string(b[:n]), err: err}
	}()
	return func() (string, error) { o := cameOf(c); return o.text, o.err }
}

// writing writes more than the kernel takes, in the background.
func writing(s *socket) (came func() (int, error)) {
	c := make(chan outcome, 1)
	go func() {
		n, err := s.Write(bytes.Repeat([]byte("x"), 4<<20))
		c <- outcome{n: n, err: err}
	}()
	return func() (int, error) { o := cameOf(c); return o.n, o.err }
}

func TestSocketWaitsBothWays(t *testing.T) {
	s, peer := pairOf(t)
	for round := range 3 {
		came, wrote := reading(s), writing(s)
		s.parked(t, unix.EPOLLIN|unix.EPOLLOUT)
		if _, err := peer.WriteString("hello"); err != nil {
			t.Fatal(err)
		}
		if got, err := came(); got != "hello" || err != nil {
			t.Fatalf("round %d: read %q, %v", round, got, err)
		}
		s.parked(t, unix.EPOLLOUT)
		if _, err := io.CopyN(io.Discard, peer, 4<<20); err != nil {
			t.Fatal(err)
		}
		if n, err := wrote(); n != 4<<20 || err != nil {
			t.Fatalf("round %d: wrote %d, %v", round, n, err)
		}
	}
	came := reading(s)
	s.parked(t, unix.EPOLLIN)
	if err := peer.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := came(); !errors.Is(err, io.EOF) {
		t.Errorf("the end of the stream is %v", err)
	}
	if _, err := s.Write([]byte("x")); !isGone(err) {
		t.Errorf("writing to nobody is %v", err)
	}
}

func TestSocketDeadlines(t *testing.T) {
	s, peer := pairOf(t)
	for _, at := range []func() time.Time{
		func() time.Time { return longPast },
		func() time.Time { return time.Now().Add(time.Millisecond) },
	} {
		came, wrote := reading(s), writing(s)
		s.parked(t, unix.EPOLLIN|unix.EPOLLOUT)
		_, _ = s.SetReadDeadline(at()), s.SetWriteDeadline(at())
		if _, err := came(); !isTimeout(err) {
			t.Errorf("the read ends with %v", err)
		}
		if n, err := wrote(); !isTimeout(err) || n == 4<<20 {
			t.Errorf("the write ends with %d, %v", n, err)
		}
		if _, err := s.Read(make([]byte, 1)); !isTimeout(err) {
			t.Errorf("past the deadline a read is %v", err)
		}
		_, _ = s.SetReadDeadline(time.Time{}), s.SetWriteDeadline(time.Time{})
		if _, err := peer.WriteString("again"); err != nil {
			t.Fatal(err)
		}
		if got, err := reading(s)(); got != "again" || err != nil {
			t.Errorf("after the deadline was taken back: %q, %v", got, err)
		}
	}
	came := reading(s)
	s.parked(t, unix.EPOLLIN)
	_ = s.SetReadDeadline(time.Now().Add(time.Hour)) // and one that is far away ends nothing
	if _, err := peer.WriteString("in time"); err != nil {
		t.Fatal(err)
	}
	if got, err := came(); got != "in time" || err != nil {
		t.Errorf("before the deadline: %q, %v", got, err)
	}
}

func TestSocketsLeaveNothing(t *testing.T) {
	before := descriptors(t)
	var ends []func() error
	for range 8 {
		s, peer := pairOf(t)
		came, wrote := reading(s), writing(s)
		s.parked(t, unix.EPOLLIN|unix.EPOLLOUT)
		ends = append(ends, func() error {
			err := s.Close()
			_, readErr := came()
			_, writeErr := wrote()
			if !errors.Is(readErr, net.ErrClosed) || !errors.Is(writeErr, net.ErrClosed) {
				return fmt.Errorf("the read ends with %w, the write with %w", readErr, writeErr)
			}
			_, err2 := s.Read(make([]byte, 1))
			if err3 := s.Close(); !errors.Is(err2, net.ErrClosed) || !errors.Is(err3, net.ErrClosed) {
				return fmt.Errorf("after its end: %w, %w", err2, err3)
			}
			return errors.Join(err, peer.Close())
		})
	}
	for _, end := range ends {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
	none(t, before)
}

func TestOnlyUnixSocketsAreTaken(t *testing.T) {
	before := descriptors(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := FileTransport(r); err == nil {
		t.Error("a pipe was taken for a socket")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FileTransport(os.NewFile(uintptr(fd), "socket")); err == nil {
		t.Error("another socket was taken for one of the family unix")
	}
	_ = w.Close()
	none(t, before)
}

// TestSocketsSideBySide has many connections talk, with pauses in which they wait
// in the epoll that they share: what one is told of is no other's.
func TestSocketsSideBySide(t *testing.T) {
	var all sync.WaitGroup
	for i := range 16 {
		ours, theirs, err := Socketpair()
		if err != nil {
			t.Fatal(err)
		}
		its, err := FileTransport(theirs)
		if err != nil {
			t.Fatal(err)
		}
		echo := func(_ context.Context, r *Request) (any, error) { return r.Params, nil }
		host, plugin := NewConn(ours, Options{Handler: echo}), NewConn(its, Options{Handler: echo})
		ended := []<-chan error{run(host).ended, run(plugin).ended}
		all.Go(func() {
			for n := range 200 {
				from := []*Conn{host, plugin}[(n+i)%2]
				want := fmt.Sprintf(`{"a":"%d of %d"}`, n, i)
				if got, err := from.Call(t.Context(), "m", json.RawMessage(want)); string(got) != want {
					t.Errorf("got %s, %v, want %s", got, err, want)
				}
				if n%50 == i%50 {
					for _, end := range []Transport{ours, its} {
						end.R.(*socket).parked(t, unix.EPOLLIN)
					}
				}
			}
			_ = host.Close()
			for _, end := range ended {
				<-end
			}
		})
	}
	all.Wait()
}
