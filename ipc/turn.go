package ipc

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"
)

// lingerTime is how long the reader leaves the stream to callers after an
// answer, while no other call is open. A message that nobody asked for waits so
// long at most.
const lingerTime = time.Millisecond

// turn says who reads the stream. It is Run's goroutine, but while calls come
// one behind the other each caller reads its own answer: to hand it from one
// goroutine to another costs about as much as the socket itself. A caller
// handles answers and passes requests on; all else it hands to Run. So it is with
// requests that are answered at once: who has answered one takes its turn to read
// the next.
//
//	Run reads -> an answer, nothing else open -> Run lingers: the stream is free
//	Run reads -> a request at once behind an answer that took promptTime at most: the same
//	free: a call takes its turn, reads, gives it back: free again
//	free: a worker takes its turn, reads a request, gives it back, answers
//	free and unused for lingerTime, or something handed over -> Run reads
type turn struct {
	mu    sync.Mutex
	free  bool // Run lingers
	taken bool // a caller reads
	// round counts the turns that callers took.
	round uint64
	until time.Time // when the caller's patience ends; zero for never
	cause error     // why the caller was told to stop reading
	long  bool      // Run waits for the turn to be given back
	seen  uint64    // round as the last tick saw it
	back  chan struct{}
	over  *handover
}

// handover is what a caller read and Run must go on with.
type handover struct {
	frame frame
	wait  time.Duration // for the rate, not waited yet
	flood bool
	paced bool // frame is there, and wait and flood are decided
	msg   *incoming
	err   error
}

// take makes a caller the reader if the stream is free.
func (t *turn) take(until time.Time) (round uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.free || t.taken || t.over != nil {
		return 0, false
	}
	t.taken, t.until, t.cause = true, until, nil
	t.round++
	return t.round, true
}

