package reach

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/namespaces"
)

// The kinds of mounts inside.
const (
	kindRoot  = "the private root"
	kindDev   = "the private /dev"
	kindProc  = "/proc"
	kindTmpfs = "a fresh tmpfs"
	kindHost  = "a tree of the host"
)

// mount is one mount inside, as attached.
type mount struct {
	path           string
	kind           string
	real           string // of the host, without links
	writable, exec bool
	file           bool // what it shows is no directory
	// owner and group are the host's ids that the plugin acts as there; mapped
	// says that the mount has them translated, and all others unmapped.
	mapped       bool
	owner, group uint32
}

func (m *mount) String() string {
	words := m.kind
	if m.kind == kindHost {
		words = m.real
	}
	access := "read-only"
	if m.writable {
		access = "writable"
	}
	exec := "noexec"
	if m.exec {
		exec = "executable"
	}
	return fmt.Sprintf("%s at %s (%s, %s)", words, m.path, access, exec)
}

// node is one thing inside.
type node struct {
	at    string // the path inside, without links
	mount *mount
	mode  fs.FileMode
	link  string
	own   bool // the plugin is its owner
	group bool // the plugin's group is its group
	// unmapped has an owner that the mount does not translate: nobody may
	// write it.
	unmapped bool
	id       string // the inode, for Landlock
}

// tree is what a plugin sees.
type tree struct {
	host   Host
	mounts []*mount
	made   map[string]node // what the launcher makes in mounts of its own
	masked []string
	procfs string
}

func newTree(v namespaces.View, h Host) (*tree, error) {
	t := &tree{host: h, made: map[string]node{}, masked: v.Proc.Masked, procfs: v.Proc.Mode}
	t.mounts = []*mount{{path: "/", kind: kindRoot}, {path: "/dev", kind: kindDev}}
	t.dir("/", 0o755, false)
	t.dir("/dev", 0o755, false)
	if t.procfs == "pid" || t.procfs == "full" {
		t.mounts = append(t.mounts, &mount{path: "/proc", kind: kindProc, writable: true})
		t.dir("/proc", 0o555, false)
	}
	for _, m := range v.Mounts {
		if err := t.attach(m); err != nil {
			return nil, err
		}
	}
	for _, m := range t.mounts {
		if err := t.attachable(m); err != nil {
			return nil, err
		}
	}
	for _, f := range v.Files {
		if t.bound(f.Path) == nil {
			t.parents(f.Path)
			t.add(f.Path, node{mode: f.Mode.Perm()})
		}
	}
	for _, l := range v.Symlinks {
		if _, there := t.made[l.Path]; !there && t.bound(l.Path) == nil {
			t.parents(l.Path)
			t.add(l.Path, node{mode: fs.ModeSymlink | 0o777, link: l.Target})
		}
	}
	t.devices(v.Devices)
	return t, nil
}

func (t *tree) devices(names []string) {
	for _, name := range names {
		t.add("/dev/"+name, node{mode: fs.ModeDevice | fs.ModeCharDevice | 0o666})
	}
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		t.add("/dev/"+name, node{mode: fs.ModeSymlink | 0o777, link: "/proc/self/fd" + target})
	}
}

// add remembers what the launcher makes at a path.
func (t *tree) add(at string, n node) {
	n.at, n.id = at, "made "+at
	t.made[at] = n
}

func (t *tree) dir(at string, mode fs.FileMode, own bool) {
	t.add(at, node{mode: fs.ModeDir | mode, own: own, group: own})
}

// parents makes the directories above a path, where the host brings none.
func (t *tree) parents(at string) {
	for dir := path.Dir(at); dir != "/"; dir = path.Dir(dir) {
		if _, there := t.made[dir]; there || t.bound(dir) != nil {
			return
		}
		t.dir(dir, 0o755, false)
	}
}

// bound is the mount of the host that a path lies at or beneath.
func (t *tree) bound(at string) *mount {
	if m := t.mountOf(at); m.kind == kindHost {
		return m
	}
	return nil
}

