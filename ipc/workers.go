package ipc

import "time"

// workerRest is how long a worker waits for its next request.
const workerRest = 10 * time.Second

// job is one request of the peer that a handler is to see.
type job struct {
	s *served
	r *Request
}

// workers are goroutines that handle requests, and stay for a while when they
// have done one: handlers need deep stacks, and growing one anew for each
// request costs as much as the request. There are as many as requests at once; a
// request waits for none of them.
type workers struct{ jobs chan job }

// do has a request handled, by a worker that waits or by a new one.
func (w workers) do(c *Conn, j job) {
	select {
	case w.jobs <- j:
	default:
		go w.run(c, j)
	}
}

func (w workers) run(c *Conn, j job) {
	rest := time.NewTimer(workerRest) // decides nothing that is seen
	defer rest.Stop()
	for {
		c.answer(j.s, j.r)
		j = job{} // what was asked is not kept meanwhile
		rest.Reset(workerRest)
		select {
		case j = <-w.jobs:
		case <-rest.C:
			return
		case <-c.done:
			return
		}
	}
}
