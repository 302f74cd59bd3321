// Package volatile is a disk with a cache that forgets: what was written and not
// flushed may be lost, sector by sector and in any order, when the power goes.
// A virtual machine reaches it over a unix socket, by the protocol of network
// block devices (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md).
package volatile

import (
	"fmt"
	"math/rand/v2"
	"sync"
)

// Sector is what a disk writes whole or not at all, in bytes.
const Sector = 512

// Disk is the disk. It is safe for concurrent use.
type Disk struct {
	mu      sync.Mutex
	durable []byte
	cached  []byte // what reads see
	waiting []write
	writes  int
	limit   int           // writes after which the power goes, 0 for none
	dark    chan struct{} // closed when it went
}

// write is one that was not flushed yet.
type write struct {
	at   int64
	data []byte
}

// New is a disk that holds content, which it takes over.
func New(content []byte) *Disk {
	return &Disk{durable: content, cached: append([]byte(nil), content...), dark: make(chan struct{})}
}

// Size is in bytes.
func (d *Disk) Size() int64 { return int64(len(d.cached)) }

// Writes is how many there have been since the power came.
func (d *Disk) Writes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes
}

// DarkAfter has the power go after n writes more. From then on nothing is
// answered.
func (d *Disk) DarkAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limit = d.writes + n + 1
}

// Dark is closed when the power has gone.
func (d *Disk) Dark() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dark
}

func (d *Disk) isDark() bool {
	select {
	case <-d.dark:
		return true
	default:
		return false
	}
}

// inside says whether a request is within the disk, and there is power.
func (d *Disk) inside(at, n int64) error {
	if d.isDark() {
		return errDark
	}
	if at < 0 || n < 0 || at > d.Size()-n {
		return fmt.Errorf("%d bytes at %d are not within %d", n, at, d.Size())
	}
	return nil
}

// read fills b.
func (d *Disk) read(b []byte, at int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.inside(at, int64(len(b))); err != nil {
		return err
	}
	copy(b, d.cached[at:])
	return nil
}

// write takes data over; it is durable at once if through is set.
func (d *Disk) write(data []byte, at int64, through bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.inside(at, int64(len(data))); err != nil {
		return err
	}
	if d.writes++; d.limit > 0 && d.writes >= d.limit {
		close(d.dark)
		return errDark
	}
	copy(d.cached[at:], data)
	if through {
		// What waits for the same place must not come over it later.
		copy(d.durable[at:], data)
		for i, w := range d.waiting {
			d.waiting[i].data = laidOver(w, at, data)
		}
		return nil
	}
	d.waiting = append(d.waiting, write{at, data})
	return nil
}

// laidOver is what w becomes where newer data lies over it.
func laidOver(w write, at int64, data []byte) []byte {
	from, to := max(at, w.at), min(at+int64(len(data)), w.at+int64(len(w.data)))
	if from < to {
		copy(w.data[from-w.at:to-w.at], data[from-at:])
	}
	return w.data
}

// flush makes durable what was written.
func (d *Disk) flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isDark() {
		return errDark
	}
	for _, w := range d.waiting {
		copy(d.durable[w.at:], w.data)
	}
	d.waiting = nil
	return nil
}

// Cut is the end of the power, and its return: of what was not flushed each
// sector was written with the probability keep. It gives how many were and were
// not.
func (d *Disk) Cut(r *rand.Rand, keep float64) (kept, lost int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.waiting {
		for n := int64(0); n < int64(len(w.data)); {
			end := min(int64(len(w.data)), (w.at+n)/Sector*Sector+Sector-w.at)
			if r.Float64() < keep {
				copy(d.durable[w.at+n:], w.data[n:end])
				kept++
			} else {
				lost++
			}
			n = end
		}
	}
	copy(d.cached, d.durable)
	d.waiting, d.writes, d.limit, d.dark = nil, 0, 0, make(chan struct{})
	return kept, lost
}
