package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// Process is one started plugin: everything in its group. Methods may be
// called from any goroutine.
type Process struct {
	l       *Launcher
	r       Request
	inForce atomic.Pointer[force]
	remake  func(*plan.Plan) *force
	lease   *lease
	group   *cgroups.Group
	view    namespaces.View
	host    namespaces.Host
	doors   []string // see start
	runBy   []Interpreter
	book    *Book // for a successor; nil without one

	child  *namespaces.Child
	walls  Enforced // as read at the gate
	wallsE error

	judge   *violation.Judge
	flood   seccomp.Flood // the listener's loop alone uses it
	fallen  fallen
	watched seccomp.Observed // calls that are only looked at
	work    chan *call       // calls to decode; one worker
	urgent  chan *call       // one that contains the plugin
	// first is set by the first call that contains the plugin, which the worker
	// never sees; firstDone is closed when it was reported.
	first     atomic.Bool
	firstDone chan struct{}
	gone      chan struct{} // closed when no call can come any more
	works     sync.Once     // begins the worker
	worked    chan struct{} // closed when the worker has ended
	detect    []func()      // stops the detectors, in order
	timer     *time.Timer
	timed     chan struct{} // closed when the timer's report has ended
	felled    atomic.Bool   // killed by the launcher or for its memory

	adjusting sync.Mutex // serialises Adjust
	mu        sync.Mutex // serialises reports
	count     int
	contained violation.Wall // by which the plugin was frozen or killed
	mounts    *os.File       // see killHeld
	done      chan struct{}
	then      []func() // see Then
	exit      Exit
}

// adopt takes the started child over: its detectors, its end.
func (p *Process) adopt(child *namespaces.Child) error {
	p.child = child
	_ = p.group.Joined() // a thousand plugins have few descriptors each; nothing is lost with these
	_ = p.group.HoldFreezer()
	p.l.deaths.expect(p)
	err := p.watch()
	if err == nil {
		_ = p.note() // without, no successor goes on with it
	}
	if err != nil { // unwatched is unwalled: end it
		_ = child.Signal(syscall.SIGKILL)
	}
	child.Then(p.wait)
	if err != nil {
		<-p.done
		return errors.Join(err, p.child.Forget())
	}
	return nil
}

// watch arms every detector.
func (p *Process) watch() error {
	if p.child.Listener != nil {
		remove, err := p.l.listener.AddKept(int(p.child.Listener.Fd()), p.book.calls(), p.onCall)
		if err != nil {
			return errors.Join(err, p.child.Listener.Close())
		}
		p.detect = append(p.detect, remove)
		if err := p.child.Listener.Close(); err != nil { // the listener has its own
			return err
		}
	}
	remove, err := p.l.watcher.Add(p.group, p.onLimit)
	if err != nil {
		return err
	}
	p.detect = append(p.detect, remove)
	if told := p.r.OnPressure; told != nil {
		remove, err := p.l.watcher.AddPressure(p.group, func(e cgroups.Event) { told(e.File, e.Count) })
		if err != nil {
			return err
		}
		p.detect = append(p.detect, remove)
	}
	if wall := p.plan().Time.Wall; wall > 0 && !switchedOff("time.wall") {
		p.timed = make(chan struct{})
		p.timer = time.AfterFunc(wall-time.Since(p.child.Started), func() {
			defer close(p.timed)
			p.onTime("time.wall", wall)
		})
	}
	return nil
}

// wait ends the process's story: no report comes after Done.
func (p *Process) wait() {
	end := p.child.End()
	if p.timer != nil && !p.timer.Stop() {
		<-p.timed
	}
	for _, stop := range p.detect {
		stop()
	}
	close(p.gone)
	p.worker() // which ends
	<-p.worked
	if !p.first.CompareAndSwap(false, true) {
		<-p.firstDone
	}
	if cpu := p.plan().Time.CPU; cpu > 0 && p.outOfTime(end, cpu) {
		p.onTime("time.cpu", cpu)
	}
	named := p.l.deaths.forget(p, end.Status)
	if end.Status.Signaled() && end.Status.Signal() == syscall.SIGSYS && !named {
		p.onKilled()
	}
	p.exit = Exit{Orphaned: end.Orphaned, Status: end.Status, Duration: end.Time.Sub(p.child.Started)}
	p.exit.Usage, _ = p.group.Usage()
	p.letGo()
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.done)
	for _, f := range p.then {
		go f()
	}
	p.then = nil
}

// Then has f called, on a goroutine of its own, when it is done.
func (p *Process) Then(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		go f()
	default:
		p.then = append(p.then, f)
	}
}

// outOfTime tells whether the kernel ended the first process for its time of the
// processor (RLIMIT_CPU), which it does by SIGKILL. A kernel that accounts by
// ticks counts a whole tick for a part of one, and the more the busier the
// machine is, so that what a process really had may be far less than its limit:
// what is looked at is that nobody else is known to have killed it.
func (p *Process) outOfTime(end namespaces.ChildEnd, limit time.Duration) bool {
	return end.Status.Signaled() && end.Status.Signal() == syscall.SIGKILL && !p.felled.Load() && end.User+end.System >= limit/2
}

