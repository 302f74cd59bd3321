package supervisor

import (
	"sync"
	"time"

	"github.com/cordonhq/cordon/supervisor/violation"
)

// maxWaiting is how many messages that may be lost can wait for one actor.
const maxWaiting = 256

// message is one thing that an actor is told.
type message struct {
	event event
	// hit is the violation of an evViolation.
	hit *violation.Violation
	// begun is the process of an evSpawned.
	begun *running
	// op is an operator who waits for the outcome.
	op *operation
	// hold is of an evStop: it is started again when what it needs runs.
	hold bool
	// probation is of an evRelease.
	probation time.Duration
	// swap is of an evSwap.
	swap *swap
	// do, if set, is run instead of an event.
	do func()
}

// operation is an operator's wish and where its outcome goes.
type operation struct {
	by   string
	done chan error // room for one
}

// mailbox is an actor's queue. Posting never waits.
type mailbox struct {
	mu     sync.Mutex
	queue  []message
	lost   int // violations, with those that they stand for
	closed bool
	wake   chan struct{} // room for one
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

// post adds a message that must not be lost, and says whether anyone will read it.
func (b *mailbox) post(m message) bool { return b.add(m, false) }

// offer adds a message that may be lost when too many wait; lost ones are counted.
func (b *mailbox) offer(m message) { b.add(m, true) }

func (b *mailbox) add(m message, mayLose bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	if mayLose && len(b.queue) >= maxWaiting {
		b.lost += hitsOf(m.hit)
		return true
	}
	b.queue = append(b.queue, m)
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// hitsOf is how often the wall was hit that one report stands for.
func hitsOf(v *violation.Violation) int {
	if v == nil {
		return 1
	}
	return 1 + v.Suppressed
}

// take removes all that waits, and how many violations were lost since last time.
func (b *mailbox) take() (queue []message, lost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	queue, lost = b.queue, b.lost
	b.queue, b.lost = nil, 0
	return queue, lost
}

// close lets nothing more in; what waits is still taken.
func (b *mailbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// isClosed says whether the mailbox was closed and everything taken.
func (b *mailbox) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed && len(b.queue) == 0
}
