package run

import (
	"sync"

	"github.com/cordonhq/cordon/supervisor/violation"
)

// maxQueued bounds the violations that wait to be told. A plugin that is
// refused faster than standard error is read makes more; these are counted.
const maxQueued = 1024

// queue carries violations from the launcher, which must not wait, to whoever
// tells them, who may.
type queue struct {
	mu      sync.Mutex
	waiting []violation.Violation
	total   int
	dropped int
	closed  bool
	wake    chan struct{} // capacity 1
	// deadly is closed at the first violation that ends the run.
	deadly chan struct{}
	ended  bool
}

func newQueue() *queue {
	return &queue{wake: make(chan struct{}, 1), deadly: make(chan struct{})}
}

// push adds v and never waits. The one that ends the run is never dropped.
func (q *queue) push(v violation.Violation) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.total++
	last := ends(v.Action) && !q.ended
	if last {
		q.ended = true
		close(q.deadly)
	}
	if len(q.waiting) >= maxQueued && !last {
		q.dropped++
		return
	}
	q.waiting = append(q.waiting, v)
	q.poke()
}

// close lets each return once everything was told.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.poke()
}

func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// each calls tell for every violation, in order, until the queue is closed and
// empty.
func (q *queue) each(tell func(violation.Violation)) {
	for range q.wake {
		batch, closed := q.take()
		for _, v := range batch {
			tell(v)
		}
		if closed {
			return
		}
	}
}

func (q *queue) take() (batch []violation.Violation, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch, q.waiting = q.waiting, nil
	return batch, q.closed
}

// counts are how many came, how many of them were dropped, and whether one
// ended the run.
func (q *queue) counts() (total, dropped int, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total, q.dropped, q.ended
}

// ends says whether a leads to the end of the run: nothing can be in quarantine
// that is not installed, so here it means kill.
func ends(a violation.Action) bool {
	return a == violation.Kill || a == violation.Quarantine
}
