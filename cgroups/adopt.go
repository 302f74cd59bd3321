package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Adopt takes over a group that an earlier process made and did not end, by the
// descriptor of its claim (LockFile), which the Group owns then; on an error it
// stays the caller's. What its limits are is as they were set.
func (t *Tree) Adopt(name string, claim *os.File) (*Group, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	g := &Group{tree: t, name: name}
	h := t.layout.primary()
	d := &dir{File: claim, path: g.dir(h)}
	if err := d.lock(unix.LOCK_EX | unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("cannot adopt group %s: it is claimed by another: %w", name, err)
	}
	if !d.current() {
		return nil, fmt.Errorf("cannot adopt group %s: it was removed, or the claim is of another", name)
	}
	g.members = append(g.members, &member{dir: d, h: h})
	if err := g.reopen(); err != nil {
		g.members = g.members[1:] // the claim is the caller's
		return nil, errors.Join(fmt.Errorf("cannot adopt group %s: %w", name, err), g.closeFiles())
	}
	return g, nil
}

func (g *Group) reopen() error {
	for _, h := range g.tree.layout.hierarchies[1:] {
		d, err := openDir(g.dir(h))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		g.members = append(g.members, &member{dir: d, h: h})
	}
	return g.openFiles()
}

// Frozen says whether the group was told to freeze, and not yet to thaw.
func (g *Group) Frozen() (bool, error) {
	switch u, f := g.unified(), g.with("freezer"); {
	case u != nil:
		state, err := u.text("cgroup.freeze")
		return state == "1", err
	case f != nil:
		state, err := f.text("freezer.state")
		return state != "THAWED", err
	default:
		return false, nil
	}
}
