package ipc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// messenger is a unix socket, that of the net package or a *socket.
type messenger interface {
	syscall.Conn
	WriteMsgUnix(b, oob []byte, addr *net.UnixAddr) (n, oobn int, err error)
}

// socket is a unix stream socket that the runtime's poller knows nothing of.
// That is woken by each message that comes, whoever waits for it, and once more
// when the peer has read what was written: a thread that wakes for nothing, twice
// a call, and makes it half as long again. A read here waits in the kernel for a
// while, and only then in an epoll(7) that all sockets share, each of which is in
// it once, and told of once: EPOLLONESHOT.
type socket struct {
	fd   int
	wait struct{ read, write direction }

	mu     sync.Mutex
	closed bool
	users  int    // calls that use fd; the last closes it
	armed  uint32 // what the epoll is to tell of
	added  bool   // to the epoll
}

// direction is what one goroutine at a time waits for.
type direction struct {
	events   uint32
	wake     chan struct{} // capacity 1: look again
	deadline time.Time     // guarded by socket.mu, as is timer
	timer    *time.Timer
}

func (w *direction) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// newSocket takes over fd, unless it fails.
func newSocket(fd int) (*socket, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == nil && domain != unix.AF_UNIX {
		err = errors.New("not a unix socket")
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, err
	}
	s := &socket{fd: fd}
	s.wait.read = direction{events: unix.EPOLLIN | unix.EPOLLRDHUP, wake: make(chan struct{}, 1)}
	s.wait.write = direction{events: unix.EPOLLOUT, wake: make(chan struct{}, 1)}
	return s, sockets.add(s)
}

// hold keeps fd open until release, unless it is too late for that.
func (s *socket) hold(w *direction) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ended(w); err != nil {
		return err
	}
	s.users++
	return nil
}

func (s *socket) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 && s.closed {
		_ = unix.Close(s.fd) // nothing is lost with it: what was written is the kernel's
	}
}

// until runs try until that says that it is done, and waits in between.
func (s *socket) until(w *direction, try func(fd uintptr) bool) error {
	if err := s.hold(w); err != nil {
		return err
	}
	defer s.release()
	for !try(uintptr(s.fd)) {
		if err := s.park(w); err != nil {
			return err
		}
	}
	return nil
}

// ended says why not to wait any longer: as with the net package's sockets, past a
// deadline nothing is begun either. It is called with the lock.
func (s *socket) ended(w *direction) error {
	switch {
	case s.closed:
		return net.ErrClosed
	case !w.deadline.IsZero() && !time.Now().Before(w.deadline):
		return os.ErrDeadlineExceeded
	default:
		return nil
	}
}

// park waits until there may be something to do.
func (s *socket) park(w *direction) error {
	s.mu.Lock()
	err := s.ended(w)
	if err == nil {
		s.armed |= w.events
		err = s.arm()
	}
	s.mu.Unlock()
	if err == nil {
		<-w.wake
	}
	return err
}

// arm has the epoll tell, once, of what is armed. It is called with the lock.
func (s *socket) arm() error {
	op := unix.EPOLL_CTL_MOD
	if !s.added {
		op = unix.EPOLL_CTL_ADD
	}
	if err := unix.EpollCtl(sockets.fd, op, s.fd, &unix.EpollEvent{Events: s.armed | unix.EPOLLONESHOT, Fd: int32(s.fd)}); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	s.added = true
	return nil
}

// told is what the epoll tells.
func (s *socket) told(events uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for _, w := range []*direction{&s.wait.read, &s.wait.write} {
		if events&(w.events|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			s.armed &^= w.events
			w.signal()
		}
	}
	if s.armed != 0 && s.arm() != nil { // whoever waits finds out why
		s.wait.read.signal()
		s.wait.write.signal()
	}
}

// Close ends calls that wait. The descriptor is closed once none uses it.
func (s *socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	for _, w := range []*direction{&s.wait.read, &s.wait.write} {
		if w.timer != nil {
			w.timer.Stop()
		}
		w.signal()
	}
	sockets.remove(s)
	if s.users == 0 {
		return os.NewSyscallError("close", unix.Close(s.fd))
	}
	return nil
}

// SetReadDeadline is that of net.Conn.
func (s *socket) SetReadDeadline(t time.Time) error { return s.bound(&s.wait.read, t) }

// SetWriteDeadline is that of net.Conn.
func (s *socket) SetWriteDeadline(t time.Time) error { return s.bound(&s.wait.write, t) }

