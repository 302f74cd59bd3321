package ipc

import "time"

// Clock is where a connection takes its time from.
type Clock interface {
	Now() time.Time
	// After returns a channel that receives once d has passed, and a function
	// that releases it earlier.
	After(d time.Duration) (<-chan time.Time, func())
}

// systemClock is the Clock of a connection that names none.
type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) After(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// floodGrace is how long a peer may keep sending faster than its rate, being
// slowed down to it, before that is a breach.
const floodGrace = 10 * time.Second

// rate is a token bucket of one second's worth of messages, kept as the time
// at which the bucket would be full again (the generic cell rate algorithm).
type rate struct {
	interval time.Duration // between two messages at the full rate
	full     time.Time
	flood    time.Time // since when the peer has been slowed down; zero when not
}

func newRate(perSecond int) rate { return rate{interval: time.Second / time.Duration(perSecond)} }

// take accounts for one message at now and returns how long to wait before it
// is handled, or ok false when the peer has been flooding for too long.
func (r *rate) take(now time.Time) (wait time.Duration, ok bool) {
	if r.full.Before(now) {
		r.full = now
	}
	debt := r.full.Sub(now)
	r.full = r.full.Add(r.interval)
	if debt < time.Second/2 {
		r.flood = time.Time{}
	}
	if debt <= time.Second {
		return 0, true
	}
	if r.flood.IsZero() {
		r.flood = now
	}
	return debt - time.Second, now.Sub(r.flood) < floodGrace
}
