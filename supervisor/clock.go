package supervisor

import "time"

// Clock is where the supervisor takes its time from.
type Clock interface {
	Now() time.Time
	// AfterFunc calls fn in its own goroutine once d has passed; the returned
	// function prevents it if it is not too late.
	AfterFunc(d time.Duration, fn func()) (stop func())
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// AfterFunc implements Clock.
func (SystemClock) AfterFunc(d time.Duration, fn func()) func() {
	t := time.AfterFunc(d, fn)
	return func() { t.Stop() }
}
