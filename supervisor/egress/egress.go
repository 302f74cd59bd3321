// Package egress lets a plugin reach the places that its plan grants, and
// nothing else, without a bridge, a veth or a packet filter on the host. In the
// plugin's network namespace, which holds loopback alone, a listener stands for
// each place, under a name of the plugin's hosts file; what connects there is
// relayed to the real place, which is looked up, checked and dialled outside.
//
// What is dialled is the address that was checked. A name never leads to a
// private, loopback, link-local or otherwise special address unless the profile
// says so in network.addresses; an address that is granted by itself is.
package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/egress/layout"
)

// acceptPause is between two calls that fail.
const acceptPause = 50 * time.Millisecond

// Lease is the right to one connection.
type Lease interface {
	Noter
	// Hold has cut called when the right goes.
	Hold(cut func()) (done func(), err error)
	// End gives the place back.
	End()
}

// Grants decides about connections: the broker's session.
type Grants interface {
	Lease(target string) (Lease, error)
	// Denied reports an attempt that nothing grants. Standing is one that is
	// granted and refused for another reason.
	Denied(target, rule string, standing bool)
}

// Options are what a Relay needs. Zero fields have the system's as default.
type Options struct {
	Network plan.Network
	Grants  Grants
	Log     func(text string)
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Dial    func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error)
	Now     func() time.Time
}

// Relay is the network of one run of a plugin.
type Relay struct {
	o      Options
	layout layout.Layout
	dialer *Dialer
	ctx    context.Context //nolint:containedctx // of the relay's own life
	cancel context.CancelFunc

	idle time.Duration // of a flow, until it is ended

	mu     sync.Mutex
	ports  *ports
	closed bool
	work   sync.WaitGroup
	flows  atomic.Int32
}

// New makes a relay. Call Open at the gate, Serve when the plugin's session is
// open, and Close.
func New(o Options) *Relay {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	r := &Relay{o: o, layout: layout.Of(o.Network.Egress), idle: flowIdle, dialer: NewDialer(o.Network.Addresses)}
	if o.Resolve != nil {
		r.dialer.resolve = o.Resolve
	}
	if o.Dial != nil {
		r.dialer.dial = o.Dial
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Open opens the listeners inside the network namespace of a process that
// waits at the gate.
func (r *Relay) Open(pid int) error {
	p, err := openPorts(pid, r.layout)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		p.close(false)
		return net.ErrClosed
	}
	r.ports = p
	for _, d := range p.doors {
		r.stand(d)
	}
	names := r.newAnswerer(p.six)
	r.work.Go(func() { names.serve(p.ask, r.pause) })
	r.work.Go(func() {
		watch(p.watch, r, r.o.Now, func(target string) {
			r.o.Grants.Denied(target, "nothing in network.egress leads there", false)
		})
	})
	return nil
}

// stand serves one door; r.mu is held.
func (r *Relay) stand(d door) {
	if d.udp != nil {
		r.work.Go(func() { r.datagrams(d.udp, d.To) })
		return
	}
	r.work.Go(func() { r.accept(d.tcp, d.To) })
}

// openLater opens listeners while the plugin runs, and serves them.
func (r *Relay) openLater(wanted []layout.Listener) ([]door, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, net.ErrClosed
	}
	doors, err := openDoors(r.ports.ns, wanted)
	if err != nil {
		return nil, err
	}
	r.ports.doors = append(r.ports.doors, doors...)
	for _, d := range doors {
		r.stand(d)
	}
	return doors, nil
}

// shut takes listeners away.
func (r *Relay) shut(doors []door) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range doors {
		d.close()
	}
	if r.ports != nil {
		r.ports.doors = slices.DeleteFunc(r.ports.doors, func(d door) bool { return slices.Contains(doors, d) })
	}
}

// Stands says whether a listener of the relay stands at an address of the
// plugin's namespace.
func (r *Relay) Stands(udp bool, at netip.AddrPort) bool {
	if udp && at == layout.Answerer() {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ports != nil && slices.ContainsFunc(r.ports.doors, func(d door) bool { return d.To.UDP == udp && d.At == at })
}

// Host gives the name that an address of the plugin's namespace stands for.
func (r *Relay) Host(a netip.Addr) (string, bool) {
	if host, ok := r.layout.Host(a); ok {
		return host, true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ports != nil {
		for _, d := range r.ports.doors {
			if d.At.Addr() == a && d.To.Host != "" {
				return d.To.Host, true
			}
		}
	}
	return "", false
}

// Close ends every connection and listener, and returns when all have.
func (r *Relay) Close() {
	r.mu.Lock()
	if !r.closed && r.ports != nil {
		r.ports.close(true) // what stood there is still known, to tell attempts from the rest
	}
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.work.Wait()
}

// accept takes connections until the listener is closed.
func (r *Relay) accept(l *net.TCPListener, to grant.Target) {
	for {
		c, err := l.AcceptTCP()
		switch {
		case err == nil:
			r.work.Go(func() { r.relay(c, to) })
		case errors.Is(err, net.ErrClosed):
			return
		default: // no descriptors are left
			r.o.Log("cannot accept a connection to " + to.String() + ": " + err.Error())
			r.pause()
		}
	}
}

// pause keeps a loop whose calls fail from turning as fast as it can.
func (r *Relay) pause() {
	select {
	case <-time.After(acceptPause):
	case <-r.ctx.Done():
	}
}

// relay serves one connection of the plugin.
func (r *Relay) relay(plugin *net.TCPConn, to grant.Target) {
	p := &pair{}
	p.add(plugin)
	defer p.sever() // nothing is left of what has ended in order
	lease, err := r.o.Grants.Lease(to.String())
	if err != nil {
		return
	}
	defer lease.End()
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, p.sever)
	defer stop()
	done, err := lease.Hold(func() {
		cancel()
		p.sever()
	})
	if err != nil {
		return
	}
	defer done()
	real, err := r.dialer.TCP(ctx, to)
	if err != nil {
		r.failed(lease, to, err)
		return
	}
	if !p.add(real) {
		lease.Note("cut", nil)
		return
	}
	p.carry(ctx, plugin, real, lease, r.o.Now)
}

// failed records a connection that did not come about.
func (r *Relay) failed(lease Lease, to grant.Target, err error) {
	var refused *RefusedError
	if errors.As(err, &refused) {
		r.o.Grants.Denied(to.String(), refused.Error(), true)
	}
	lease.Note("failed", map[string]any{"why": err.Error()})
}
