package cordon

import (
	"context"
	"sync"
	"syscall"
	"time"
)

// The reader handles requests of methods that took less than quickTime, trusted
// times one behind the other. One that keeps it for inlineTime all the same is
// left behind: another goroutine reads on.
const (
	quickTime  = 100 * time.Microsecond
	trusted    = 16
	inlineTime = 10 * time.Millisecond
)

// turn says who reads. A request that comes alone, of a method that is quick, is
// handled by the goroutine that read it: to start another costs about as much as
// the socket. When the handler takes longer than inlineTime, or calls the host,
// another goroutine reads on meanwhile.
type turn struct {
	mu       sync.Mutex
	reader   uint64 // which goroutine reads: an older one stops
	inline   bool   // it is in a handler
	served   uint64 // handlers it has begun
	watched  uint64 // served, when the watch last looked
	watching bool
	quick    map[string]int // how often a method was quick since it last was not
	ended    chan error     // capacity 1: how the reading ended
}

// isQuick says whether the reader may handle a request of this method.
func (t *turn) isQuick(method string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.quick[method] >= trusted
}

// took notes how long a method that the plugin has took.
func (t *turn) took(method string, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch n := t.quick[method]; {
	case d > quickTime && n > 0:
		t.quick[method] = max(0, n-trusted/4) // once may be the machine's doing
	case d <= quickTime && n < 2*trusted:
		t.quick[method] = n + 1
	}
}

// handleInline runs a handler in the reader.
func (c *Conn) handleInline(ctx context.Context, handler func()) {
	c.enterHandler(ctx)
	returned := false
	defer func() {
		if !returned { // runtime.Goexit, as of a test that failed
			c.leaveReading()
		}
	}()
	handler()
	returned = true
}

// enterHandler marks the reader as being in a handler.
func (c *Conn) enterHandler(ctx context.Context) {
	t := &c.turn
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inline = true
	t.served++
	if !t.watching {
		t.watching = true
		go c.watch(ctx)
	}
}

// stillReads ends what enterHandler began, and says whether its goroutine is still the reader.
func (c *Conn) stillReads(me uint64) bool {
	t := &c.turn
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reader != me {
		return false
	}
	t.inline = false
	return true
}

// watch replaces a reader that is in one handler for too long. It ends when
// nothing was handled since it last looked. It sleeps by nanosleep(2): while a
// timer of the runtime's is due, a thread waits in epoll_wait(2) for it, is woken
// by every edge of the socket, and makes a call half as slow again.
func (c *Conn) watch(ctx context.Context) {
	for pause := syscall.NsecToTimespec(int64(inlineTime)); ; {
		_ = syscall.Nanosleep(&pause, nil) // one that is interrupted is short
		if !c.handlersCame(ctx) {
			return
		}
	}
}

// handlersCame says whether requests were handled since it was last asked.
func (c *Conn) handlersCame(ctx context.Context) bool {
	t := &c.turn
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.served != t.watched {
		t.watched = t.served
		return true
	}
	t.watching = false
	if t.inline {
		c.replaceReader(ctx)
	}
	return false
}

// leaveReading makes another goroutine read, since this one may be the reader
// and is about to wait for the host.
func (c *Conn) leaveReading() {
	t := &c.turn
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inline {
		c.replaceReader(c.life)
	}
}

// replaceReader is called with the lock.
func (c *Conn) replaceReader(ctx context.Context) {
	c.turn.reader++
	c.turn.inline = false
	go c.readOn(ctx, c.turn.reader)
}

// readOn reads until the connection ends or another goroutine reads.
func (c *Conn) readOn(ctx context.Context, me uint64) {
	if err, ended := c.read(ctx, me); ended {
		c.turn.ended <- err
	}
}
