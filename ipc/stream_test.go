package ipc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func streams(t *testing.T) (a, b *Stream) {
	t.Helper()
	a, f, err := NewStream()
	if err != nil {
		t.Fatal(err)
	}
	b, err = OpenStream(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(a.Close(), b.Close()) })
	return a, b
}

// TestStream: what is written is read, many windows of it, and then its end.
func TestStream(t *testing.T) {
	for _, size := range []int{0, 1, streamChunk - 1, streamWindow, 9*streamWindow + 7} {
		w, r := streams(t)
		sent := bytes.Repeat([]byte("0123456789abcde"), size/15+1)[:size]
		wrote := make(chan error, 1)
		go func() {
			_, err := w.Write(sent)
			wrote <- errors.Join(err, w.End())
		}()
		got, err := io.ReadAll(r)
		if err != nil || sha256.Sum256(got) != sha256.Sum256(sent) {
			t.Errorf("%d bytes: %d came, %v", size, len(got), err)
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v", err)
		}
	}
}

// TestStreamCredit: a writer sends no more than its credit while nothing is
// read, and its reader takes no more.
func TestStreamCredit(t *testing.T) {
	w, r := streams(t)
	for _, s := range []*Stream{w, r} {
		raw, err := s.c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) { // room for more than the credit
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8*streamWindow)
		})
	}
	w.stall = 50 * time.Millisecond
	n, err := w.Write(make([]byte, 2*streamWindow))
	if n != streamWindow || !isTimeout(err) {
		t.Errorf("%d bytes were sent without credit, %v", n, err)
	}
	for name, raw := range map[string]string{
		"beyond its credit": "\x00\x10\x00\x01x", "negative": "\xff\xff\xff\xffx", "cut in a length": "\x00\x00", "cut in a chunk": "\x00\x00\x00\x02x", "cut": "",
	} {
		w, r := streams(t)
		_, _ = w.c.Write([]byte(raw))
		_ = w.Close()
		got, err := io.ReadAll(r)
		if err == nil || len(got) > 1 || strings.HasPrefix(name, "cut") != errors.Is(err, ErrStreamCut) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	greedy, giver := streams(t)
	_, _ = giver.c.Write([]byte{0xff, 0xff, 0xff, 0xff})
	greedy.credit = 0
	if _, err := greedy.Write([]byte("x")); err == nil || !strings.Contains(err.Error(), "granted") {
		t.Errorf("credit for what was never sent: %v", err)
	}
}

// TestStreamWithCall: both ways over one connection, with 64 MiB each, while
// other calls go on.
func TestStreamWithCall(t *testing.T) {
	const size = 64 << 20
	plugin := Options{AcceptFiles: acceptAny, Handler: func(_ context.Context, r *Request) (any, error) {
		if r.Method == "ping" {
			return 1, nil
		}
		s, err := OpenStream(r.Take(0))
		if err != nil {
			return nil, err
		}
		defer s.Close()
		if r.Method == "take" {
			n, err := io.Copy(io.Discard, s)
			return n, err
		}
		_, err = s.Write(make([]byte, size))
		return size, errors.Join(err, s.End())
	}}
	host, peer := descriptive(t, Options{}, plugin)
	for _, method := range []string{"take", "give"} {
		ours, theirs, err := NewStream()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			a, err := host.CallFiles(t.Context(), method, nil, []*os.File{theirs}, 0)
			if err == nil && string(a.Result) != fmt.Sprint(size) {
				err = fmt.Errorf("it says %s", a.Result)
			}
			done <- err
		}()
		if method == "take" {
			_, err = ours.Write(make([]byte, size))
			err = errors.Join(err, ours.End())
		} else {
			var n int64
			if n, err = io.Copy(io.Discard, ours); n != size {
				err = errors.Join(err, fmt.Errorf("%d bytes came", n))
			}
		}
		if _, ping := host.Call(t.Context(), "ping", nil); ping != nil || err != nil {
			t.Error(ping, err)
		}
		if err := errors.Join(<-done, ours.Close()); err != nil {
			t.Error(err)
		}
	}
	stop(t, host, peer)
}

// TestMap: only what is sealed and no larger than wanted.
func TestMap(t *testing.T) {
	m, err := Map(Descriptor{KindMemfd, memfd(t, "hello", immutable)}, 5)
	if err != nil || string(m.Bytes()) != "hello" {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	for what, f := range map[string]*os.File{
		"too large": memfd(t, "hello!", immutable), "empty": memfd(t, "", immutable),
		"open for writing": memfd(t, "hello", unix.F_SEAL_SHRINK), "a file": regular(t, "hello"),
	} {
		if _, err := Map(Descriptor{KindMemfd, f}, 5); err == nil {
			t.Errorf("%s: no error", what)
		}
		if f.Close() == nil {
			t.Errorf("%s: still open", what)
		}
	}
}

// FuzzStream: whatever comes over a stream's socket, its reader ends and takes
// no more than was sent.
func FuzzStream(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02hi\x00\x00\x00\x00"), uint8(3))
	f.Add([]byte("\xff\xff\xff\xff"), uint8(1))
	f.Fuzz(func(t *testing.T, raw []byte, size uint8) {
		w, r := streams(t)
		go func() {
			_, _ = w.c.Write(raw)
			_ = w.Close()
		}()
		buf, got := make([]byte, int(size)+1), 0
		for {
			n, err := r.Read(buf)
			got += n
			if err != nil {
				break
			}
		}
		if got > len(raw) {
			t.Errorf("%d bytes of %d", got, len(raw))
		}
	})
}
