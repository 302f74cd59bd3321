package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Handler is called in the listener's loop for every call that reaches it, and
// holds up the calls of every plugin while it runs: it must answer at once and
// decode later (see Describe and Verdict.Then). It is never called concurrently. A handler that
// panics has answered EPERM.
type Handler func(Notification) Verdict

// Verdict is the answer to one call. The zero Verdict refuses with EPERM: no
// fault can make a call look as if it had succeeded.
type Verdict struct {
	// Errno is what the plugin's call fails with; 0 stands for EPERM.
	Errno syscall.Errno
	// Continue lets the kernel go on with the call. The arguments can have
	// changed since: only for what is observed, never for a decision.
	Continue bool
	// Pending leaves the call waiting until Notification.Answer, which must be
	// called once. For what must be read of the plugin while it still waits;
	// what is not answered when the plugin is removed gets EPERM.
	Pending bool
	// Then, if it is not nil, is run at once by who took the call, after another has
	// taken over the loop: for a pending call that is worth more than a queue and
	// can take its time. Each costs a goroutine, so the Handler bounds how many
	// there are; it may still run when the plugin is removed.
	Then func()
}

// Notification is one call that waits for an answer. A copy may be kept as
// long as wanted.
type Notification struct {
	// ID is the kernel's cookie; it counts upwards within one listener.
	ID uint64
	// PID is the thread's id as this process sees it.
	PID int
	// PC is the program counter after the call's instruction.
	PC uint64
	NR int
	// Call is the name of NR, or "syscall_N".
	Call string
	// Arch is the AUDIT_ARCH_* value.
	Arch uint32
	Args [6]uint64
	Time time.Time

	// uptime is Time on the clock of /proc/PID/stat.
	uptime time.Duration
	source *source
}

// Listener answers the calls that the filters of many plugins left to it, in
// one loop. Its methods may be called from everywhere, except Close, which a
// Handler must not call.
type Listener struct {
	epoll int
	wake  int // an eventfd that ends the loop
	sizes notifySizes
	now   func() time.Time
	ended chan struct{}

	mu      sync.Mutex
	sources map[int32]*source
	closed  bool
	onFault func(error)
}

// source is one plugin's listener.
type source struct {
	handle Handler

	mu      sync.RWMutex   // held for reading while fd is in use
	fd      int            // ours; -1 when it is closed
	pending map[uint64]int // received calls, with their place in kept; -1 is none
	kept    *places        // nil keeps none
}

// notifySizes is struct seccomp_notif_sizes.
type notifySizes struct{ notification, response, data uint16 }

// Sizes of the structures as this program knows them; a newer kernel's are
// longer.
const (
	notificationSize = 80
	responseSize     = 24
)

// ErrClosed is returned for a listener that was closed.
var ErrClosed = errors.New("the listener is closed")

// NewListener starts a listener without plugins. Close ends it.
func NewListener() (*Listener, error) {
	sizes, err := kernelSizes()
	if err != nil {
		return nil, fmt.Errorf("cannot listen for system calls: the kernel has no seccomp notifications (Linux 5.0, CONFIG_SECCOMP_FILTER): %w", err)
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for system calls: epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot listen for system calls: eventfd: %w", err), unix.Close(epoll))
	}
	l := &Listener{
		epoll: epoll, wake: wake, sizes: sizes, now: time.Now,
		ended: make(chan struct{}), sources: make(map[int32]*source),
	}
	if err := l.register(wake, unix.EPOLLIN); err != nil {
		return nil, errors.Join(err, unix.Close(wake), unix.Close(epoll))
	}
	go l.loop()
	return l, nil
}

// kernelSizes asks the kernel how long its structures are.
func kernelSizes() (notifySizes, error) {
	var s notifySizes
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0, uintptr(unsafe.Pointer(&s)))
	if errno != 0 {
		return s, errno
	}
	s.notification = max(s.notification, notificationSize)
	s.response = max(s.response, responseSize)
	return s, nil
}

// OnFault sets who is told of faults of the listener itself, such as a handler
// that panicked. It is called in the loop and must not block.
func (l *Listener) OnFault(fn func(error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onFault = fn
}

func (l *Listener) fault(err error) {
	l.mu.Lock()
	fn := l.onFault
	l.mu.Unlock()
	if fn != nil {
		fn(err)
	}
}

func (l *Listener) register(fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)} // #nosec G115 -- a descriptor
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("cannot listen for system calls: epoll: %w", err)
	}
	return nil
}

// Add serves one plugin's listener descriptor. The Listener makes a duplicate:
// fd stays the caller's, who may close it as soon as Add has returned, and
// should unless someone is to answer when this process is gone.
//
// It ends by itself when the last process of the filter has ended; remove ends
// it before. After remove the handler is not called again, except that a call
// which it is just answering is finished; calls that were left pending get
// EPERM. remove may be called more than once, and from the handler.
func (l *Listener) Add(fd int, h Handler) (remove func(), err error) {
	return l.AddKept(fd, nil, h)
}

