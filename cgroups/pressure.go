package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// The threshold of EventPressure: within pressureWindow no process of the group
// did any work for so long, although one could have, had there been memory, a
// processor or the disk for it. A window of two seconds may be asked for without
// CAP_SYS_RESOURCE (Documentation/accounting/psi.rst), and is the pace of the
// kernel's telling: once a window at most.
const (
	pressureStall  = 200_000   // microseconds
	pressureWindow = 2_000_000 // microseconds
)

// pressureFiles are of any group of a unified tree, whatever controllers it has.
var pressureFiles = []string{"memory.pressure", "cpu.pressure", "io.pressure"}

// trigger is one pressure file under watch.
type trigger struct {
	*watch
	file string
	f    *os.File
	hits int64 // since the last look; guarded by Watcher.mu
	told int64
}

// AddPressure calls fn with EventPressure whenever a group stood still for want
// of memory, of a processor or of the disk, as Add calls its function: in the
// same loop, with the same duties. remove waits for a call in flight. On a host
// without pressure stall information (CONFIG_PSI; psi=1), or without a unified
// tree, nothing is ever told, and Features says so.
func (w *Watcher) AddPressure(g *Group, fn func(Event)) (remove func(), err error) {
	u := g.unified()
	if u == nil {
		return func() {}, nil
	}
	one := &watch{group: g, fn: fn, oom: -1, eventsWD: -1, pressure: true}
	for _, file := range pressureFiles {
		f, err := armPressure(u, file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		if err != nil {
			one.closeTriggers()
			return nil, fmt.Errorf("cannot watch group %s: %w", g.name, err)
		}
		one.triggers = append(one.triggers, &trigger{watch: one, file: file, f: f})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		one.closeTriggers()
		return nil, fmt.Errorf("cannot watch group %s: the watcher is closed", g.name)
	}
	for _, t := range one.triggers {
		event := unix.EpollEvent{Events: unix.EPOLLPRI, Fd: int32(t.f.Fd())}
		if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, int(t.f.Fd()), &event); err != nil {
			w.disarm(one)
			return nil, fmt.Errorf("cannot watch group %s: epoll: %w", g.name, err)
		}
		w.byTrigger[event.Fd] = t
	}
	w.watches[one] = true
	return func() { w.removePressure(one) }, nil
}

// armPressure asks for the threshold; it holds while the file is open.
func armPressure(u *member, file string) (*os.File, error) {
	f, err := u.dir.open(file, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if _, err := unix.Write(int(f.Fd()), fmt.Appendf(nil, "full %d %d\x00", pressureStall, pressureWindow)); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot ask %s for a trigger: %w", file, err), f.Close())
	}
	return f, nil
}

// stalled notes what epoll said of a trigger; the caller holds w.mu.
func (w *Watcher) stalled(t *trigger, events uint32) {
	if events&unix.EPOLLERR != 0 { // the group has gone, and says so for ever
		w.dropTrigger(t)
		return
	}
	t.hits++
	t.due = true
}

func (w *Watcher) dropTrigger(t *trigger) {
	delete(w.byTrigger, int32(t.f.Fd()))
	_ = t.f.Close() // leaves the epoll set, too
	t.triggers = slices.DeleteFunc(t.triggers, func(other *trigger) bool { return other == t })
}

func (one *watch) closeTriggers() {
	for _, t := range one.triggers {
		_ = t.f.Close()
	}
	one.triggers = nil
}

// stalls are the events of a round; the caller holds w.mu.
func (one *watch) stalls() []Event {
	var all []Event
	for _, t := range one.triggers {
		if t.hits > 0 {
			t.told += t.hits
			t.hits = 0
			all = append(all, Event{Kind: EventPressure, File: t.file, Count: t.told, Limit: pressureStall, Peak: -1})
		}
	}
	return all
}

func (w *Watcher) removePressure(one *watch) {
	one.mu.Lock() // waits for a call in flight
	one.gone = true
	one.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.disarm(one)
	}
}