func (s *socket) bound(w *direction, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if t.IsZero() && w.deadline.IsZero() {
		return nil
	}
	w.deadline = t
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if !t.IsZero() {
		w.timer = time.AfterFunc(time.Until(t), w.signal)
	}
	return nil
}

// Read implements io.Reader, as little as a connection needs of it.
func (s *socket) Read(b []byte) (n int, err error) {
	waited := s.until(&s.wait.read, func(fd uintptr) bool {
		n, err = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), b) })
		return !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case waited != nil:
		return 0, waited
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements io.Writer.
func (s *socket) Write(b []byte) (written int, err error) {
	for written < len(b) {
		n := 0
		waited := s.until(&s.wait.write, func(fd uintptr) bool {
			n, err = ignoringEINTR(func() (int, error) { return unix.Write(int(fd), b[written:]) })
			return !errors.Is(err, unix.EAGAIN)
		})
		if err = errors.Join(waited, wrapped("write", err, waited)); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// wrapped is an error of a system call, unless that was not made to its end.
func wrapped(call string, err, waited error) error {
	if waited != nil || err == nil {
		return nil
	}
	return os.NewSyscallError(call, err)
}

// WriteMsgUnix is that of net.UnixConn; addr is not looked at.
func (s *socket) WriteMsgUnix(b, oob []byte, _ *net.UnixAddr) (n, oobn int, err error) {
	waited := s.until(&s.wait.write, func(fd uintptr) bool {
		n, err = ignoringEINTR(func() (int, error) { return unix.SendmsgN(int(fd), b, oob, nil, unix.MSG_NOSIGNAL) })
		return !errors.Is(err, unix.EAGAIN)
	})
	return n, len(oob), errors.Join(waited, wrapped("sendmsg", err, waited))
}

// SyscallConn implements syscall.Conn.
func (s *socket) SyscallConn() (syscall.RawConn, error) { return rawSocket{s}, nil }

// rawSocket is a socket's syscall.RawConn.
type rawSocket struct{ s *socket }

// Control implements syscall.RawConn.
func (r rawSocket) Control(f func(fd uintptr)) error {
	if err := r.s.hold(&direction{}); err != nil {
		return err
	}
	defer r.s.release()
	f(uintptr(r.s.fd))
	return nil
}

// Read implements syscall.RawConn.
func (r rawSocket) Read(f func(fd uintptr) bool) error { return r.s.until(&r.s.wait.read, f) }

// Write implements syscall.RawConn.
func (r rawSocket) Write(f func(fd uintptr) bool) error { return r.s.until(&r.s.wait.write, f) }

// sockets is the epoll of all sockets, and there is one while there are any. It
// is in the runtime's poller itself, which is so woken by what somebody has to be
// told of, and by nothing else.
var sockets epoll

type epoll struct {
	mu  sync.Mutex
	f   *os.File
	fd  int // of f; it stays what it is while a socket is there
	all map[int32]*socket
}

// add makes room for a socket, which waits for nothing yet.
func (p *epoll) add(s *socket) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.all) == 0 {
		if err := p.open(); err != nil {
			return err
		}
	}
	p.all[int32(s.fd)] = s
	return nil
}

// open is called with the lock.
func (p *epoll) open() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true) // or the file would not go into the runtime's poller
	}
	if err != nil {
		return fmt.Errorf("cannot wait for sockets: %w", os.NewSyscallError("epoll_create1", err))
	}
	f := os.NewFile(uintptr(fd), "sockets")
	raw, err := f.SyscallConn()
	if err == nil {
		err = f.SetReadDeadline(time.Time{}) // which one that cannot be polled has not
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot wait for sockets: %w", err), f.Close())
	}
	p.f, p.fd, p.all = f, fd, map[int32]*socket{}
	go p.run(raw)
	return nil
}

// remove takes a socket out, while its descriptor is open.
func (p *epoll) remove(s *socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.added {
		_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, s.fd, nil) // it is there
	}
	if p.all[int32(s.fd)] == s {
		delete(p.all, int32(s.fd))
	}
	if len(p.all) == 0 {
		_ = p.f.Close() // which ends run
	}
}

// run tells sockets what has come, until the epoll is closed.
func (p *epoll) run(raw syscall.RawConn) {
	var events [32]unix.EpollEvent
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = ignoringEINTR(func() (int, error) { return unix.EpollWait(int(fd), events[:], 0) })
			return n > 0
		})
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			if s := p.of(e.Fd); s != nil {
				s.told(e.Events)
			}
		}
	}
}

func (p *epoll) of(fd int32) *socket {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all[fd]
}
