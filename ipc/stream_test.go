package ipc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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

// sharing is streams that share memory.
func sharing(t *testing.T) (a, b *Stream) {
	t.Helper()
	var c Conn
	c.takes.Store(1 << slices.Index(kinds, KindShared))
	a, files, err := c.NewStream()
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	b, err = OpenStream(files[0], files[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(a.Close(), b.Close()) })
	return a, b
}

// TestStream: what is written is read, many windows of it, and then its end.
func TestStream(t *testing.T) {
	t.Run("socket", func(t *testing.T) { carries(t, streams) })
	t.Run("memory", func(t *testing.T) { carries(t, sharing) })
}

func carries(t *testing.T, streams func(*testing.T) (a, b *Stream)) {
	t.Helper()
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
		inPlace(t, w, r, size)
	}
}

// inPlace goes on with a stream that has ended, without buffers.
func inPlace(t *testing.T, w, r *Stream, size int) {
	t.Helper()
	if err := r.Again(); err != nil || r.Again() == nil {
		t.Fatalf("to go on: %v, and then without an end", err)
	}
	wrote := make(chan error, 1)
	go func() {
		for left := size; left > 0; {
			room, err := w.Reserve(left)
			if err == nil && len(room) > 1 {
				room = room[:len(room)-1] // not all of it
			}
			for i := range room {
				room[i] = byte(size - left + i)
			}
			if err = errors.Join(err, w.Commit(len(room))); err != nil {
				wrote <- err
				return
			}
			left -= len(room)
		}
		wrote <- w.End()
	}()
	got := 0
	for {
		b, err := r.Next()
		for _, c := range b {
			if c != byte(got) {
				t.Fatalf("byte %d is %d", got, c)
			}
			got++
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := <-wrote; got != size || err != nil {
		t.Errorf("%d bytes of %d, %v", got, size, err)
	}
	if w.Commit(1) == nil {
		t.Error("bytes were sent that nobody reserved")
	}
	if _, err := w.Reserve(0); err == nil {
		t.Error("room for nothing")
	}
}

// TestStreamSharing: memory whose size its maker could change is not mapped, a
// writer that breaks the rules of the memory ends its stream, and one that takes
// pages away or writes behind the reader's back harms nobody.
func TestStreamSharing(t *testing.T) {
	const size = ringLeast
	for what, memory := range map[string]*os.File{
		"a file": regular(t, "hello"), "unsealed": memfd(t, strings.Repeat("x", size), unix.F_SEAL_GROW), "immutable": memfd(t, strings.Repeat("x", size), immutable),
		"too small": memfd(t, "x", sharedSeals), "too large": memfd(t, strings.Repeat("x", ringMost+1), sharedSeals),
	} {
		_, f, err := NewStream()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenStream(f, memory); err == nil {
			t.Errorf("%s: no error", what)
		}
		if memory.Close() == nil || f.Close() == nil {
			t.Errorf("%s: still open", what)
		}
	}
	numbers := func(all ...uint32) (raw string) {
		for _, n := range all {
			raw += string(binary.BigEndian.AppendUint32(nil, n))
		}
		return raw
	}
	for name, raw := range map[string]string{
		"beyond its credit": numbers(sharedStream + 1), "beyond the memory's end": numbers(sharedStream-1<<16, 1<<16+1), "cut in a length": "\x00\x00", "cut": "",
	} {
		w, r := sharing(t)
		_, _ = w.c.Write([]byte(raw))
		_ = w.Close()
		_, err := io.ReadAll(r)
		if err == nil || strings.HasPrefix(name, "cut") != errors.Is(err, ErrStreamCut) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w, r := sharing(t)
	w.c.stall = 50 * time.Millisecond
	if _, err := w.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Madvise(w.ring.bytes, unix.MADV_REMOVE); err != nil {
		t.Fatal(err)
	}
	if b, err := r.Next(); err != nil || !bytes.Equal(b, make([]byte, 5)) {
		t.Errorf("after its writer took the pages away: %q, %v", b, err)
	}
	if n, err := w.Write(make([]byte, 2*sharedStream)); n > sharedStream || !isTimeout(err) {
		t.Errorf("%d bytes were sent without credit, %v", n, err)
	}
	_ = r.Close()
	if _, err := r.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("reading what was closed: %v", err)
	}
}

// TestStreamCredit: a writer sends no more than its credit while nothing is
// read, and its reader takes no more.
func TestStreamCredit(t *testing.T) {
	w, r := streams(t)
	for _, s := range []*Stream{w, r} {
		_ = s.c.raw.Control(func(fd uintptr) { // room for more than the credit
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8*streamWindow)
		})
	}
	w.c.stall = 50 * time.Millisecond
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
		for _, way := range []func(*testing.T) (a, b *Stream){streams, sharing} {
			w, r := way(t)
			fuzzStream(t, w, r, raw, size)
		}
	})
}

func fuzzStream(t *testing.T, w, r *Stream, raw []byte, size uint8) {
	t.Helper()
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
	if most := len(raw) * r.window; got > most || r.ring == nil && got > len(raw) {
		t.Errorf("%d bytes of %d", got, len(raw))
	}
}
