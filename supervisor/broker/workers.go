package broker

import "time"

// workerRest is how long a worker waits for its next job.
const workerRest = 10 * time.Second

// workers are goroutines that stay for a while when they have done a job:
// checking a contract takes a deep stack, and growing one anew for each call
// costs as much as the call. There are as many as jobs at once; a job waits for
// nobody.
type workers struct{ jobs chan func() }

// do has a job done, by a worker that waits or by a new one.
func (w workers) do(job func()) {
	select {
	case w.jobs <- job:
	default:
		go w.run(job)
	}
}

func (w workers) run(job func()) {
	rest := time.NewTimer(workerRest) // decides nothing that is seen
	defer rest.Stop()
	for {
		job()
		rest.Reset(workerRest)
		select {
		case job = <-w.jobs:
		case <-rest.C:
			return
		}
	}
}
