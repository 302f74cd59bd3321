// Package fsopen is the capability fs.open: files beneath directories of the
// host that were granted. The kernel resolves every path, in one call that
// cannot leave the granted directory; openat2(2).
//
// The daemon opens files as root: what is granted is what lies in the
// directory, whoever may read it.
package fsopen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

// maxBytes bounds what one call of the byte form carries.
const maxBytes = 1 << 20

const (
	// What the schemas say is checked on the bytes, without building a document:
	// no patterns, and integers of at most 15 digits. target has the rest.
	pathSchema = `{"type": "string", "minLength": 2, "maxLength": 4095}`
	openParams = `{"type": "object", "properties": {"path": ` + pathSchema + `, "access": {"enum": ["r", "rw"]},
		"truncate": {"type": "boolean"}, "create": {"type": "boolean"},
		"_meta": {"type": "object"}}, "required": ["path"], "additionalProperties": false}`
	readParams = `{"type": "object", "properties": {"path": ` + pathSchema + `,
		"offset": {"type": "integer", "minimum": 0, "maximum": 281474976710655}, "length": {"type": "integer", "minimum": 0, "maximum": 1048576},
		"_meta": {"type": "object"}}, "required": ["path"], "additionalProperties": false}`
	writeParams = `{"type": "object", "properties": {"path": ` + pathSchema + `,
		"offset": {"type": "integer", "minimum": 0, "maximum": 281474976710655}, "data": {"type": "string", "maxLength": 1398104},
		"truncate": {"type": "boolean"}, "create": {"type": "boolean"},
		"_meta": {"type": "object"}}, "required": ["path", "data"], "additionalProperties": false}`
)

// New makes the capability.
func New() capability.Capability {
	mounts := &mounts{of: map[string]map[mountKey]*mount{}}
	return capability.Capability{
		Name: "fs.open",
		Text: "Files beneath a granted directory of the host, by their path there. No link leads out of the directory, no other file system mounted below it is entered, and only regular files are opened. A descriptor that was handed over stays usable after a revocation, which the kernel cannot end; a grant that counts bytes hands none over.",
		Cost: capability.Disk, Phases: capability.Always(),
		Closed: mounts.closed,
		Methods: []capability.Method{
			{
				Name: "fs.open", Text: "hands over a descriptor of a file, for reading (r) or both (rw); nothing in it can be executed",
				Params: openParams, Result: `{"type": "object"}`, Target: openTarget, Serve: mounts.open,
			},
			{Name: "fs.read", Text: "gives up to 1 MiB of a file, as base64", Params: readParams, Result: `{"type": "object"}`, Target: target("r"), Serve: read},
			{Name: "fs.write", Text: "writes up to 1 MiB of base64 into a file, at an offset", Params: writeParams, Result: `{"type": "object"}`, Target: target("rw"), Serve: write},
		},
	}
}

type request struct {
	Path     string `json:"path"`
	Access   string `json:"access"`
	Offset   int64  `json:"offset"`
	Length   *int64 `json:"length"`
	Data     []byte `json:"data"`
	Truncate bool   `json:"truncate"`
	Create   bool   `json:"create"`
}

// target says what a call is about.
func target(rights string) func(json.RawMessage) (string, error) {
	return func(params json.RawMessage) (string, error) {
		var r request
		if err := json.Unmarshal(params, &r); err != nil {
			return "", err
		}
		return r.target(rights)
	}
}

func openTarget(params json.RawMessage) (string, error) {
	var r request
	if err := json.Unmarshal(params, &r); err != nil {
		return "", err
	}
	if r.Access == "rw" || r.Create || r.Truncate {
		return r.target("rw")
	}
	return r.target("r")
}

// target refuses a path that is not clean: what it means would depend on links,
// and grants are judged by their text.
func (r *request) target(rights string) (string, error) {
	if !path.IsAbs(r.Path) || strings.ContainsRune(r.Path, 0) || path.Clean(r.Path) != r.Path || r.Path == "/" {
		return "", fmt.Errorf("expected an absolute path without '.', '..', '//', a final slash or a NUL")
	}
	return rights + ":" + r.Path, nil
}