// attach adds one mount of the view.
func (t *tree) attach(v namespaces.Mount) error {
	m := &mount{path: v.Path, kind: kindTmpfs, writable: v.Writable, exec: v.Exec}
	if v.From == "" || v.Owned { // the plugin's own; what a kept one holds is not asked
		t.parents(v.Path)
		t.mounts = append(t.mounts, m)
		t.dir(v.Path, v.Mode&(fs.ModePerm|0o1000), v.Owned)
		return nil
	}
	real, err := t.host.Real(v.From)
	if errors.Is(err, fs.ErrNotExist) && v.Optional {
		return nil
	}
	if err != nil {
		return fmt.Errorf("nothing would start: cannot mount %s: %w", v.From, err)
	}
	info, err := t.host.Lstat(real)
	if err != nil {
		return fmt.Errorf("nothing would start: cannot mount %s: %w", v.From, err)
	}
	t.parents(v.Path)
	m.kind, m.real, m.file = kindHost, real, !info.Mode.IsDir()
	if m.writable && !v.Owned {
		if info.UID == 0 && info.Mode.Perm()&0o002 == 0 {
			return fmt.Errorf("nothing would start: %s belongs to root, and the plugin, which never acts as root, could not write there", v.From)
		}
		if info.UID == 0 {
			return fmt.Errorf("nothing would start: %s belongs to root and anyone may write there, so that others' files and sockets in it would be the plugin's to reach", v.From)
		}
		m.mapped, m.owner, m.group = true, info.UID, info.GID
	}
	t.mounts = append(t.mounts, m)
	return nil
}

// attachable says why a mount cannot be attached where an outer tree of the host
// is: the launcher makes nothing there and follows no link, and the kernel puts
// a directory over a directory only, and a file over a file; mount(2).
func (t *tree) attachable(m *mount) error {
	if m.path == "/" {
		return nil
	}
	outer := t.mountOf(path.Dir(m.path))
	if outer.kind != kindHost {
		return nil
	}
	for at := m.path; at != outer.path; at = path.Dir(at) {
		n, err := t.ofHost(outer, at)
		switch {
		case errors.Is(err, errHidden):
			return nil // what is beneath it only a start can tell
		case err != nil:
			return fmt.Errorf("nothing would start: cannot mount at %s: %s has nothing there to mount it on", m.path, outer.path)
		case n.mode&fs.ModeSymlink != 0:
			return fmt.Errorf("nothing would start: cannot mount at %s: %s is a symbolic link, and none is followed", m.path, at)
		case at == m.path && n.mode.IsDir() == m.file:
			return fmt.Errorf("nothing would start: cannot mount at %s: a directory goes over a directory only, and a file over a file", m.path)
		}
	}
	return nil
}

// mountOf is the mount that shows a path which has no links in it: the
// innermost one above it.
func (t *tree) mountOf(at string) *mount {
	best := t.mounts[0]
	for _, m := range t.mounts {
		if within(at, m.path) && len(m.path) >= len(best.path) {
			best = m
		}
	}
	return best
}

func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// lookup gives what is at a path without links.
func (t *tree) lookup(at string) (node, error) {
	m := t.mountOf(at)
	switch m.kind {
	case kindHost:
		return t.ofHost(m, at)
	case kindProc:
		return t.ofProc(m, at)
	}
	n, ok := t.made[at]
	if !ok {
		return node{}, fs.ErrNotExist
	}
	n.mount = m
	return n, nil
}

// nogroup is the group of nobody.
const nogroup = 65534

// errHidden is a path beneath a mount of the host, which no grant carries along.
var errHidden = errors.New("another file system is mounted there on the host, which a grant does not carry along")

func (t *tree) ofHost(m *mount, at string) (node, error) {
	rest := strings.TrimPrefix(strings.TrimPrefix(at, m.path), "/")
	from := m.real
	for _, name := range strings.FieldsFunc(rest, func(r rune) bool { return r == '/' }) {
		from = path.Join(from, name)
		if t.host.MountPoint(from) {
			return node{}, errHidden
		}
	}
	info, err := t.host.Lstat(from)
	if err != nil {
		return node{}, err
	}
	n := node{at: at, mount: m, mode: info.Mode, id: fmt.Sprintf("inode %d:%d", info.Dev, info.Ino)}
	if m.mapped {
		// Where the tree's group is root's, nogroup stands for the plugin's, and
		// root's is known and not the plugin's.
		n.own = info.UID == m.owner
		n.group = info.GID == m.group
		known := n.group
		if m.group == 0 {
			n.group = info.GID == nogroup
			known = known || n.group
		}
		n.unmapped = !n.own || !known
	}
	if info.Mode&fs.ModeSymlink != 0 {
		n.link, err = t.host.Readlink(from)
	}
	return n, err
}

