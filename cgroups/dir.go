package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// dir is one directory of a hierarchy, held open. Files are opened relative to
// the descriptor, so that what is read and written is always the group that was
// made, never another that took its name.
type dir struct {
	*os.File
	path string
}

func openDir(path string) (*dir, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &dir{File: os.NewFile(uintptr(fd), path), path: path}, nil
}

// with runs f with the descriptor, which cannot be closed meanwhile.
func (d *dir) with(f func(fd int) error) error {
	conn, err := d.SyscallConn()
	if err != nil {
		return fs.ErrClosed
	}
	var result error
	if conn.Control(func(fd uintptr) { result = f(int(fd)) }) != nil {
		return fs.ErrClosed
	}
	return result
}

// open opens a file of the directory, close-on-exec.
func (d *dir) open(name string, flags int) (*os.File, error) {
	var f *os.File
	err := d.with(func(fd int) error {
		n, err := unix.Openat(fd, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err == nil {
			f = os.NewFile(uintptr(n), filepath.Join(d.path, name))
		}
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(d.path, name), Err: err}
	}
	return f, nil
}

func (d *dir) has(name string) bool {
	return d.with(func(fd int) error { return unix.Faccessat(fd, name, unix.F_OK, 0) }) == nil
}

// read reads a whole file, by no other system call than it takes: what is told of
// a thousand groups is read often.
func (d *dir) read(name string) (text []byte, err error) {
	op := "open"
	err = d.with(func(fd int) error {
		f, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		op = "read"
		text, err = readAll(f)
		return errors.Join(err, unix.Close(f))
	})
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
	}
	return text, nil
}

// readAll reads to the end, at most maxFile bytes.
func readAll(fd int) ([]byte, error) {
	text := make([]byte, 0, 512)
	for {
		if len(text) == cap(text) {
			text = slices.Grow(text, 3*cap(text))
		}
		var n int
		err := uninterrupted(func() (err error) { n, err = unix.Read(fd, text[len(text):cap(text)]); return err })
		if err != nil || n == 0 {
			return text, err
		}
		if text = text[:len(text)+n]; len(text) > maxFile {
			return nil, fmt.Errorf("more than %d bytes", maxFile)
		}
	}
}

// limit reads a file that holds one number or "max".
func (d *dir) limit(name string) (int64, error) {
	text, err := d.read(name)
	if err != nil {
		return 0, err
	}
	return parseLimit(string(text))
}

// text reads a file that holds one line.
func (d *dir) text(name string) (string, error) {
	text, err := d.read(name)
	return strings.TrimSpace(string(text)), err
}

// write writes a value with one write(2), as the kernel wants it, and no other
// system call than open and close: a start makes a dozen of them.
func (d *dir) write(name, value string) error {
	return d.writeAll(name, value)
}

// writeAll writes each value with a write(2) of its own.
func (d *dir) writeAll(name string, values ...string) error {
	op := "open"
	err := d.with(func(fd int) error {
		f, err := unix.Openat(fd, name, unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		op = "write"
		for _, value := range values {
			if err = uninterrupted(func() error { _, err := unix.Write(f, []byte(value)); return err }); err != nil {
				break
			}
		}
		return errors.Join(err, unix.Close(f))
	})
	if err != nil {
		return &fs.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
	}
	return nil
}

// uninterrupted does it again where a signal (the Go runtime sends some of its
// own) came between: a memory limit that must make room first answers EINTR
// and is not set (mem_cgroup_resize_max in the kernel's mm/memcontrol-v1.c).
func uninterrupted(do func() error) error {
	for {
		if err := do(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// current says whether path still is this directory: it may have been removed,
// and another made in its place, between mkdir and lock.
func (d *dir) current() bool {
	var held, there unix.Stat_t
	if d.with(func(fd int) error { return unix.Fstat(fd, &held) }) != nil {
		return false
	}
	return unix.Lstat(d.path, &there) == nil && held.Dev == there.Dev && held.Ino == there.Ino
}

// lock takes the directory's flock, which is the claim on a group. It belongs
// to the open file description: whoever holds a copy of the descriptor keeps
// the group alive.
func (d *dir) lock(how int) error {
	return d.with(func(fd int) error {
		for {
			if err := unix.Flock(fd, how); !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
}

// subdirs names the groups directly below.
func subdirs(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// walk gives path and every group below it, deepest first.
func walk(path string) ([]string, error) {
	names, err := subdirs(path)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, name := range names {
		below, err := walk(filepath.Join(path, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		all = append(all, below...)
	}
	return append(all, path), nil
}
