package cordon

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Events of poll(2).
const (
	pollIn  = 0x1
	pollOut = 0x4
)

// waitTime is how long a call waits that waits in the kernel.
const waitTime = time.Millisecond

// waiters bounds how many threads wait in await.
var waiters atomic.Int32

// await waits in ppoll(2) until one of events may be dealt with, for waitTime at
// most, and says whether it may. The runtime's poller needs two more system calls
// to find that out, and another thread.
func await(fd uintptr, events int16) bool {
	defer waiters.Add(-1)
	if int(waiters.Add(1)) >= runtime.GOMAXPROCS(0) { // one is left for all else
		return false
	}
	return poll(fd, events, waitTime)
}

func poll(fd uintptr, events int16, most time.Duration) bool {
	p := struct {
		fd           int32
		asked, found int16
	}{int32(fd), events, 0}
	t := syscall.NsecToTimespec(int64(most))
	n, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&t)), 0, 0, 0)
	return errno == 0 && n > 0
}

// The bounds of how long a read looks again and again before it sleeps.
const (
	leastLook = 2 * time.Microsecond
	mostLook  = 64 * time.Microsecond
)

// streamSocket is a unix socket of one goroutine that reads or writes. The
// runtime's poller has it only while that waits for long: it would be woken for
// each message, whoever waits, and once more when what was written is read.
// Where messages come one close behind the other, a read looks for the next one
// for a moment and gives way to whatever else wants to run: to sleep and be woken
// takes longer than to fill or look at a chunk.
type streamSocket struct {
	stall   time.Duration // how long a call waits at most
	f       *os.File
	raw     syscall.RawConn
	receive func(fd uintptr) // what raw.Control runs, made once so that a read allocates nothing
	b       []byte           // its parameter
	n       int              // its result, as is errno
	errno   syscall.Errno
	look    time.Duration // how long a read looks: doubled where it found, halved where not
	skip    int           // how many are not to look, after one for leastLook was for nothing

	mu     sync.Mutex
	closed bool
	polled *os.File // while a call waits in the poller
}

// newStreamSocket takes over f, in any case.
func newStreamSocket(f *os.File) (*streamSocket, error) {
	s := &streamSocket{stall: streamStall}
	err := s.open(f)
	if err = errors.Join(err, f.Close()); err != nil {
		if s.f != nil {
			err = errors.Join(err, s.f.Close())
		}
		return nil, err
	}
	return s, nil
}

func (s *streamSocket) open(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	ctl := raw.Control(func(fd uintptr) { s.f, err = unpolled(fd) })
	if err = errors.Join(err, ctl); err != nil {
		return err
	}
	s.receive = s.receiveNow
	s.raw, err = s.f.SyscallConn()
	return err
}

// unpolled makes a file of a socket that is not in the poller.
func unpolled(fd uintptr) (*os.File, error) {
	domain, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, 39) // SO_DOMAIN
	if err == nil && domain != syscall.AF_UNIX {
		err = errors.New("not a unix socket")
	}
	kind := 0
	if err == nil {
		kind, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TYPE)
	}
	if err == nil && kind != syscall.SOCK_STREAM {
		err = errors.New("not a stream socket")
	}
	if err != nil {
		return nil, err
	}
	return again(fd, false)
}

// again makes a file of another descriptor of the same socket, for the poller or
// not: os.NewFile adds what does not wait. Who sent the socket can have kept one,
// too, and change back whether it waits, so no call here goes by that.
func again(fd uintptr, polled bool) (*os.File, error) {
	if err := syscall.SetNonblock(int(fd), polled); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	other, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("fcntl", errno)
	}
	return os.NewFile(other, "stream"), nil
}

// receiveNow reads, and waits for a while where nothing is there yet: errno is
// EAGAIN then.
func (s *streamSocket) receiveNow(fd uintptr) {
	if s.tryRead(fd); s.errno != syscall.EAGAIN {
		return
	}
	if s.lookFor(fd); s.errno == syscall.EAGAIN && await(fd, pollIn) {
		s.tryRead(fd)
	}
}

// tryRead is recvfrom(2).
func (s *streamSocket) tryRead(fd uintptr) {
	for {
		n, _, errno := syscall.Syscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(s.b))), uintptr(len(s.b)), syscall.MSG_DONTWAIT, 0, 0)
		s.n, s.errno = int(n), errno
		if errno != syscall.EINTR {
			return
		}
	}
}

// left says whether the peer has closed its end, and nothing is left to be read:
// ECONNRESET where it had not read all either, such as credit.
func (s *streamSocket) left() (left bool) {
	var b [1]byte
	_ = s.raw.Control(func(fd uintptr) {
		n, _, errno := syscall.Syscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, syscall.MSG_DONTWAIT|syscall.MSG_PEEK, 0, 0)
		left = errno == syscall.ECONNRESET || n == 0 && errno == 0
	})
	return left
}

