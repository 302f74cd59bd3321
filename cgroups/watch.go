package cgroups

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Watcher tells of limit hits in any number of groups from one loop, woken by
// the kernel: inotify on memory.events, pids.events and cgroup.events, and on
// v1 an eventfd at memory.oom_control and the kernel's log.
type Watcher struct {
	epoll, inotify, wake int
	// kmsg is the kernel's log, -1 until a group with v1 pids needs it.
	kmsg int
	now  func() time.Time

	mu      sync.Mutex
	watches map[*watch]bool
	// awake are those that are due, or will be at some time.
	awake map[*watch]bool
	// byWD and byFD find the watch behind an inotify watch and an eventfd.
	byWD   map[int32]*watch
	byFD   map[int32]*watch
	closed bool
	done   chan struct{}

	pressures pressures
}

// watch is one group's.
type watch struct {
	group *Group
	fn    func(Event)
	wds   []int32
	oom   int // v1's eventfd, -1 if there is none

	// mu is held while fn runs; gone forbids any further call.
	mu   sync.Mutex
	gone bool
	// What was told last.
	oomKills, pidsMax, empties, frozen int64
	populated                          bool

	// The rest is guarded by Watcher.mu. due: read the counters in this round.
	due bool
	// said: cgroup.events, whose inotify watch is eventsWD, has changed.
	said     bool
	eventsWD int32
	// settle counts the further looks after a v1 OOM, the next of them at next.
	settle int
	next   time.Time
	// recheck is when a group is looked at whose v1 pids.events says nothing
	// more; zero if it need not be.
	recheck time.Time
}

// Since Linux 6.11 pids.events of v1 notifies nobody (it signals a file that v1
// does not have; inotify and POLLPRI were both tried on 6.18). What is left is
// the line that the kernel logs when it refuses a fork in a group for the first
// time. It is taken as a hint to read the counters, never as a fact. Refusals
// after the first are looked for once a second, in the groups that had one; in
// all groups with v1 pids if the log cannot be read.
const (
	forkRefused   = "fork rejected by pids controller"
	recheckPeriod = time.Second
	maxLogRecords = 256 // read in one round
)

// round is one watch to look at.
type round struct {
	*watch
	said bool
}

// settleLooks is how often the oom_kill counter is read after a v1 eventfd
// fired: after 1, 2, 4 ... 128 ms. The eventfd fires when the kernel begins to
// look for a victim; nothing fires when it has killed one.
const settleLooks = 8

// NewWatcher starts the loop. The caller closes the Watcher.
func NewWatcher() (*Watcher, error) {
	w := &Watcher{
		epoll: -1, inotify: -1, wake: -1, kmsg: -1,
		now:     time.Now,
		watches: map[*watch]bool{},
		awake:   map[*watch]bool{},
		byWD:    map[int32]*watch{},
		byFD:    map[int32]*watch{},
		done:    make(chan struct{}),
	}
	if err := w.openAll(); err != nil {
		w.closeAll()
		return nil, fmt.Errorf("cannot watch cgroups: %w", err)
	}
	go w.loop()
	return w, nil
}

func (w *Watcher) openAll() error {
	var err error
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if w.inotify, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		return fmt.Errorf("inotify (fs.inotify.max_user_instances?): %w", err)
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	for _, fd := range []int{w.inotify, w.wake} {
		if err := w.poll(fd); err != nil {
			return err
		}
	}
	return nil
}

func (w *Watcher) poll(fd int) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

func (w *Watcher) closeAll() {
	for _, fd := range []int{w.epoll, w.inotify, w.wake, w.kmsg} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// Add calls fn for each limit hit of g from now on, and for those since the
// group was made, in the Watcher's loop: never concurrently, and it must not
// block, nor call remove or Close, which wait for it. After remove returned fn
// is not called again; call it before Group.Remove. EventEmpty is told each
// time the last process has gone, and needs a unified tree; it may come twice.
// remove looks once more: limits hit before it are told from within it.
func (w *Watcher) Add(g *Group, fn func(Event)) (remove func(), err error) {
	one := &watch{group: g, fn: fn, oom: -1, eventsWD: -1}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fmt.Errorf("cannot watch group %s: the watcher is closed", g.name)
	}
	if err := w.arm(one); err != nil {
		w.disarm(one)
		return nil, fmt.Errorf("cannot watch group %s: %w", g.name, err)
	}
	one.populated, one.frozen = one.state()
	w.watches[one] = true
	w.mark(one)
	w.kick()
	return func() { w.remove(one) }, nil
}

// arm asks the kernel to tell of each of the group's counters.
func (w *Watcher) arm(one *watch) error {
	g := one.group
	if u := g.unified(); u != nil {
		if err := w.notify(one, u, "cgroup.events"); err != nil {
			return err
		}
		one.eventsWD = one.wds[0]
	}
	if m := g.with("pids"); m != nil && m.dir.has("pids.events") {
		if err := w.notify(one, m, "pids.events"); err != nil {
			return err
		}
		if !m.h.v2 && !w.openLog() {
			one.recheck = w.now()
		}
	}
	m := g.with("memory")
	if m == nil {
		return nil
	}
	if m.h.v2 {
		return w.notify(one, m, "memory.events")
	}
	return w.notifyOOM(one, m)
}

