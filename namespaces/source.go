package namespaces

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Tree is a detached mount of one of the host's trees, read-only, noexec and so
// on already set, so that nothing half-restricted is ever reachable.
type Tree struct {
	File *os.File
	Dir  bool
	// Real is the path without links; From itself if there were none.
	Real string
	// Mapped is whether the mount has the map that was asked for.
	Mapped bool
}

// SourceError is a grant whose source cannot be shown to a plugin.
type SourceError struct {
	Path string
	Why  string
	Err  error // may be nil
}

func (e *SourceError) Error() string {
	if e.Err != nil && e.Why == "" {
		return fmt.Sprintf("cannot mount %s: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("cannot mount %s: %s", e.Path, e.Why)
}

// Unwrap gives the cause.
func (e *SourceError) Unwrap() error { return e.Err }

// IDMap shows files of one owner as another's: a user namespace made for it.
// What is owned by an id that it does not map nobody can write to through the
// mount, which goes for connecting to a socket, too (inode_permission in the
// kernel's fs/namei.c): its mode and a read-only mount do not.
type IDMap struct {
	UserNS *os.File
	// OrWithout opens the tree without the map where its file system has none
	// (Tree.Mapped tells).
	OrWithout bool
}

// SourceID tells one tree of the host from every other: an inode as it is seen
// by one of the host's mounts; statx(2).
type SourceID struct {
	Mount, Inode uint64
	Major, Minor uint32
}

// OpenedSource is what stands at a path of the host: held, and not yet a mount.
type OpenedSource struct {
	ID   SourceID
	Dir  bool
	Real string // as of Tree
	// UID and GID are its owner, Mode its permissions (S_ISVTX among them).
	UID, GID uint32
	Mode     uint32
	// Stamp is what it was when it was opened.
	Stamp SourceStamp
	fd    int
}

// SourceStamp is what differs when a file was written to since; statx(2). The
// times are in nanoseconds since 1970.
type SourceStamp struct {
	Inode             uint64
	Major, Minor      uint32
	Size              uint64
	Modified, Changed int64
}

// sourceMask is what is asked about a source.
const sourceMask = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID | unix.STATX_MNT_ID_UNIQUE

func stampOf(st *unix.Statx_t) SourceStamp {
	nanos := func(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }
	return SourceStamp{
		Inode: st.Ino, Major: st.Dev_major, Minor: st.Dev_minor, Size: st.Size, Modified: nanos(st.Mtime), Changed: nanos(st.Ctime),
	}
}

// Restat is the stamp by now.
func (o *OpenedSource) Restat() (SourceStamp, error) {
	var st unix.Statx_t
	if err := unix.Statx(o.fd, "", unix.AT_EMPTY_PATH, sourceMask, &st); err != nil {
		return SourceStamp{}, &SourceError{Path: o.Real, Err: err}
	}
	return stampOf(&st), nil
}

// Reopen opens the very file for reading.
func (o *OpenedSource) Reopen() (*os.File, error) {
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(o.fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &SourceError{Path: o.Real, Err: err}
	}
	return os.NewFile(uintptr(fd), o.Real), nil
}

// Close lets go of it.
func (o *OpenedSource) Close() error { return unix.Close(o.fd) }

// OpenSource resolves m.From without following a symbolic link that anyone but
// root could have made, and refuses what must never be shown. The caller closes
// it.
func OpenSource(m Mount) (*OpenedSource, error) {
	fd, real, err := openSource(m.From)
	if err != nil {
		return nil, err
	}
	var st unix.Statx_t
	if err = unix.Statx(fd, "", unix.AT_EMPTY_PATH, sourceMask, &st); err != nil {
		err = &SourceError{Path: m.From, Err: err}
	}
	o := &OpenedSource{
		ID: SourceID{st.Mnt_id, st.Ino, st.Dev_major, st.Dev_minor}, Real: real, UID: st.Uid, GID: st.Gid, Mode: uint32(st.Mode) &^ unix.S_IFMT, Stamp: stampOf(&st), fd: fd,
	}
	if err == nil {
		o.Dir, err = sourceKind(uint32(st.Mode), m.From)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return o, nil
}

// OpenTree opens m.From for mounting: OpenSource, then Tree.
func OpenTree(m Mount, idmap *IDMap) (*Tree, error) {
	o, err := OpenSource(m)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return o.Tree(m, idmap)
}

// Tree clones what was opened for m, restricted while it is attached nowhere.
// The caller closes File.
func (o *OpenedSource) Tree(m Mount, idmap *IDMap) (*Tree, error) {
	tree, err := unix.OpenTree(o.fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, &SourceError{Path: m.From, Err: err}
	}
	f := os.NewFile(uintptr(tree), m.From)
	attr := restriction(m)
	if idmap != nil {
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(idmap.UserNS.Fd())
	}
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr)
	if err != nil && idmap != nil && idmap.OrWithout { // EINVAL: no such file system; EPERM: mapped already
		idmap, attr.Attr_set, attr.Userns_fd = nil, attr.Attr_set&^unix.MOUNT_ATTR_IDMAP, 0
		err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr)
	}
	if err != nil {
		return nil, errors.Join(&SourceError{Path: m.From, Err: fmt.Errorf("cannot restrict it: %w", err)}, f.Close())
	}
	return &Tree{File: f, Dir: o.Dir, Real: o.Real, Mapped: idmap != nil}, nil
}

// Restriction is what a mount of m must not be good for: attributes of
// mount_setattr(2) and its propagation.
func Restriction(m Mount) (attributes, propagation uint64) {
	attr := restriction(m)
	return attr.Attr_set, attr.Propagation
}

// restriction is what a mount of m must not be good for.
func restriction(m Mount) unix.MountAttr {
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	for _, r := range []struct {
		wall string
		bit  uint64
		set  bool
	}{
		{WallNosuid, unix.MOUNT_ATTR_NOSUID, true},
		{WallNodev, unix.MOUNT_ATTR_NODEV, true},
		{WallReadOnly, unix.MOUNT_ATTR_RDONLY, !m.Writable},
		{WallNoexec, unix.MOUNT_ATTR_NOEXEC, !m.Exec},
	} {
		if r.set && !switchedOff(r.wall) {
			attr.Attr_set |= r.bit
		}
	}
	if switchedOff(WallPrivate) {
		attr.Propagation = 0
	}
	return attr
}

// openSource gives an O_PATH descriptor. Links are followed only where root
// alone could have made them: in directories that nobody else can write.
func openSource(p string) (fd int, real string, err error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	fd, err = unix.Openat2(unix.AT_FDCWD, p, &how)
	if err == nil {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK {
			return fd, p, nil
		}
		_ = unix.Close(fd)
		err = unix.ELOOP
	}
	if !errors.Is(err, unix.ELOOP) {
		return -1, "", &SourceError{Path: p, Err: err}
	}
	if real, err = trustedTarget(p); err != nil {
		return -1, "", err
	}
	fd, err = unix.Openat2(unix.AT_FDCWD, real, &how)
	if err != nil {
		return -1, "", &SourceError{Path: p, Err: err}
	}
	return fd, real, nil
}

// trustedTarget resolves links component by component and refuses one that lies
// in a directory which others than root can write.
func trustedTarget(p string) (string, error) {
	done, rest := "/", strings.Split(strings.Trim(filepath.Clean(p), "/"), "/")
	for hops := 0; len(rest) > 0; {
		next := filepath.Join(done, rest[0])
		rest = rest[1:]
		st, err := os.Lstat(next)
		if err != nil {
			return "", &SourceError{Path: p, Err: err}
		}
		if st.Mode()&os.ModeSymlink == 0 {
			done = next
			continue
		}
		if err := onlyRootWrites(done); err != nil && !switchedOff(WallLinks) {
			return "", &SourceError{Path: p, Why: fmt.Sprintf("%s is a symbolic link in a directory that others than root can write; name the real path", next), Err: err}
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", &SourceError{Path: p, Err: err}
		}
		if hops++; hops > 16 {
			return "", &SourceError{Path: p, Err: unix.ELOOP}
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(done, target)
		}
		done, rest = "/", append(strings.Split(strings.Trim(filepath.Clean(target), "/"), "/"), rest...)
	}
	return done, nil
}

// onlyRootWrites is for every directory from the root down to dir.
func onlyRootWrites(dir string) error {
	for d := dir; ; d = filepath.Dir(d) {
		st, err := os.Lstat(d)
		if err != nil {
			return fmt.Errorf("cannot look at %s: %w", d, err)
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		if !ok || sys.Uid != 0 || st.Mode().Perm()&0o022 != 0 {
			return fmt.Errorf("%s can be written by others than root", d)
		}
		if d == "/" {
			return nil
		}
	}
}

// sourceKind refuses what must never be shown: sockets lead to host services,
// fifos and devices to whoever holds the other end.
func sourceKind(mode uint32, p string) (dir bool, err error) {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return true, nil
	case unix.S_IFREG:
		return false, nil
	case unix.S_IFSOCK:
		return false, &SourceError{Path: p, Why: "it is a socket, which would reach a host service"}
	case unix.S_IFIFO:
		return false, &SourceError{Path: p, Why: "it is a fifo, which would reach another process"}
	default:
		return false, &SourceError{Path: p, Why: "it is neither a file nor a directory"}
	}
}