// lookFor reads again and again for a moment.
func (s *streamSocket) lookFor(fd uintptr) {
	if s.skip > 0 {
		s.skip--
		return
	}
	s.look = max(s.look, leastLook)
	for end := time.Now().Add(s.look); ; {
		_, _, _ = syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
		if s.tryRead(fd); s.errno != syscall.EAGAIN {
			s.look = min(2*s.look, mostLook)
			return
		}
		if !time.Now().Before(end) {
			break
		}
	}
	if s.look /= 2; s.look < leastLook {
		s.skip = 16
	}
}

// Read implements io.Reader.
func (s *streamSocket) Read(p []byte) (int, error) {
	for {
		s.b = p
		err := s.raw.Control(s.receive)
		s.b = nil
		switch {
		case err != nil:
			return 0, net.ErrClosed
		case s.errno == syscall.EAGAIN:
			if err := s.park(pollIn); err != nil {
				return 0, err
			}
		case s.errno != 0:
			return 0, os.NewSyscallError("recvfrom", s.errno)
		case s.n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return s.n, nil
		}
	}
}

// Write implements io.Writer.
func (s *streamSocket) Write(p []byte) (int, error) {
	if err := s.writeBoth(p, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}

// writeBoth writes one behind the other.
func (s *streamSocket) writeBoth(head, rest []byte) error {
	for len(head)+len(rest) > 0 {
		var n uintptr
		var errno syscall.Errno
		err := s.raw.Control(func(fd uintptr) {
			n, errno = send(fd, head, rest)
			if errno == syscall.EAGAIN && await(fd, pollOut) {
				n, errno = send(fd, head, rest)
			}
		})
		switch {
		case err != nil:
			return net.ErrClosed
		case errno == syscall.EAGAIN:
			if err := s.park(pollOut); err != nil {
				return err
			}
		case errno != 0:
			return os.NewSyscallError("sendmsg", errno)
		default:
			first := min(int(n), len(head))
			head, rest = head[first:], rest[int(n)-first:]
		}
	}
	return nil
}

// send is sendmsg(2).
func send(fd uintptr, head, rest []byte) (n uintptr, errno syscall.Errno) {
	var iov [2]syscall.Iovec
	message := syscall.Msghdr{Iov: &iov[0]}
	for _, b := range [][]byte{head, rest} {
		if len(b) > 0 {
			iov[message.Iovlen].Base = &b[0]
			iov[message.Iovlen].SetLen(len(b))
			message.Iovlen++
		}
	}
	for {
		n, _, errno = syscall.Syscall(syscall.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&message)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
		if errno != syscall.EINTR {
			return n, errno
		}
	}
}

// park waits in the runtime's poller.
func (s *streamSocket) park(events int16) error {
	end := time.Now().Add(s.stall)
	f, err := s.poll()
	switch {
	case errors.Is(err, net.ErrClosed):
		return err
	case err != nil: // nothing is lost for want of a descriptor
		return s.sleep(events, end)
	}
	err = s.inPoller(f, events, end)
	if s.unpoll(f) {
		return net.ErrClosed
	}
	return err
}

func (s *streamSocket) inPoller(f *os.File, events int16, end time.Time) error {
	if err := f.SetDeadline(end); err != nil {
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	wait := raw.Read
	if events == pollOut {
		wait = raw.Write
	}
	return wait(func(fd uintptr) bool { return poll(fd, events, 0) })
}

// poll adds the socket to the poller: under a descriptor of its own, which is
// what can be taken out again.
func (s *streamSocket) poll() (f *os.File, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	ctl := s.raw.Control(func(fd uintptr) { f, err = again(fd, true) })
	s.polled = f
	return f, errors.Join(err, ctl)
}

// sleep waits in the kernel, and sees every now and then whether to go on.
func (s *streamSocket) sleep(events int16, end time.Time) error {
	for ready := false; !ready; {
		if !time.Now().Before(end) {
			return os.ErrDeadlineExceeded
		}
		if err := s.raw.Control(func(fd uintptr) { ready = poll(fd, events, 50*waitTime) }); err != nil {
			return net.ErrClosed
		}
	}
	return nil
}

// unpoll takes it out, and says whether it was closed meanwhile.
func (s *streamSocket) unpoll(f *os.File) (closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polled = nil
	_ = f.Close() // a second time, if so
	return s.closed
}

// Close ends a call that waits, after waitTime at the latest.
func (s *streamSocket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	if s.polled != nil {
		_ = s.polled.Close()
	}
	return s.f.Close()
}
