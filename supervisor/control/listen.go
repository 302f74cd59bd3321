package control

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Group is the group whose members may look and call.
const Group = "cordon"

// LookupGroup finds a group's gid in a file like /etc/group; -1 if there is no
// such group or file. It reads at most 1 MiB, and needs no cgo.
func LookupGroup(file, name string) int {
	f, err := os.Open(file)
	if err != nil {
		return -1
	}
	defer func() { _ = f.Close() }() // only read from
	for lines := bufio.NewScanner(io.LimitReader(f, 1<<20)); lines.Scan(); {
		fields := strings.Split(lines.Text(), ":") // group(5): name, password, gid, members
		if len(fields) < 3 || fields[0] != name {
			continue
		}
		if gid, err := strconv.ParseUint(fields[2], 10, 31); err == nil {
			return int(gid)
		}
	}
	return -1
}

// Socket is the bound control socket with the lock that makes it the only one.
type Socket struct {
	*net.UnixListener
	lock *os.File
}

// Listen binds the control socket at path for root and a group (-1: root
// alone): its directory is made root:group 0750, the socket 0660. A socket that
// a daemon left behind is replaced, one that a daemon serves is an error, and
// so is anything else at path. A lock file beside it keeps two daemons apart.
func Listen(path string, group int) (*Socket, error) {
	s, err := listen(path, max(group, 0))
	if err != nil {
		return nil, fmt.Errorf("cannot listen on the control socket %s: %w", path, err)
	}
	return s, nil
}

func listen(path string, gid int) (_ *Socket, err error) {
	if err := makeRuntimeDir(filepath.Dir(path), gid); err != nil {
		return nil, err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(lock.Name()), lock.Close())
		}
	}()
	if err := clearStale(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Lchown(path, 0, gid), os.Chmod(path, 0o660)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &Socket{UnixListener: l, lock: lock}, nil
}

// makeRuntimeDir makes the socket's directory, or takes one that is root's.
func makeRuntimeDir(dir string, gid int) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != 0 || st.Mode&unix.S_ISVTX != 0 {
		return fmt.Errorf("%s must be a directory of its own that belongs to root", dir)
	}
	return errors.Join(unix.Fchown(fd, 0, gid), unix.Fchmod(fd, 0o750))
}

// lockFile takes the lock at path, or says that another has it. Its holder
// removes the file when it ends, so the file that was locked must still be the
// one at path.
func lockFile(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another cordond serves it")
		}
		if err == nil && sameFile(f, path) {
			return f, nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
}

func sameFile(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, there)
}

// clearStale removes a socket that nobody serves any more.
func clearStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != os.ModeSocket {
		return errors.New("there is something that is no socket")
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		return errors.Join(errors.New("another program serves it"), c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// Close stops listening and removes the socket and its lock.
func (s *Socket) Close() error {
	return errors.Join(s.UnixListener.Close(), os.Remove(s.lock.Name()), s.lock.Close())
}

// peerOf asks the kernel who is at the other end: as it was when it connected,
// whatever it has become since; unix(7), SO_PEERCRED and SO_PEERGROUPS.
func peerOf(c *net.UnixConn) (Caller, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Caller{}, err
	}
	var caller Caller
	var inner error
	err = raw.Control(func(fd uintptr) { caller, inner = peerOfFD(int(fd)) })
	return caller, errors.Join(err, inner)
}

func peerOfFD(fd int) (Caller, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Caller{}, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return Caller{}, os.NewSyscallError("getsockopt SO_PEERGROUPS", err)
	}
	return Caller{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid, Groups: groups}, nil
}

// maxGroups bounds what is read of a peer's groups; one with more is refused
// by the kernel's ERANGE.
const maxGroups = 4096

// peerGroups reads SO_PEERGROUPS, an array of gids. The wrapper for strings in
// x/sys would cut it at the first zero byte.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, maxGroups)
	size := uint32(4 * maxGroups)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil, errno
	}
	return slices.Clone(groups[:size/4]), nil
}
