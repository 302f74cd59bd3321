package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// claimTries bounds the loops that lose a directory to somebody who removes it
// between mkdir and lock. Each loss takes a whole sweep of another daemon.
const claimTries = 16

// Group is one control group, in every hierarchy that it needs. Its maker owns
// it: Remove closes every descriptor and takes the directories away. Its
// methods may be called by several goroutines.
type Group struct {
	tree *Tree
	name string
	// members are its directories in the order they were made: the undo stack.
	// The first is the claim.
	members []*member
	kill    *os.File
	thaw    *os.File
	freezer *os.File // see HoldFreezer

	mu      sync.Mutex
	removed bool
}

// member is a group's directory in one hierarchy.
type member struct {
	*dir
	h *hierarchy
	// tasks is open for writing on v1, for the one who joins.
	tasks *os.File
}

// New makes the group root/name and sets its limits. The new directory is the
// claim on the name: the error wraps fs.ErrExist while a group of that name is
// there, alive or left over (Sweep ends those). On any error nothing is left.
//
// A limit whose controller the host lacks is an *UnsupportedError. memory.high
// on v1 alone is left out, since its soft limit bounds nothing: Unsupported
// says so beforehand, Read afterwards. Swap is 0 unless asked for otherwise
// when memory.max is set. Devices are always closed where the host can, but for
// null, zero, full, random and urandom.
func (t *Tree) New(name string, l Limits) (*Group, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := errors.Join(l.Validate(), t.supports(l)); err != nil {
		return nil, fmt.Errorf("cannot make group %s: %w", name, err)
	}
	g := &Group{tree: t, name: name}
	if err := g.build(l); err != nil {
		err = fmt.Errorf("cannot make group %s: %w", name, err)
		if left := g.Remove(); left != nil {
			err = errors.Join(err, left, g.Abandon())
		}
		return nil, err
	}
	return g, nil
}

func (g *Group) build(l Limits) error {
	if err := g.claim(); err != nil {
		return err
	}
	for _, h := range g.tree.layout.hierarchies[1:] {
		if h.unneeded(l) {
			continue
		}
		if err := g.enter(h); err != nil {
			return err
		}
	}
	if err := g.create(l); err != nil {
		return err
	}
	return g.openFiles()
}

func (g *Group) dir(h *hierarchy) string { return filepath.Join(g.tree.rootDir(h), g.name) }

// claim makes and locks the primary directory. Between mkdir and flock a sweep
// of another daemon may take the new directory for a leftover; then its lock is
// waited for (it is held for one sweep at most), the directory is seen to be
// another one or none, and the claim starts again.
func (g *Group) claim() error {
	h := g.tree.layout.primary()
	for range claimTries {
		if err := g.tree.kernel.mkdir(g.dir(h)); err != nil {
			return fmt.Errorf("cannot claim it: %w", err)
		}
		d, err := openDir(g.dir(h))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return errors.Join(err, g.tree.kernel.rmdir(g.dir(h)))
		}
		if err := d.lock(unix.LOCK_EX); err != nil {
			return errors.Join(fmt.Errorf("cannot lock %s: %w", d.path, err), d.Close(), g.tree.kernel.rmdir(g.dir(h)))
		}
		if d.current() {
			g.members = append(g.members, &member{dir: d, h: h})
			return nil
		}
		_ = d.Close() // it has gone; nothing can be lost with it
	}
	return fmt.Errorf("cannot claim it: %s was removed %d times meanwhile", g.dir(h), claimTries)
}

// enter makes the group's directory in another hierarchy.
func (g *Group) enter(h *hierarchy) error {
	err := g.tree.kernel.mkdir(g.dir(h))
	if errors.Is(err, fs.ErrNotExist) { // the first with a cpuset
		if _, err := g.tree.makeRoot(h); err != nil {
			return err
		}
		err = g.tree.kernel.mkdir(g.dir(h))
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("a group of that name was left over in %s; sweep first: %w", h.name(), err)
	}
	if err != nil {
		return err
	}
	d, err := openDir(g.dir(h))
	if err != nil {
		return errors.Join(err, g.tree.kernel.rmdir(g.dir(h)))
	}
	g.members = append(g.members, &member{dir: d, h: h})
	return nil
}

