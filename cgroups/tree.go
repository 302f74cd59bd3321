package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// markXattr marks a root directory as made by us, in every hierarchy. Sweep
// kills whatever it finds below a root, so a root that is not marked is never
// taken over: a slip in a configuration must not end somebody else's slice.
const markXattr = "trusted.cordon"

// kernel is what a directory tree cannot imitate; tests of the v2 file writes
// replace it.
type kernel struct {
	mkdir, rmdir func(path string) error
	// closeDevices attaches the device program to a v2 group; forget lets the
	// program go, which stays where it is attached.
	closeDevices func(d *dir) error
	forget       func() error
	form         func(Form) error // of Open; may be nil
}

func realKernel(form func(Form) error) kernel {
	p := &deviceProgram{}
	return kernel{
		mkdir:        func(path string) error { return unix.Mkdir(path, 0o755) },
		rmdir:        unix.Rmdir,
		closeDevices: p.attach,
		forget:       p.close,
		form:         form,
	}
}

// Tree is the part of the host's cgroup hierarchies below one root, such as
// <mount>/cordon. Daemons may share a root: each holds a shared lock on it, and
// each group is claimed by a lock of its own. Its methods may be called by
// several goroutines.
type Tree struct {
	layout   *layout
	kernel   kernel
	root     string
	features []Feature

	mu   sync.Mutex
	lock *dir // the primary hierarchy's root directory, under a shared flock
}

// Open finds the host's hierarchies in /proc/self/mountinfo and makes root (a
// relative path such as "cordon" or "a/b") in each. The caller closes the Tree.
// A root that holds groups or processes and was not made by this package is an
// error. What has a form of its own on cgroup v1 is set by form; without one such
// a limit is an error.
func Open(root string, form func(Form) error) (*Tree, error) {
	l, err := hostLayout()
	if err != nil {
		return nil, err
	}
	return openTree(root, l, realKernel(form))
}