// ofProc knows of /proc what a path says by itself.
func (t *tree) ofProc(m *mount, at string) (node, error) {
	n := node{at: at, mount: m, mode: 0o444, id: "proc " + at}
	if at == "/proc" {
		n.mode = fs.ModeDir | 0o555
		n.id = "made /proc"
		return n, nil
	}
	first, deeper, _ := strings.Cut(strings.TrimPrefix(at, "/proc/"), "/")
	own := first == "self" || first == "thread-self"
	number := strings.Trim(first, "0123456789") == "" // of processes that are not there yet
	if number || !own && t.procfs == "pid" {
		return node{}, fs.ErrNotExist
	}
	if own && deeper == "" { // links to the directory of whoever asks
		n.mode = fs.ModeDir | 0o555
		return n, nil
	}
	if slices.ContainsFunc(t.masked, func(p string) bool { return within(at, p) }) {
		return node{}, errMasked
	}
	info, err := t.host.Lstat(at)
	if err != nil {
		return node{}, err
	}
	n.mode = info.Mode &^ fs.ModeSymlink // its links lead where only the kernel knows
	n.own, n.group = own, own
	return n, nil
}

var errMasked = errors.New("it is masked: it shows nothing")

// maxLinks is how many links the kernel follows; path_resolution(7).
const maxLinks = 40

// stop is where and why a walk ended before its end.
type stop struct {
	at  string
	err error
}

func (s *stop) Error() string { return s.at + ": " + s.err.Error() }
func (s *stop) Unwrap() error { return s.err }

var (
	errNotDir  = errors.New("not a directory")
	errLoop    = errors.New("too many symbolic links")
	errAccess  = errors.New("its permissions do not let the plugin pass")
	errInvalid = errors.New("expected an absolute path")
)

// walker is one resolution of a path.
type walker struct {
	tree *tree
	// now is where it stands, dir where now was looked for.
	now, dir node
	trail    []string
	links    int
	// last says that now is the last component, nothing comes after it.
	last bool
	// nested says that a link is being followed which is not the last.
	nested bool
}

// walk resolves a path as the kernel does; follow says whether a link at its
// end is followed.
func (t *tree) walk(name string, follow bool) (*walker, error) {
	w := &walker{tree: t}
	if !path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return w, &stop{name, errInvalid}
	}
	if err := w.step("/"); err != nil {
		return w, err
	}
	w.dir = w.now
	err := w.follow(strings.Split(name, "/"), follow || strings.HasSuffix(name, "/"))
	if err == nil && strings.HasSuffix(name, "/") && !w.now.mode.IsDir() {
		err = &stop{w.now.at, errNotDir}
	}
	return w, err
}

// step stands at a path without links.
func (w *walker) step(at string) error {
	n, err := w.tree.lookup(at)
	if err != nil {
		w.now = node{at: at, mount: w.tree.mountOf(at)}
		return &stop{at, err}
	}
	w.now = n
	return nil
}

func (w *walker) follow(words []string, last bool) error {
	for i, word := range words {
		if word == "" {
			continue
		}
		if !w.now.mode.IsDir() {
			return &stop{w.now.at, errNotDir}
		}
		if !w.now.permits(search) {
			return &stop{w.now.at, errAccess}
		}
		if word == "." {
			continue
		}
		w.dir = w.now
		more := slices.ContainsFunc(words[i+1:], func(s string) bool { return s != "" })
		w.last = !more && !w.nested
		if err := w.step(path.Join(w.dir.at, word)); err != nil {
			return err
		}
		if w.now.mount != w.dir.mount && word != ".." {
			w.trail = append(w.trail, fmt.Sprintf("%s is in %s", w.now.at, w.now.mount))
		}
		if w.now.mode&fs.ModeSymlink != 0 && (more || last) {
			outer := w.nested
			w.nested = outer || more
			if err := w.link(); err != nil {
				return err
			}
			w.nested = outer
		}
	}
	return nil
}

// link goes where the link that the walk stands at leads.
func (w *walker) link() error {
	target, at := w.now.link, w.now.at
	w.trail = append(w.trail, fmt.Sprintf("%s is a link to %s", at, target))
	if w.links++; w.links > maxLinks {
		return &stop{at, errLoop}
	}
	start := w.dir.at
	if path.IsAbs(target) {
		start = "/"
	}
	if err := w.step(start); err != nil {
		return err
	}
	return w.follow(strings.Split(target, "/"), true)
}

// The permissions of one class; inode(7).
const (
	search = 1
	change = 2
	look   = 4
)

// permits says whether the mode lets the plugin do something.
func (n node) permits(what fs.FileMode) bool {
	if what&change != 0 && n.unmapped {
		return false
	}
	mode := n.mode.Perm()
	switch {
	case n.own:
		mode >>= 6
	case n.group:
		mode >>= 3
	}
	return mode&what == what
}