// give ends the turn of a caller. With h, or where more waits, Run goes on.
func (c *Conn) give(h *handover) (cause error) {
	t := &c.turn
	if c.sock != nil {
		c.sock.patient = false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	cause = t.cause
	if cause != nil {
		c.interrupt(false)
	}
	if h == nil && c.frames.r == c.frames.w {
		c.o.Journal.reading(false)
	}
	t.taken, t.cause = false, nil
	if h == nil && c.others() {
		h = &handover{}
	}
	t.over = h
	if h != nil || t.long {
		t.long = false
		t.wake()
	}
	return cause
}

func (t *turn) wake() {
	select {
	case t.back <- struct{}{}:
	default:
	}
}

// stopReading makes the caller of this round give the turn back, for cause, if
// it still reads.
func (c *Conn) stopReading(round uint64, cause error) {
	c.turn.mu.Lock()
	defer c.turn.mu.Unlock()
	if c.turn.taken && c.turn.round == round && c.turn.cause == nil {
		c.turn.cause = cause
		c.interrupt(true)
	}
}

// readOwn reads until the answer to pc has come (nil), the caller's patience
// ends (its cause), or something came that Run must see to (errHandedOver): then
// the answer comes by pc.reply.
func (c *Conn) readOwn(p *patience, pc *pendingCall, round uint64) (reply, error) {
	if p.ctx.Done() != nil {
		stop := context.AfterFunc(p.ctx, func() { c.stopReading(round, p.ctx.Err()) })
		defer stop()
	}
	if c.sock != nil {
		c.sock.patient = true
	}
	for {
		select {
		case r := <-pc.reply: // Run may even have read it before this was its turn
			_ = c.give(nil) // who has the answer needs no reason any more
			return r, nil
		default:
		}
		h := c.readOne()
		if h == nil {
			continue
		}
		if errors.Is(h.err, errInterrupted) {
			h = nil
		}
		if cause := c.give(h); cause != nil {
			return reply{}, cause
		}
		return reply{}, errHandedOver
	}
}

var (
	errHandedOver  = errors.New("handed over")
	errInterrupted = errors.New("interrupted")
)

// readOne reads one message, and handles it if it is an answer or a request. All
// else is for Run.
func (c *Conn) readOne() *handover {
	fr, err := c.frames.next()
	if isTimeout(err) && c.interrupted() {
		err = errInterrupted
	}
	if err != nil {
		return &handover{err: err}
	}
	wait, ok := c.rate.take(c.o.Clock.Now())
	if wait > 0 || !ok || fr.kind != frameMessage {
		return &handover{frame: fr, wait: wait, flood: !ok, paced: true}
	}
	m, err := c.parse(fr)
	if err != nil {
		return &handover{err: err}
	}
	switch m.kind {
	case kindResult, kindError:
		err = c.reply(m)
	case kindRequest:
		err = c.request(m)
		c.lends = false // it is lent
	default:
		return &handover{msg: m}
	}
	m.closeFiles()
	if err != nil {
		return &handover{err: err}
	}
	return nil
}

// others says whether somebody waits for what is still to be read. Who has the
// turn asks it after giving the turn away: a call is open before it tries to
// take the turn, so none is overlooked.
func (c *Conn) others() bool {
	return c.frames.r < c.frames.w || c.Phase() != PhaseServing || c.bridge.Load() != nil || c.calls.waiting()
}

// awaitTurn waits, once the connection has ended, until no caller reads.
func (c *Conn) awaitTurn() {
	t := &c.turn
	for {
		t.mu.Lock()
		if t.free = false; !t.taken {
			t.mu.Unlock()
			return
		}
		t.long = true
		t.mu.Unlock()
		<-t.back
	}
}

// linger leaves the stream to callers, until none has come for lingerTime or
// one hands something over.
func (c *Conn) linger() error {
	t := &c.turn
	if _, ok := c.t.R.(syscall.Conn); !ok { // nothing to gain where there is no system call
		return nil
	}
	t.mu.Lock()
	if t.free = true; c.others() {
		t.free = false
		t.mu.Unlock()
		return nil
	}
	c.o.Journal.reading(false)
	t.seen = t.round
	select {
	case <-t.back: // of an earlier time
	default:
	}
	t.mu.Unlock()
	for {
		if idlers.add(t) != nil { // no descriptor is left: Run reads
			t.tick(true)
		}
		select {
		case <-t.back:
		case <-c.done:
			return ErrClosed
		}
		h, again, err := c.resume()
		switch {
		case err != nil:
			return err
		case h != nil:
			return c.takeOver(h)
		case !again:
			return nil
		}
	}
}

// resume makes Run the reader, if it has to be. Where one caller goes on
// reading, it watches over that caller's patience.
func (c *Conn) resume() (h *handover, again bool, err error) {
	t := &c.turn
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.long && t.taken && t.over == nil {
		round, until := t.round, t.until
		t.mu.Unlock()
		err = c.awaitReader(round, until)
		t.mu.Lock()
		if err != nil {
			return nil, false, err
		}
	}
	switch {
	case t.over != nil:
		h, t.over, t.free = t.over, nil, false
		return h, false, nil
	case t.taken || t.round != t.seen:
		return nil, true, nil
	}
	t.free = false
	return nil, false, nil
}

// tick looks once every lingerTime whether callers still come. It says whether
// to look again, which it will not if this was the last time.
func (t *turn) tick(last bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.free:
	case t.round != t.seen && !last:
		t.seen = t.round
		return true
	default: // Run reads, or watches over the one that does
		t.seen, t.long = t.round, t.taken
		t.wake()
	}
	return false
}

// awaitReader waits until the caller of this round has given its turn back, and
// tells it to when its patience ends.
func (c *Conn) awaitReader(round uint64, until time.Time) error {
	var expired <-chan time.Time
	if !until.IsZero() {
		timer, stop := c.o.Clock.After(until.Sub(c.o.Clock.Now()))
		defer stop()
		expired = timer
	}
	for {
		select {
		case <-c.turn.back:
			return nil
		case <-c.done:
			return ErrClosed
		case <-expired:
			c.stopReading(round, context.DeadlineExceeded)
			expired = nil
		}
	}
}

// takeOver goes on with what a caller has read.
func (c *Conn) takeOver(h *handover) error {
	switch {
	case h.err != nil:
		return c.readFailed(h.err)
	case h.msg != nil:
		return c.dispatch(h.msg)
	case !h.paced:
		return nil
	}
	if err := c.slow(h.wait, !h.flood); err != nil {
		return err
	}
	return c.handle(h.frame)
}