// AddKept is Add that has the kernel write every call that it takes into
// memory, of KeptSize bytes and zero at first, from before anything else knows
// of it until it is answered: a process that has the same memory and listener
// when this one was killed goes on with what was taken and not answered, which
// AddKept does before it returns. Without memory it is Add.
func (l *Listener) AddKept(fd int, memory []byte, h Handler) (remove func(), err error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) // #nosec G115 -- a descriptor
	if err != nil {
		return nil, fmt.Errorf("cannot listen for system calls: descriptor %d: %w", fd, err)
	}
	s := &source{handle: h, fd: own, pending: make(map[uint64]int), kept: newPlaces(memory, l.sizes)}
	for _, n := range l.left(s) {
		if then := l.answer(s, n); then != nil {
			go l.fenced(n, then)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.Join(ErrClosed, unix.Close(own))
	}
	if err := l.register(own, unix.EPOLLIN); err != nil {
		return nil, errors.Join(err, unix.Close(own))
	}
	l.sources[int32(own)] = s // #nosec G115 -- a descriptor
	return func() { l.drop(s) }, nil
}

// drop ends a source: what is pending is refused, the descriptor closed.
func (l *Listener) drop(s *source) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return
	}
	for id := range s.pending {
		_ = s.send(id, Verdict{}) // a call that is gone needs no answer
	}
	clear(s.pending)
	s.kept.forgetAll()
	delete(l.sources, int32(s.fd)) // #nosec G115 -- a descriptor
	// Explicitly: others may hold the same open file, and then closing ours
	// does not take it out of the set.
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, s.fd, nil) // it is in the set
	_ = unix.Close(s.fd)                                      // it wrote nothing
	s.fd = -1
}

// Len is how many plugins are served.
func (l *Listener) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sources)
}

// Close ends the loop and every source. Calls that wait are refused as soon as
// nobody else holds their listener.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	one := binary.NativeEndian.AppendUint64(nil, 1)
	if _, err := unix.Write(l.wake, one); err != nil {
		return fmt.Errorf("cannot end the listener for system calls: %w", err)
	}
	<-l.ended
	return nil
}

// loop serves until Close, or until there is a Verdict.Then to run: then another
// goroutine goes on as the loop, so that nobody has to be woken for it.
func (l *Listener) loop() {
	if n, then := l.serve(); then != nil {
		go l.loop()
		l.fenced(n, then)
		return
	}
	l.end()
	close(l.ended)
}

// serve serves until Close, or until a call asks for more. Epoll is level-triggered
// and each turn takes one call of each plugin, so that none can keep the others
// waiting, and what was told of and not served is told of again.
func (l *Listener) serve() (Notification, func()) {
	buffer := make([]uint64, (int(l.sizes.notification)+7)/8)
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			l.fault(fmt.Errorf("cannot go on listening for system calls: epoll: %w", err))
			return Notification{}, nil
		}
		for _, ev := range events[:n] {
			if int(ev.Fd) == l.wake {
				return Notification{}, nil
			}
			if n, then := l.turn(ev.Fd, buffer); then != nil {
				return n, then
			}
		}
	}
}

// fenced runs what a handler left to be done with a call; a fault of it refuses
// the call.
func (l *Listener) fenced(n Notification, then func()) {
	defer func() {
		if r := recover(); r != nil {
			l.fault(fmt.Errorf("the handler of %s failed: %v\n%s", n.Call, r, debug.Stack()))
			_ = n.Answer(Verdict{}) // no harm if it was answered
		}
	}()
	then()
}

// end closes everything, which has every waiting call refused.
func (l *Listener) end() {
	l.mu.Lock()
	l.closed = true
	sources := make([]*source, 0, len(l.sources))
	for _, s := range l.sources {
		sources = append(sources, s)
	}
	l.mu.Unlock()
	for _, s := range sources {
		l.drop(s)
	}
	_ = unix.Close(l.wake) // nothing was written that must last
	_ = unix.Close(l.epoll)
}

// turn serves one call of one plugin, and returns what is still to be done with
// it, if anything.
func (l *Listener) turn(fd int32, buffer []uint64) (n Notification, then func()) {
	l.mu.Lock()
	s := l.sources[fd]
	l.mu.Unlock()
	if s == nil {
		return n, nil // removed since the event
	}
	n, err := l.receive(s, buffer)
	switch {
	case err == nil:
		return n, l.answer(s, n)
	case errors.Is(err, errNothing):
	case errors.Is(err, errHangup):
		l.drop(s)
	default:
		l.fault(fmt.Errorf("cannot receive a system call: %w", err))
		l.drop(s)
	}
	return n, nil
}

var (
	errNothing = errors.New("no call waits")
	errHangup  = errors.New("the last process has ended")
)

