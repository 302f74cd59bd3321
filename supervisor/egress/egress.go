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
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/egress/layout"
)

// The times of one connection.
const (
	resolveTime = 5 * time.Second
	dialTime    = 10 * time.Second
	eyeballs    = 250 * time.Millisecond // before the next address is tried beside the first; RFC 8305
	acceptPause = 50 * time.Millisecond
	maxTries    = 8 // addresses of one name
)

// chunk is how much passes between two looks at the budget of bytes; a
// connection may go so much over it.
const chunk = 1 << 20

// Lease is the right to one connection.
type Lease interface {
	// Spend takes bytes of the budget.
	Spend(n int64) error
	// Hold has cut called when the right goes.
	Hold(cut func()) (done func(), err error)
	// End gives the place back.
	End()
	// Note records what became of it.
	Note(outcome string, data map[string]any)
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
	o         Options
	layout    layout.Layout
	addresses []netip.Prefix
	ctx       context.Context //nolint:containedctx // of the relay's own life
	cancel    context.CancelFunc

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
	if o.Resolve == nil {
		o.Resolve = resolve
	}
	if o.Dial == nil {
		o.Dial = dial
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	r := &Relay{o: o, layout: layout.Of(o.Network.Egress), idle: flowIdle}
	for _, text := range o.Network.Addresses {
		if p, err := netip.ParsePrefix(text); err == nil { // checked when the profile was read
			r.addresses = append(r.addresses, p)
		}
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host+".") // rooted: no search domain is tried
}

func dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	c, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(errors.New("not a TCP connection"), c.Close())
	}
	return tcp, nil
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

// pair is one connection: the plugin's side and the real one.
type pair struct {
	mu   sync.Mutex
	cut  bool
	ends []*net.TCPConn
}

// add takes an end over, or closes it at once if the pair was cut.
func (p *pair) add(c *net.TCPConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		reset(c)
		return false
	}
	p.ends = append(p.ends, c)
	return true
}

// sever resets both ends.
func (p *pair) sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for _, c := range p.ends {
		reset(c)
	}
}

// close ends both sides in order: what was sent still arrives.
func (p *pair) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for _, c := range p.ends {
		_ = c.Close()
	}
}

// reset closes so that the other side learns that it was not the end.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // fails on a closed one only
	_ = c.Close()
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
	began := r.o.Now()
	real, err := r.connect(ctx, to)
	if err != nil {
		lease.Note("failed", map[string]any{"why": err.Error()})
		return
	}
	if !p.add(real) {
		lease.Note("cut", nil)
		return
	}
	lease.Note("connected", map[string]any{"address": real.RemoteAddr().String()})
	sent, received, err := p.splice(plugin, real, lease)
	outcome := "ended"
	switch {
	case ctx.Err() != nil:
		outcome = "cut"
	case err != nil:
		outcome = "over its budget"
	default:
		p.close()
	}
	lease.Note(outcome, map[string]any{
		"address": real.RemoteAddr().String(), "sent": sent, "received": received, "took_us": r.o.Now().Sub(began).Microseconds(),
	})
}

// splice copies both ways until both sides have ended, or one breaks. The
// kernel moves the bytes from socket to socket.
func (p *pair) splice(plugin, real *net.TCPConn, lease Lease) (sent, received int64, err error) {
	out := make(chan error, 1)
	go func() {
		var err error
		sent, err = p.pump(real, plugin, lease)
		out <- err
	}()
	received, err = p.pump(plugin, real, lease)
	return sent, received, errors.Join(err, <-out)
}

// pump copies one way. Its error is that of the budget; what breaks the
// connection ends both ways.
func (p *pair) pump(to, from *net.TCPConn, lease Lease) (total int64, err error) {
	for {
		n, failed := io.CopyN(to, from, chunk)
		total += n
		if err := lease.Spend(n); err != nil {
			p.sever()
			return total, err
		}
		if errors.Is(failed, io.EOF) {
			p.halfClose(to)
			return total, nil
		}
		if failed != nil {
			p.sever()
			return total, nil
		}
	}
}

// halfClose passes on that one side has ended, unless it was cut.
func (p *pair) halfClose(to *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.cut {
		_ = to.CloseWrite() // the other side may have gone
	}
}

// RefusedError says that a name leads where it must not.
type RefusedError struct {
	Host string
	Addr netip.Addr
}

// Error implements error.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s leads to %s, which is no public address, and network.addresses does not have it", e.Host, e.Addr)
}

// connect looks a place up, checks where it leads and dials just that.
func (r *Relay) connect(ctx context.Context, to grant.Target) (*net.TCPConn, error) {
	addrs, err := r.addressesOf(ctx, to)
	if err != nil {
		return nil, err
	}
	return r.race(ctx, addrs, to.Port)
}

// addressesOf gives the addresses of a place that may be dialled: one that is
// granted as an address, or those that its name now has, as far as they pass.
func (r *Relay) addressesOf(ctx context.Context, to grant.Target) ([]netip.Addr, error) {
	if to.Addr.IsValid() {
		return []netip.Addr{to.Addr}, nil
	}
	look, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	found, err := r.o.Resolve(look, to.Host)
	if err != nil {
		return nil, fmt.Errorf("cannot look up %s: %w", to.Host, err)
	}
	allowed, refused := r.check(to.Host, found)
	if len(allowed) == 0 {
		if refused == nil {
			return nil, fmt.Errorf("cannot look up %s: it has no address", to.Host)
		}
		r.o.Grants.Denied(to.String(), refused.Error(), true)
		return nil, refused
	}
	return allowed, nil
}

// check keeps the addresses that may be dialled, IPv6 and IPv4 in turn.
func (r *Relay) check(host string, found []netip.Addr) (allowed []netip.Addr, refused error) {
	var six, four []netip.Addr
	for _, a := range found {
		a = a.Unmap()
		switch {
		case !r.may(a):
			refused = &RefusedError{host, a}
		case a.Is4():
			four = append(four, a)
		default:
			six = append(six, a)
		}
	}
	for i := range max(len(six), len(four)) {
		allowed = append(append(allowed, six[min(i, len(six)):min(i+1, len(six))]...), four[min(i, len(four)):min(i+1, len(four))]...)
	}
	return allowed[:min(len(allowed), maxTries)], refused
}

// may says whether a name may lead to an address.
func (r *Relay) may(a netip.Addr) bool {
	return grant.Public(a) || a.Zone() == "" && slices.ContainsFunc(r.addresses, func(p netip.Prefix) bool { return p.Contains(a) })
}

// race dials addresses, each a little after the one before or as soon as that
// has failed, and takes the first that answers.
func (r *Relay) race(ctx context.Context, addrs []netip.Addr, port uint16) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	type result struct {
		c   *net.TCPConn
		err error
	}
	results := make(chan result, len(addrs))
	var errs []string
	begun, ended := 0, 0
	for {
		if begun < len(addrs) {
			to := netip.AddrPortFrom(addrs[begun], port)
			go func() {
				c, err := r.o.Dial(ctx, to)
				results <- result{c, err}
			}()
			begun++
		}
		var next <-chan time.Time
		if begun < len(addrs) {
			next = time.After(eyeballs)
		}
		select {
		case got := <-results:
			ended++
			if got.err == nil {
				go func(rest int) { // the slower ones are not wanted
					for range rest {
						if late := <-results; late.c != nil {
							_ = late.c.Close()
						}
					}
				}(begun - ended)
				return got.c, nil
			}
			errs = append(errs, got.err.Error())
			if ended == len(addrs) {
				return nil, errors.New(strings.Join(errs, "; "))
			}
		case <-next:
		}
	}
}
