package ingress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/supervisor/egress"
)

// visit is one room's use of a door: from the moment it may listen there until
// its grant goes, the run ends or another room takes the door over.
type visit struct {
	d     *door
	r     *Room
	ctx   context.Context //nolint:containedctx // of the visit's own life
	end   context.CancelFunc
	lease egress.Lease
	// grants are the room's when it began: it may have been retired since.
	grants Grants
	gone   bool          // the grant has; d.mu is held
	over   chan struct{} // closed when no more are to be taken
	once   sync.Once
	mu     sync.Mutex // until done is known
	done   func()     // of the hold
	taken  sync.WaitGroup
	work   sync.WaitGroup
}

// past is a deadline that ends what waits.
var past = time.Unix(1, 0)

// serve has a room's connections come in by the door, unless they do or may not.
func (d *door) serve(r *Room) error {
	d.mu.Lock()
	if d.in != nil && d.in.r == r {
		d.mu.Unlock()
		return nil
	}
	if d.in != nil { // an earlier run's: its connections go on, new ones are ours
		d.in.stop()
		d.in = nil
	}
	d.mu.Unlock()
	lease, err := r.grants.Admit(d.at)
	if err != nil { // who has no grant does not listen
		d.refuse()
		return nil //nolint:nilerr // it was revoked, which is recorded
	}
	v := &visit{d: d, r: r, lease: lease, grants: r.grants, over: make(chan struct{})}
	v.ctx, v.end = context.WithCancel(context.Background())
	v.mu.Lock()
	v.done, err = lease.Hold(v.cut)
	v.mu.Unlock()
	if err != nil {
		v.end()
		lease.End()
		d.refuse()
		return nil //nolint:nilerr // it was revoked meanwhile
	}
	if err := v.begin(); err != nil {
		v.finish()
		return err
	}
	return nil
}

// begin takes the door, unless the grant has gone meanwhile.
func (v *visit) begin() error {
	d := v.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if v.ctx.Err() != nil {
		return nil
	}
	if d.in != nil {
		return errors.New("another run has it")
	}
	if err := errors.Join(d.l.SetDeadline(time.Time{}), d.listen()); err != nil {
		return err
	}
	d.in = v
	v.r.visits = append(v.r.visits, v) // Look holds the room's lock
	v.lease.Note("listening", nil)
	v.taken.Go(v.accept)
	for _, conn := range d.waiting {
		v.work.Go(func() { v.pass(conn) })
	}
	d.waiting = nil
	return nil
}

// keep keeps a connection for which the plugin's socket is gone: it waits for
// the next run, as who comes from now on does, or goes to the one that has taken
// over.
func (d *door) keep(v *visit, conn *net.TCPConn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch next := d.in; {
	case d.closed || v.gone || len(d.waiting) >= backlog:
		return false
	case next != nil && next != v:
		next.work.Go(func() { next.pass(conn) })
	default:
		d.waiting = append(d.waiting, conn)
		v.once.Do(func() { close(v.over) })
		_ = d.l.SetDeadline(past) // fails on a closed one only
	}
	return true
}

// refuse is for a door that nobody may use.
func (d *door) refuse() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut()
}

// listen makes the host's socket take connections; it may do so already.
func (d *door) listen() error {
	return d.control(func(fd int) error { return os.NewSyscallError("listen", unix.Listen(fd, backlog)) })
}

// shut has the host's socket refuse whoever connects, also by what copies of it
// there are. It keeps its address. One that does not listen is left alone: it
// would be shut for good, with everything that it takes later; d.mu is held.
func (d *door) shut() {
	for _, conn := range d.waiting {
		reset(conn)
	}
	d.waiting = nil
	_ = d.control(func(fd int) error { // it can only be closed
		if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
			return err
		}
		return unix.Shutdown(fd, unix.SHUT_RDWR)
	})
}

func (d *door) control(f func(fd int) error) error {
	raw, err := d.l.SyscallConn()
	if err != nil {
		return err
	}
	if bad := raw.Control(func(fd uintptr) { err = f(int(fd)) }); bad != nil { // #nosec G115 -- a descriptor
		return bad
	}
	return err
}

// leave ends a room's use of the door.
func (d *door) leave(r *Room) {
	d.mu.Lock()
	v := d.in
	if v == nil || v.r != r {
		d.mu.Unlock()
		return
	}
	d.in = nil
	v.stop()
	d.mu.Unlock()
	v.finish()
}

// close gives the address up.
func (d *door) close() {
	d.mu.Lock()
	v := d.in
	d.in, d.closed = nil, true
	d.shut()
	_ = d.l.Close()
	d.mu.Unlock()
	if v != nil {
		v.finish()
	}
}