func openTree(root string, l *layout, k kernel) (*Tree, error) {
	if err := checkRoot(root); err != nil {
		return nil, err
	}
	t := &Tree{layout: l, kernel: k, root: root}
	if err := t.makeRoots(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	t.features = t.findFeatures()
	for _, h := range l.hierarchies {
		h.memsw = h.has("memory") && exists(t.rootDir(h)+"/"+memswLimit)
		h.closed = !h.v2 && h.has("devices") && t.closeRoot(h)
	}
	return t, nil
}

func (t *Tree) makeRoots() error {
	if err := t.lockRoot(); err != nil {
		return err
	}
	for _, h := range t.layout.hierarchies[1:] {
		if h.optional() {
			continue
		}
		if _, err := t.makeRoot(h); err != nil {
			return err
		}
	}
	return nil
}

// lockRoot makes and locks the primary root. The lock is shared with other
// daemons on the same root and keeps any of them from removing it; one that is
// doing so is waited for.
func (t *Tree) lockRoot() error {
	for range claimTries {
		made, err := t.makeRoot(t.layout.primary())
		if errors.Is(err, fs.ErrNotExist) { // whoever removed it did so between two steps
			continue
		}
		if err != nil {
			return err
		}
		d, err := openDir(t.rootDir(t.layout.primary()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return errors.Join(fmt.Errorf("cannot open cgroup root: %w", err), t.unmake(made))
		}
		if err := d.lock(unix.LOCK_SH); err != nil {
			return errors.Join(fmt.Errorf("cannot lock cgroup root %s: %w", d.path, err), d.Close(), t.unmake(made))
		}
		if d.current() {
			t.lock = d
			return nil
		}
		_ = d.Close() // it has gone; nothing can be lost with it
	}
	return fmt.Errorf("cannot lock cgroup root %s: it was removed %d times meanwhile", t.root, claimTries)
}

func (t *Tree) rootDir(h *hierarchy) string { return filepath.Join(h.mount, t.root) }

// makeRoot makes the root in one hierarchy, marks what it makes and, on v2,
// enables the controllers on every level from the mount down. It gives what it
// made; after an error that is nothing.
func (t *Tree) makeRoot(h *hierarchy) (made []string, err error) {
	path := h.mount
	parts := strings.Split(t.root, "/")
	err = h.enable(path)
	for i := 0; err == nil && i < len(parts); i++ {
		path = filepath.Join(path, parts[i])
		err = t.kernel.mkdir(path)
		switch {
		case err == nil:
			made = append(made, path)
			err = mark(path)
		case !errors.Is(err, fs.ErrExist):
			err = fmt.Errorf("cannot make cgroup root %s: %w", path, err)
		case i == len(parts)-1:
			err = adopt(path)
		default:
			err = nil
		}
		if err == nil {
			err = h.enable(path)
		}
	}
	if err != nil {
		return nil, errors.Join(err, t.unmake(made))
	}
	return made, nil
}

func (t *Tree) unmake(made []string) error {
	var errs []error
	for _, path := range slices.Backward(made) {
		errs = append(errs, t.kernel.rmdir(path))
	}
	return errors.Join(errs...)
}

func mark(path string) error {
	if err := unix.Setxattr(path, markXattr, []byte{'1'}, 0); err != nil {
		return fmt.Errorf("cannot mark cgroup %s as ours (xattr %s): %w", path, markXattr, err)
	}
	return nil
}

func marked(path string) bool {
	var b [1]byte
	n, err := unix.Getxattr(path, markXattr, b[:])
	return err == nil && n == 1
}

// adopt takes over a root that is there: ours, or an empty one.
func adopt(path string) error {
	if marked(path) {
		return nil
	}
	below, err := subdirs(path)
	if err != nil {
		return fmt.Errorf("cannot use cgroup root %s: %w", path, err)
	}
	pids, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
	if err != nil {
		return fmt.Errorf("cannot use cgroup root %s: %w", path, err)
	}
	if len(below) > 0 || len(pids) > 0 {
		return fmt.Errorf("cannot use cgroup root %s: it is in use and was not made by cordon; name another root", path)
	}
	return mark(path)
}

// enable lets the groups below path have the hierarchy's controllers. The
// library's ToggleControllers is not used: it forgets an error of an upper
// level when a lower one succeeds, and cannot say which level refused. What is
// on stays on when the Tree is closed; others may have come to rely on it.
func (h *hierarchy) enable(path string) error {
	if !h.v2 || len(h.controllers) == 0 {
		return nil
	}
	d, err := openDir(path)
	if err != nil {
		return fmt.Errorf("cannot enable controllers: %w", err)
	}
	defer d.Close()
	on, err := d.text("cgroup.subtree_control")
	if err != nil {
		return fmt.Errorf("cannot enable controllers: %w", err)
	}
	var missing []string
	for _, c := range h.controllers {
		if !slices.Contains(strings.Fields(on), c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return explainEnable(path, missing, d.write("cgroup.subtree_control", strings.Join(missing, " ")))
}

func explainEnable(path string, controllers []string, err error) error {
	if errors.Is(err, unix.EBUSY) {
		// The "no internal process constraint" of cgroup-v2.rst.
		return fmt.Errorf("cannot enable controllers %s in %s: processes live in it, and cgroup v2 lets a group have either processes or limited children; start the daemon in a leaf of its own (systemd: Delegate=yes and DelegateSubgroup=): %w",
			strings.Join(controllers, " "), path, err)
	}
	if err != nil {
		return fmt.Errorf("cannot enable controllers %s in %s: %w", strings.Join(controllers, " "), path, err)
	}
	return nil
}

// Mode is "v2", "hybrid" or "v1".
func (t *Tree) Mode() string { return t.layout.mode }

// Close removes the root directories where they are empty and nobody else uses
// the root, and forgets the Tree. Groups that are still there stay, and keep
// their directories. Closing twice is no error.
func (t *Tree) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lock == nil {
		return nil
	}
	lock := t.lock
	t.lock = nil
	_ = t.kernel.forget()
	if err := lock.lock(unix.LOCK_EX | unix.LOCK_NB); err != nil {
		// Another daemon shares the root and will remove it.
		return lock.Close()
	}
	// The primary goes last: as long as it is there, it is locked by us.
	for _, h := range slices.Backward(t.layout.hierarchies) {
		t.removeRoot(h)
	}
	return lock.Close()
}

// removeRoot removes what makeRoot made, as far as it is empty. A directory
// that is not is in use, which is no error.
func (t *Tree) removeRoot(h *hierarchy) {
	path := t.rootDir(h)
	for ; path != h.mount && marked(path); path = filepath.Dir(path) {
		if err := t.kernel.rmdir(path); err != nil {
			return
		}
	}
}
