package ipc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// reserve is how many bytes beyond MaxQueue the reader's own short replies may
// take, since the reader never waits for the writer.
const reserve = 64 << 10

// writeChunk is how much one write that may wait is given, so that progress
// shows.
const writeChunk = 256 << 10

// queue holds whole frames on their way out. Whoever puts a frame into an idle
// queue writes it there and then as far as that needs no waiting; what is left,
// and all that arrives meanwhile, goes to one goroutine in one piece. No lock
// is held while writing.
type queue struct {
	w       WriteEnd
	try     *tryWriter // nil where a write might wait
	framing Framing
	limits  Limits
	clock   Clock
	st      *counters
	failed  func(error) // called once, without the lock, when writing failed

	sock messenger // what descriptors can be sent over; nil for none

	journal *Journal

	mu      sync.Mutex
	pending []byte                           // frames nobody writes yet
	spare   []byte                           // to become pending
	active  []byte                           // being written, by whoever set writing
	at      int                              // of the active bytes, those written before
	marks   struct{ pending, active []mark } // the messages that carry descriptors
	writing bool
	err     error
	room    chan struct{} // closed when bytes left; nil while nobody waits
}

func newQueue(t Transport, o Options, st *counters, failed func(error)) *queue {
	sock, _ := t.W.(messenger)
	return &queue{
		w: t.W, try: newTryWriter(t.W), framing: o.Framing, limits: o.Limits,
		clock: o.Clock, st: st, failed: failed, sock: sock,
	}
}

// patience is how long someone is ready to wait for something.
type patience struct {
	ctx context.Context //nolint:containedctx // lives as long as the call it belongs to
	// limit, if not 0, is another bound, until when; the timer is made by who
	// first waits for it, since most calls need none.
	limit time.Duration
	until time.Time
	clock Clock
	timer <-chan time.Time
	stop  func()
}

// bound adds a limit. end releases what it takes.
func (p *patience) bound(clock Clock, limit time.Duration) {
	p.clock, p.limit, p.until = clock, limit, clock.Now().Add(limit)
}

// expired returns a channel that receives when the limit has passed, nil where
// there is none.
func (p *patience) expired() <-chan time.Time {
	if p.timer == nil && p.limit > 0 {
		p.timer, p.stop = p.clock.After(p.until.Sub(p.clock.Now()))
	}
	return p.timer
}

func (p *patience) end() {
	if p.stop != nil {
		p.stop()
	}
}

// put queues one message, given in parts. Without patience it never waits:
// it fails with ErrSlowPeer when the queue is full. A message larger than
// MaxQueue goes into an empty queue.
func (q *queue) put(p *patience, parts ...[]byte) error { return q.putFor(p, nil, nil, parts) }

// putFor is put that ends the request s, if any, when its answer has its room
// in the queue: before the peer can see the answer, and not before the answer
// is accounted for. files, if any, go along, and are closed in any case.
func (q *queue) putFor(p *patience, s *served, files *parcel, parts [][]byte) error {
	err := q.putAll(p, s, files, parts)
	if err != nil {
		files.close()
	}
	return err
}

func (q *queue) putAll(p *patience, s *served, files *parcel, parts [][]byte) error {
	n, err := q.size(parts)
	if err != nil {
		return err
	}
	q.mu.Lock()
	for q.err == nil && (!q.fits(n, q.limits.MaxQueue) || !q.carries(files)) {
		if p == nil {
			q.mu.Unlock()
			return ErrSlowPeer
		}
		if err := q.wait(p); err != nil {
			return err
		}
	}
	return q.add(s, files, parts)
}

// putNow queues a short reply of the reader's own, from the reserve if need be.
func (q *queue) putNow(parts ...[]byte) error {
	n, err := q.size(parts)
	if err != nil {
		return err
	}
	q.mu.Lock()
	if q.err == nil && !q.fits(n, q.limits.MaxQueue+reserve) {
		q.mu.Unlock()
		return ErrSlowPeer
	}
	return q.add(nil, nil, parts)
}

func (q *queue) size(parts [][]byte) (int, error) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > q.limits.MaxFrame {
		return 0, fmt.Errorf("%w: %d bytes, over %d", errTooLarge, n, q.limits.MaxFrame)
	}
	return n, nil
}

func (q *queue) fits(n, limit int) bool {
	waiting := len(q.pending) + len(q.active)
	return waiting == 0 || waiting+n <= limit
}

// carries says whether descriptors may wait with the others: they are open
// until they are sent.
func (q *queue) carries(files *parcel) bool {
	if files == nil {
		return true
	}
	waiting := 0
	for _, marks := range [][]mark{q.marks.active, q.marks.pending} {
		for _, m := range marks {
			waiting += len(m.p.fds)
		}
	}
	return waiting == 0 || waiting+len(files.fds) <= maxDescriptors
}

// wait gives the lock up until bytes left the queue; it returns holding it, or
// an error without it.
func (q *queue) wait(p *patience) error {
	if q.room == nil {
		q.room = make(chan struct{})
	}
	room := q.room
	q.mu.Unlock()
	select {
	case <-room:
	case <-p.ctx.Done():
		return p.ctx.Err()
	case <-p.expired():
		return context.DeadlineExceeded
	}
	q.mu.Lock()
	return nil
}

