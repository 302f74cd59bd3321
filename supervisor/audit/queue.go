package audit

import (
	"fmt"
	"sync"
	"time"

	"github.com/cordonhq/cordon/supervisor/control"
)

// What Queue holds back: for how long, how many records, and how many of them
// are written in one piece.
const (
	queueTime  = 20 * time.Millisecond
	queueMax   = 4096
	queuePiece = 256
)

// queue are records that have their place and are not written yet.
type queue struct {
	mu      sync.Mutex
	records []control.Event
	timer   *time.Timer
	stopped bool
}

// Queue gives a record its place in the log and returns before it is on the
// disk: it is written with those that come after it within 20 ms, in one piece,
// and always before what is appended later. With the power it may be lost; so
// it is for what was allowed, never for what was refused. A writer that is
// faster than the disk waits for it.
func (l *Log) Queue(ev control.Event) {
	ev.Time = l.now()
	if l.queue.add(ev, l.flushLate) {
		l.flushLate()
	}
}

// add keeps a record and says whether there are too many.
func (q *queue) add(ev control.Event, flush func()) (full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return false
	}
	q.records = append(q.records, ev)
	if q.timer == nil {
		q.timer = time.AfterFunc(queueTime, flush) // decides nothing that is seen: only when the disk is asked
	}
	return len(q.records) >= queueMax
}

// take gives what was queued.
func (q *queue) take() []control.Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.records
	q.records = nil
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
	return out
}

func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
}

func (l *Log) flushLate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
}

// flush writes what was queued; l.mu is held. What cannot be written is
// counted, and the count is written once something can be.
func (l *Log) flush() {
	waiting := l.queue.take()
	for len(waiting) > 0 && l.err == nil {
		if l.size >= l.max {
			l.rotate()
		}
		if l.lost > 0 {
			waiting = append([]control.Event{{Kind: "records-lost", Actor: "daemon", Time: l.now(), Text: fmt.Sprintf("%d records could not be written", l.lost)}}, waiting...)
			l.lost = 0
		}
		piece := waiting[:min(len(waiting), queuePiece)]
		if _, err := l.appendAll(piece); err != nil {
			l.lost += len(waiting)
			return
		}
		waiting = waiting[len(piece):]
	}
	if l.err == nil && l.checkpointDue() {
		_ = l.checkpoint() // as in Append
	}
}
