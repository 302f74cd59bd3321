package namespaces

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Kept is a plugin that a keeper held while no daemon was there. Its Child may
// have ended meanwhile, which Done tells as always.
type Kept struct {
	*Child
	// Held is what its launch had held (OpHold), in that order; what was dropped
	// by Loosen is not among it. The receiver closes them.
	Held []*os.File
}

// ErrNoKeeper is returned by TakeOver when no keeper waits: there was none, or
// it has ended with all that it kept.
var ErrNoKeeper = errors.New("no keeper waits for a daemon")

// ErrOtherKeeper is returned by TakeOver for the keeper of another release, whose
// messages are of another version. It has ended, with all that it kept.
var ErrOtherKeeper = errors.New("it is of another release")

// adoptTime bounds how long a keeper may take to tell what it has. Its daemon
// has gone, or is about to: its locks went with it.
const adoptTime = 20 * time.Second

// KeepFor has the keeper, when this process goes, keep the plugins for so long,
// for a successor that comes to the socket at path (made here, for root alone;
// what stands there is replaced). 0 ends them at once, as without it.
func (k *Keeper) KeepFor(grace time.Duration, path string) error {
	var files []*os.File
	if grace > 0 && path != "" {
		f, err := listenForSuccessor(path)
		if err != nil {
			return err
		}
		defer f.Close()
		files = append(files, f)
	}
	ms := min(max(grace.Milliseconds(), 0), 1<<31-1)
	msg, err := pack(wireRequest{Kind: wireKindKeep, Flags: uint32(ms), Nfds: uint32(len(files)), CgroupFD: wireNoString, NetnsFD: wireNoString}, nil, nil) // #nosec G115 -- bounded above
	if err != nil {
		return err
	}
	return k.send(msg, files)
}

// listenForSuccessor makes the socket that the keeper accepts on. The directory
// is the daemon's own.
func listenForSuccessor(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot make the keeper's socket: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make the keeper's socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	// 0600 before anyone could connect: nobody can before it listens.
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	if err == nil {
		err = unix.Chmod(path, 0o600)
	}
	if err == nil {
		err = unix.Listen(fd, 4)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot listen on the keeper's socket %s: %w", path, err), f.Close())
	}
	return f, nil
}

// TakeOver becomes the daemon of the keeper that waits at path, and gets every
// plugin that it keeps. Where none waits the error is ErrNoKeeper. Any other
// error is one of a keeper that waits and cannot be used; where it said who it
// is, it was ended, and all of its plugins with it.
func TakeOver(path string) (*Keeper, []*Kept, error) {
	conn, err := dialKeeper(path)
	if err != nil {
		return nil, nil, err
	}
	k := &Keeper{conn: conn, gone: make(chan struct{}), launching: make(chan struct{}, wireMaxLaunches), pending: map[uint64]chan answer{}, children: map[uint64]*Child{}}
	if err := conn.SetReadDeadline(time.Now().Add(adoptTime)); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	kept, err := k.greet()
	if err != nil {
		return nil, nil, k.refuse(kept, err)
	}
	if err := errors.Join(conn.SetReadDeadline(time.Time{}), unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)); err != nil {
		return nil, nil, k.refuse(kept, err)
	}
	go k.read()
	return k, kept, nil
}

func dialKeeper(path string) (*net.UnixConn, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, ErrNoKeeper
	}
	if err != nil {
		return nil, fmt.Errorf("cannot reach the keeper: %w", err)
	}
	if err := widen(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// widen gives a socket room for the largest request.
func widen(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { growSendBuffer(int(fd)) })
}

// greet reads who the keeper is and all that it keeps.
func (k *Keeper) greet() (kept []*Kept, err error) {
	for in := newReplies(k.conn); ; {
		a, err := in.next()
		if err != nil {
			if k.proc == nil && !os.IsTimeout(err) { // it ended while we stood before its door
				err = errors.Join(ErrNoKeeper, err)
			}
			return kept, fmt.Errorf("cannot take over from the keeper: %w", err)
		}
		switch r := a.reply; {
		case r.Version != wireVersion:
			return kept, k.greetOther(a)
		case a.lost:
			closeAll(a.files)
			return kept, fmt.Errorf("cannot take over from the keeper: descriptors did not arrive: %w", unix.EMFILE)
		case r.Kind == wireKindKeeper && len(a.files) == 1 && k.proc == nil:
			k.proc = foundKeeper{int(r.Pid), a.files[0]}
		case r.Kind == wireKindKept && k.proc != nil:
			kept = append(kept, k.kept(r, a.files))
		case r.Kind == wireKindAll && k.proc != nil:
			return kept, nil
		case r.Kind == wireKindExited:
			k.deliver(a)
		default:
			closeAll(a.files)
			return kept, fmt.Errorf("cannot take over from the keeper: it said %d out of turn", r.Kind)
		}
	}
}

