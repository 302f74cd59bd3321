package cordon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// What both ends of a stream keep to, in bytes; PROTOCOL.md has it.
const (
	// streamWindow is how much may be under way that its reader has not taken.
	streamWindow = 1 << 20
	// streamChunk is the most that one chunk of ours holds.
	streamChunk = 256 << 10
)

// streamStall is how long either end waits for the other.
const streamStall = 30 * time.Second

// ErrStreamCut is the error of a stream that ended before its writer said so.
var ErrStreamCut = errors.New("the stream was cut off")

// Stream is one end of a stream of bytes that goes one way, over a socket of its
// own that travelled with a request or an answer: what is large neither waits
// for other messages nor holds them up. Chunks go one way, credit the other, so
// that a slow reader bounds what is under way, and stalls its writer alone. One
// goroutine reads it, or one writes.
type Stream struct {
	c     *net.UnixConn
	stall time.Duration
	head  [4]byte

	left    int   // reader: of the chunk that was begun
	allowed int   // reader: what the writer may still send
	taken   int   // reader: what was read and not granted again
	err     error // reader: how it ended

	credit int    // writer: what may be sent
	part   []byte // writer: of a grant that came in pieces
}

// OpenStream makes a Stream of the socket that came with a message, which it
// takes over.
func OpenStream(f *os.File) (*Stream, error) {
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("cannot open a stream: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok || u.LocalAddr().Network() != "unix" {
		return nil, errors.Join(errors.New("cannot open a stream: not a stream socket of the family unix"), c.Close())
	}
	return &Stream{c: u, stall: streamStall, allowed: streamWindow, credit: streamWindow}, nil
}

// Read implements io.Reader: io.EOF where the writer ended the stream,
// ErrStreamCut where it went without.
func (s *Stream) Read(p []byte) (int, error) {
	if s.err != nil || len(p) == 0 {
		return 0, s.err
	}
	if err := s.c.SetDeadline(time.Now().Add(s.stall)); err != nil {
		return 0, s.failed(err)
	}
	if s.left == 0 {
		if err := s.chunk(); err != nil {
			return 0, s.failed(err)
		}
	}
	n, err := s.c.Read(p[:min(len(p), s.left)])
	s.left -= n
	s.taken += n
	if err == nil && s.taken >= streamWindow/2 {
		err = s.grant()
	}
	if err != nil {
		err = s.failed(err)
	}
	return n, err
}

// chunk reads the length of the next one.
func (s *Stream) chunk() error {
	if _, err := io.ReadFull(s.c, s.head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(s.head[:])
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
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isGone(err):
		err = ErrStreamCut
	}
	s.err = err
	return err
}

// Write implements io.Writer. It waits while the reader has taken none of the
// last streamWindow bytes.
func (s *Stream) Write(p []byte) (written int, err error) {
	for len(p) > 0 {
		if err := s.c.SetDeadline(time.Now().Add(s.stall)); err != nil {
			return written, err
		}
		if s.credit == 0 {
			if err := s.granted(); err != nil {
				return written, err
			}
			continue
		}
		n := min(len(p), s.credit, streamChunk)
		binary.BigEndian.PutUint32(s.head[:], uint32(n))
		if _, err := (&net.Buffers{s.head[:], p[:n]}).WriteTo(s.c); err != nil {
			return written, err
		}
		s.credit -= n
		written += n
		p = p[n:]
	}
	return written, nil
}

// granted waits for credit.
func (s *Stream) granted() error {
	var buf [64]byte
	n, err := s.c.Read(buf[:])
	if err != nil {
		return err
	}
	s.part = append(s.part, buf[:n]...)
	for len(s.part) >= 4 {
		more := binary.BigEndian.Uint32(s.part)
		if uint64(s.credit)+uint64(more) > streamWindow {
			return fmt.Errorf("cannot write a stream: its reader granted %d bytes, more than were sent", more)
		}
		s.credit += int(more)
		s.part = s.part[4:]
	}
	return nil
}

// End says that all was written. Without it, the reader is told of a cut.
func (s *Stream) End() error {
	_, err := s.c.Write([]byte{0, 0, 0, 0})
	return err
}

// Close closes this end. A Read or Write that waits returns.
func (s *Stream) Close() error { return s.c.Close() }
