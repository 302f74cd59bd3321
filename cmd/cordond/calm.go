package main

import (
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What the daemon gives back: where it looks each calmTime, allocated less than
// calmBytes since the last look, and more than that since it last gave back.
const (
	calmTime  = 10 * time.Second
	calmBytes = 16 << 20
)

// calm says when memory is to be given back to the kernel. The runtime does it by
// itself as well, but keeps twice what is in use: after a flood of large messages
// that is what the flood took, for as long as nothing else comes.
type calm struct {
	last, given uint64 // bytes allocated ever: at the last look, and when it was given back
}

func (c *calm) look(allocated uint64) (give bool) {
	quiet := allocated-c.last < calmBytes
	c.last = allocated
	if !quiet || allocated-c.given < calmBytes {
		return false
	}
	c.given = allocated
	return true
}

// giveBack looks until stop is called.
func giveBack() (stop func() error) {
	tick, done := time.NewTicker(calmTime), make(chan struct{})
	go func() {
		defer tick.Stop()
		sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
		for c := (calm{}); ; {
			select {
			case <-tick.C:
			case <-done:
				return
			}
			if metrics.Read(sample); c.look(sample[0].Value.Uint64()) {
				debug.FreeOSMemory()
			}
		}
	}()
	return func() error {
		close(done)
		return nil
	}
}
