package control

import (
	"context"
	"encoding/json"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
)

// maxCallFiles is how many descriptors may come with a call, and with its
// answer: a stream, or a memfd or two.
const maxCallFiles = 4

// acceptFiles says which requests of a client may carry descriptors.
func acceptFiles(method string) int {
	if method == MethodCall {
		return maxCallFiles
	}
	return 0
}

// clientTakes are the kinds that a client gets, where it asks for any.
func clientTakes() []ipc.DescriptorKind {
	return []ipc.DescriptorKind{ipc.KindFile, ipc.KindMemfd, ipc.KindSocket}
}

type requestKey struct{}

// called makes a call with what came along.
func called(ctx context.Context, s *session, raw json.RawMessage) (any, error) {
	p, err := decode[CallParams](raw)
	if err != nil {
		return nil, err
	}
	if p.Accept < 0 || p.Accept > maxCallFiles {
		return nil, Errorf(ipc.CodeInvalidParams, "", "accept_descriptors: expected 0 to %d, got %d", maxCallFiles, p.Accept)
	}
	r, _ := ctx.Value(requestKey{}).(*ipc.Request)
	if r == nil || len(r.Files) == 0 && p.Accept == 0 {
		return s.server.service.Call(ctx, p)
	}
	files, err := handedOn(r)
	if err != nil {
		return nil, err
	}
	a, err := s.server.service.CallFiles(ctx, p, files)
	if err != nil || len(a.Files) == 0 {
		return a.Result, err
	}
	out := ipc.WithFiles{Result: a.Result}
	for _, d := range a.Files {
		out.Files = append(out.Files, d.File)
	}
	return out, nil
}

// handedOn takes the descriptors that a client has for a plugin: memory that
// nobody can change, and ends of socket pairs. A file, or a socket that leads
// somewhere, would be a hole in the plugin's walls that no profile shows.
func handedOn(r *ipc.Request) ([]*os.File, error) {
	for i, d := range r.Files {
		if d.Kind == ipc.KindMemfd || d.Kind == ipc.KindSocket && isPair(d.File) {
			continue
		}
		return nil, Errorf(ipc.CodeDenied, "hand over a sealed memfd, or one end of a socketpair", "cannot hand the descriptor %d (%s) to a plugin: it leads out of its walls", i, d.Kind)
	}
	var out []*os.File
	for i := range r.Files {
		out = append(out, r.Take(i))
	}
	return out, nil
}

// isPair says whether f is one end of a pair of unix stream sockets that neither
// has a name: what socketpair(2) makes, and nothing that listens or dials.
func isPair(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	pair := false
	err = raw.Control(func(fd uintptr) { pair = isPairFD(int(fd)) })
	return err == nil && pair
}

func isPairFD(fd int) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM {
		return false
	}
	return unnamed(fd, unix.SYS_GETSOCKNAME) && unnamed(fd, unix.SYS_GETPEERNAME)
}

// unnamed asks with one of getsockname(2) and getpeername(2): an address of the
// family unix without a name is its family alone; unix(7).
func unnamed(fd int, call uintptr) bool {
	var at unix.RawSockaddrUnix
	size := uint32(unsafe.Sizeof(at))
	_, _, errno := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&at)), uintptr(unsafe.Pointer(&size)))
	return errno == 0 && at.Family == unix.AF_UNIX && size == uint32(unsafe.Sizeof(at.Family))
}