// PID is the plugin's first process, as the host sees it.
func (p *Process) PID() int { return p.child.PID }

// UID is the host uid that it runs as.
func (p *Process) UID() uint32 { return p.lease.uid }

// PlanDigest is the policy digest with what is particular to this host.
func (p *Process) PlanDigest() string {
	_, digest := p.inForce.Load().digests()
	return digest
}

// force is a plan that is in force, with its digests.
type force struct {
	plan    *plan.Plan
	digests func() (policy, plan string)
}

// plan is what the plugin runs under now.
func (p *Process) plan() *plan.Plan { return p.inForce.Load().plan }

// Adjust changes the limits of the group, and what violations lead to, to those
// of a plan that is the same in everything else (see profiles.Changes). On an
// error what held before holds on.
func (p *Process) Adjust(next *plan.Plan) error {
	p.adjusting.Lock()
	defer p.adjusting.Unlock()
	now := p.plan()
	if err := p.group.Update(p.l.possible(next.Limits)); err != nil {
		return errors.Join(err, p.group.Update(p.l.possible(now.Limits)))
	}
	p.judge.Change(next)
	p.inForce.Store(p.remake(next))
	return nil
}

// Interpreters are the host's programs that it is run by; nil where nobody asked
// (Request.Pins).
func (p *Process) Interpreters() []Interpreter { return p.runBy }

// Group is the plugin's control group. It belongs to the process.
func (p *Process) Group() *cgroups.Group { return p.group }

// Done is closed when the last process has gone and everything was reported.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit is how it ended; valid after Done.
func (p *Process) Exit() Exit { return p.exit }

// Procs are the processes of the plugin now, as the host sees them.
func (p *Process) Procs() ([]int, error) { return p.group.Procs() }

// Signal sends a signal to the plugin's first process.
func (p *Process) Signal(s syscall.Signal) error {
	if s == syscall.SIGKILL {
		p.felled.Store(true)
	}
	return p.child.Signal(s)
}

// killTime bounds the proof that a killed group is empty.
const killTime = 10 * time.Second

// dieTime is how long what was killed as a whole may take until it is looked
// after.
const dieTime = 20 * time.Millisecond

// Kill ends every process of the plugin, whatever it does, and proves it.
func (p *Process) Kill() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	p.felled.Store(true)
	// The first process ends the namespace even where the group cannot be
	// killed at once; an error here is one of the group's.
	_ = p.child.Signal(syscall.SIGKILL)
	if p.killNow() && p.died() { // needs no new descriptor
		return nil
	}
	err := p.group.Kill(ctx)
	select {
	case <-p.done: // it ended meanwhile, and the group may be gone with it
		return nil
	default:
		return err
	}
}

// died leaves what was told to die the processor for it, a while.
func (p *Process) died() bool {
	late := time.NewTimer(dieTime)
	defer late.Stop()
	select {
	case <-p.done:
		return true
	case <-late.C:
		return false
	}
}

// killNow tells the kernel to end the whole group and does not wait; false where
// there is no cgroup.kill.
func (p *Process) killNow() bool {
	f := p.group.KillFile()
	if f == nil {
		return false
	}
	_, err := f.WriteString("1")
	return err == nil
}

// killHeld is killNow for who waits for the death: the last process of a mount
// namespace takes all its mounts apart before it is seen to have ended (0.2 ms),
// so the namespace is held until then. Call it with p.mu.
func (p *Process) killHeld() bool {
	p.felled.Store(true)
	if p.mounts == nil {
		p.mounts = p.mountNamespace()
	}
	_ = p.child.Signal(syscall.SIGKILL) // before its reaper, whose end takes as long as its own
	return p.killNow()
}

// mountNamespace is that of the first process; nil if that cannot be had, without
// which it dies as well.
func (p *Process) mountNamespace() *os.File {
	if p.child.PIDFD != nil {
		if fd, err := unix.IoctlRetInt(int(p.child.PIDFD.Fd()), unix.PIDFD_GET_MNT_NAMESPACE); err == nil { // Linux 6.11
			return os.NewFile(uintptr(fd), "mount namespace")
		}
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", p.child.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), "mount namespace")
}

// letGo ends what killHeld held.
func (p *Process) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mounts != nil {
		_ = p.mounts.Close() // only its being open mattered
	}
}

// Freeze stops every process of the plugin where it stands.
func (p *Process) Freeze(ctx context.Context) error { return p.group.Freeze(ctx) }

// Thaw lets a frozen plugin go on.
func (p *Process) Thaw() error { return p.group.Thaw() }

// Usage is what the plugin has used so far.
func (p *Process) Usage() (cgroups.Usage, error) { return p.group.Usage() }

// Memory is how much memory the plugin holds now, in bytes; -1 for unknown.
func (p *Process) Memory() int64 { return p.group.Memory() }

// Release gives back group and uid. Call it once, after Done.
func (p *Process) Release() error {
	<-p.done
	err := p.group.Remove()
	if err != nil {
		err = errors.Join(err, p.group.Abandon())
	}
	if p.book != nil {
		err = errors.Join(err, p.book.Close())
	}
	return errors.Join(err, p.child.Forget(), p.lease.release())
}
