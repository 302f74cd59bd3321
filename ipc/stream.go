package ipc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// What both ends of a stream keep to, in bytes; PROTOCOL.md has it.
const (
	// streamWindow is how much may be under way that its reader has not taken,
	// where no memory is shared.
	streamWindow = 1 << 20
	// streamChunk is the most that one chunk of ours holds.
	streamChunk = 256 << 10
)

// streamStall is how long either end waits for the other, and no more than an
// eighth longer.
const streamStall = 30 * time.Second

// ErrStreamCut is the error of a stream that ended before its writer said so.
var ErrStreamCut = errors.New("the stream was cut off")

// Stream is one end of a stream of bytes that goes one way, over a socket of its
// own that travelled with a request or an answer: what is large neither waits
// for other messages nor holds them up. Chunks go one way, credit the other, so
// that a slow reader bounds what is under way, and stalls its writer alone. Where
// both ends map the same memory the bytes go through that, and over the socket
// only how many there are. One goroutine reads it, or one writes.
type Stream struct {
	c      *streamSocket
	ring   *ring // nil where the bytes go over the socket
	window int   // how much may be under way
	head   [4]byte
	in     []byte // what came over the socket and is not used yet: numbers, in pieces
	buf    []byte // of Next and Reserve, without a ring

	left    int    // reader: of the chunk that was begun
	allowed int    // reader: what the writer may still send
	taken   int    // reader: what was read and not granted again
	held    int    // reader: what Next has lent, of the ring
	rest    []byte // reader: what Read has left of that
	err     error  // reader: how it ended

	credit int // writer: what may be sent
	room   int // writer: what Reserve has lent
}

// OpenStream makes a Stream of what came with a message, which it takes over: a
// socket, and the memory, where that came too.
func OpenStream(f *os.File, memory ...*os.File) (*Stream, error) {
	var shared *ring
	var err error
	for _, m := range memory {
		if shared != nil {
			err = errors.Join(errors.New("more memory than one piece"), m.Close())
			continue
		}
		shared, err = openRing(m)
	}
	c, opened := newStreamSocket(f)
	if err = errors.Join(err, opened); err != nil {
		shared.close(false)
		if c != nil {
			err = errors.Join(err, c.Close())
		}
		return nil, fmt.Errorf("cannot open a stream: %w", err)
	}
	s := &Stream{c: c, ring: shared, window: streamWindow}
	if shared != nil {
		s.window = len(shared.bytes)
	}
	s.allowed, s.credit = s.window, s.window
	return s, nil
}

// Read implements io.Reader: io.EOF where the writer ended the stream,
// ErrStreamCut where it went without.
func (s *Stream) Read(p []byte) (int, error) {
	if s.ring != nil {
		return s.readRing(p)
	}
	if s.err != nil || len(p) == 0 {
		return 0, s.err
	}
	if err := s.begin(); err != nil {
		return 0, s.failed(err)
	}
	n, err := s.c.Read(p[:min(len(p), s.left)])
	s.left -= n
	s.taken += n
	if err == nil && s.taken >= s.window/2 {
		err = s.grant()
	}
	if err != nil {
		err = s.failed(err)
	}
	return n, err
}

// Next returns the bytes that come next, however many there are: valid until the
// next call of the stream, and without a copy where memory is shared. There the
// writer can change them meanwhile: what must not change between two looks has to
// be copied first, as Read does.
func (s *Stream) Next() ([]byte, error) {
	if s.ring == nil {
		if s.buf == nil {
			s.buf = make([]byte, streamChunk)
		}
		n, err := s.Read(s.buf)
		return s.buf[:n], err
	}
	if len(s.rest) > 0 {
		b := s.rest
		s.rest = nil
		return b, nil
	}
	if s.err != nil {
		return nil, s.err
	}
	b, err := s.nextInRing()
	if err != nil {
		return nil, s.failed(err)
	}
	return b, nil
}

// Again goes on behind an end that Read or Next has told by io.EOF: a stream that
// both sides keep takes one payload after the other, and is set up once.
func (s *Stream) Again() error {
	if !errors.Is(s.err, io.EOF) {
		return errors.New("cannot go on with a stream that has not ended, or was cut off")
	}
	s.err = nil
	if s.ring != nil {
		s.ring.ended.Store(false)
	}
	return nil
}

