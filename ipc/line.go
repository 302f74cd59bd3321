package ipc

import (
	"context"
	"encoding/json"
	"strconv"
)

// waitingCost is what a message that waits counts beyond its bytes.
const waitingCost = 256

// line holds a client's requests and notifications, in their order, while a
// request at its head waits for a place. Replies and cancellations pass it by:
// the plugin may need them to answer what holds the places. Client.mu guards
// it.
type line struct {
	waiting []waiter
	bytes   int
	moving  bool          // a goroutine works it off
	space   chan struct{} // has a token after a message left
}

// waiter is one message in the line; f is nil for a notification.
type waiter struct {
	f   *forwarded
	msg []byte
	id  span
}

// ask passes a request on: now if nothing is before it and a place is free,
// otherwise in its turn. Where too much waits already it is refused. screened, if
// not nil, looks at its result.
func (cl *Client) ask(ctx context.Context, m *incoming, screened func(json.RawMessage) error) error {
	f := &forwarded{cl: cl, id: string(m.idBytes()), screened: screened}
	cl.mu.Lock()
	if cl.gone {
		cl.mu.Unlock()
		return ErrClosed
	}
	if _, ok := cl.open[f.id]; ok {
		cl.mu.Unlock()
		return breach(BreachID, "an id that is in use by another request")
	}
	if cl.line.bytes > cl.b.c.o.Limits.MaxQueue {
		cl.mu.Unlock()
		cl.b.c.st.overloaded.Add(1)
		return cl.answer(errorReply(m.idBytes(), &RPCError{Code: CodeOverloaded, Message: "too many requests at once"}))
	}
	cl.open[f.id] = f
	if cl.line.moving || !cl.tryAcquire() {
		cl.queue(waiter{f: f, msg: m.msg, id: m.id})
		cl.mu.Unlock()
		return nil
	}
	cl.mu.Unlock()
	return cl.forward(ctx, waiter{f: f, msg: m.msg, id: m.id})
}

// tell passes a notification on, behind what waits.
func (cl *Client) tell(ctx context.Context, m *incoming) error {
	for {
		cl.mu.Lock()
		if !cl.line.moving {
			cl.mu.Unlock()
			return cl.b.c.out.put(&patience{ctx: ctx}, m.msg)
		}
		if cl.line.bytes <= cl.b.c.o.Limits.MaxQueue {
			cl.queue(waiter{msg: m.msg})
			cl.mu.Unlock()
			return nil
		}
		cl.mu.Unlock()
		select {
		case <-cl.line.space:
		case <-ctx.Done():
			return ctx.Err()
		case <-cl.ctx.Done():
			return ErrClosed
		}
	}
}

// queue appends a copy. Called with the lock.
func (cl *Client) queue(w waiter) {
	w.msg = append([]byte(nil), w.msg...)
	cl.line.waiting = append(cl.line.waiting, w)
	cl.line.bytes += len(w.msg) + waitingCost
	if !cl.line.moving {
		cl.line.moving = true
		go cl.move()
	}
}

// move works the line off. Every wait in it ends with the client.
func (cl *Client) move() {
	for {
		w, ok := cl.first()
		if !ok {
			return
		}
		err := cl.moveOne(w)
		select {
		case cl.line.space <- struct{}{}:
		default:
		}
		if err != nil {
			cl.detach(err)
			return
		}
	}
}

func (cl *Client) moveOne(w waiter) error {
	if w.f == nil {
		return cl.b.c.out.put(&patience{ctx: cl.ctx}, w.msg)
	}
	if err := cl.acquire(); err != nil {
		return err
	}
	return cl.forward(cl.ctx, w)
}

// first takes the head of the line, or ends its moving.
func (cl *Client) first() (waiter, bool) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if len(cl.line.waiting) == 0 {
		cl.line = line{space: cl.line.space}
		return waiter{}, false
	}
	w := cl.line.waiting[0]
	cl.line.waiting[0] = waiter{}
	cl.line.waiting = cl.line.waiting[1:]
	cl.line.bytes -= len(w.msg) + waitingCost
	return w, true
}

// forward sends a request that has its place under an id of the connection's.
// One that was cancelled meanwhile gives the place back.
func (cl *Client) forward(ctx context.Context, w waiter) error {
	cl.mu.Lock()
	if cl.open[w.f.id] != w.f {
		cl.mu.Unlock()
		cl.b.release(cl)
		return nil
	}
	pc, err := cl.b.c.calls.begin(w.f, expected{})
	if err != nil {
		delete(cl.open, w.f.id)
		cl.mu.Unlock()
		cl.b.release(cl)
		return err
	}
	w.f.pc = pc
	cl.mu.Unlock()
	id := strconv.AppendUint(nil, pc.id, 10)
	return cl.b.c.out.put(&patience{ctx: ctx}, w.msg[:w.id.start], id, w.msg[w.id.end:])
}

// tryAcquire takes a place of the client's, of the bridge's and of the
// connection's if all are free.
func (cl *Client) tryAcquire() bool {
	taken := 0
	all := [...]chan struct{}{cl.places, cl.b.places, cl.b.c.calls.places}
	for _, places := range all {
		select {
		case places <- struct{}{}:
			taken++
			continue
		default:
		}
		break
	}
	if taken == len(all) {
		return true
	}
	for _, places := range all[:taken] {
		<-places
	}
	return false
}

// acquire is tryAcquire that waits, always in the same order.
func (cl *Client) acquire() error {
	p := &patience{ctx: cl.ctx}
	c := cl.b.c
	if err := c.acquire(p, cl.places); err != nil {
		return err
	}
	if err := c.acquire(p, cl.b.places); err != nil {
		<-cl.places
		return err
	}
	if err := c.acquire(p, c.calls.places); err != nil {
		<-cl.b.places
		<-cl.places
		return err
	}
	return nil
}
