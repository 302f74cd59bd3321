package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cordonhq/cordon/cgroups"
)

// scratch is where the tests put their files: one fixed directory, so that a
// run that was killed leaves nothing that the next one does not find. It is
// short, as the paths of unix sockets are.
const scratch = "/tmp/cordon-t"

// groupPrefixes are those of the control groups that tests make.
var groupPrefixes = []string{"cordon-test-", "cordon-it-"}

// takeScratch makes the scratch directory empty and ours, and ends what an
// earlier run left. The caller calls give at the end.
func takeScratch() (give func(), err error) {
	if err := os.Mkdir(scratch, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("cannot make a place for the tests' files: %w", err)
	}
	dir, err := os.OpenFile(scratch, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the place for the tests' files: %w", err)
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock %s: another run of the tests is at work: %w", scratch, err), dir.Close())
	}
	if err := errors.Join(empty(dir), sweepGroups("/sys/fs/cgroup", groupPrefixes)); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return func() {
		_ = empty(dir)
		_ = os.Remove(scratch)
		_ = dir.Close()
	}, nil
}

func empty(dir *os.File) error {
	if info, err := dir.Stat(); err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("cannot use %s: it belongs to somebody else", scratch)
	}
	entries, err := os.ReadDir(scratch)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(scratch, e.Name())))
	}
	return err
}

// sweepGroups ends and removes the groups of tests that nobody owns any more;
// those of a run that is at work are locked, and left alone.
func sweepGroups(mount string, prefixes []string) error {
	roots := map[string]bool{}
	for _, pattern := range []string{"/*", "/*/*"} { // v2's tree, and one below for each v1 hierarchy
		found, err := filepath.Glob(mount + pattern)
		if err != nil {
			return err
		}
		for _, dir := range found {
			for _, prefix := range prefixes {
				if strings.HasPrefix(filepath.Base(dir), prefix) {
					roots[filepath.Base(dir)] = true
				}
			}
		}
	}
	var errs []error
	for root := range roots {
		tree, err := cgroups.Open(root, nil)
		if err != nil { // not made by this package: not ours
			continue
		}
		_, err = tree.Sweep()
		errs = append(errs, err, tree.Close())
	}
	return errors.Join(errs...)
}
