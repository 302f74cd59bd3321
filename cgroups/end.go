package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of waiting where the caller's context has no deadline of its own. A
// process in uninterruptible sleep cannot be ended by anybody, so the wait must
// end instead.
const (
	waitBound = 10 * time.Second
	// rekill is how long a killed group may stay populated until it is told
	// again: what was just entering it may have missed the first time.
	rekill = 50 * time.Millisecond
	// removeTries times backoff (1, 2, 4 ... 64 ms) is about half a second.
	removeTries = 12
	maxBackoff  = 64 * time.Millisecond
)

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, waitBound)
}

// backoff waits 1 ms, 2 ms, 4 ms ... for the n-th time, or until ctx is done.
func backoff(ctx context.Context, n int) error {
	timer := time.NewTimer(min(time.Millisecond<<min(n, 10), maxBackoff))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The kernel tells of changes to cgroup.events at most once in 10 ms
// (CGROUP_FILE_NOTIFY_MIN_INTV in its kernel/cgroup/cgroup.c): what changes
// soon after another change is told late. So the file is looked at again after
// firstLook, twice that, and so on until that time is over.
const (
	firstLook = 50 * time.Microsecond
	lastLook  = 10 * time.Millisecond
)

// awaitEvents blocks until the group's cgroup.events satisfies ok, ctx is done,
// or, if again is positive, for that long (the result is false then). The
// kernel wakes it, once the time is over in which it may be late.
func (m *member) awaitEvents(ctx context.Context, again time.Duration, ok func(map[string]int64) bool) (bool, error) {
	events, err := m.dir.open("cgroup.events", unix.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer events.Close()
	cancelled, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return false, fmt.Errorf("cannot wait: eventfd: %w", err)
	}
	wake := os.NewFile(uintptr(cancelled), "eventfd")
	defer wake.Close()
	// AfterFunc's stop does not wait for a function that already runs, so the
	// function uses the os.File, which is safe to use after Close.
	stop := context.AfterFunc(ctx, func() { _, _ = wake.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) })
	defer stop()
	for look := firstLook; ; {
		buf := make([]byte, 4096)
		n, err := events.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return false, err
		}
		if ok(parseFlat(buf[:n])) {
			return true, nil
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}, {Fd: int32(cancelled), Events: unix.POLLIN}}
		timeout, soon := again, look <= lastLook
		if soon {
			timeout, look = look, 2*look
		}
		ready, err := unix.Ppoll(fds, timespec(timeout), nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("cannot wait: poll: %w", err)
		}
		if err == nil && ready == 0 && !soon {
			return false, nil
		}
	}
}

// timespec is what ppoll(2) takes: nil, for ever, unless d is positive.
func timespec(d time.Duration) *unix.Timespec {
	if d <= 0 {
		return nil
	}
	ts := unix.NsecToTimespec(d.Nanoseconds())
	return &ts
}

// FreezeNow tells the kernel to freeze the whole tree and does not wait.
func (g *Group) FreezeNow() error { return g.setFrozen(true) }

// HoldFreezer has FreezeNow be a single system call from now on: the kernel takes
// longer to open the file of a group than to freeze it. Call it before anybody may
// freeze; without, or where it fails, the file is opened each time.
func (g *Group) HoldFreezer() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.unified()
	if u == nil || g.removed || g.freezer != nil {
		return nil
	}
	var err error
	g.freezer, err = u.dir.open("cgroup.freeze", unix.O_WRONLY)
	return err
}

// Freeze freezes the whole tree and returns when every process in it stands
// still, or with ctx (10 s at most, if it has no deadline).
func (g *Group) Freeze(ctx context.Context) error {
	if err := g.setFrozen(true); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := g.awaitFrozen(ctx); err != nil {
		return fmt.Errorf("cannot freeze group %s: %w", g.name, err)
	}
	return nil
}

// Thaw lets the tree go on. It does not wait.
func (g *Group) Thaw() error { return g.setFrozen(false) }

func (g *Group) setFrozen(frozen bool) error {
	var err error
	switch u, f := g.unified(), g.with("freezer"); {
	case g.freezer != nil:
		_, err = g.freezer.WriteString(map[bool]string{true: "1", false: "0"}[frozen])
	case u != nil:
		err = u.write("cgroup.freeze", map[bool]string{true: "1", false: "0"}[frozen])
	case f != nil:
		err = f.write("freezer.state", map[bool]string{true: "FROZEN", false: "THAWED"}[frozen])
	default:
		err = &UnsupportedError{Limit: "cgroup.freeze", Need: "a cgroup2 mount or the v1 freezer (CONFIG_CGROUP_FREEZER)"}
	}
	if err != nil {
		return fmt.Errorf("cannot freeze or thaw group %s: %w", g.name, err)
	}
	return nil
}

