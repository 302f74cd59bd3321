package ipc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is two stream sockets, and the inode of the first.
func pair(t *testing.T) (a, b *streamSocket, inode uint64) {
	t.Helper()
	w, r := streams(t)
	a, b = w.c, r.c
	var st unix.Stat_t
	err := a.raw.Control(func(fd uintptr) { _ = unix.Fstat(int(fd), &st) })
	if err != nil || st.Ino == 0 {
		t.Fatal(st.Ino, err)
	}
	return a, b, st.Ino
}

// polled says whether a poller of this process has the socket; proc_pid_fdinfo(5).
func polled(t *testing.T, inode uint64) bool {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); to == "anon_inode:[eventpoll]" {
			info, err := os.ReadFile("/proc/self/fdinfo/" + filepath.Base(fd))
			if err == nil && strings.Contains(string(info), fmt.Sprintf(" ino:%x ", inode)) {
				return true
			}
		}
	}
	return false
}

// receiving has a byte read, and says how that ended.
func receiving(s *streamSocket) <-chan error {
	done := make(chan error, 1)
	go func() {
		b := make([]byte, 1)
		_, err := s.Read(b)
		if err == nil && b[0] != 'x' {
			err = fmt.Errorf("%q was read", b)
		}
		done <- err
	}()
	return done
}

// TestStreamsLeaveThePoller: it has a stream's socket while that waits for long,
// and not before or afterwards.
func TestStreamsLeaveThePoller(t *testing.T) {
	a, b, inode := pair(t)
	if polled(t, inode) {
		t.Error("the poller has a socket that nobody waits for")
	}
	done := receiving(a)
	for deadline := time.Now().Add(10 * time.Second); !polled(t, inode); {
		if time.Now().After(deadline) {
			t.Fatal("nobody waits for what does not come")
		}
	}
	if _, err := b.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if polled(t, inode) {
		t.Error("the poller has a socket that nobody waits for any more")
	}
}

