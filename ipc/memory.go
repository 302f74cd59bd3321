package ipc

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// streamBuffer is how many bytes each end of a stream may leave in the kernel.
const streamBuffer = 512 << 10

// NewStream makes a stream: this side's end, and the one that goes along with a
// call or an answer, which closes it.
func NewStream() (*Stream, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a stream: %w", err)
	}
	for _, fd := range fds { // more than the system's bound needs CAP_NET_ADMIN
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, streamBuffer)
	}
	theirs := os.NewFile(uintptr(fds[1]), "stream")
	ours, err := OpenStream(os.NewFile(uintptr(fds[0]), "stream"))
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

// sharedStream is how much memory the ends of a stream share: what is written
// is still in the processor's cache when it is read.
const sharedStream = 2 << 20

// NewStream makes a stream by the faster of the ways that the peer takes: this
// side's end, and what goes along with a call or an answer, which closes it. Over
// memory that both map bytes are copied once, or with Stream.Next and
// Stream.Reserve not at all; otherwise they go through a socket.
func (c *Conn) NewStream() (*Stream, []*os.File, error) {
	ours, theirs, err := NewStream()
	if err != nil || !c.Takes(KindShared) {
		return ours, []*os.File{theirs}, err
	}
	theirMemory, err := c.share(ours)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("cannot share memory: %w", err), ours.Close(), theirs.Close())
	}
	ours.window, ours.allowed, ours.credit = sharedStream, sharedStream, sharedStream
	return ours, []*os.File{theirs, theirMemory}, nil
}

// share gives a stream memory, and returns it for the peer.
func (c *Conn) share(s *Stream) (theirs *os.File, err error) {
	m, ok := spares.take(c)
	if !ok {
		if m.f, err = shared(sharedStream); err != nil {
			return nil, err
		}
		m.bytes, err = unix.Mmap(int(m.f.Fd()), 0, sharedStream, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		if err != nil {
			return nil, errors.Join(os.NewSyscallError("mmap", err), m.f.Close())
		}
	}
	fd, err := unix.FcntlInt(m.f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		m.drop()
		return nil, os.NewSyscallError("fcntl", err)
	}
	s.ring = &ring{bytes: m.bytes, give: func(free bool) {
		if !free || !spares.give(c, m) {
			m.drop()
		}
	}}
	return os.NewFile(uintptr(fd), "shared memory"), nil
}

// The bounds of what is kept for streams to come: how many pieces of memory in
// this process, and for how long.
const (
	sparesMost = 8
	spareTime  = time.Second
)

// spares are what streams shared that this side has read to their ends, and that
// the peer has closed. To make and map such memory takes as long as several of its
// fillings, so the next stream of the same connection has it: of the same one
// alone, as its peer may have it mapped for ever. What this side wrote is not kept:
// its reader may not have read it yet.
var spares spareMemory

type spareMemory struct {
	mu    sync.Mutex
	all   []spare // the oldest first
	timer *time.Timer
}

type spare struct {
	of    *Conn
	m     sharedMemory
	since time.Time
}

// sharedMemory is a stream's, mapped here.
type sharedMemory struct {
	f     *os.File
	bytes []byte
}

func (m sharedMemory) drop() {
	_ = errors.Join(unix.Munmap(m.bytes), m.f.Close()) // nothing is lost with either
}

func (p *spareMemory) take(c *Conn) (sharedMemory, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.all, func(s spare) bool { return s.of == c })
	if i < 0 {
		return sharedMemory{}, false
	}
	m := p.all[i].m
	p.all = slices.Delete(p.all, i, i+1)
	return m, true
}

// give keeps it for c, unless that has ended.
func (p *spareMemory) give(c *Conn, m sharedMemory) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-c.done: // before forget, or it would be there for ever
		return false
	default:
	}
	if len(p.all) == sparesMost {
		p.all[0].m.drop()
		p.all = slices.Delete(p.all, 0, 1)
	}
	p.all = append(p.all, spare{c, m, time.Now()})
	if p.timer == nil {
		p.timer = time.AfterFunc(spareTime, p.age)
	}
	return true
}

// forget drops what is kept for c, which has ended.
func (p *spareMemory) forget(c *Conn) { p.drop(func(s spare) bool { return s.of == c }) }

// age drops what was not used for spareTime.
func (p *spareMemory) age() {
	p.drop(func(s spare) bool { return time.Since(s.since) >= spareTime })
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer = nil; len(p.all) > 0 {
		p.timer = time.AfterFunc(spareTime-time.Since(p.all[0].since), p.age)
	}
}

func (p *spareMemory) drop(old func(spare) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = slices.DeleteFunc(p.all, func(s spare) bool {
		if old(s) {
			s.m.drop()
			return true
		}
		return false
	})
}

// shared makes memory for both ends of a stream, all of whose pages are there and
// this side's: a peer that takes some away costs nobody more.
func shared(size int) (*os.File, error) {
	fd, err := unix.MemfdCreate("cordon stream", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("cannot make memory: %w", os.NewSyscallError("memfd_create", err))
	}
	f := os.NewFile(uintptr(fd), "shared memory")
	err = unix.Fallocate(fd, 0, 0, int64(size))
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, sharedSeals)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make %d bytes of memory: %w", size, err), f.Close())
	}
	return f, nil
}

// Memory is a KindMemfd that was mapped to be read.
type Memory struct{ bytes []byte }

// Map maps what came as a KindMemfd, of 1 to most bytes, and closes it: nobody
// can change it any more, and all of its pages are there, so that reading it can
// neither fail nor surprise. Close it.
func Map(d Descriptor, most int64) (*Memory, error) {
	m, err := mapped(d, most)
	if err = errors.Join(err, d.File.Close()); err != nil {
		return nil, fmt.Errorf("cannot map what came: %w", err)
	}
	return m, nil
}

func mapped(d Descriptor, most int64) (*Memory, error) {
	fd, kind, err := described(d.File)
	if err != nil {
		return nil, err
	}
	if kind != KindMemfd {
		return nil, fmt.Errorf("it is a %s and no sealed memfd", kind)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Size < 1 || st.Size > most {
		return nil, fmt.Errorf("it has %d bytes, and 1 to %d are taken", st.Size, most)
	}
	bytes, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &Memory{bytes}, nil
}

// Bytes is the memory, to be read until Close. Writing to it kills the process.
func (m *Memory) Bytes() []byte { return m.bytes }

// Close unmaps it.
func (m *Memory) Close() error {
	bytes := m.bytes
	m.bytes = nil
	return unix.Munmap(bytes)
}