func (g *Group) awaitFrozen(ctx context.Context) error {
	if u := g.unified(); u != nil {
		_, err := u.awaitEvents(ctx, 0, func(e map[string]int64) bool { return e["frozen"] == 1 })
		return err
	}
	for n := 0; ; n++ {
		// v1 tells nobody; reading the state makes the kernel look again.
		state, err := g.with("freezer").text("freezer.state")
		if err != nil || state == "FROZEN" {
			return err
		}
		if state == "THAWED" {
			return errors.New("it was thawed meanwhile")
		}
		if err := backoff(ctx, n); err != nil {
			return err
		}
	}
}

// Kill ends every process of the whole tree, whatever it does, takes its
// cpu.max away (so it is of no use for a group that shall live on) and returns when
// the group is proven empty in every hierarchy, or with ctx (10 s at most, if
// it has no deadline). A frozen group dies too.
func (g *Group) Kill(ctx context.Context) error {
	if g.isRemoved() {
		return nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := g.killAll(ctx); err != nil {
		return fmt.Errorf("cannot end group %s: %w", g.name, err)
	}
	return nil
}

func (g *Group) isRemoved() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.removed
}

func (g *Group) killAll(ctx context.Context) error {
	if u := g.unified(); u != nil && u.dir.has("cgroup.kill") {
		if err := u.killTree(ctx, g.unthrottle); err != nil {
			return err
		}
	} else {
		g.unthrottle()
	}
	// What is left, if anything, is in a v1 hierarchy and not on the unified
	// tree, or there is no cgroup.kill.
	for n := 0; ; n++ {
		populated, err := g.Populated()
		if err != nil || !populated {
			return err
		}
		if err := g.killListed(); err != nil {
			return err
		}
		if err := backoff(ctx, n); err != nil {
			return err
		}
	}
}

// unthrottle takes cpu.max away from what is about to die: a process needs
// processor time to end, and a hundred of them at 1% would take a minute. If it
// cannot be done they die more slowly.
func (g *Group) unthrottle() {
	m := g.with("cpu")
	switch {
	case m == nil:
	case m.h.v2:
		_ = m.write("cpu.max", "max")
	default:
		_ = m.write("cpu.cfs_quota_us", "-1")
	}
}

// killTree uses cgroup.kill, which no fork escapes, until populated is 0. then
// is called once all are condemned.
func (m *member) killTree(ctx context.Context, then func()) error {
	for {
		if err := m.write("cgroup.kill", "1"); err != nil {
			return err
		}
		then()
		empty, err := m.awaitEvents(ctx, rekill, func(e map[string]int64) bool { return e["populated"] == 0 })
		if err != nil || empty {
			return err
		}
	}
}

// killListed freezes the group where that can be done, so that nothing forks
// away from the list, signals each process and thaws.
func (g *Group) killListed() error {
	ctx, cancel := context.WithTimeout(context.Background(), maxBackoff)
	defer cancel()
	frozen := g.setFrozen(true) == nil
	if frozen {
		_ = g.awaitFrozen(ctx) // late is no harm: the caller comes again
	}
	var errs []error
	for _, m := range g.members {
		errs = append(errs, m.signalAll())
	}
	if frozen {
		errs = append(errs, g.setFrozen(false))
	}
	return errors.Join(errs...)
}

// signalAll sends SIGKILL to every process of the member. A pid may be another
// process's by the time it is signalled, so each is pinned by a pidfd and seen
// to be still listed before.
func (m *member) signalAll() error {
	pids, err := m.procs()
	if err != nil {
		return err
	}
	pinned := map[int]int{}
	defer func() {
		for _, fd := range pinned {
			_ = unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			pinned[pid] = fd
		}
	}
	still, err := m.procs()
	if err != nil {
		return err
	}
	for _, pid := range still {
		fd, ok := pinned[pid]
		if !ok {
			continue // new; the caller comes again
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("cannot signal process %d: %w", pid, err)
		}
	}
	return nil
}

// Remove takes the group's directories away in every hierarchy, sub-groups
// first and the claim last, and closes its descriptors. The group must be empty
// (Kill); a directory that the kernel still holds busy is tried for about half
// a second. If something stays, the error says what, and Remove may be called
// again. Removing twice is no error.
func (g *Group) Remove() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.removed {
		return nil
	}
	// The claim goes last: a sweep must find it as long as anything is there.
	for _, m := range slices.Backward(g.members) {
		if err := g.tree.removeAll(m.path); err != nil {
			return fmt.Errorf("cannot remove group %s: %w", g.name, err)
		}
	}
	g.removed = true
	return g.closeFiles()
}

// removeAll removes a group and all below it, which is mostly nothing.
func (t *Tree) removeAll(path string) error {
	if err := t.kernel.rmdir(path); err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	paths, err := walk(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, p := range paths {
		if err := t.removeDir(p); err != nil {
			return err
		}
	}
	return nil
}

// removeDir retries EBUSY: a process that has ended leaves its v1 groups, and
// the kernel its last references, a moment later.
func (t *Tree) removeDir(path string) error {
	for n := 0; ; n++ {
		err := t.kernel.rmdir(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || n == removeTries {
			return &fs.PathError{Op: "rmdir", Path: path, Err: err}
		}
		_ = backoff(context.Background(), n)
	}
}