// cut is called when the grant has gone: nothing is served any more when it
// returns.
func (v *visit) cut() {
	v.mu.Lock() // until it is known how to let go
	v.end()
	v.mu.Unlock()
	v.d.mu.Lock()
	v.gone = true
	if v.d.in == v {
		v.d.in = nil
		v.d.shut()
	}
	v.d.mu.Unlock()
	v.finish()
}

// stop ends the taking of connections, and leaves the socket listening; d.mu is
// held.
func (v *visit) stop() {
	v.once.Do(func() { close(v.over) })
	_ = v.d.l.SetDeadline(past) // fails on a closed one only
	v.taken.Wait()
}

// finish cuts what was taken, and waits until that is over.
func (v *visit) finish() {
	v.end()
	v.taken.Wait()
	v.work.Wait()
	v.done()
	v.lease.End()
}

// accept takes connections until the visit ends.
func (v *visit) accept() {
	places := make(chan struct{}, maxOpen)
	for {
		select {
		case places <- struct{}{}:
		case <-v.over:
			return
		case <-v.ctx.Done():
			return
		}
		conn, err := v.d.l.AcceptTCP()
		if err == nil {
			v.work.Go(func() {
				defer func() { <-places }()
				v.pass(conn)
			})
			continue
		}
		<-places
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.EINVAL) {
			return // given up, handed on, or shut
		}
		v.rest() // no descriptors are left
	}
}

// rest keeps a loop whose calls fail from turning as fast as it can.
func (v *visit) rest() {
	select {
	case <-time.After(pause):
	case <-v.ctx.Done():
	}
}

// pass passes one connection on to the plugin's socket.
func (v *visit) pass(conn *net.TCPConn) {
	lease, err := v.grants.Admit(v.d.at)
	if err != nil { // over the budget, or revoked
		reset(conn)
		v.rest()
		return
	}
	defer lease.End()
	inside, err := v.r.connect(v.ctx, conn)
	if (errors.Is(err, unix.ECONNREFUSED) || err != nil && v.ctx.Err() != nil) && v.d.keep(v, conn) { // the run has ended, or is about to
		return
	}
	if err != nil { // nobody takes it
		reset(conn)
		lease.Note("not taken", map[string]any{"from": conn.RemoteAddr().String(), "why": err.Error()})
		return
	}
	egress.Bridge(v.ctx, inside, conn, lease, time.Now)
}

// reset ends a connection so that its peer learns that it was not the end.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // fails on a closed one only
	_ = c.Close()
}

// connect connects to the plugin's socket as whoever has connected to the host's
// did: from the same address to the same address.
func (r *Room) connect(ctx context.Context, conn *net.TCPConn) (*net.TCPConn, error) {
	from, to := addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())
	f, err := r.socket(from, to)
	if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL) {
		f, err = r.socket(netip.AddrPort{}, to) // that address is taken, or is of a link
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(past) })
	err = connected(f, to)
	stop()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	made, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	tcp, ok := made.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(errors.New("it is no TCP socket"), made.Close())
	}
	return tcp, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// socket makes one in the hall, bound to from if that is an address.
func (r *Room) socket(from, to netip.AddrPort) (f *os.File, err error) {
	err = egress.Within(r.hall, func() error {
		family := unix.AF_INET
		if to.Addr().Is6() {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		if from.IsValid() {
			if err := unix.Bind(fd, sockaddr(from)); err != nil {
				return errors.Join(os.NewSyscallError("bind", err), unix.Close(fd))
			}
		}
		f = os.NewFile(uintptr(fd), "listen") // #nosec G115 -- a descriptor
		return nil
	})
	return f, err
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().WithZone("").As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: as4(a.Addr())}
}

// connected connects a socket that does not block, and waits until it is, or its
// deadline is over.
func connected(f *os.File, to netip.AddrPort) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	began := false
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		if !began {
			began = true
			failed = unix.Connect(int(fd), sockaddr(to)) // #nosec G115 -- a descriptor
			if !errors.Is(failed, unix.EINPROGRESS) {
				return true
			}
			failed = nil
			return false
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) // #nosec G115 -- a descriptor
		if err == nil && code != 0 {
			err = syscall.Errno(code)
		}
		if failed = err; failed != nil {
			return true
		}
		_, err = unix.Getpeername(int(fd)) // #nosec G115 -- a descriptor; woken early it is not connected yet
		return err == nil
	})
	if err == nil && failed != nil {
		err = failed
	}
	if err != nil {
		return os.NewSyscallError("connect", err)
	}
	return nil
}
