package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// chunk is how much passes between two looks at the budget of bytes; a
// connection may go so much over it.
const chunk = 1 << 20

// End is one end of what is relayed: a TCP or a unix stream socket.
type End interface {
	net.Conn
	CloseWrite() error
}

// pair is one connection: the plugin's side and the real one.
type pair struct {
	mu   sync.Mutex
	cut  bool
	ends []End
}

// add takes an end over, or closes it at once if the pair was cut.
func (p *pair) add(c End) bool {
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
func reset(c End) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails on a closed one only
	}
	_ = c.Close()
}

// splice copies both ways until both sides have ended, or one breaks. The
// kernel moves the bytes from socket to socket.
func (p *pair) splice(plugin, real End, lease Noter) (sent, received int64, err error) {
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
func (p *pair) pump(to, from End, lease Noter) (total int64, err error) {
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
func (p *pair) halfClose(to End) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.cut {
		_ = to.CloseWrite() // the other side may have gone
	}
}

// carry passes bytes between two ends of the pair until both have ended, one
// breaks, the budget is used up, or ctx ends, and records it.
func (p *pair) carry(ctx context.Context, plugin, real End, lease Noter, now func() time.Time) {
	began, address := now(), real.RemoteAddr().String()
	lease.Note("connected", map[string]any{"address": address})
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
		"address": address, "sent": sent, "received": received, "took_us": now().Sub(began).Microseconds(),
	})
}

// Noter counts what passes, and records what becomes of it.
type Noter interface {
	// Spend takes bytes of the budget.
	Spend(n int64) error
	// Note records what became of it.
	Note(outcome string, data map[string]any)
}

// Bridge relays between a plugin's end and the real one until both have ended,
// or ctx does, and closes both.
func Bridge(ctx context.Context, plugin, real End, lease Noter, now func() time.Time) {
	p := &pair{ends: []End{plugin, real}}
	defer p.sever() // nothing is left of what has ended in order
	defer context.AfterFunc(ctx, p.sever)()
	p.carry(ctx, plugin, real, lease, now)
}
