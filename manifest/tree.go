package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// The bounds of a bundle.
const (
	MaxEntries = 200_000
	MaxBytes   = 2 << 30
	MaxPath    = 1024 // bytes of a path below the bundle
	MaxDepth   = 64   // directories below each other
)

// kind is what a tree may hold.
type kind byte

const (
	dir     kind = 'd'
	regular kind = 'f'
	symlink kind = 'l'
)

// entry is one thing in a tree. Path is below the tree's top, "." for the top.
type entry struct {
	path   string
	kind   kind
	mode   uint32 // permission bits
	size   int64  // of a file's content or a link's target
	target string
	sum    [sha256.Size]byte // of a file's content or a link's target
	stat   unix.Stat_t
}

// walker goes through a tree once, by descriptors: a name is looked up in an
// open directory and followed by nobody, so that what was checked is what is
// read, whoever else writes there.
type walker struct {
	ctx context.Context
	// check judges an entry beyond what every tree must be; may be nil.
	check func(*entry) error
	// file receives each regular file, open for reading, and closes it.
	file func(*entry, *os.File) error
	// enter and leave are called for each directory; may be nil.
	enter, leave func(*entry) error
	// link is called for each symbolic link; may be nil.
	link    func(*entry) error
	entries []*entry
	bytes   int64
	links   map[inode]*linkCount
	root    int
}

type inode struct{ dev, ino uint64 }

// linkCount compares the links that a file has with those that were seen.
type linkCount struct {
	path       string
	have, seen uint64
}

// walk goes through the tree below an open directory. Entries come out sorted
// by path, with their numbers, not their sums.
func (w *walker) walk(root *os.File) error {
	w.links = map[inode]*linkCount{}
	w.root = int(root.Fd())
	top := &entry{path: ".", kind: dir}
	if err := unix.Fstat(w.root, &top.stat); err != nil {
		return fmt.Errorf("cannot look at the bundle: %w", err)
	}
	top.mode = top.stat.Mode & 0o7777
	if err := w.directory(top, root, 0); err != nil {
		return err
	}
	for _, l := range w.links {
		if l.seen < l.have {
			return fmt.Errorf("cannot take %s: it has a hard link outside of the bundle, and may be a file of somebody else", l.path)
		}
	}
	sort.Slice(w.entries, func(i, j int) bool { return w.entries[i].path < w.entries[j].path })
	return nil
}

func (w *walker) directory(e *entry, f *os.File, depth int) error {
	if depth > MaxDepth {
		return fmt.Errorf("cannot take %s: more than %d directories deep", e.path, MaxDepth)
	}
	if err := w.add(e); err != nil {
		return err
	}
	if err := call(w.enter, e); err != nil {
		return err
	}
	names, err := w.names(e, f)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.child(e, f, name, depth); err != nil {
			return err
		}
	}
	return call(w.leave, e)
}

func call(fn func(*entry) error, e *entry) error {
	if fn == nil {
		return nil
	}
	return fn(e)
}

func (w *walker) add(e *entry) error {
	if len(w.entries) >= MaxEntries {
		return fmt.Errorf("cannot take the bundle: more than %d files", MaxEntries)
	}
	w.entries = append(w.entries, e)
	if w.check == nil {
		return nil
	}
	return w.check(e)
}

// names lists a directory, sorted, bounded before it is held in memory.
func (w *walker) names(e *entry, f *os.File) ([]string, error) {
	var names []string
	folded := map[string]string{}
	for {
		batch, err := f.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list %s: %w", e.path, err)
		}
		for _, name := range batch {
			if err := checkName(e.path, name); err != nil {
				return nil, err
			}
			fold := strings.ToLower(strings.ToUpper(name))
			if twin, ok := folded[fold]; ok {
				return nil, fmt.Errorf("cannot take %s: %q and %q differ in case only", e.path, twin, name)
			}
			folded[fold] = name
		}
		if names = append(names, batch...); len(w.entries)+len(names) > MaxEntries {
			return nil, fmt.Errorf("cannot take the bundle: more than %d files", MaxEntries)
		}
	}
	sort.Strings(names)
	return names, nil
}