// TestStreamsWaitWithoutDescriptors: a wait that finds none for the poller waits
// all the same, and no longer than it may.
func TestStreamsWaitWithoutDescriptors(t *testing.T) {
	a, b, inode := pair(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 1, // or ppoll(2) itself fails
		Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	a.stall = 5 * time.Millisecond
	late := <-receiving(a)
	a.stall = streamStall
	done := receiving(a)
	select {
	case err := <-done:
		t.Errorf("nothing was there to be read: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	_, wrote := b.Write([]byte("x"))
	read := <-done
	if err := errors.Join(wrote, read, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(late, os.ErrDeadlineExceeded) {
		t.Errorf("past its time: %v", late)
	}
	if polled(t, inode) {
		t.Error("there was a descriptor")
	}
}

// TestStreamsEndWaits: whoever waits is told of the end of its time, of Close, and
// of the peer's end, whatever the peer does with a descriptor of the same socket
// that it kept.
func TestStreamsEndWaits(t *testing.T) {
	for name, write := range map[string]bool{"read": false, "write": true} {
		for _, blocking := range []bool{false, true} {
			for end, want := range map[string]error{"time": os.ErrDeadlineExceeded, "close": net.ErrClosed, "peer": unix.EPIPE} {
				a, b, _ := pair(t)
				wait := func() error { return <-receiving(a) }
				if write {
					wait = func() error { return a.writeBoth(make([]byte, 64<<20), []byte("x")) }
				} else if end == "peer" {
					want = nil // io.EOF, see below
				}
				if blocking {
					_ = a.raw.Control(func(fd uintptr) { _ = unix.SetNonblock(int(fd), false) })
				}
				if end == "time" {
					a.stall = 5 * time.Millisecond
				}
				done := make(chan error, 1)
				go func() { done <- wait() }()
				time.Sleep(10 * time.Millisecond) //nolint:forbidigo // so that it waits: in the poller, most of the time
				switch end {
				case "close":
					_ = a.Close()
				case "peer":
					_ = b.Close()
				}
				err := <-done
				if !errors.Is(err, want) && (want != nil || err == nil || err.Error() != "EOF") {
					t.Errorf("%s, by %s, blocking %v: %v", name, end, blocking, err)
				}
			}
		}
	}
}

// TestNextStreamHasTheMemory: of one that was read to its end, where the peer has
// closed it; otherwise somebody may look at it, or write to it, still. Another
// connection has memory of its own, and none is kept for one that ended.
func TestNextStreamHasTheMemory(t *testing.T) {
	conn := func() *Conn {
		c := &Conn{done: make(chan struct{})}
		c.takes.Store(1 << slices.Index(kinds, KindShared))
		t.Cleanup(func() { close(c.done); spares.forget(c) })
		return c
	}
	open := func(c *Conn) (ours, theirs *Stream, inode uint64) {
		ours, files, err := c.NewStream()
		if err != nil || len(files) != 2 {
			t.Fatal(files, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(files[1].Fd()), &st); err != nil {
			t.Fatal(err)
		}
		if theirs, err = OpenStream(files[0], files[1:]...); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = errors.Join(ours.Close(), theirs.Close()) })
		return ours, theirs, st.Ino
	}
	drained := func(s *Stream) error {
		_, err := io.Copy(io.Discard, s)
		return err
	}
	for name, test := range map[string]struct {
		use  func(ours, theirs *Stream) error
		same bool
	}{
		"read to its end": {func(ours, theirs *Stream) error {
			_, err := theirs.Write([]byte("x"))
			return errors.Join(err, theirs.End(), theirs.Close(), drained(ours))
		}, true},
		"with credit that nobody read": {func(ours, theirs *Stream) error {
			_, err := theirs.Write(make([]byte, sharedStream))
			return errors.Join(err, theirs.End(), drained(ours), theirs.Close())
		}, true},
		"which its writer can write to": {func(ours, theirs *Stream) error {
			return errors.Join(theirs.End(), drained(ours))
		}, false},
		"to which more was written": {func(ours, theirs *Stream) error {
			err := theirs.End()
			_, wrote := theirs.Write([]byte("x"))
			return errors.Join(err, wrote, theirs.Close(), drained(ours))
		}, false},
		"not read": {func(_, theirs *Stream) error {
			_, err := theirs.Write([]byte("x"))
			return errors.Join(err, theirs.End(), theirs.Close())
		}, false},
		"which its reader may look at": {func(ours, _ *Stream) error {
			_, err := ours.Write([]byte("x"))
			return errors.Join(err, ours.End())
		}, false},
	} {
		c := conn()
		ours, theirs, first := open(c)
		if err := errors.Join(test.use(ours, theirs), ours.Close()); err != nil {
			t.Fatal(name, err)
		}
		if _, _, foreign := open(conn()); foreign == first {
			t.Errorf("%s: another connection has it", name)
		}
		if _, _, next := open(c); (next == first) != test.same {
			t.Errorf("%s: the next one has the same: %v", name, next == first)
		}
	}
}

// TestSparesAreBounded: in number and time, and by the life of their connection.
func TestSparesAreBounded(t *testing.T) {
	kept := func(c *Conn) (n int) {
		spares.mu.Lock()
		defer spares.mu.Unlock()
		for _, s := range spares.all {
			if s.of == c {
				n++
			}
		}
		return n
	}
	give := func(c *Conn) bool {
		f, err := shared(sharedStream)
		if err != nil {
			t.Fatal(err)
		}
		bytes, err := unix.Mmap(int(f.Fd()), 0, sharedStream, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		m := sharedMemory{f, bytes}
		ok := spares.give(c, m)
		if !ok {
			m.drop()
		}
		return ok
	}
	a, b := &Conn{done: make(chan struct{})}, &Conn{done: make(chan struct{})}
	for range sparesMost + 2 {
		give(a)
	}
	if n := kept(a); n != sparesMost {
		t.Errorf("%d are kept of %d", n, sparesMost+2)
	}
	if give(b); kept(a) != sparesMost-1 || kept(b) != 1 {
		t.Errorf("%d and %d are kept", kept(a), kept(b))
	}
	close(a.done)
	if spares.forget(a); kept(a) != 0 || kept(b) != 1 {
		t.Errorf("%d are kept of a connection that ended, %d of the other", kept(a), kept(b))
	}
	if give(a) {
		t.Error("one is kept for a connection that ended")
	}
	for deadline := time.Now().Add(10 * spareTime); kept(b) > 0; {
		if time.Now().After(deadline) {
			t.Fatal("one is kept for ever")
		}
		time.Sleep(spareTime / 10) //nolint:forbidigo // what ages it is the time
	}
}