// add appends the frame and writes if nobody does. It is called with the lock
// and releases it.
func (q *queue) add(s *served, files *parcel, parts [][]byte) error {
	if err := q.err; err != nil {
		q.mu.Unlock()
		return err
	}
	if s != nil {
		s.end()
	}
	if files != nil {
		q.marks.pending = append(q.marks.pending, mark{at: len(q.pending), p: files})
	}
	q.pending = appendFrame(q.pending, q.framing, parts...)
	q.st.messagesOut.Add(1)
	if q.writing {
		q.mu.Unlock()
		return nil
	}
	q.writing = true
	q.next()
	q.mu.Unlock()
	q.writeInline()
	return nil
}

// next makes all that is pending active. Called with the lock.
func (q *queue) next() {
	q.active, q.pending, q.spare = q.pending, q.spare[:0], nil
	q.at, q.marks.active, q.marks.pending = 0, q.marks.pending, nil
}

// begin notes that a write may leave half a message behind: where it is not of
// whole messages, or of too many bytes to be written at once.
func (q *queue) begin(rest []byte) {
	if q.journal != nil && (q.at > 0 || len(rest) > atomicWrite) {
		q.journal.writing(true)
	}
}

// written accounts for n bytes of active. Called without the lock, by whoever
// set writing; it returns what is left of active. Descriptors that went along
// are closed.
func (q *queue) written(n int, files *parcel) []byte {
	q.st.bytesOut.Add(uint64(n))
	if files != nil && n > 0 {
		defer files.close()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if files != nil && n > 0 {
		q.marks.active = q.marks.active[1:]
	}
	q.at += n
	rest := q.active[n:]
	if len(rest) == 0 && cap(q.active) <= steadyBuffer && q.spare == nil {
		q.spare = q.active[:0]
	}
	q.active = rest
	if len(rest) == 0 {
		q.journal.writing(false)
	}
	if n > 0 && q.room != nil {
		close(q.room)
		q.room = nil
	}
	return rest
}

// writeInline writes what needs no waiting and leaves the rest to a goroutine.
func (q *queue) writeInline() {
	rest := q.active // only the one who set writing changes it
	for q.try != nil && len(rest) > 0 {
		piece, files := segment(rest, q.at, q.marks.active)
		q.begin(rest)
		n, err := q.try.write(piece, files)
		if err != nil {
			q.fail(err)
			return
		}
		rest = q.written(n, files)
		if n < len(piece) {
			break
		}
	}
	if len(rest) > 0 || q.more() {
		go q.drain()
	}
}

// more makes pending frames active, or ends the writing when there are none.
func (q *queue) more() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil && len(q.pending) > 0 {
		q.next()
		return true
	}
	q.writing = false
	if q.err == nil {
		q.journal.flushed()
	}
	closeMarks(q.marks.pending) // there are none unless it was closed
	q.marks.pending = nil
	return false
}

// drain writes, waiting, until nothing is left. It is the only goroutine that
// ever waits for the peer to read.
func (q *queue) drain() {
	for {
		for rest := q.active; len(rest) > 0; {
			piece, files := segment(rest, q.at, q.marks.active)
			q.begin(rest)
			n, err := q.writeSome(piece[:min(len(piece), writeChunk)], files)
			if err != nil {
				q.fail(err)
				return
			}
			rest = q.written(n, files)
		}
		_ = q.w.SetWriteDeadline(time.Time{}) // fails only when it is closed
		if !q.more() {
			return
		}
	}
}

// writeSome makes some progress within WriteStall.
func (q *queue) writeSome(p []byte, files *parcel) (int, error) {
	_ = q.w.SetWriteDeadline(q.clock.Now().Add(q.limits.WriteStall)) // fails only when it is closed
	n, err := q.writeWith(p, files)
	switch {
	case err == nil || n > 0 && isTimeout(err):
		return n, nil
	case isTimeout(err):
		return 0, breach(BreachStalled, "nothing was read for %v while more waited", q.limits.WriteStall)
	default:
		return n, err
	}
}

func (q *queue) writeWith(p []byte, files *parcel) (int, error) {
	if files == nil {
		return q.w.Write(p)
	}
	n, _, err := q.sock.WriteMsgUnix(p, unix.UnixRights(files.fds...), nil)
	return max(n, 0), err
}

// fail ends the queue: all that waits and comes later gets err.
func (q *queue) fail(err error) {
	q.mu.Lock()
	first := q.err == nil
	if first {
		q.err = err
	}
	q.pending, q.spare, q.active = nil, nil, nil
	closeMarks(q.marks.active)
	closeMarks(q.marks.pending)
	q.marks.active, q.marks.pending = nil, nil
	q.writing = true // nobody writes any more
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
	q.mu.Unlock()
	if first {
		q.failed(err)
	}
}

// close makes the queue refuse with err, without telling anyone.
func (q *queue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
}

// flush waits until everything queued so far and meanwhile is written.
func (q *queue) flush(p *patience) error {
	q.mu.Lock()
	for q.err == nil && len(q.pending)+len(q.active) > 0 {
		if err := q.wait(p); err != nil {
			return err
		}
	}
	err := q.err
	q.mu.Unlock()
	return err
}
