package ipc

import (
	"errors"
	"fmt"
	"os"

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
	memory, err := shared(sharedStream)
	if err != nil {
		return nil, nil, errors.Join(err, ours.Close(), theirs.Close())
	}
	if ours.ring, err = mappedRing(memory); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("cannot share memory: %w", err), memory.Close(), ours.Close(), theirs.Close())
	}
	ours.window, ours.allowed, ours.credit = sharedStream, sharedStream, sharedStream
	return ours, []*os.File{theirs, memory}, nil
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
