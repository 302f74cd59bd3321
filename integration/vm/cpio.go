package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// archive writes a cpio archive as the kernel unpacks it at boot
// (driver-api/early-userspace/buffer-format.rst). Every file is root's. The
// first error stays; close gives it.
type archive struct {
	f     *os.File
	w     *bufio.Writer
	inode int
	have  map[string]bool
	err   error
}

func newArchive(file string) (*archive, error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	return &archive{f: f, w: bufio.NewWriterSize(f, 1<<20), have: map[string]bool{}}, nil
}

// entry writes one header and its data, once a name, and what it stands in.
func (a *archive) entry(name string, mode uint32, size int64, data io.Reader) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if name == "." || name == "" || a.have[name] || a.err != nil {
		return
	}
	if parent := path.Dir(name); parent != "." {
		a.dir(parent, 0o755)
	}
	a.have[name] = true
	a.inode++
	a.raw(name, a.inode, mode, size, data)
}

func (a *archive) raw(name string, inode int, mode uint32, size int64, data io.Reader) {
	if size >= 1<<32 {
		a.err = fmt.Errorf("cannot put %s into an initramfs: it has %d bytes, more than the format can say", name, size)
		return
	}
	// ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
	n, err := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	a.err = errors.Join(a.err, err)
	a.pad(n)
	copied, err := io.Copy(a.w, io.LimitReader(data, size))
	if err == nil && copied != size {
		err = fmt.Errorf("cannot read %s: it has %d bytes and had %d", name, copied, size)
	}
	a.err = errors.Join(a.err, err)
	a.pad(int(size % 4))
}

// pad fills up to a multiple of four what has n bytes.
func (a *archive) pad(n int) {
	_, err := a.w.WriteString("\x00\x00\x00"[:(4-n%4)%4])
	a.err = errors.Join(a.err, err)
}

var nothing = strings.NewReader("")

func (a *archive) dir(name string, perm uint32) { a.entry(name, syscall.S_IFDIR|perm, 0, nothing) }

func (a *archive) file(name string, perm uint32, data []byte) {
	a.entry(name, syscall.S_IFREG|perm, int64(len(data)), strings.NewReader(string(data)))
}

func (a *archive) link(name, target string) {
	a.entry(name, syscall.S_IFLNK|0o777, int64(len(target)), strings.NewReader(target))
}

// copy puts a file, a symbolic link or an empty directory of the host at name.
// Anything else is left out.
func (a *archive) copy(name, from string) {
	info, err := os.Lstat(from)
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	perm := uint32(info.Mode().Perm())
	if info.Mode()&fs.ModeSetuid != 0 {
		perm |= syscall.S_ISUID
	}
	if info.Mode()&fs.ModeSetgid != 0 {
		perm |= syscall.S_ISGID
	}
	switch {
	case info.IsDir():
		a.dir(name, perm)
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := os.Readlink(from)
		a.err = errors.Join(a.err, err)
		a.link(name, target)
	case info.Mode().IsRegular():
		f, err := os.Open(from)
		if err != nil {
			a.err = errors.Join(a.err, err)
			return
		}
		defer f.Close()
		a.entry(name, syscall.S_IFREG|perm, info.Size(), f)
	}
}

// tree copies a directory of the host, without what skip names.
func (a *archive) tree(name, from string, skip func(rel string) bool) {
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
		a.copy(path.Join(name, rel), file)
		return a.err
	})
	a.err = errors.Join(a.err, err)
}

// close ends the archive.
func (a *archive) close() error {
	a.raw("TRAILER!!!", 0, 0, 0, nothing)
	return errors.Join(a.err, a.w.Flush(), a.f.Close())
}

// joinFiles writes files one after the other; the kernel unpacks archives that
// follow each other in one initramfs.
func joinFiles(into string, files ...string) (err error) {
	out, err := os.Create(into)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for _, file := range files {
		in, err := os.Open(file)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		if err := errors.Join(err, in.Close()); err != nil {
			return err
		}
	}
	return nil
}
