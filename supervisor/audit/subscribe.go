package audit

import "github.com/cordonhq/cordon/supervisor/control"

// Subscription gets every record from the moment it was made. One that does
// not keep up is dropped: its channel is closed and Lost says so. Nothing
// waits for it.
type Subscription struct {
	// C carries the records, in order; closed at the end.
	C    <-chan control.Event
	c    chan control.Event
	log  *Log
	lost bool
}

// Subscribe starts following with a queue of n records. The caller must Close.
func (l *Log) Subscribe(n int) *Subscription {
	c := make(chan control.Event, n)
	s := &Subscription{C: c, c: c, log: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		close(c)
		return s
	}
	l.subs[s] = struct{}{}
	return s
}

// Lost says whether the subscription was dropped because it was too slow.
func (s *Subscription) Lost() bool {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.lost
}

// Close ends the subscription; more than once does no harm.
func (s *Subscription) Close() {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.drop(s)
}

// drop ends one subscription; l.mu is held.
func (l *Log) drop(s *Subscription) {
	if _, live := l.subs[s]; live {
		delete(l.subs, s)
		close(s.c)
	}
}

// publish hands ev to every subscription that has room; l.mu is held.
func (l *Log) publish(ev control.Event) {
	for s := range l.subs {
		select {
		case s.c <- ev:
		default:
			s.lost = true
			l.drop(s)
		}
	}
}
