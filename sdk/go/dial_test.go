package cordon

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// crowded is a socket that nobody accepts at, and that has room for no more. room
// makes some.
func crowded(t *testing.T) (path string, room func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	addr := &syscall.SockaddrUnix{Name: path}
	socket := func(flags int) int {
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Close(fd) })
		return fd
	}
	server := socket(0)
	if err := errors.Join(syscall.Bind(server, addr), syscall.Listen(server, 1)); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		switch err := syscall.Connect(socket(syscall.SOCK_NONBLOCK), addr); err {
		case nil:
		case syscall.EAGAIN:
			return path, func() {
				fd, _, err := syscall.Accept(server)
				if err != nil {
					t.Error(err)
					return
				}
				_ = syscall.Close(fd)
			}
		default:
			t.Fatal(err)
		}
	}
	t.Fatal("the socket always has room")
	return "", nil
}

// TestDialWaitsForAPlace: who connects while others do faster than is accepted
// waits, and does not fail.
func TestDialWaitsForAPlace(t *testing.T) {
	path, room := crowded(t)
	timer := time.AfterFunc(50*time.Millisecond, room)
	defer timer.Stop()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatalf("Dial failed with %v, want it to wait", err)
	}
	_ = c.Close()
}

// TestDialEndsWithItsContext: no longer than it may.
func TestDialEndsWithItsContext(t *testing.T) {
	path, _ := crowded(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial failed with %v, want %v", err, context.DeadlineExceeded)
	}
}
