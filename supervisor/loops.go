package supervisor

import (
	"context"
	"sync"
	"time"
)

// loopAfter is how many restarts in a row a plugin may make until it is taken to
// crash in a loop.
const loopAfter = 3

// loopTime is how long a life of such a plugin keeps the next one waiting, at
// most: one that never says hello must not keep others from coming up again.
const loopTime = 100 * time.Millisecond

// beginLoop waits until one of the lives at a time may begin that plugins have
// which crash in loops; over says that it has ended, and may be called again.
// The lane bounds what bringing them up takes; what they do until they have
// crashed, and what is done about it, is more than that, and would take all
// processors from calls to others.
func (p *plugin) beginLoop(ctx context.Context, loops bool) (over func(), err error) {
	if !loops {
		return func() {}, nil
	}
	if err := take(ctx, p.loops); err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() { <-p.loops }), nil
}

// endLoop has a life be over when its process has ended, or after loopTime. The
// time decides nothing but when another begins.
func (p *plugin) endLoop(run *running, over func()) {
	stop := p.clock.AfterFunc(loopTime, over)
	go func() {
		<-run.settled
		stop()
		over()
	}()
}
