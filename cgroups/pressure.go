package cgroups

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The threshold of EventPressure: no process of the group did any work for so
// long since the last look, although one could have, had there been memory, a
// processor or the disk for it. Looks are made while something stands still
// below the group's parent: once a window, and once more after it. A window of
// two seconds may be asked for without CAP_SYS_RESOURCE
// (Documentation/accounting/psi.rst).
const (
	pressureStall  = 200_000         // microseconds
	pressureWindow = 2 * time.Second // of the kernel's trigger
)

// pressureFiles are of any group of a unified tree, whatever controllers it has.
var pressureFiles = []string{"memory.pressure", "cpu.pressure", "io.pressure"}

// pressures watches groups for standing still. The kernel is asked for word of
// their parent alone: a trigger of each group's own would cost each three
// descriptors, and its end three waits of the kernel for all readers
// (psi_trigger_destroy), in whoever removes the group.
type pressures struct {
	wake int // an eventfd: what is polled has changed

	mu       sync.Mutex
	triggers map[string][]trigger // by the parent's path; none where the kernel has no such files
	groups   map[*pressed]bool
	closed   bool
	done     chan struct{} // nil until there is something to wait for
}

// trigger is the kernel's word on one of a parent's files.
type trigger struct {
	*os.File
	name string
}

// stall is what a parent stood still for.
type stall struct{ parent, file string }

// pressed is one group.
type pressed struct {
	unified *member
	parent  string
	fn      func(Event)

	mu    sync.Mutex // held while fn runs
	gone  bool
	total map[string]int64 // what was read last, microseconds
	told  map[string]int64
}

// AddPressure calls fn with EventPressure whenever a group stood still for want
// of memory, of a processor or of the disk. fn must not wait for the Watcher.
// remove waits for a call in flight. On a host without pressure stall
// information (CONFIG_PSI; psi=1), or without a unified tree, nothing is ever
// told, and Features says so.
func (w *Watcher) AddPressure(g *Group, fn func(Event)) (remove func(), err error) {
	u := g.unified()
	if u == nil {
		return func() {}, nil
	}
	one := &pressed{unified: u, parent: filepath.Dir(u.dir.path), fn: fn, total: map[string]int64{}, told: map[string]int64{}}
	if err := w.pressures.add(one); err != nil {
		return nil, fmt.Errorf("cannot watch group %s: %w", g.name, err)
	}
	return func() { w.pressures.remove(one) }, nil
}

func (p *pressures) add(one *pressed) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("the watcher is closed")
	}
	if _, armed := p.triggers[one.parent]; !armed {
		triggers, err := armPressure(one.parent)
		if err != nil {
			return err
		}
		if p.triggers == nil {
			p.triggers, p.groups = map[string][]trigger{}, map[*pressed]bool{}
		}
		p.triggers[one.parent] = triggers
	}
	p.groups[one] = true
	if p.done == nil {
		wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return fmt.Errorf("eventfd: %w", err)
		}
		p.wake, p.done = wake, make(chan struct{})
		go p.loop()
	}
	ring(p.wake)
	return nil
}

// armPressure asks for word of a group; it holds while the files are open.
func armPressure(group string) (triggers []trigger, err error) {
	for _, file := range pressureFiles {
		f, err := os.OpenFile(filepath.Join(group, file), os.O_RDWR|unix.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		if err == nil {
			if _, err = unix.Write(int(f.Fd()), fmt.Appendf(nil, "some %d %d\x00", pressureStall, pressureWindow.Microseconds())); err == nil {
				triggers = append(triggers, trigger{f, file})
				continue
			}
			err = errors.Join(fmt.Errorf("cannot ask %s for a trigger: %w", file, err), f.Close())
		}
		closeTriggers(triggers)
		return nil, err
	}
	return triggers, nil
}

func closeTriggers(triggers []trigger) {
	for _, f := range triggers {
		_ = f.Close() // nothing was written that could be lost
	}
}

func (p *pressures) remove(one *pressed) {
	one.mu.Lock() // waits for a call in flight
	one.gone = true
	one.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.groups, one)
}

// close ends the loop; no function is called after it.
func (p *pressures) close() {
	p.mu.Lock()
	first, done := !p.closed, p.done
	p.closed = true
	if first && done != nil {
		ring(p.wake)
	}
	p.mu.Unlock()
	if !first || done == nil {
		return
	}
	<-done
	for _, triggers := range p.triggers {
		closeTriggers(triggers)
	}
	_ = unix.Close(p.wake)
}

func ring(eventfd int) { _, _ = unix.Write(eventfd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) } // EAGAIN: it rings already

func (p *pressures) loop() {
	defer close(p.done)
	timeout := -1
	last := map[stall]bool{} // to be looked at once more after it
	for {
		fds, stalls, open := p.polled()
		if !open {
			return
		}
		n, err := unix.Poll(fds, timeout)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil { // no memory; the next add tries again
			timeout = int(pressureWindow.Milliseconds())
			continue
		}
		drain(p.wake)
		if n == 0 { // the look after a stall: the kernel adds up every two seconds
			p.look(last)
			clear(last)
			timeout = -1
			continue
		}
		now := map[stall]bool{}
		for i, s := range stalls {
			if fds[i+1].Revents&unix.POLLPRI != 0 {
				now[s], last[s] = true, true
				timeout = int(pressureWindow.Milliseconds())
			}
			if fds[i+1].Revents&(unix.POLLERR|unix.POLLNVAL) != 0 { // the parent has gone, and says so for ever
				p.forget(s.parent)
			}
		}
		p.look(now)
	}
}

// polled gives what to wait for: the eventfd first, then each parent's triggers.
func (p *pressures) polled() (fds []unix.PollFd, stalls []stall, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fds = append(fds, unix.PollFd{Fd: int32(p.wake), Events: unix.POLLIN})
	for parent, triggers := range p.triggers {
		for _, f := range triggers {
			fds = append(fds, unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLPRI})
			stalls = append(stalls, stall{parent, f.name})
		}
	}
	return fds, stalls, !p.closed
}

// forget lets a parent go that was removed; a group made there later arms anew.
func (p *pressures) forget(parent string) {
	p.mu.Lock()
	triggers := p.triggers[parent]
	delete(p.triggers, parent)
	p.mu.Unlock()
	closeTriggers(triggers)
}

// look reads the groups below the parents where something stood still, for what
// it did.
func (p *pressures) look(stalls map[stall]bool) {
	if len(stalls) == 0 {
		return
	}
	var due []*pressed
	p.mu.Lock()
	for one := range p.groups {
		due = append(due, one)
	}
	p.mu.Unlock()
	for _, one := range due {
		for _, file := range pressureFiles {
			if stalls[stall{one.parent, file}] {
				one.look(file)
			}
		}
	}
}

func (one *pressed) look(file string) {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.gone {
		return
	}
	text, err := one.unified.dir.read(file)
	total, ok := stoodStill(text)
	if err != nil || !ok {
		return
	}
	since := total - one.total[file]
	one.total[file] = total
	if since >= pressureStall {
		one.told[file]++
		one.fn(Event{Kind: EventPressure, File: file, Count: one.told[file], Limit: pressureStall, Peak: -1})
	}
}

// stoodStill gives the total of the line "full" of a pressure file, in
// microseconds.
func stoodStill(text []byte) (int64, bool) {
	for line := range bytes.Lines(text) {
		rest, full := bytes.CutPrefix(line, []byte("full "))
		if _, total, ok := bytes.Cut(rest, []byte("total=")); full && ok {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(total)), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
