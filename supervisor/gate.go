package supervisor

import "sync/atomic"

// gateClosed is set in a gate that lets nobody in any more.
const gateClosed = 1 << 62

// gate counts who is inside, and can be closed: then it says when the last has
// left. Its zero value is open and empty.
type gate struct {
	inside atomic.Int64
	empty  func() // set before it is closed
}

// enter says whether the caller is inside; then leave must be called.
func (g *gate) enter() bool {
	if g.inside.Add(1) < gateClosed {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.inside.Add(-1) == gateClosed {
		g.empty()
	}
}

// close lets nobody in any more. empty is called, perhaps more than once, when
// nobody is inside; it must not wait. Close it once.
func (g *gate) close(empty func()) {
	g.empty = empty
	if g.inside.Add(gateClosed) == gateClosed {
		empty()
	}
}

// count is how many are inside.
func (g *gate) count() int64 { return g.inside.Load() &^ gateClosed }
