package ipc

import (
	"errors"
	"time"
)

// workerRest is how long a worker waits for its next request.
const workerRest = 10 * time.Second

// promptTime is how long a request may take so that nobody need read meanwhile
// what its sender says next.
const promptTime = lingerTime / 4

// job is one request of the peer that a handler is to see.
type job struct {
	s *served
	r *Request
	// behind says that it came at once behind an answer that went at once.
	behind bool
}

// workers are goroutines that handle requests, and stay for a while when they
// have done one: handlers need deep stacks, and growing one anew for each
// request costs as much as the request. There are as many as requests at once; a
// request waits for none of them.
type workers struct{ jobs chan job }

// do has a request handled, by a worker that waits or by a new one.
func (w workers) do(c *Conn, j job) {
	select {
	case w.jobs <- j:
	default:
		go w.run(c, j)
	}
}

func (w workers) run(c *Conn, j job) {
	rest := time.NewTimer(workerRest) // decides nothing that is seen
	defer rest.Stop()
	for {
		for began, more := c.o.Clock.Now(), true; more; {
			c.answer(j.s, j.r)
			now := c.o.Clock.Now()
			went := c.went(now, now.Sub(began))
			j, more = c.readOn(now, went && j.behind)
			began = c.o.Clock.Now()
		}
		rest.Reset(workerRest)
		select {
		case j = <-w.jobs:
		case <-rest.C:
			return
		case <-c.done:
			return
		}
	}
}

// went notes an answer, and says whether it went at once.
func (c *Conn) went(now time.Time, took time.Duration) (prompt bool) {
	if took > promptTime {
		c.prompt.Store(0)
		return false
	}
	c.prompt.Store(now.UnixNano())
	return true
}

// comesBehind says whether a request that comes now comes at once behind an answer
// that went at once.
func (c *Conn) comesBehind(now time.Time) bool {
	return now.UnixNano()-c.prompt.Load() <= int64(lingerTime)
}

// readOn has a worker that has answered read the next request itself, in its turn,
// where they come one behind the other: nothing need be read before the answer
// went, and to hand a request to another goroutine costs about as much as the
// socket.
func (c *Conn) readOn(now time.Time, behind bool) (next job, ok bool) {
	if !behind {
		return job{}, false
	}
	if _, ok := c.turn.take(now.Add(workerRest)); !ok {
		return job{}, false
	}
	if c.sock != nil {
		c.sock.patient = true
	}
	c.keeps = true
	h := c.readOne()
	c.keeps = false
	next, c.kept = c.kept, job{}
	if h != nil && errors.Is(h.err, errInterrupted) {
		h = nil
	}
	_ = c.give(h) // why it was told to stop is nothing that it would do otherwise for
	return next, next.s != nil
}
