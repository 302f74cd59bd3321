package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// stage is a directory that becomes a guest's root, with copies of what the host
// has. The first errors stay; image gives them.
type stage struct {
	root string
	have map[string]bool
	err  error
}

func newStage(root string) (*stage, error) {
	return &stage{root: root, have: map[string]bool{}}, errors.Join(os.RemoveAll(root), os.Mkdir(root, 0o755))
}

// entry makes one name with what it stands in, once.
func (s *stage) entry(name string, make func(at string) error) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" || s.have[name] || s.err != nil {
		return
	}
	if parent := path.Dir(name); parent != "." {
		s.dir(parent, 0o755)
	}
	s.have[name] = true
	s.err = errors.Join(s.err, make(filepath.Join(s.root, name)))
}

func (s *stage) dir(name string, perm fs.FileMode) {
	s.entry(name, func(at string) error { return errors.Join(os.Mkdir(at, perm), os.Chmod(at, perm)) })
}

func (s *stage) file(name string, perm fs.FileMode, data []byte) {
	s.entry(name, func(at string) error { return errors.Join(os.WriteFile(at, data, perm), os.Chmod(at, perm)) })
}

func (s *stage) link(name, target string) {
	s.entry(name, func(at string) error { return os.Symlink(target, at) })
}

// copy puts a file, a symbolic link or an empty directory of the host at name.
// Anything else is left out.
func (s *stage) copy(name, from string) {
	info, err := os.Lstat(from)
	if err != nil {
		s.err = errors.Join(s.err, err)
		return
	}
	switch {
	case info.IsDir():
		s.dir(name, info.Mode().Perm())
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := os.Readlink(from)
		s.err = errors.Join(s.err, err)
		s.link(name, target)
	case info.Mode().IsRegular():
		// Never a hard link: whoever counts the links of the host's file meanwhile,
		// as an installation does, would refuse it.
		s.entry(name, func(at string) error { return copyFile(at, from, info.Mode()) })
	}
}

func copyFile(at, from string, mode fs.FileMode) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(at)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(mode), out.Close())
}

// tree copies a directory of the host, without what skip names.
func (s *stage) tree(name, from string, skip func(rel string) bool) {
	err := filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		if skip != nil && skip(rel) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		s.copy(path.Join(name, rel), file)
		return s.err
	})
	s.err = errors.Join(s.err, err)
}

// image makes the disk. It is larger than what is in it, for what tests write,
// and sparse.
func (s *stage) image(ctx context.Context, file string) error {
	if s.err != nil {
		return fmt.Errorf("cannot gather the guest's root: %w", s.err)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// No journal: the disk lives as long as the guest.
	_, err := output(command(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal",
		"-E", "root_owner=0:0,lazy_itable_init=1", "-d", s.root, file, diskSize))
	return err
}

const diskSize = "2G"
