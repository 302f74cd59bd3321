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
