package cordon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
)

// descriptors is a stream that carries them, by SCM_RIGHTS: a *net.UnixConn, or
// a socket.
type descriptors interface {
	ReadMsgUnix(b, oob []byte) (n, oobn, flags int, addr *net.UnixAddr, err error)
	WriteMsgUnix(b, oob []byte, addr *net.UnixAddr) (n, oobn int, err error)
}

// Run serves the host over descriptor 3.
func (p *Plugin) Run(ctx context.Context) error {
	syscall.CloseOnExec(Descriptor)
	err := p.ServeSocket(ctx, os.NewFile(Descriptor, "host"))
	if errors.Is(err, errNoSocket) {
		return fmt.Errorf("cannot find the host: descriptor %d is no socket (start the plugin with cordon, or test it with a Harness)", Descriptor)
	}
	return err
}

var errNoSocket = errors.New("no socket")

// ServeSocket is Serve over a unix socket, which the reader waits for in the
// kernel: the runtime's poller would be woken for each message that comes, and
// once more when one that was written is read, and makes a call half as long
// again. It takes a thread, so where only one goroutine runs at once the poller
// does it all the same: others would wait until the runtime finds that out.
func (p *Plugin) ServeSocket(ctx context.Context, f *os.File) error {
	s, err := newSocket(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if runtime.GOMAXPROCS(0) > 1 {
		return p.Serve(ctx, s)
	}
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot take over a socket: %w", err)
	}
	return p.Serve(ctx, c)
}

// socket is a unix socket whose calls wait in the kernel. One goroutine reads
// and one writes.
type socket struct {
	f   *os.File
	raw syscall.RawConn
	// receive is what raw.Read runs, made once so that a read allocates nothing.
	receive func(fd uintptr) bool
	in      struct {
		b, oob         []byte
		n, oobn, flags int
		err            error
	}
}

// newSocket takes over f, unless it fails.
func newSocket(f *os.File) (*socket, error) {
	fd := int(f.Fd()) // which makes it wait
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFSOCK {
		return nil, errors.Join(errNoSocket, err)
	}
	if err := syscall.SetNonblock(fd, false); err != nil { // Fd leaves alone what was never polled
		return nil, os.NewSyscallError("fcntl", err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{f: f, raw: raw}
	s.receive = func(fd uintptr) bool {
		for {
			s.in.n, s.in.oobn, s.in.flags, _, s.in.err = syscall.Recvmsg(int(fd), s.in.b, s.in.oob, syscall.MSG_CMSG_CLOEXEC)
			if s.in.err != syscall.EINTR { //nolint:errorlint // of the call itself
				return true
			}
		}
	}
	return s, nil
}

// ReadMsgUnix is that of net.UnixConn; there is never an address.
func (s *socket) ReadMsgUnix(b, oob []byte) (n, oobn, flags int, addr *net.UnixAddr, err error) {
	s.in.b, s.in.oob = b, oob
	err = s.raw.Read(s.receive)
	s.in.b, s.in.oob = nil, nil
	if err == nil && s.in.err != nil {
		err = os.NewSyscallError("recvmsg", s.in.err)
	}
	if err != nil {
		return 0, 0, 0, nil, err
	}
	return s.in.n, s.in.oobn, s.in.flags, nil, nil
}

// WriteMsgUnix is that of net.UnixConn; addr is not looked at.
func (s *socket) WriteMsgUnix(b, oob []byte, _ *net.UnixAddr) (n, oobn int, err error) {
	var sent error
	err = s.raw.Write(func(fd uintptr) bool {
		for {
			n, sent = syscall.SendmsgN(int(fd), b, oob, nil, syscall.MSG_NOSIGNAL)
			if sent != syscall.EINTR {
				return true
			}
		}
	})
	if err == nil {
		err = os.NewSyscallError("sendmsg", sent)
	}
	return n, len(oob), err
}

// Read implements io.Reader.
func (s *socket) Read(b []byte) (int, error) {
	n, _, _, _, err := s.ReadMsgUnix(b, nil)
	if n == 0 && err == nil && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

// Write implements io.Writer.
func (s *socket) Write(b []byte) (int, error) { return s.f.Write(b) }

// Close ends calls that wait, and whatever else has the socket.
func (s *socket) Close() error {
	err := s.raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) }) // fails where the peer has
	return errors.Join(err, s.f.Close())
}