func checkName(in, name string) error {
	if !utf8.ValidString(name) {
		return fmt.Errorf("cannot take %q in %s: the name is not UTF-8", name, in)
	}
	if strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("cannot take %q in %s: the name holds a control character", name, in)
	}
	if len(in)+1+len(name) > MaxPath {
		return fmt.Errorf("cannot take %q in %s: the path is longer than %d bytes", name, in, MaxPath)
	}
	return nil
}

func (w *walker) child(parent *entry, d *os.File, name string, depth int) error {
	e := &entry{path: path.Join(parent.path, name)}
	if err := unix.Fstatat(int(d.Fd()), name, &e.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot look at %s: %w", e.path, err)
	}
	e.mode = e.stat.Mode & 0o7777
	switch e.stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.kind = dir
		f, err := w.open(d, name, e, unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer f.Close()
		return w.directory(e, f, depth+1)
	case unix.S_IFREG:
		e.kind = regular
		return w.regular(d, name, e)
	case unix.S_IFLNK:
		e.kind = symlink
		return w.symlink(d, name, e)
	}
	return fmt.Errorf("cannot take %s: it is %s; a bundle holds files, directories and symbolic links", e.path, nameOfKind(e.stat.Mode))
}

func nameOfKind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFIFO:
		return "a fifo"
	case unix.S_IFBLK, unix.S_IFCHR:
		return "a device"
	}
	return "of no known kind"
}

// open opens a name that was just looked at, and makes sure that it is still
// the same: nothing on the way is followed, and no mount is crossed.
func (w *walker) open(d *os.File, name string, e *entry, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(d.Fd()), name, &unix.OpenHow{
		Flags:   flags | unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if errors.Is(err, unix.EXDEV) {
		return nil, fmt.Errorf("cannot take %s: another file system is mounted there", e.path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", e.path, err)
	}
	f := os.NewFile(uintptr(fd), e.path)
	seen := e.stat
	if err := unix.Fstat(fd, &e.stat); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot look at %s: %w", e.path, err), f.Close())
	}
	if e.stat.Dev != seen.Dev || e.stat.Ino != seen.Ino || e.stat.Mode != seen.Mode {
		return nil, errors.Join(changed(e.path), f.Close())
	}
	return f, nil
}

func changed(p string) error {
	return fmt.Errorf("cannot take %s: it changed while it was read", p)
}

func (w *walker) regular(d *os.File, name string, e *entry) error {
	f, err := w.open(d, name, e, 0)
	if err != nil {
		return err
	}
	e.size = e.stat.Size
	if err := w.judgeFile(e); err != nil {
		return errors.Join(err, f.Close())
	}
	if w.file == nil {
		return f.Close()
	}
	return w.file(e, f)
}

func (w *walker) judgeFile(e *entry) error {
	if e.mode&0o6000 != 0 {
		return fmt.Errorf("cannot take %s: it has a set-id bit", e.path)
	}
	if w.bytes += e.size; w.bytes > MaxBytes {
		return fmt.Errorf("cannot take the bundle: more than %d bytes", int64(MaxBytes))
	}
	if e.stat.Nlink > 1 {
		at := inode{e.stat.Dev, e.stat.Ino}
		if w.links[at] == nil {
			w.links[at] = &linkCount{path: e.path, have: uint64(e.stat.Nlink)} //nolint:unconvert // uint32 on arm64
		}
		w.links[at].seen++
	}
	return w.add(e)
}

func (w *walker) symlink(d *os.File, name string, e *entry) error {
	buf := make([]byte, MaxPath+1)
	n, err := unix.Readlinkat(int(d.Fd()), name, buf)
	if err != nil {
		return fmt.Errorf("cannot read the link %s: %w", e.path, err)
	}
	if n > MaxPath {
		return fmt.Errorf("cannot take %s: the link is longer than %d bytes", e.path, MaxPath)
	}
	e.target, e.size, e.mode = string(buf[:n]), int64(n), 0o777
	e.sum = sha256.Sum256(buf[:n])
	if err := w.judgeLink(e); err != nil {
		return err
	}
	if err := w.add(e); err != nil {
		return err
	}
	return call(w.link, e)
}

// followTries bounds how often a link is followed anew.
const followTries = 1000

// follow opens where a link leads, beneath the root. Any rename on the machine
// while the kernel looks at a ".." makes it ask for another try (openat2(2),
// EAGAIN), which says nothing of the link.
func (w *walker) follow(name string) (fd int, err error) {
	for range followTries {
		fd, err = unix.Openat2(w.root, name, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
		})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return fd, err
}

// judgeLink refuses a link that leads out, by its words and, because another
// link may stand on its way, as the kernel follows it.
func (w *walker) judgeLink(e *entry) error {
	out := fmt.Errorf("cannot take %s: the link leads out of the bundle, to %q", e.path, e.target)
	joined := path.Join(path.Dir(e.path), e.target)
	if path.IsAbs(e.target) || joined == ".." || strings.HasPrefix(joined, "../") {
		return out
	}
	if !utf8.ValidString(e.target) || strings.ContainsFunc(e.target, unicode.IsControl) {
		return fmt.Errorf("cannot take %s: the link's target %q is no plain text", e.path, e.target)
	}
	fd, err := w.follow(e.path)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, unix.EXDEV):
		return out
	case errors.Is(err, unix.ELOOP):
		return fmt.Errorf("cannot take %s: the link leads in a circle", e.path)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil // it leads nowhere, inside
	}
	return fmt.Errorf("cannot follow the link %s: %w", e.path, err)
}

