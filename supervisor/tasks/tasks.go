// Package tasks runs what plugins leave for later: each plugin has a queue of
// tasks with priorities and deadlines, and the host takes from the queues in
// turn, so that no plugin waits behind another's backlog. It knows nothing of
// what a task is.
package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// The bounds of a queue.
const (
	MaxWaiting = 256     // tasks of one plugin that have not begun
	MaxBytes   = 1 << 20 // of all their parameters
	MaxAtOnce  = 4       // of one plugin that run
	Priorities = 10      // 0 to 9; higher ones go first
	MaxTime    = 24 * time.Hour
)

// Shared is how many tasks run at once of all plugins together, beyond the one
// that each may always have running: a plugin whose tasks take for ever cannot
// keep another from its turn.
const Shared = 16

// Clock tells the time and wakes; the supervisor's.
type Clock interface {
	Now() time.Time
	AfterFunc(d time.Duration, fn func()) (stop func())
}

// The ends of a task that never ran.
const (
	Expired = "deadline" // its deadline came before its turn
	Ended   = "ended"    // the queue was closed
)

// Task is one thing to do.
type Task struct {
	// Run does it, in a goroutine of its own, and ends once what is left of its
	// time has passed. ctx ends when the task is cancelled, and with the queue.
	Run func(ctx context.Context, left time.Duration)
	// Dropped is called instead of Run where the task's turn never comes and
	// nobody cancelled it. It must not wait.
	Dropped  func(why string)
	Priority int
	// Within is how long from now until it has to be done.
	Within time.Duration
	Bytes  int
}

// ErrFull is the error of a queue that takes no more for now.
var ErrFull = errors.New("too much waits already")

// Scheduler shares what may run among all queues.
type Scheduler struct {
	clock Clock

	mu     sync.Mutex
	shared int      // places that are free
	ring   []*Queue // those with something to begin, in the order of their turns
}

// New makes a scheduler.
func New(clock Clock) *Scheduler { return &Scheduler{clock: clock, shared: Shared} }

// Queue is one plugin's tasks.
type Queue struct {
	s      *Scheduler
	atOnce int

	// All below is guarded by s.mu.
	closed  bool
	last    uint64
	waiting [Priorities][]*entry
	count   int
	bytes   int
	running map[uint64]*entry
	inRing  bool
}

// entry is a task that was taken.
type entry struct {
	Task
	id     uint64
	until  time.Time
	stop   func() // of the timer
	cancel context.CancelFunc
	shared bool
}

// Open makes a queue that runs so many tasks at once, MaxAtOnce at most. Close
// it.
func (s *Scheduler) Open(atOnce int) *Queue {
	return &Queue{s: s, atOnce: max(1, min(atOnce, MaxAtOnce)), running: map[uint64]*entry{}}
}

// Submit takes a task, and gives the number by which it can be cancelled.
func (q *Queue) Submit(t Task) (uint64, error) {
	if t.Priority < 0 || t.Priority >= Priorities {
		return 0, fmt.Errorf("a priority is from 0 to %d, got %d", Priorities-1, t.Priority)
	}
	if t.Within <= 0 || t.Within > MaxTime {
		return 0, fmt.Errorf("a deadline is from now to %v, got %v", MaxTime, t.Within)
	}
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	switch {
	case q.closed:
		return 0, errors.New("the connection has ended")
	case q.count >= MaxWaiting || q.bytes+t.Bytes > MaxBytes:
		return 0, fmt.Errorf("%w: at most %d tasks, and %d bytes of their parameters", ErrFull, MaxWaiting, MaxBytes)
	}
	q.last++
	e := &entry{Task: t, id: q.last, until: q.s.clock.Now().Add(t.Within)}
	e.stop = q.s.clock.AfterFunc(t.Within, func() { q.expire(e) })
	q.waiting[t.Priority] = append(q.waiting[t.Priority], e)
	q.count++
	q.bytes += t.Bytes
	q.wants()
	q.s.next()
	return e.id, nil
}

// Cancel ends a task, or keeps it from beginning, and says whether there was one.
func (q *Queue) Cancel(id uint64) bool {
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	if e := q.running[id]; e != nil {
		e.cancel()
		return true
	}
	for _, list := range q.waiting {
		for _, e := range list {
			if e.id == id {
				q.remove(e)
				return true
			}
		}
	}
	return false
}

// Close ends what runs and drops what waits.
func (q *Queue) Close() {
	q.s.mu.Lock()
	var dropped []*entry
	q.closed = true
	for _, list := range q.waiting {
		dropped = append(dropped, list...)
	}
	for _, e := range dropped {
		q.remove(e)
	}
	for _, e := range q.running {
		e.cancel()
	}
	q.s.mu.Unlock()
	for _, e := range dropped {
		e.Dropped(Ended)
	}
}

// Waiting is how many tasks have not begun, and Running how many have.
func (q *Queue) Waiting() int { q.s.mu.Lock(); defer q.s.mu.Unlock(); return q.count }

// Running is how many tasks run.
func (q *Queue) Running() int { q.s.mu.Lock(); defer q.s.mu.Unlock(); return len(q.running) }

// expire drops a task whose deadline came first.
func (q *Queue) expire(e *entry) {
	q.s.mu.Lock()
	found := q.remove(e)
	q.s.mu.Unlock()
	if found {
		e.Dropped(Expired)
	}
}

// remove takes a waiting task out and says whether it was there.
func (q *Queue) remove(e *entry) bool {
	list := q.waiting[e.Priority]
	at := slices.Index(list, e)
	if at < 0 {
		return false
	}
	q.waiting[e.Priority] = slices.Delete(list, at, at+1)
	q.count--
	q.bytes -= e.Bytes
	e.stop()
	return true
}

// wants puts the queue at the end of those that wait for a turn.
func (q *Queue) wants() {
	if !q.inRing && q.count > 0 && len(q.running) < q.atOnce {
		q.inRing = true
		q.s.ring = append(q.s.ring, q)
	}
}

// next begins what may begin. s.mu is held.
func (s *Scheduler) next() {
	for tried := 0; tried < len(s.ring); {
		q := s.ring[0]
		s.ring = s.ring[1:]
		q.inRing = false
		if q.count == 0 || len(q.running) >= q.atOnce {
			continue // it comes again when that changes
		}
		if len(q.running) > 0 && s.shared == 0 {
			q.wants() // behind the others, and as before among itself
			tried++
			continue
		}
		q.begin()
		q.wants()
		tried = 0
	}
}

// begin runs the first of the highest priority.
func (q *Queue) begin() {
	var e *entry
	for p := Priorities - 1; e == nil; p-- {
		if len(q.waiting[p]) > 0 {
			e = q.waiting[p][0]
		}
	}
	q.remove(e)
	if e.shared = len(q.running) > 0; e.shared {
		q.s.shared--
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	left := max(e.until.Sub(q.s.clock.Now()), time.Millisecond)
	q.running[e.id] = e
	go func() {
		defer q.ended(e)
		e.Run(ctx, left)
	}()
}

// ended gives the task's place to the next.
func (q *Queue) ended(e *entry) {
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	e.cancel()
	delete(q.running, e.id)
	switch {
	case e.shared:
		q.s.shared++
	default: // another of its own has the place that each queue has
		for _, other := range q.running {
			other.shared = false
			q.s.shared++
			break
		}
	}
	q.wants()
	q.s.next()
}