// begin sees to it that there is a chunk to read.
func (s *Stream) begin() error {
	if s.left > 0 {
		return nil
	}
	n, err := s.number()
	if err != nil {
		return err
	}
	return s.chunk(n)
}

// chunk begins one of n bytes.
func (s *Stream) chunk(n uint32) error {
	switch {
	case n == 0:
		return errStreamEnd
	case uint64(n) > uint64(s.allowed):
		return fmt.Errorf("cannot read a stream: a chunk of %d bytes, and its writer had credit for %d", n, s.allowed)
	}
	s.left = int(n)
	s.allowed -= s.left
	return nil
}

// errStreamEnd is the chunk without bytes.
var errStreamEnd = errors.New("end of stream")

// grant lets the writer send as much again as was taken.
func (s *Stream) grant() error {
	binary.BigEndian.PutUint32(s.head[:], uint32(s.taken))
	s.allowed += s.taken
	s.taken = 0
	_, err := s.c.Write(s.head[:])
	if isGone(err) { // a writer that has said all may leave
		return nil
	}
	return err
}

func (s *Stream) failed(err error) error {
	switch {
	case errors.Is(err, errStreamEnd):
		err = io.EOF
		if s.ring != nil {
			s.ring.ended.Store(len(s.in) == 0)
		}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isGone(err):
		err = ErrStreamCut
	}
	s.err = err
	return err
}

// Write implements io.Writer. It waits while the reader has taken none of the
// last bytes that may be under way.
func (s *Stream) Write(p []byte) (written int, err error) {
	if s.ring != nil {
		return s.writeRing(p)
	}
	for len(p) > 0 {
		if err := s.awaitCredit(1); err != nil {
			return written, err
		}
		n := min(len(p), s.credit, streamChunk)
		binary.BigEndian.PutUint32(s.head[:], uint32(n))
		if err := s.c.writeBoth(s.head[:], p[:n]); err != nil {
			return written, err
		}
		s.credit -= n
		written += n
		p = p[n:]
	}
	return written, nil
}

// Reserve returns room for 1 to n bytes, to be filled and sent by Commit; the
// reader gets them without a copy where memory is shared. It waits like Write.
func (s *Stream) Reserve(n int) (room []byte, err error) {
	if n <= 0 {
		return nil, errors.New("cannot reserve room for nothing in a stream")
	}
	if s.ring == nil {
		if s.buf == nil {
			s.buf = make([]byte, streamChunk)
		}
		room = s.buf[:min(n, len(s.buf))]
	} else if room, err = s.reserveInRing(n); err != nil {
		return nil, err
	}
	s.room = len(room)
	return room, nil
}

// Commit sends the first n bytes of what Reserve returned.
func (s *Stream) Commit(n int) error {
	if n < 0 || n > s.room {
		return fmt.Errorf("cannot send %d bytes of a stream: %d are reserved", n, s.room)
	}
	s.room = 0
	switch {
	case n == 0:
		return nil
	case s.ring != nil:
		return s.commitInRing(n)
	}
	_, err := s.Write(s.buf[:n])
	return err
}

// awaitCredit waits for credit for so many bytes.
func (s *Stream) awaitCredit(least int) error {
	for s.credit < least {
		more, err := s.number()
		if err != nil {
			return err
		}
		if uint64(s.credit)+uint64(more) > uint64(s.window) {
			return fmt.Errorf("cannot write a stream: its reader granted %d bytes, more than were sent", more)
		}
		s.credit += int(more)
	}
	return nil
}

// number reads four bytes, of as many as there are.
func (s *Stream) number() (uint32, error) {
	var more [64]byte
	for len(s.in) < 4 {
		most := len(more)
		if s.ring == nil { // bytes follow it
			most = 4 - len(s.in)
		}
		n, err := s.c.Read(more[:most])
		if err != nil {
			return 0, err
		}
		s.in = append(s.in, more[:n]...)
	}
	n := binary.BigEndian.Uint32(s.in)
	s.in = s.in[:copy(s.in, s.in[4:])]
	return n, nil
}

// End says that all was written. Without it, the reader is told of a cut. What is
// written after it, Again has its reader read.
func (s *Stream) End() error {
	_, err := s.c.Write([]byte{0, 0, 0, 0})
	return err
}

// Close closes this end. A Read or Write that waits returns. What Next and
// Reserve returned must not be touched any more.
func (s *Stream) Close() error {
	left := s.ring != nil && s.c.left()
	err := s.c.Close()
	s.ring.close(left)
	return err
}