func (w *Watcher) notify(one *watch, m *member, file string) error {
	wd, err := unix.InotifyAddWatch(w.inotify, filepath.Join(m.path, file), unix.IN_MODIFY)
	if err != nil {
		return fmt.Errorf("inotify on %s: %w", file, err)
	}
	one.wds = append(one.wds, int32(wd))
	w.byWD[int32(wd)] = one
	return nil
}

// notifyOOM registers an eventfd for the group's OOM (cgroup-v1/memory.rst,
// "OOM Control"). The kernel forgets it when it is closed.
func (w *Watcher) notifyOOM(one *watch, m *member) error {
	control, err := m.dir.open("memory.oom_control", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	one.oom = fd
	if err := m.write("cgroup.event_control", fmt.Sprintf("%d %d ", fd, control.Fd())); err != nil {
		return err
	}
	w.byFD[int32(fd)] = one
	return w.poll(fd)
}

// openLog begins to read the kernel's log from now on.
func (w *Watcher) openLog() bool {
	if w.kmsg >= 0 {
		return true
	}
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil || w.poll(fd) != nil {
		_ = unix.Close(fd)
		return false
	}
	w.kmsg = fd
	return true
}

// readLog marks all watches if a fork was refused somewhere, or if records were
// lost (EPIPE).
func (w *Watcher) readLog() {
	buf := make([]byte, 8192) // CONSOLE_EXT_LOG_MAX
	for range maxLogRecords {
		n, err := unix.Read(w.kmsg, buf)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if errors.Is(err, unix.EPIPE) || err == nil && bytes.Contains(buf[:n], []byte(forkRefused)) {
			w.markAll()
		}
	}
}

// mark has a watch looked at in this round.
func (w *Watcher) mark(one *watch) { one.due, w.awake[one] = true, true }

func (w *Watcher) markAll() {
	for one := range w.watches {
		w.mark(one)
	}
}

// disarm undoes arm; the caller holds w.mu.
func (w *Watcher) disarm(one *watch) {
	for _, wd := range one.wds {
		delete(w.byWD, wd)
		_, _ = unix.InotifyRmWatch(w.inotify, uint32(wd))
	}
	if one.oom >= 0 {
		delete(w.byFD, int32(one.oom))
		_ = unix.Close(one.oom) // leaves the epoll set, too
		one.oom = -1
	}
	one.wds = nil
	delete(w.watches, one)
	delete(w.awake, one)
}

func (w *Watcher) remove(one *watch) {
	one.mu.Lock() // waits for a call in flight
	// A limit that was hit last is told now: the process that it ended may be
	// reported before the kernel's word of it was read.
	one.lookOOM()
	one.lookPids()
	one.gone = true
	one.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.disarm(one)
	}
}

// Close ends the loop and forgets every watch; no function is called after it.
func (w *Watcher) Close() error {
	w.pressures.close()
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		<-w.done
		return nil
	}
	w.closed = true
	w.kick()
	w.mu.Unlock()
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.watches {
		w.disarm(one)
	}
	w.closeAll()
	return nil
}

// kick wakes the loop.
func (w *Watcher) kick() {
	_, _ = unix.Write(w.wake, binary.NativeEndian.AppendUint64(nil, 1)) // EAGAIN: it is awake
}

func (w *Watcher) loop() {
	defer close(w.done)
	events := make([]unix.EpollEvent, 64)
	timeout := -1
	for {
		n, err := unix.EpollWait(w.epoll, events, timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // the descriptor is ours and open: cannot happen
		}
		if !w.collect(events[:max(n, 0)]) {
			return
		}
		var due []round
		due, timeout = w.rounds()
		for _, r := range due {
			if r.look() {
				w.recheck(r.watch)
			}
		}
	}
}

// recheck has a watch looked at once a second from now on.
func (w *Watcher) recheck(one *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if one.recheck.IsZero() {
		one.recheck, w.awake[one] = w.now().Add(recheckPeriod), true
		w.kick() // the next timeout was computed without it
	}
}

// collect takes what the kernel said and marks the watches to look at.
func (w *Watcher) collect(events []unix.EpollEvent) (open bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range events {
		switch int(e.Fd) {
		case w.inotify:
			w.readInotify()
		case w.wake:
			drain(w.wake)
		case w.kmsg:
			w.readLog()
		default:
			if one := w.byFD[e.Fd]; one != nil {
				drain(one.oom)
				one.settle, one.next = settleLooks, w.now()
				w.mark(one)
			}
		}
	}
	return !w.closed
}