// greetOther learns of a keeper of another version what that needs to be ended: its
// first message has its pidfd alone, in every version.
func (k *Keeper) greetOther(a answer) error {
	err := fmt.Errorf("cannot take over from the keeper: it speaks version %d and this daemon %d", a.reply.Version, wireVersion)
	if len(a.files) != 1 || k.proc != nil {
		closeAll(a.files)
		return err
	}
	pid, pidErr := pidOf(a.files[0])
	if pidErr != nil {
		closeAll(a.files)
		return errors.Join(err, pidErr)
	}
	k.proc = foundKeeper{pid, a.files[0]}
	return fmt.Errorf("%w: %w", err, ErrOtherKeeper)
}

// pidOf is the process that a pidfd is of: pidfd_open(2), "fdinfo".
func pidOf(pidfd *os.File) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
	if err != nil {
		return 0, fmt.Errorf("cannot tell which process a pidfd is of: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Pid:"); ok {
			if pid, err := strconv.Atoi(strings.TrimSpace(value)); err == nil && pid > 0 {
				return pid, nil
			}
		}
	}
	return 0, errors.New("cannot tell which process a pidfd is of: it is none that lives")
}

// kept makes the child of what a keeper tells of a plugin.
func (k *Keeper) kept(r wireReply, files []*os.File) *Kept {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := &Child{PID: int(r.Pid), ReaperPID: int(r.Reaper), Started: time.Now(), id: r.ID, keeper: k, done: make(chan struct{})}
	k.children[r.ID] = c
	k.next = max(k.next, r.ID)
	if r.Detail&wireHasPidfd != 0 && len(files) > 0 {
		c.PIDFD, files = files[0], files[1:]
	}
	if r.Detail&wireHasListener != 0 && len(files) > 0 {
		c.Listener, files = files[0], files[1:]
	}
	return &Kept{Child: c, Held: files}
}

// refuse ends a keeper that cannot be used: better nothing runs than something
// that nobody watches.
func (k *Keeper) refuse(kept []*Kept, err error) error {
	if k.proc == nil {
		return errors.Join(err, k.conn.Close())
	}
	for _, p := range kept {
		closeAll(p.Held)
		if p.Listener != nil {
			_ = p.Listener.Close()
		}
	}
	if found, ok := k.proc.(foundKeeper); ok {
		err = errors.Join(err, unix.PidfdSendSignal(int(found.pidfd.Fd()), unix.SIGKILL, nil, 0))
	}
	k.read()
	for _, p := range kept {
		if p.PIDFD != nil {
			_ = p.PIDFD.Close()
		}
	}
	return errors.Join(err, k.conn.Close())
}

// foundKeeper is one that an earlier daemon started: this process's child only
// if it is that daemon, with another program.
type foundKeeper struct {
	pid   int
	pidfd *os.File
}

func (p foundKeeper) PID() int { return p.pid }

// orphanTime bounds the wait for what the kernel ends with its keeper.
const orphanTime = 10 * time.Second

func (p foundKeeper) wait(children []*Child) error {
	defer p.pidfd.Close()
	awaitEnd(p.pidfd, -1)
	var info unix.Siginfo
	err := waitEINTR(func() error {
		return unix.Waitid(unix.P_PIDFD, int(p.pidfd.Fd()), &info, unix.WEXITED, nil)
	})
	if err == nil {
		endOrphans(p.pid)
	}
	for _, c := range children {
		if c.PIDFD != nil {
			awaitEnd(c.PIDFD, orphanTime)
		}
	}
	return nil // how it ended is its parent's to know
}

// awaitEnd waits until a pidfd says that its process has ended; at most for d,
// or, if that is negative, for ever.
func awaitEnd(pidfd *os.File, d time.Duration) {
	for until := time.Now().Add(d); ; {
		ms := -1
		if d >= 0 {
			ms = int(max(0, time.Until(until).Milliseconds()))
		}
		fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}} // #nosec G115 -- a descriptor
		n, err := unix.Poll(fds, ms)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			return
		}
	}
}

func waitEINTR(do func() error) error {
	for {
		if err := do(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Loosen has the keeper drop what it holds of the plugin for a successor alone,
// so that what this process closes is closed. It cannot be handed on afterwards.
func (c *Child) Loosen() error { return c.keeper.say(wireKindLoose, c.id) }

// Abandon ends a plugin that nobody wants to go on with: everything in its pid
// namespace. Done tells when it has.
func (c *Child) Abandon() error { return c.keeper.say(wireKindForget, c.id) }

// KeeperVersion is of the messages between keeper and daemon; both must have the
// same.
const KeeperVersion = wireVersion
