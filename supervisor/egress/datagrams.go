package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cordonhq/cordon/profiles/grant"
)

// The bounds of UDP. What is over them is dropped, as a network does.
const (
	maxDatagram = 9216            // bytes: the largest that an Ethernet carries
	maxFlows    = 64              // of one plugin
	maxFailures = 16              // reads in a row: "connection refused" comes this way, too
	flowQueue   = 8               // datagrams that wait for a flow to be connected
	flowIdle    = 2 * time.Minute // RFC 4787, 4.3
)

// flow is what one socket of the plugin exchanges with one place.
type flow struct {
	queue chan []byte
	used  atomic.Bool // since it was last looked at
}

// flows are those of one door.
type flows struct {
	mu sync.Mutex
	of map[netip.AddrPort]*flow
}

// datagrams relays what arrives at a door until it is closed.
func (r *Relay) datagrams(c *net.UDPConn, to grant.Target) {
	fs := &flows{of: map[netip.AddrPort]*flow{}}
	few := newBucket(r.o.Now, attemptRate) // each new flow asks for a lease, and may be a violation
	buf := make([]byte, maxDatagram+1)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			r.pause()
			continue
		}
		f := fs.get(from)
		if n <= maxDatagram && f == nil && few.take() {
			f = r.begin(fs, c, from, to)
		}
		if n > maxDatagram || f == nil {
			continue
		}
		select {
		case f.queue <- append([]byte(nil), buf[:n]...):
			f.used.Store(true)
		default:
		}
	}
}

// begin begins a flow, unless there are too many.
func (r *Relay) begin(fs *flows, c *net.UDPConn, from netip.AddrPort, to grant.Target) *flow {
	if r.flows.Add(1) > maxFlows {
		r.flows.Add(-1)
		return nil
	}
	f := fs.add(from)
	r.work.Go(func() {
		defer r.flows.Add(-1)
		defer fs.drop(from)
		r.flow(c, from, to, f)
	})
	return f
}

func (fs *flows) get(from netip.AddrPort) *flow {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.of[from]
}

func (fs *flows) add(from netip.AddrPort) *flow {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := &flow{queue: make(chan []byte, flowQueue)}
	fs.of[from] = f
	return f
}

func (fs *flows) drop(from netip.AddrPort) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.of, from)
}

// flow serves one flow until nothing passes any more, or its grant goes.
func (r *Relay) flow(door *net.UDPConn, plugin netip.AddrPort, to grant.Target, f *flow) {
	lease, err := r.o.Grants.Lease(to.String())
	if err != nil {
		return
	}
	defer lease.End()
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	var revoked atomic.Bool
	real, err := r.dialer.UDP(ctx, to)
	if err != nil {
		r.failed(lease, to, err)
		return
	}
	defer func() { _ = real.Close() }()
	done, err := lease.Hold(func() { // when it returns nothing passes any more
		revoked.Store(true)
		cancel()
		_ = real.Close()
	})
	if err != nil {
		return
	}
	defer done()
	stop := context.AfterFunc(ctx, func() { _ = real.Close() })
	defer stop()
	began := r.o.Now()
	lease.Note("connected", map[string]any{"address": real.RemoteAddr().String()})
	sent, received, err := r.exchange(ctx, cancel, &exchange{door, real, plugin, lease, f, &revoked})
	outcome := "ended"
	switch {
	case err != nil:
		outcome = "over its budget"
	case revoked.Load() || r.ctx.Err() != nil:
		outcome = "cut"
	}
	lease.Note(outcome, map[string]any{
		"address": real.RemoteAddr().String(), "sent": sent, "received": received, "took_us": r.o.Now().Sub(began).Microseconds(),
	})
}

// exchange is one flow that is connected.
type exchange struct {
	door    *net.UDPConn
	real    *net.UDPConn
	plugin  netip.AddrPort
	lease   Lease
	f       *flow
	revoked *atomic.Bool
}

// exchange passes datagrams both ways until the flow is idle, or ctx ends.
func (r *Relay) exchange(ctx context.Context, cancel func(), x *exchange) (sent, received int64, err error) {
	back := make(chan error, 1)
	go func() {
		var err error
		received, err = x.answers()
		cancel()
		back <- err
	}()
	sent, err = x.asks(ctx, r.idle)
	cancel()
	_ = x.real.Close() // which ends the other way
	return sent, received, errors.Join(err, <-back)
}

// asks passes on what the plugin sends. Its error is the budget's.
func (x *exchange) asks(ctx context.Context, idle time.Duration) (total int64, err error) {
	look := time.NewTicker(idle)
	defer look.Stop()
	for {
		select {
		case p := <-x.f.queue:
			if err := x.lease.Spend(int64(len(p))); err != nil {
				return total, err
			}
			n, err := x.real.Write(p)
			if total += int64(n); errors.Is(err, net.ErrClosed) {
				return total, nil
			} // any other is the network's word on an earlier one
		case <-look.C:
			if !x.f.used.Swap(false) {
				return total, nil
			}
		case <-ctx.Done():
			return total, nil
		}
	}
}

// answers passes on what comes back. Its error is the budget's.
func (x *exchange) answers() (total int64, err error) {
	buf := make([]byte, maxDatagram+1)
	failures := 0
	for {
		n, err := x.real.Read(buf)
		if failures++; err != nil && (errors.Is(err, net.ErrClosed) || failures > maxFailures) {
			return total, nil
		}
		if err != nil || n > maxDatagram {
			continue
		}
		failures = 0
		if err := x.lease.Spend(int64(n)); err != nil {
			return total, err
		}
		if x.revoked.Load() {
			return total, nil
		}
		x.f.used.Store(true)
		total += int64(n)
		_, _ = x.door.WriteToUDPAddrPort(buf[:n], x.plugin) // who does not listen does not get it
	}
}
