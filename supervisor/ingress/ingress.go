// Package ingress hands a plugin listening sockets at its start, as systemd
// does, and passes on what connects to the host.
//
// The plugin's sockets are never the host's: who holds a socket that listens can
// disconnect it, connect(2) with AF_UNSPEC, and connect it to anywhere. They lie
// in a network namespace of their own, a hall, in which every address is its own
// and nobody else is. There each has the address that it stands for, and what
// connects to the host's is connected to it with the client's own address: to a
// server it looks as if it listened on the host.
//
// The host's sockets stay from one run of a plugin to the next, and go to another
// daemon with it: who connects meanwhile waits.
package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/egress"
)

// The bounds of one address.
const (
	backlog  = 128 // connections that wait; of the host's socket, and of the plugin's
	maxOpen  = 512 // connections that are passed on at once; more wait
	pause    = 50 * time.Millisecond
	handTime = 10 * time.Second // for the plugin's socket to take a connection
)

// Grants decides about listening, and about each connection: the broker's session.
type Grants interface {
	// Admit gives the right to one use of the grant for an address. A refusal is
	// no violation: whoever connects is not the plugin.
	Admit(at string) (egress.Lease, error)
}

// House holds the host's sockets of one plugin, over its runs. The zero House
// has none.
type House struct {
	mu    sync.Mutex
	doors []*door
}

// door is one socket of the host. It keeps its address while it does not listen.
type door struct {
	at string
	l  *net.TCPListener

	mu sync.Mutex // one room serves it at a time
	in *visit
	// waiting were taken for a plugin that had just ended.
	waiting []*net.TCPConn
	closed  bool
}

// Room is what one run of a plugin has.
type Room struct {
	doors  []*door
	inner  []*os.File // the plugin's sockets, until Handed
	hall   *os.File
	log    func(string)
	grants Grants

	mu     sync.Mutex
	closed bool
	visits []*visit // all of the run
}

// Enter makes the sockets of a run; those of the host that are there already are
// kept, and those that the plan has no more are given up. Nobody is served before
// Serve. Close the Room.
func (h *House) Enter(ctx context.Context, sockets []plan.Socket, log func(string)) (*Room, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.furnish(ctx, sockets); err != nil {
		return nil, err
	}
	hall, err := egress.Hall()
	if err != nil {
		return nil, err
	}
	r := &Room{doors: slices.Clone(h.doors), hall: hall, log: log}
	for _, d := range r.doors {
		at, err := netip.ParseAddrPort(d.at)
		var f *os.File
		if err == nil {
			err = egress.Within(hall, func() error {
				f, err = socket(at, true)
				return err
			})
		}
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("cannot make the plugin's socket for %s: %w", d.at, err)
		}
		r.inner = append(r.inner, f)
	}
	return r, nil
}

// furnish brings the doors to what a plan has, in its order.
func (h *House) furnish(ctx context.Context, sockets []plan.Socket) error {
	var doors []*door
	for _, d := range h.doors {
		if !slices.ContainsFunc(sockets, func(s plan.Socket) bool { return s.At == d.at }) {
			d.close()
			continue
		}
		doors = append(doors, d)
	}
	h.doors = doors
	for _, s := range sockets {
		if slices.ContainsFunc(h.doors, func(d *door) bool { return d.at == s.At }) {
			continue
		}
		d, err := open(ctx, s.At)
		if err != nil {
			return fmt.Errorf("cannot listen at %s (network.listen): %w", s.At, err)
		}
		h.doors = append(h.doors, d)
	}
	order := func(d *door) int { return slices.IndexFunc(sockets, func(s plan.Socket) bool { return s.At == d.at }) }
	slices.SortFunc(h.doors, func(a, b *door) int { return order(a) - order(b) })
	return nil
}

// Close gives every address up.
func (h *House) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.doors {
		d.close()
	}
	h.doors = nil
}

// The tries for an address that somebody has: what held it for a plugin that has
// just ended lets go of it in a moment.
const (
	bindTries = 20
	bindPause = 25 * time.Millisecond
)

// open binds an address of the host; nothing listens yet.
func open(ctx context.Context, text string) (*door, error) {
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, err
	}
	f, err := socket(at, false)
	for try := 0; errors.Is(err, unix.EADDRINUSE) && try < bindTries && ctx.Err() == nil; try++ {
		select {
		case <-time.After(bindPause):
		case <-ctx.Done():
		}
		f, err = socket(at, false)
	}
	if err != nil {
		return nil, err
	}
	return doorOf(text, f)
}

// doorOf takes a bound socket over, also when it fails.
func doorOf(at string, f *os.File) (*door, error) {
	made, err := net.FileListener(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	l, ok := made.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(errors.New("it is no TCP socket"), made.Close())
	}
	return &door{at: at, l: l}, nil
}

