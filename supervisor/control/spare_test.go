package control

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNoDescriptorsTurnsAway: who connects while none are left is told so by the
// end of the connection, and who comes later is served.
func TestNoDescriptorsTurnsAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(nil, -1, nil)
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(l)
	}()
	defer func() { _ = l.Close(); <-served }()
	first, err := Dial(t.Context(), path) // the server serves, and has its spare
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Call(t.Context(), "no-such-method", nil, nil)
	defer func() { _ = first.Close() }()
	// Several, for what other tests close late gives a descriptor back to some.
	clients := make([]unix.PollFd, 16)
	for i := range clients {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		clients[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	none := before
	none.Cur = lowestFree(t)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) }()
	for _, c := range clients {
		if err := unix.Connect(int(c.Fd), &unix.SockaddrUnix{Name: path}); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(time.Minute); ; {
		n, err := unix.Poll(clients, 1000)
		if n > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nobody was turned away (%v)", err)
		}
	}
	for _, c := range clients {
		if c.Revents == 0 {
			continue
		}
		if n, err := unix.Read(int(c.Fd), make([]byte, 1)); n != 0 || err != nil {
			t.Errorf("got %d bytes, %v; want the end", n, err)
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	again, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}

// lowestFree is the limit that leaves no descriptor.
func lowestFree(t *testing.T) uint64 {
	t.Helper()
	fd, err := unix.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	return uint64(fd)
}
