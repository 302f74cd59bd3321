package ipc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ReadEnd is where a connection reads: a socket, or the pipe of a program's
// standard output. Close and a deadline must end a Read that waits.
type ReadEnd interface {
	io.ReadCloser
	SetReadDeadline(t time.Time) error
}

// WriteEnd is where a connection writes: a socket, or the pipe of a program's
// standard input. Close and a deadline must end a Write that waits.
type WriteEnd interface {
	io.WriteCloser
	SetWriteDeadline(t time.Time) error
}

// Transport is what a connection runs over. The connection owns both ends and
// closes them.
type Transport struct {
	R ReadEnd
	W WriteEnd
}

// SocketTransport is a stream socket, both ways.
func SocketTransport(c *net.UnixConn) Transport { return Transport{R: c, W: c} }

// PipeTransport reads r and writes w: for a plugin on stdio the host's ends of
// the pipes to its standard output and input. Both must be pollable, as those
// of os.Pipe are as long as nobody calls Fd on them.
func PipeTransport(r, w *os.File) Transport { return Transport{R: r, W: w} }

// FileTransport takes over the end of a socketpair(2), and closes f in any case.
func FileTransport(f *os.File) (Transport, error) {
	fd, err := duplicate(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return Transport{}, fmt.Errorf("cannot take over socket: %w", err)
	}
	return socketTransport(fd)
}

// socketTransport takes over fd, and closes it if it fails.
func socketTransport(fd int) (Transport, error) {
	s, err := newSocket(fd)
	if err != nil {
		return Transport{}, errors.Join(fmt.Errorf("cannot take over socket: %w", err), unix.Close(fd))
	}
	return Transport{R: s, W: s}, nil
}

// duplicate copies a file's descriptor, which the file keeps.
func duplicate(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	ctl := raw.Control(func(its uintptr) { fd, err = unix.FcntlInt(its, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(ctl, err)
}

// Socketpair makes both ends of a stream socket: the host's as a Transport,
// the plugin's as a blocking file for the caller to pass on and close.
func Socketpair() (host Transport, plugin *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Transport{}, nil, fmt.Errorf("cannot make a socket pair: %w", err)
	}
	plugin = os.NewFile(uintptr(fds[1]), "plugin socket")
	host, err = socketTransport(fds[0])
	if err != nil {
		return Transport{}, nil, errors.Join(err, plugin.Close())
	}
	return host, plugin, nil
}

// close closes both ends; closing one socket twice is no error.
func (t Transport) close() error {
	errR, errW := t.R.Close(), t.W.Close()
	if any(t.R) == any(t.W) || errors.Is(errW, os.ErrClosed) || errors.Is(errW, net.ErrClosed) {
		errW = nil
	}
	return errors.Join(errR, errW)
}

// isGone tells an error that means that the peer has gone from one that means
// that something is broken here.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// isTimeout says whether a deadline ended the read or write.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// tryWriter writes what fits at once, without ever waiting.
type tryWriter struct {
	raw  syscall.RawConn
	buf  []byte
	n    int
	err  error
	call func(fd uintptr) bool // made once, so that a write allocates nothing
}

// newTryWriter returns nil when w cannot tell whether it would wait.
func newTryWriter(w WriteEnd) *tryWriter {
	sc, ok := w.(syscall.Conn)
	if !ok || w.SetWriteDeadline(time.Time{}) != nil { // not pollable: a write would wait
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	t := &tryWriter{raw: raw}
	t.call = func(fd uintptr) bool {
		t.n, t.err = ignoringEINTR(func() (int, error) { return unix.Write(int(fd), t.buf) })
		return true
	}
	return t
}

func ignoringEINTR(fn func() (int, error)) (int, error) {
	for {
		n, err := fn()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// write returns how much was written; less than all without an error means
// that the rest would have to wait. files, if any, go with the first byte.
func (t *tryWriter) write(p []byte, files *parcel) (int, error) {
	if files != nil {
		return sendNow(t.raw, p, files)
	}
	t.buf, t.n, t.err = p, 0, nil
	err := t.raw.Write(t.call)
	t.buf = nil
	switch {
	case err != nil:
		return 0, err
	case t.err == nil:
		return t.n, nil
	case errors.Is(t.err, unix.EAGAIN):
		return 0, nil
	default:
		return 0, t.err
	}
}