// socket is a bound TCP socket, of its own family alone; ipv6(7), IPV6_V6ONLY.
func socket(at netip.AddrPort, listening bool) (*os.File, error) {
	family, where := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port()), Addr: as4(at.Addr())})
	if at.Addr().Is6() {
		family, where = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), at.String()) // #nosec G115 -- a descriptor
	err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	if err == nil && family == unix.AF_INET6 {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, where))
	}
	if err == nil && listening {
		err = os.NewSyscallError("listen", unix.Listen(fd, backlog))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func as4(a netip.Addr) (out [4]byte) {
	if a.Is4() {
		out = a.As4()
	}
	return out
}

// Files are the plugin's ends, in the order of the plan's sockets. They are the
// room's: call Handed when the plugin has them.
func (r *Room) Files() []*os.File {
	if r == nil {
		return nil
	}
	return r.inner
}

// Handed closes our copies of the plugin's ends.
func (r *Room) Handed() {
	if r == nil {
		return
	}
	for _, f := range r.inner {
		_ = f.Close() // nothing was done with it
	}
	r.inner = nil
}

// Kept are what another daemon needs to go on: copies, which the caller closes.
func (r *Room) Kept() (files []*os.File, err error) {
	if r == nil {
		return nil, nil
	}
	add := func(fd uintptr) {
		var own int
		if own, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3); err == nil {
			files = append(files, os.NewFile(uintptr(own), "kept")) // #nosec G115 -- a descriptor
		}
	}
	add(r.hall.Fd())
	for _, d := range r.doors {
		if err != nil {
			break
		}
		raw, bad := d.l.SyscallConn()
		if bad == nil {
			bad = raw.Control(add)
		}
		err = errors.Join(err, bad)
	}
	if err != nil {
		for _, f := range files {
			_ = f.Close()
		}
		return nil, fmt.Errorf("cannot keep the listening sockets: %w", err)
	}
	return files, nil
}

// KeptFiles is how many files Kept gives.
func KeptFiles(sockets []plan.Socket) int {
	if len(sockets) == 0 {
		return 0
	}
	return 1 + len(sockets)
}

// Adopt goes on with what another daemon's Kept gave. It takes the files over,
// also when it fails.
func (h *House) Adopt(sockets []plan.Socket, files []*os.File, log func(string)) (_ *Room, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer func() {
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			err = fmt.Errorf("cannot go on with the listening sockets: %w", err)
		}
	}()
	if len(files) != KeptFiles(sockets) || len(files) == 0 {
		return nil, fmt.Errorf("%d files were kept for %d sockets", len(files), len(sockets))
	}
	r := &Room{hall: files[0], log: log}
	files = files[1:]
	for i, s := range sockets {
		d, err := doorOf(s.At, files[i])
		if err == nil && d.l.Addr().String() != s.At {
			d.close()
			err = fmt.Errorf("what was kept for %s is bound to %s", s.At, d.l.Addr())
		}
		if err != nil {
			files = append(files[i+1:], r.hall)
			for _, d := range r.doors {
				d.close()
			}
			return nil, err
		}
		r.doors = append(r.doors, d)
	}
	h.doors = slices.Clone(r.doors)
	return r, nil
}

// Serve begins to pass on what connects, as far as the grants let it.
func (r *Room) Serve(g Grants) {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.grants = g
	r.mu.Unlock()
	r.Look()
}

// Retire leaves the doors to the room that serves them next, which takes whoever
// connects from then on; what is connected goes on until Close.
func (r *Room) Retire() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.grants = nil
}

// Idle has f called when every connection that the room had taken has ended: at
// once where it had none. Call it when another room serves the doors: this one
// takes none any more.
func (r *Room) Idle(f func()) {
	if r == nil {
		f()
		return
	}
	r.mu.Lock()
	visits := slices.Clone(r.visits)
	r.mu.Unlock()
	if len(visits) == 0 {
		f()
		return
	}
	go func() {
		for _, v := range visits {
			v.work.Wait()
		}
		f()
	}()
}

// Look listens again where that was not allowed before and is now.
func (r *Room) Look() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.grants == nil {
		return
	}
	for _, d := range r.doors {
		if err := d.serve(r); err != nil {
			r.log(fmt.Sprintf("cannot listen at %s: %v", d.at, err))
		}
	}
}

// Close cuts the connections of the run. The host's sockets stay.
func (r *Room) Close() {
	if r == nil {
		return
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	r.mu.Unlock()
	for _, d := range r.doors {
		d.leave(r)
	}
	r.Handed()
	_ = r.hall.Close() // only entered
}
