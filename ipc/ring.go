package ipc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// The bounds of what a stream shares, in bytes.
const (
	ringLeast = 64 << 10
	ringMost  = 16 << 20
)

// sharedSeals are those of memory that both ends of a stream write to: its size
// is for ever, so that no access to it can fail.
const sharedSeals = 0x1 | 0x2 | 0x4 // F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW

// ring is memory that both ends of a stream map. A chunk is in it where the one
// before ended, whole: it begins again at the start where it would not fit.
type ring struct {
	mu    sync.Mutex // held while the stream itself copies, and by close
	bytes []byte     // nil once closed
	at    int
	// ended says that its reader has read the end, and nothing behind it.
	ended atomic.Bool
	// give takes the bytes over at the end, and is told whether anybody looks at
	// them any more, or writes to them; nil unmaps them.
	give func(free bool)
}

// openRing maps memory that came with a message, and closes it.
func openRing(f *os.File) (*ring, error) {
	r, err := mappedRing(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("cannot share memory: %w", err)
	}
	return r, nil
}

func mappedRing(f *os.File) (*ring, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var r *ring
	ctl := raw.Control(func(fd uintptr) {
		var st syscall.Stat_t
		if err = syscall.Fstat(int(fd), &st); err != nil {
			return
		}
		seals, _, _ := syscall.Syscall(syscall.SYS_FCNTL, fd, 1034, 0) // F_GET_SEALS
		switch {
		case st.Mode&syscall.S_IFMT != syscall.S_IFREG || int(seals) != sharedSeals:
			err = errors.New("it is no memory whose size is sealed")
			return
		case st.Size < ringLeast || st.Size > ringMost:
			err = fmt.Errorf("it has %d bytes, and %d to %d are taken", st.Size, ringLeast, ringMost)
			return
		}
		var bytes []byte
		bytes, err = syscall.Mmap(int(fd), 0, int(st.Size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_POPULATE)
		r = &ring{bytes: bytes}
	})
	if err = errors.Join(err, ctl); err != nil {
		return nil, err
	}
	return r, nil
}

// close is told whether the other end was closed before.
func (r *ring) close(left bool) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.bytes == nil:
		return
	case r.give != nil:
		r.give(left && r.ended.Load())
	default:
		_ = syscall.Munmap(r.bytes) // nothing but a wrong address makes it fail
	}
	r.bytes = nil
}

// piece is n bytes of the ring from where it is.
func (r *ring) piece(n int) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bytes == nil {
		return nil, net.ErrClosed
	}
	return r.bytes[r.at : r.at+n : r.at+n], nil
}

// ahead is how many bytes there are up to the ring's end.
func (s *Stream) ahead() int { return s.window - s.ring.at }

// pass goes on behind n bytes.
func (r *ring) pass(n, size int) {
	if r.at += n; r.at == size {
		r.at = 0
	}
}

// nextInRing gives back what was lent, and returns the next chunk.
func (s *Stream) nextInRing() ([]byte, error) {
	if s.taken += s.held; s.taken >= s.window/4 {
		if err := s.grant(); err != nil {
			return nil, err
		}
	}
	s.held = 0
	n, err := s.number()
	if err != nil {
		return nil, err
	}
	if err := s.chunk(n); err != nil {
		return nil, err
	}
	if s.left > s.ahead() {
		return nil, fmt.Errorf("cannot read a stream: a chunk of %d bytes, and %d are left up to the end of the memory", s.left, s.ahead())
	}
	b, err := s.ring.piece(s.left)
	if err != nil {
		return nil, err
	}
	s.ring.pass(s.left, s.window)
	s.held, s.left = s.left, 0
	return b, nil
}

// readRing copies, so that what it returns stays as it is.
func (s *Stream) readRing(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, s.err
	}
	if len(s.rest) == 0 {
		b, err := s.Next()
		if err != nil {
			return 0, err
		}
		s.rest = b
	}
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	if s.ring.bytes == nil {
		return 0, net.ErrClosed
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// reserveInRing waits until a good part of n bytes fits.
func (s *Stream) reserveInRing(n int) ([]byte, error) {
	n = min(n, s.ahead(), s.window/2)
	if err := s.awaitCredit(n); err != nil {
		return nil, err
	}
	return s.ring.piece(n)
}

func (s *Stream) commitInRing(n int) error {
	binary.BigEndian.PutUint32(s.head[:], uint32(n))
	if _, err := s.c.Write(s.head[:]); err != nil {
		return err
	}
	s.credit -= n
	s.ring.pass(n, s.window)
	return nil
}

func (s *Stream) writeRing(p []byte) (written int, err error) {
	for len(p) > 0 {
		room, err := s.Reserve(len(p))
		if err != nil {
			return written, err
		}
		n, err := s.fillRing(room, p)
		if err == nil {
			err = s.Commit(n)
		}
		if err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

func (s *Stream) fillRing(room, p []byte) (int, error) {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	if s.ring.bytes == nil {
		return 0, io.ErrClosedPipe
	}
	return copy(room, p), nil
}