// rounds gives the watches to look at now, and the milliseconds until the next
// look after a v1 OOM (-1 if there is none).
func (w *Watcher) rounds() (due []round, timeout int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	timeout = -1
	for one := range w.awake {
		for _, at := range one.schedule(now) {
			if ms := int(at.Sub(now)/time.Millisecond) + 1; timeout < 0 || ms < timeout {
				timeout = ms
			}
		}
		if one.due {
			due = append(due, round{one, one.said})
			one.due, one.said = false, false
		}
		if one.settle == 0 && one.recheck.IsZero() {
			delete(w.awake, one)
		}
	}
	return due, timeout
}

// schedule marks the watch if a look is due by time, and gives when the next
// ones are.
func (one *watch) schedule(now time.Time) []time.Time {
	var next []time.Time
	if one.settle > 0 && !now.Before(one.next) {
		one.due = true
		one.next = now.Add(time.Millisecond << (settleLooks - one.settle))
		one.settle--
	}
	if one.settle > 0 {
		next = append(next, one.next)
	}
	if !one.recheck.IsZero() {
		if !now.Before(one.recheck) {
			one.due = true
			one.recheck = now.Add(recheckPeriod)
		}
		next = append(next, one.recheck)
	}
	return next
}

// drain empties an eventfd.
func drain(fd int) {
	var buf [8]byte
	_, _ = unix.Read(fd, buf[:]) // EAGAIN: it was empty
}

// readInotify marks the watches of all queued events; after an overflow, all.
func (w *Watcher) readInotify() {
	buf := make([]byte, 64*unix.SizeofInotifyEvent)
	for {
		n, err := unix.Read(w.inotify, buf)
		if err != nil || n < unix.SizeofInotifyEvent {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			mask := binary.NativeEndian.Uint32(b[4:])
			length := binary.NativeEndian.Uint32(b[12:])
			w.notified(wd, mask)
			b = b[min(len(b), unix.SizeofInotifyEvent+int(length)):]
		}
	}
}

func (w *Watcher) notified(wd int32, mask uint32) {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		w.markAll()
		return
	}
	if one := w.byWD[wd]; one != nil {
		w.mark(one)
		one.said = one.said || wd == one.eventsWD && mask&unix.IN_MODIFY != 0
	}
	if mask&unix.IN_IGNORED != 0 {
		delete(w.byWD, wd)
	}
}

// look reads the counters and tells what rose. A group that has gone gives no
// events. The result is whether pids.max was hit on v1.
func (r round) look() (hitV1 bool) {
	one := r.watch
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.gone {
		return false
	}
	one.lookOOM()
	one.lookPids()
	one.lookEmpty(r.said)
	m := one.group.with("pids")
	return one.pidsMax > 0 && m != nil && !m.h.v2
}

func (one *watch) lookOOM() {
	m := one.group.with("memory")
	if m == nil {
		return
	}
	file, limit := "memory.oom_control", "memory.limit_in_bytes"
	if m.h.v2 {
		file, limit = "memory.events", "memory.max"
	}
	n, ok := m.counter(file, "oom_kill")
	if !ok || n <= one.oomKills {
		return
	}
	one.oomKills = n
	one.fn(Event{
		Kind: EventOOMKill, Count: n,
		Limit: m.figure(limit),
		Peak:  one.group.figure("memory", "memory.peak", "memory.max_usage_in_bytes"),
	})
}

func (one *watch) lookPids() {
	m := one.group.with("pids")
	if m == nil {
		return
	}
	n, ok := m.counter("pids.events", "max")
	if !ok || n <= one.pidsMax {
		return
	}
	one.pidsMax = n
	one.fn(Event{Kind: EventPidsMax, Count: n, Limit: m.figure("pids.max"), Peak: m.figure("pids.peak")})
}

// lookEmpty tells of the last process that went. If cgroup.events was said to
// change and reads as before, a process came and went in between.
func (one *watch) lookEmpty(said bool) {
	populated, frozen := one.state()
	went := !populated && (one.populated || said && frozen == one.frozen)
	one.populated, one.frozen = populated, frozen
	if went {
		one.empties++
		one.fn(Event{Kind: EventEmpty, Count: one.empties, Limit: -1, Peak: -1})
	}
}

func (one *watch) state() (populated bool, frozen int64) {
	u := one.group.unified()
	if u == nil {
		return false, 0
	}
	n, _ := u.counter("cgroup.events", "populated")
	frozen, _ = u.counter("cgroup.events", "frozen")
	return n == 1, frozen
}

// counter reads one key of a flat-keyed file.
func (m *member) counter(file, key string) (int64, bool) {
	text, err := m.read(file)
	if err != nil {
		return 0, false
	}
	return flatValue(text, key)
}

// figure reads one number, -1 if it cannot be read or is no bound.
func (m *member) figure(file string) int64 {
	n, err := m.limit(file)
	if err != nil || n == math.MaxInt64 {
		return -1
	}
	return n
}
