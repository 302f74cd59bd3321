package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Sweep ends what an earlier run left below the root: each group whose claim
// nobody holds is killed, proven empty and removed in every hierarchy, and its
// name given back. A group that is claimed, or in which another daemon has its
// root, is left alone. Groups that could not be ended are in the error; the
// others are ended all the same.
func (t *Tree) Sweep() (ended []string, err error) {
	names, err := t.names()
	if err != nil {
		return nil, fmt.Errorf("cannot sweep cgroups: %w", err)
	}
	var errs []error
	for _, name := range names {
		was, err := t.sweepOne(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot sweep group %s: %w", name, err))
		}
		if was && err == nil {
			ended = append(ended, name)
		}
	}
	return ended, errors.Join(errs...)
}

// names are the groups below the root, in any hierarchy.
func (t *Tree) names() ([]string, error) {
	var all []string
	for _, h := range t.layout.hierarchies {
		names, err := subdirs(t.rootDir(h))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// sweepOne ends one group if nobody has it, and says whether that was so.
func (t *Tree) sweepOne(name string) (bool, error) {
	g := &Group{tree: t, name: name}
	held, err := g.seize()
	if err != nil || !held {
		return false, err
	}
	if err := g.endSeized(); err != nil {
		// The claim is given up, so that another sweep can try.
		return true, errors.Join(err, g.closeFiles())
	}
	return true, nil
}

func (g *Group) endSeized() error {
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
	if err := g.Kill(context.Background()); err != nil {
		return err
	}
	return g.Remove()
}

// seize takes the claim of a group that nobody holds. Where only v1 directories
// are left the primary one is made first, so that there is a claim to take.
func (g *Group) seize() (bool, error) {
	h := g.tree.layout.primary()
	path := g.dir(h)
	if err := g.tree.kernel.mkdir(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	d, err := openDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // its owner has just removed it
	}
	if err != nil {
		return false, err
	}
	err = d.lock(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || err == nil && (!d.current() || claimedBelow(path)) {
		return false, d.Close()
	}
	if err != nil {
		return false, errors.Join(err, d.Close())
	}
	g.members = append(g.members, &member{dir: d, h: h})
	return true, nil
}

// claimedBelow says whether anything below path is locked: path may be part of
// another daemon's root.
func claimedBelow(path string) bool {
	paths, err := walk(path)
	if err != nil {
		return true // better left than ended
	}
	for _, p := range paths[:len(paths)-1] {
		if claimed(filepath.Clean(p)) {
			return true
		}
	}
	return false
}

func claimed(path string) bool {
	d, err := openDir(path)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer d.Close()
	return d.lock(unix.LOCK_EX|unix.LOCK_NB) != nil
}
