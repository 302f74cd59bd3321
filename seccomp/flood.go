package seccomp

import (
	"cmp"
	"time"
)

// Bounds of what one plugin's refused calls may cost others. A round trip of
// the listener takes 5 to 50 us, so that a plugin which does nothing else makes
// 20,000 to 200,000 of them in a second; one that probes and goes on makes a
// handful.
const (
	// FloodBurst is how many refused calls are described one after another. Each
	// takes a tenth of a millisecond, with its record: of four times as many a
	// neighbour's slowest calls took four times as long.
	FloodBurst = 64
	// FloodInterval is how long it takes until one more is.
	FloodInterval = 50 * time.Millisecond
	// FloodLimit is how many refused calls within FloodWindow are an attack on
	// whoever answers them.
	FloodLimit = 20000
	// FloodWindow is the time in which FloodLimit counts.
	FloodWindow = 10 * time.Second
)

// Flood tells for the refused calls of one plugin which are described and
// reported one by one, and when there are so many that they are an attack of
// their own. The zero Flood is ready. It is not safe for concurrent use; a
// Handler is never called concurrently.
type Flood struct {
	// Limit takes the place of FloodLimit, if it is not 0: for a machine that
	// is too slow for so many calls.
	Limit int

	spent      int       // of FloodBurst
	refilled   time.Time // up to when the burst was given back
	suppressed int       // since the last that was reported
	began      time.Time // of the window
	inWindow   int
	escalated  bool
	told       map[int]struct{} // numbers that were reported
}

// Call counts one refused call at now, by its number. report says that it is to
// be described and reported, which it must be in any case with must, and if no
// call of that number was yet: a flood of one hides no other. suppressed is how
// many since the last such were not; escalate is true once, for the call that
// makes it an attack, which is reported. A clock that steps back gives nothing
// back.
func (f *Flood) Call(now time.Time, nr int, must bool) (report bool, suppressed int, escalate bool) {
	escalate = f.overLimit(now)
	must = f.first(nr) || must
	if !f.take(now) && !escalate && !must {
		f.suppressed++
		return false, 0, false
	}
	suppressed, f.suppressed = f.suppressed, 0
	return true, suppressed, escalate
}

// Unreported takes back that a call was reported: nobody had time for it.
func (f *Flood) Unreported(nr, suppressed int) {
	f.suppressed += suppressed + 1
	delete(f.told, nr)
}

// first tells whether no known call of that number was reported, and that one
// is now. There are no more of them than the table has.
func (f *Flood) first(nr int) bool {
	if _, told := f.told[nr]; told || !Known(nr) {
		return false
	}
	if f.told == nil {
		f.told = make(map[int]struct{})
	}
	f.told[nr] = struct{}{}
	return true
}

// overLimit tells whether this is the call that makes it an attack.
func (f *Flood) overLimit(now time.Time) bool {
	if now.Sub(f.began) >= FloodWindow {
		f.began, f.inWindow = now, 0
	}
	f.inWindow++
	over := f.inWindow > cmp.Or(f.Limit, FloodLimit) && !f.escalated
	f.escalated = f.escalated || over
	return over
}

// take spends one of the burst, if there is one.
func (f *Flood) take(now time.Time) bool {
	if back := int(now.Sub(f.refilled) / FloodInterval); back > 0 {
		if f.spent -= back; f.spent <= 0 {
			f.spent, f.refilled = 0, now
		} else {
			f.refilled = f.refilled.Add(time.Duration(back) * FloodInterval)
		}
	}
	if f.spent >= FloodBurst {
		return false
	}
	f.spent++
	return true
}
