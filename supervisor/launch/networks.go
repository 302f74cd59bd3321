package launch

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// networks makes network namespaces on a thread of its own, which it leaves in
// no other than the host's, or ends with it: half a millisecond of the kernel's
// that a start need not wait for while it makes its groups.
type networks struct {
	jobs  chan chan<- network // taken by whoever is free to make one
	done  chan struct{}
	ended sync.WaitGroup
}

// network is one that was made, or why none was.
type network struct {
	file *os.File
	err  error
}

func newNetworks() *networks {
	n := &networks{jobs: make(chan chan<- network), done: make(chan struct{})}
	n.ended.Go(n.serve)
	return n
}

// serve is a goroutine that ends with its thread where that could not come back;
// another takes its place.
func (n *networks) serve() {
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if own != nil {
		defer own.Close()
	}
	for {
		select {
		case <-n.done:
			return
		case answer := <-n.jobs:
			if err != nil { // no descriptor was left; perhaps now
				answer <- network{err: fmt.Errorf("cannot make a network namespace: %w", err)}
				n.ended.Go(n.serve)
				return
			}
			made, home := makeNet(own)
			answer <- made
			if !home {
				n.ended.Go(n.serve)
				return
			}
		}
	}
}

// makeNet makes one with this thread and comes back.
func makeNet(own *os.File) (made network, home bool) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return network{err: fmt.Errorf("cannot make a network namespace: %w", err)}, true
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		err = errors.Join(fmt.Errorf("cannot leave a network namespace: %w", back), err)
		if ns != nil {
			err = errors.Join(err, ns.Close())
		}
		return network{err: err}, false
	}
	return network{ns, err}, true
}

// begin has one made while the caller does something else; nil if the thread is
// busy with another's. What comes is the caller's.
func (n *networks) begin() <-chan network {
	answer := make(chan network, 1)
	select {
	case n.jobs <- answer:
		return answer
	default:
		return nil
	}
}

// order is begin for who need not have it soon: it is made when the thread is
// free. After close what comes is an error.
func (n *networks) order() <-chan network {
	answer := make(chan network, 1)
	go func() {
		select {
		case n.jobs <- answer:
		case <-n.done:
			answer <- network{err: errNetworksClosed}
		}
	}()
	return answer
}

var errNetworksClosed = errors.New("cannot make a network namespace: the launcher is closed")

// make waits for one, which is the caller's.
func (n *networks) make() (*os.File, error) {
	answer := make(chan network, 1)
	select {
	case n.jobs <- answer:
	case <-n.done:
		return nil, errNetworksClosed
	}
	made := <-answer
	return made.file, made.err
}

// close ends the thread; whoever asks later gets none.
func (n *networks) close() {
	close(n.done)
	n.ended.Wait()
}