// openFiles opens what the launcher will hand to others.
func (g *Group) openFiles() error {
	for _, m := range g.members {
		name := "tasks"
		if m.h.v2 {
			name = "cgroup.kill"
		}
		f, err := m.dir.open(name, unix.O_WRONLY)
		if m.h.v2 && errors.Is(err, fs.ErrNotExist) {
			continue // before 5.14
		}
		if err != nil {
			return err
		}
		if m.h.v2 {
			g.kill = f
		} else {
			m.tasks = f
		}
	}
	f := g.with("freezer")
	if f == nil || g.unified() != nil {
		return nil
	}
	var err error
	g.thaw, err = f.dir.open("freezer.state", unix.O_WRONLY)
	return err
}

// Name is the group's name below the root.
func (g *Group) Name() string { return g.name }

// with is the member that has a controller, nil if none does.
func (g *Group) with(controller string) *member {
	for _, m := range g.members {
		if m.h.has(controller) {
			return m
		}
	}
	return nil
}

// unified is the member of the v2 tree, nil on a v1 host.
func (g *Group) unified() *member {
	if len(g.members) > 0 && g.members[0].h.v2 {
		return g.members[0]
	}
	return nil
}

// Dir is the group's directory on the v2 tree, for CLONE_INTO_CGROUP; nil on a
// v1 host. The Group owns it.
func (g *Group) Dir() *os.File {
	if m := g.unified(); m != nil {
		return m.File
	}
	return nil
}

// LockFile is the descriptor whose flock is the claim. Whoever holds a copy of
// it (a keeper) keeps Sweep away from the group. The Group owns it.
func (g *Group) LockFile() *os.File { return g.members[0].File }

// Joins are the v1 "tasks" files, close-on-exec and open for writing, none on
// pure v2: a thread that writes "0" to each has joined the limits. Writing
// there takes microseconds, to cgroup.procs milliseconds. The Group owns them.
func (g *Group) Joins() []*os.File {
	var files []*os.File
	for _, m := range g.members {
		if m.tasks != nil {
			files = append(files, m.tasks)
		}
	}
	return files
}

// Joined closes the Joins: who was to join has.
func (g *Group) Joined() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.removed { // and closed
		return nil
	}
	return g.closeJoins()
}

func (g *Group) closeJoins() error {
	var errs []error
	for _, m := range slices.Backward(g.members) {
		if m.tasks != nil {
			errs = append(errs, m.tasks.Close())
			m.tasks = nil
		}
	}
	return errors.Join(errs...)
}

// KillFile is cgroup.kill open for writing ("1" ends the whole tree), nil where
// the host has none. The Group owns it.
func (g *Group) KillFile() *os.File { return g.kill }

// ThawFile is freezer.state open for writing on a v1 host, where what is frozen
// does not die before it is thawed; nil where the unified tree freezes. The
// Group owns it.
func (g *Group) ThawFile() *os.File { return g.thaw }

// Paths are the group's directories on the host in the order in which they are
// to be removed: the claim last.
func (g *Group) Paths() []string {
	var paths []string
	for _, m := range slices.Backward(g.members) {
		paths = append(paths, m.path)
	}
	return paths
}

// Abandon gives the claim up and closes every descriptor without removing
// anything: for a group that could not be ended (the process may be out of
// descriptors), so that a Sweep can. Nothing can be done with the Group after.
func (g *Group) Abandon() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.removed {
		return nil
	}
	g.removed = true
	return g.closeFiles()
}

// closeFiles closes every descriptor, the claim's last.
func (g *Group) closeFiles() error {
	var errs []error
	for _, f := range []*os.File{g.kill, g.thaw, g.freezer} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	errs = append(errs, g.closeJoins())
	for _, m := range slices.Backward(g.members) {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