// workers is how many files are copied or hashed at once: a disk and two
// processors have enough with that, and the daemon stays responsive.
const workers = 4

// pool runs jobs on a few goroutines and keeps the first error.
type pool struct {
	jobs   chan func() error
	wait   sync.WaitGroup
	once   sync.Once
	err    error
	cancel context.CancelFunc
}

// newPool gives a pool and a context that ends at the first error.
func newPool() (*pool, context.Context) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pool{jobs: make(chan func() error), cancel: cancel}
	for range workers {
		p.wait.Go(func() {
			for job := range p.jobs {
				p.fail(job())
			}
		})
	}
	return p, ctx
}

func (p *pool) fail(err error) {
	if err != nil {
		p.once.Do(func() { p.err = err; p.cancel() })
	}
}

// finish waits for every job. Its error is a job's before the walk's, which
// may only have been told to end.
func (p *pool) finish(walk error) error {
	close(p.jobs)
	p.wait.Wait()
	p.cancel()
	if p.err != nil {
		return p.err
	}
	return walk
}

// digestVersion is part of every digest; it changes when the listing does.
const digestVersion = "cordon-bundle-1"

// digest is over the canonical listing of a tree: for each entry in the order
// of its path its kind, mode, size, content's sha256 and path. Owner and times
// are not in it, so it is the same on every machine.
func digest(entries []*entry) string {
	h := sha256.New()
	_, _ = io.WriteString(h, digestVersion+"\n") // a hash never fails
	for _, e := range entries {
		list(h, e)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func list(h hash.Hash, e *entry) {
	sum := e.sum
	_, _ = fmt.Fprintf(h, "%c %04o %d %s %s\n", e.kind, e.mode, e.size, hex.EncodeToString(sum[:]), strconv.QuoteToASCII(e.path))
}

// sumFile reads a file to its end, which must be where its size says.
func sumFile(e *entry, f io.Reader) error {
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, e.size+1))
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", e.path, err)
	}
	if n != e.size {
		return changed(e.path)
	}
	h.Sum(e.sum[:0])
	return nil
}
