package ipc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

func newJournal(t testing.TB, memory []byte) *Journal {
	t.Helper()
	j, err := NewJournal(memory)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// peerByHand is a connection with a journal, and its peer's end.
func peerByHand(t *testing.T, o Options) (c *running, own *net.UnixConn, peer *wireEnd, memory []byte) {
	t.Helper()
	a, b := socketpair(t)
	memory = make([]byte, JournalSize)
	o.Journal = newJournal(t, memory)
	c = run(NewConn(SocketTransport(a), o))
	return c, a, &wireEnd{t: t, Conn: b, frames: newFrames(b, FramingLength, frameCeiling), framing: FramingLength}, memory
}

// awaited waits for what another goroutine does; a minute is for a loaded machine.
func awaited(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("cannot wait any longer: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// copyOf is a second descriptor of the same socket, as another process has it.
func copyOf(t *testing.T, c *net.UnixConn) Transport {
	t.Helper()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := FileTransport(f)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// asLeft is a copy of a journal that somebody may be writing: its words are copied
// as they are written, one at a time.
func asLeft(memory []byte) []byte {
	left := make([]byte, len(memory))
	from, to := newWords(memory), newWords(left)
	for i := range from {
		to[i].Store(from[i].Load())
	}
	copy(left[journalWords:], memory[journalWords:])
	return left
}

func newWords(memory []byte) *[journalWords / 8]atomic.Uint64 {
	return (*[journalWords / 8]atomic.Uint64)(unsafe.Pointer(&memory[0]))
}

// TestAnotherGoesOn: with the journal and the socket of a connection whose
// process ended in the middle of calls both ways, another goes on.
func TestAnotherGoesOn(t *testing.T) {
	asked := make(chan struct{})
	first, own, peer, memory := peerByHand(t, Options{PeerTakes: []DescriptorKind{KindSocket}, Handler: func(ctx context.Context, _ *Request) (any, error) {
		close(asked)
		<-t.Context().Done() // what was killed answers nothing, not even that it was cancelled
		return nil, ctx.Err()
	}})
	go func() { _, _ = first.Call(t.Context(), "unanswered", nil) }()
	peer.hears(`{"jsonrpc":"2.0","id":1,"method":"unanswered"}`)
	peer.say(`{"jsonrpc":"2.0","id":"mine","method":"work"}`)
	<-asked
	awaited(t, "the request is handled", func() bool { return newJournal(t, memory).between() == nil })
	left := asLeft(memory) // as a kill would leave it
	next := copyOf(t, own)
	_ = first.Close()
	second := run(NewConn(next, Options{Journal: newJournal(t, left), Resume: true, Hello: true}))
	defer func() { _ = second.Close() }()
	peer.hears(`{"jsonrpc":"2.0","id":"mine","error":{"code":-32008,"message":"the host was restarted before it answered"}}`)
	go func() { _, _ = second.Call(t.Context(), "more", nil) }()
	peer.hears(`{"jsonrpc":"2.0","id":2,"method":"more"}`)
	peer.say(`{"jsonrpc":"2.0","id":1,"result":1}`, `{"jsonrpc":"2.0","id":2,"result":2}`) // the first is late
	awaited(t, "the late answer is dropped", func() bool { return second.Stats().Late == 1 })
	if !second.Takes(KindSocket) || second.Takes(KindFile) {
		t.Error("it does not know which descriptors the peer takes")
	}
	if second.Phase() != PhaseServing {
		t.Errorf("it is in phase %d: %v", second.Phase(), second.Err())
	}
}

// TestJournalTellsOfHalfMessages: in the middle of one, either way, nobody could
// go on.
func TestJournalTellsOfHalfMessages(t *testing.T) {
	c, own, peer, memory := peerByHand(t, Options{Handler: echo})
	j := newJournal(t, memory)
	frame := appendFrame(nil, FramingLength, []byte(`{"jsonrpc":"2.0","id":1,"method":"m"}`))
	if _, err := peer.Write(frame[:9]); err != nil {
		t.Fatal(err)
	}
	awaited(t, "half a message has come", func() bool { return j.between() != nil })
	if _, err := peer.Write(frame[9:]); err != nil {
		t.Fatal(err)
	}
	peer.hears(`{"jsonrpc":"2.0","id":1,"result":null}`)
	awaited(t, "the message is handled", func() bool { return j.between() == nil })
	// More than the kernel holds for a peer that does not read.
	if err := own.SetWriteBuffer(4096); err != nil {
		t.Fatal(err)
	}
	if err := c.Notify("large", []string{strings.Repeat("x", 1<<20)}); err != nil {
		t.Fatal(err)
	}
	awaited(t, "half a message has gone", func() bool { return j.between() != nil })
	if _, err := peer.frames.next(); err != nil {
		t.Fatal(err)
	}
	awaited(t, "all of it has gone", func() bool { return j.between() == nil })
}

// TestWhatWasReadAndNotLookedAt: a process that is killed just when it has read is
// one whose kernel has written down what it read: whole requests, several, and
// half of one are gone on with.
func TestWhatWasReadAndNotLookedAt(t *testing.T) {
	for _, framing := range []Framing{FramingLength, FramingLines, FramingHeaders} {
		var many, answers []string
		for id := range 40 {
			many, answers = append(many, request(framing, id)), append(answers, answerTo(id))
		}
		for name, c := range map[string]struct {
			first, then string // what was read, what came later
			want        []string
		}{
			"one":               {request(framing, 1), "", []string{answerTo(1)}},
			"two":               {request(framing, 1) + request(framing, 2), "", []string{answerTo(1), answerTo(2)}},
			"one and a half":    {request(framing, 1) + request(framing, 2)[:9], request(framing, 2)[9:], []string{answerTo(1), answerTo(2)}},
			"an answer, a call": {string(appendFrame(nil, framing, []byte(answerTo(1)))) + request(framing, 3), "", []string{answerTo(3)}},
			"long":              {strings.Join(many, ""), "", answers},
		} {
			t.Run(fmt.Sprint(framing, name), func(t *testing.T) {
				a, b := socketpair(t)
				memory := make([]byte, JournalSize)
				first := NewConn(SocketTransport(a), Options{Journal: newJournal(t, memory), Framing: framing, Handler: echo})
				newJournal(t, memory).called(1) // which is answered late
				left := make(chan []byte, 1)
				read := first.readPlain
				first.readPlain = func(p []byte) (int, error) {
					n, err := read(p)
					if n > 0 { // here it is killed
						left <- asLeft(memory)
						return 0, io.EOF
					}
					return n, err
				}
				next := copyOf(t, a)
				peer := &wireEnd{t: t, Conn: b, frames: newFrames(b, framing, frameCeiling), framing: framing}
				if err := b.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
				if _, err := b.Write([]byte(c.first)); err != nil {
					t.Fatal(err)
				}
				run(first)
				killed := <-left
				j := newJournal(t, killed)
				if err := j.Resumable(); err != nil {
					t.Fatal(err)
				}
				second := run(NewConn(next, Options{Journal: j, Resume: true, Framing: framing, Handler: echo}))
				defer func() { _ = second.Close() }()
				if _, err := b.Write([]byte(c.then)); err != nil {
					t.Fatal(err)
				}
				var heard []string // in any order
				for range c.want {
					fr, err := peer.frames.next()
					if err != nil {
						t.Fatalf("after %q: %v", heard, err)
					}
					heard = append(heard, string(fr.bytes))
				}
				if slices.Sort(heard); !slices.Equal(heard, slices.Sorted(slices.Values(c.want))) {
					t.Errorf("heard %q, want %q", heard, c.want)
				}
				awaited(t, "all is handled", func() bool { return newJournal(t, killed).between() == nil })
			})
		}
	}
}

// TestWhatNobodyCanKnow: bytes of a length that are those of nothing, and
// descriptors that have gone.
func TestWhatNobodyCanKnow(t *testing.T) {
	fits := bytes.Repeat([]byte("x"), 255)
	for name, c := range map[string]struct {
		framing Framing
		read    []byte
		known   bool
	}{
		"half a length":                {FramingLength, []byte{0, 0}, false},
		"a length that ends in 255":    {FramingLength, []byte{0, 0, 0, 255}, false},
		"and with what it is of":       {FramingLength, append([]byte{0, 0, 0, 255}, fits...), true},
		"another, and half a length":   {FramingLength, append(append([]byte{0, 0, 0, 255}, fits...), 0), false},
		"half a line":                  {FramingLines, []byte(`{"jsonrpc"`), true},
		"half a line with a file":      {FramingLines, []byte(`{"jsonrpc":"2.0","method":"m","fds":["file"]}`), false},
		"a file, and half a message":   {FramingLength, append([]byte{0, 0, 1, 0}, `{"fds":["file"],`...), false},
		"nothing":                      {FramingLength, nil, true},
		"as much as there is room for": {FramingLines, bytes.Repeat([]byte(" "), landingSize), true},
	} {
		j := newJournal(t, make([]byte, JournalSize))
		j.begin(c.framing)
		copy(j.landing, c.read)
		if err := j.Resumable(); (err == nil) != c.known {
			t.Errorf("%s: %v", name, err)
		}
		j.looked(len(c.read))
		if err := j.Resumable(); err != nil || len(j.unseen()) != 0 {
			t.Errorf("%s, looked at: %v", name, err)
		}
		j.clear()
		if n := len(j.unseen()); n != 0 {
			t.Errorf("%s, handled: %d bytes", name, n)
		}
	}
}

// request is one in its frame, reply what echo answers to it.
func request(f Framing, id int) string {
	return string(appendFrame(nil, f, fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":"m"}`, id)))
}

func answerTo(id int) string { return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":null}`, id) }

// TestSuspendStandsBetweenMessages: nothing is read while it lasts, all that was
// asked is answered before, and nothing is lost.
func TestSuspendStandsBetweenMessages(t *testing.T) {
	release := make(chan struct{})
	c, _, peer, memory := peerByHand(t, Options{Handler: func(context.Context, *Request) (any, error) { <-release; return 1, nil }})
	peer.say(`{"jsonrpc":"2.0","id":1,"method":"m"}`)
	awaited(t, "it is asked", func() bool { return c.Stats().MessagesIn == 1 })
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Suspend(short); err == nil {
		t.Error("it stands still with a request unanswered")
	}
	c.Resume()
	close(release)
	peer.hears(`{"jsonrpc":"2.0","id":1,"result":1}`)
	for range 3 {
		if err := c.Suspend(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := c.Stats().MessagesIn
		peer.say(`{"jsonrpc":"2.0","id":2,"method":"m"}`)
		if err := newJournal(t, memory).Resumable(); err != nil || c.Stats().MessagesIn != before {
			t.Errorf("%d messages were read (%d before), %v", c.Stats().MessagesIn, before, err)
		}
		c.Resume()
		peer.hears(`{"jsonrpc":"2.0","id":2,"result":1}`)
		// Calls of this side go on, whoever reads their answers.
		peer.say(`{"jsonrpc":"2.0","id":1,"method":"m"}`)
		peer.hears(`{"jsonrpc":"2.0","id":1,"result":1}`)
	}
}

// TestSuspendAtOnceAgain: to be told to stand still again while it begins to go on
// is not overlooked.
func TestSuspendAtOnceAgain(t *testing.T) {
	c, _, peer, _ := peerByHand(t, Options{Handler: func(context.Context, *Request) (any, error) { return 1, nil }})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 2000 {
		if err := c.Suspend(ctx); err != nil {
			t.Fatal(err)
		}
		c.Resume()
	}
	peer.say(`{"jsonrpc":"2.0","id":1,"method":"m"}`)
	peer.hears(`{"jsonrpc":"2.0","id":1,"result":1}`)
}

// TestJournalWithoutPlace: what cannot be noted is told.
func TestJournalWithoutPlace(t *testing.T) {
	memory := make([]byte, JournalSize)
	j := newJournal(t, memory)
	j.begin(FramingLines)
	long := j.note(strings.Repeat("x", maxPlaceID+1))
	if j.Resumable() == nil {
		t.Error("an id that found no place is not told of")
	}
	j.answered(long)
	taken := make([]int, places)
	for i := range taken {
		taken[i] = j.note("id")
	}
	if j.Resumable() != nil {
		t.Errorf("places are full, not more: %v", j.Resumable())
	}
	over := j.note("id")
	if j.Resumable() == nil {
		t.Error("one more than there are places is not told of")
	}
	j.answered(over)
	for _, p := range taken {
		j.answered(p)
	}
	j.flushed()
	if ids := j.open(); len(ids) != 0 || j.Resumable() != nil {
		t.Errorf("left: %q, %v", ids, j.Resumable())
	}
	if _, err := NewJournal(memory[:JournalSize-1]); err == nil {
		t.Error("too little memory is taken")
	}
}

// FuzzJournal: whatever lies in the memory, who reads it gets short ids or a
// refusal.
func FuzzJournal(f *testing.F) {
	good := make([]byte, JournalSize)
	j := newJournal(f, good)
	j.begin(FramingLines)
	j.note("1")
	j.note(`"a longer one"`)
	f.Add(good)
	lands := bytes.Clone(good)
	newJournal(f, lands).begin(FramingLength)
	copy(lands[journalWords:], appendFrame(nil, FramingLength, []byte(`{"jsonrpc":"2.0","id":7,"method":"m"}`)))
	f.Add(lands)
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		memory := make([]byte, JournalSize)
		copy(memory, data)
		j := newJournal(t, memory)
		if j.Resumable() != nil {
			return
		}
		for _, id := range j.open() {
			if id == "" || len(id) > maxPlaceID {
				t.Errorf("an id of %d bytes", len(id))
			}
		}
		if len(j.open()) != 0 {
			t.Error("what was asked for once is still there")
		}
		if b := j.unseen(); len(b) > landingSize || len(b) > 0 && b[len(b)-1] == nothingRead {
			t.Errorf("%d bytes were read and not looked at", len(b))
		}
	})
}