// receive takes one call. It asks just before whether one waits: a receive
// without one would block the loop, for ever if the plugin has died. The call
// is pending before the lock is given up, so that whoever removes the plugin
// answers it.
func (l *Listener) receive(s *source, buffer []uint64) (Notification, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return Notification{}, errNothing
	}
	if err := s.ready(); err != nil {
		return Notification{}, err
	}
	place, kept := s.kept.free(s.pending)
	if place >= 0 {
		buffer = kept
	}
	clear(buffer) // the kernel refuses what is not zero
	switch errno := ioctl(s.fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&buffer[0])); errno {
	case 0:
		n := l.notification(s, unsafe.Slice((*byte)(unsafe.Pointer(&buffer[0])), notificationSize))
		s.pending[n.ID] = place
		return n, nil
	case unix.EINTR, unix.ENOENT: // a signal to us; the call was interrupted or its thread ended
		return Notification{}, errNothing
	default:
		return Notification{}, errno
	}
}

// ready polls without waiting.
func (s *source) ready() error {
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}} // #nosec G115 -- a descriptor
	n, err := unix.Poll(fds, 0)
	switch {
	case errors.Is(err, unix.EINTR) || err == nil && n == 0:
		return errNothing
	case err != nil:
		return err
	case fds[0].Revents&unix.POLLIN != 0:
		return nil
	default:
		return errHangup
	}
}

// notification reads struct seccomp_notif.
func (l *Listener) notification(s *source, b []byte) Notification {
	u32, u64 := binary.NativeEndian.Uint32, binary.NativeEndian.Uint64
	n := Notification{
		ID: u64(b), PID: int(u32(b[8:])), NR: int(int32(u32(b[16:]))), // #nosec G115 -- an int in the structure
		Arch: u32(b[20:]), PC: u64(b[24:]), Time: l.now(), uptime: uptime(), source: s,
	}
	for i := range n.Args {
		n.Args[i] = u64(b[32+8*i:])
	}
	n.Call = Name(n.NR)
	return n
}

// uptime is the time since boot, with sleep.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// answer asks the handler and passes on what it says, or returns what is still to
// be done.
func (l *Listener) answer(s *source, n Notification) (then func()) {
	v := l.ask(s, n)
	if v.Pending {
		return v.Then
	}
	if err := n.Answer(v); err != nil {
		l.fault(err)
	}
	return nil
}

// ask calls the handler behind a fence.
func (l *Listener) ask(s *source, n Notification) (v Verdict) {
	defer func() {
		if r := recover(); r != nil {
			v = Verdict{}
			l.fault(fmt.Errorf("the handler of %s failed: %v\n%s", n.Call, r, debug.Stack()))
		}
	}()
	return s.handle(n)
}

// Answer decides a call that was left pending. A call that is gone, or was
// answered already, is no error. If the kernel does not take the answer, it is
// refused with EPERM instead.
func (n Notification) Answer(v Verdict) error {
	if n.source == nil {
		return nil
	}
	n.source.mu.Lock()
	defer n.source.mu.Unlock()
	place, waits := n.source.pending[n.ID]
	if !waits || n.source.fd < 0 {
		return nil
	}
	delete(n.source.pending, n.ID)
	defer n.source.kept.forget(place)
	err := n.source.send(n.ID, v)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	err = fmt.Errorf("cannot answer %s: %w", n.Call, err)
	return errors.Join(err, n.source.send(n.ID, Verdict{}))
}

// send passes one answer to the kernel, whose errno is negative in the
// structure: a positive one would be the call's result.
func (s *source) send(id uint64, v Verdict) error {
	var response [4]uint64 // room for a newer kernel's
	b := unsafe.Slice((*byte)(unsafe.Pointer(&response[0])), responseSize)
	binary.NativeEndian.PutUint64(b, id)
	if v.Continue {
		binary.NativeEndian.PutUint32(b[20:], unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
	} else {
		binary.NativeEndian.PutUint32(b[16:], uint32(-int32(refusal(v.Errno)))) // #nosec G115 -- at most maxErrno
	}
	for {
		switch errno := ioctl(s.fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&response[0])); errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// refusal is the errno that is sent: EPERM for what is none.
func refusal(e syscall.Errno) syscall.Errno {
	if e == 0 || e > maxErrno {
		return unix.EPERM
	}
	return e
}

// StillValid tells whether the call still waits for its answer, and so whether
// PID is still the thread that made it.
func (n Notification) StillValid() bool {
	if n.source == nil {
		return false
	}
	n.source.mu.RLock()
	defer n.source.mu.RUnlock()
	if n.source.fd < 0 {
		return false
	}
	id := n.ID
	return ioctl(n.source.fd, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == 0
}

// ioctl is the raw call.
func ioctl(fd int, request uintptr, arg unsafe.Pointer) syscall.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	return errno
}

// Process returns the id of the process that the thread belongs to, and the
// path of its executable as the plugin sees it, escaped as in a Go string.
// They are 0 and "" when the thread has gone. The executable may be unlinked,
// which the kernel then says behind it.
func (n Notification) Process() (pid int, exe string) {
	pid = threadGroup(n.PID)
	if link, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", n.PID)); err == nil {
		exe = escape(link, maxPath)
	}
	if !n.sameThread() {
		return 0, ""
	}
	return pid, exe
}