func read(_ context.Context, c *capability.Call) (any, error) {
	var r request
	if err := json.Unmarshal(c.Params, &r); err != nil {
		return nil, err
	}
	f, err := Open(c.Root, r.Path, unix.O_RDONLY, c.Narrowed)
	if err != nil {
		return nil, shown(r.Path, err)
	}
	defer func() { _ = f.Close() }()
	length := int64(maxBytes)
	if r.Length != nil {
		length = *r.Length
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, min(length, max(0, info.Size()-r.Offset)))
	n, err := f.ReadAt(buf, r.Offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := c.Spend(int64(n)); err != nil {
		return nil, err
	}
	return struct {
		Data []byte `json:"data"`
		Size int64  `json:"size"`
	}{buf[:n], info.Size()}, nil
}

func write(_ context.Context, c *capability.Call) (any, error) {
	var r request
	if err := json.Unmarshal(c.Params, &r); err != nil {
		return nil, ipc.Errorf(ipc.CodeInvalidParams, "cannot write: data is no base64")
	}
	if err := c.Spend(int64(len(r.Data))); err != nil {
		return nil, err
	}
	flags := unix.O_WRONLY
	if r.Create {
		flags |= unix.O_CREAT
	}
	f, err := Open(c.Root, r.Path, flags, c.Narrowed)
	if err != nil {
		return nil, shown(r.Path, err)
	}
	if r.Truncate {
		err = f.Truncate(0)
	}
	n := 0
	if err == nil {
		n, err = f.WriteAt(r.Data, r.Offset)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, shown(r.Path, err)
	}
	return struct {
		Written int `json:"written"`
	}{n}, nil
}

// shown are the errors that say something to the plugin about what it asked
// for; all others are failures of the host.
func shown(at string, err error) error {
	for _, known := range []struct {
		err  error
		code int
		text string
	}{
		{unix.ENOENT, ipc.CodeNotFound, "no such file"},
		{unix.ENOTDIR, ipc.CodeNotFound, "no such file: what should be a directory is none"},
		{unix.EXDEV, ipc.CodeDenied, "a link or mount on the way leads out of what was granted"},
		{unix.ELOOP, ipc.CodeDenied, "a link stands on the way that is not followed"},
		{unix.EEXIST, ipc.CodeConflict, "it is there already, and no regular file"},
		{unix.EISDIR, ipc.CodeConflict, "it is a directory"},
		{unix.ENAMETOOLONG, ipc.CodeInvalidParams, "the path is too long"},
		{unix.ENOSPC, ipc.CodeOverloaded, "no space is left"},
		{unix.EDQUOT, ipc.CodeOverloaded, "the quota is used up"},
		{unix.EROFS, ipc.CodeDenied, "the file system is read-only"},
		{errIrregular, ipc.CodeDenied, errIrregular.Error()},
		{errSetID, ipc.CodeDenied, errSetID.Error()},
	} {
		if errors.Is(err, known.err) {
			return ipc.Errorf(known.code, "cannot open %.200q: %s", at, known.text)
		}
	}
	return err
}

var (
	errIrregular = errors.New("it is no regular file")
	errSetID     = errors.New("a file with set-id bits is not written")
)

// resolve is how a path is followed: never out of the granted tree, whether by
// "..", an absolute link, a link of /proc or a mount.
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// Open opens the regular file at an absolute path that is clean and lies at or
// beneath root, a target of the capability. flags are O_RDONLY, O_WRONLY or
// O_RDWR, with or without O_CREAT. With noLinks no symbolic link is followed.
// The caller closes the file.
func Open(root, at string, flags int, noLinks bool) (*os.File, error) {
	dir, rel, noLinks, err := split(root, at, noLinks)
	if err != nil {
		return nil, err
	}
	fd, err := retry(func() (int, error) { return openRoot(dir) })
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	return openBeneath(fd, rel, at, flags, noLinks)
}

// split is the directory that a path is looked for in, and where in it.
func split(root, at string, noLinks bool) (dir, rel string, without bool, err error) {
	_, dir, err = grant.SplitPath(root)
	rel = strings.TrimPrefix(strings.TrimPrefix(at, dir), "/")
	if rel == "" { // the grant is for a file
		dir, rel = path.Split(dir)
		noLinks = true
	}
	return dir, rel, noLinks, err
}

// openRoot opens the granted directory itself. A link in its path could have
// been set by whoever owns a directory above it, and leads where the ceiling
// was not asked about.
func openRoot(dir string) (int, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ELOOP) {
		return -1, ipc.Errorf(ipc.CodeDenied, "cannot open %.200q: a symbolic link stands in the path of the grant; grant where it leads", dir)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

// howTo is how a path beneath a granted directory is followed.
func howTo(noLinks bool) uint64 {
	if noLinks {
		return resolve | unix.RESOLVE_NO_SYMLINKS
	}
	return resolve
}

// openBeneath looks at what is there before it opens it: opening a device or a
// FIFO does something already.
func openBeneath(dir int, rel, name string, flags int, noLinks bool) (*os.File, error) {
	how := howTo(noLinks)
	place, err := find(dir, rel, how)
	if errors.Is(err, unix.ENOENT) && flags&unix.O_CREAT != 0 {
		return create(dir, rel, name, flags, how)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(place) }()
	if _, err := openable(place, flags); err != nil {
		return nil, err
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", place), flags&^unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// find resolves a path and opens nothing.
func find(dir int, rel string, how uint64) (int, error) {
	return retry(func() (int, error) {
		return unix.Openat2(dir, rel, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: how})
	})
}

// look says what is at a path, if it may be opened.
func look(dir int, rel string, flags int, how uint64) (unix.Stat_t, error) {
	place, err := find(dir, rel, how)
	if err != nil {
		return unix.Stat_t{}, err
	}
	defer func() { _ = unix.Close(place) }()
	return openable(place, flags)
}

// openable refuses what is no regular file, and to write to a set-id one.
func openable(place, flags int) (st unix.Stat_t, err error) {
	if err := unix.Fstat(place, &st); err != nil {
		return st, err
	}
	writes := flags&unix.O_ACCMODE != unix.O_RDONLY
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return st, unix.EISDIR
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return st, errIrregular
	case writes && st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0:
		return st, errSetID
	}
	return st, nil
}

// create makes a file that was not there, with the owner of its directory.
func create(dir int, rel, name string, flags int, how uint64) (*os.File, error) {
	parent, base := path.Split(rel)
	if parent == "" {
		parent = "."
	}
	at, err := retry(func() (int, error) {
		return unix.Openat2(dir, parent, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: how})
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(at) }()
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(at, base, flags|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// retry tries again what a signal interrupted, or what a change of a directory
// on the way made uncertain (EAGAIN; openat2(2)).
func retry(open func() (int, error)) (int, error) {
	for tries := 0; ; tries++ {
		fd, err := open()
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) && tries < 64 {
			continue
		}
		return fd, err
	}
}
