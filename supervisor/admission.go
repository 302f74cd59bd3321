package supervisor

import (
	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/control"
)

// maxAsked is how many starts, restarts and swaps may be under way that somebody
// asked for and waits for. What the daemon starts of its own accord is bounded by
// what is installed, and waits for its place; see enter.
const maxAsked = 256

// admit lets an asked start, restart or swap (verb) in; leave says that it is over.
// One too many is refused at once, before anything is stopped for it: who asks can
// come again, and a queue without end would keep everyone waiting.
func (s *shared) admit(verb, name string) (leave func(), err error) {
	select {
	case s.asked <- struct{}{}:
		return func() { <-s.asked }, nil
	default:
		return nil, control.Errorf(ipc.CodeOverloaded, "cordon ps shows what starts; try again when less does", "cannot %s %s: %d starts that were asked for are under way already", verb, name, cap(s.asked))
	}
}
