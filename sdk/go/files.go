package cordon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"
)

// The kinds of descriptors that travel: regular files, memfds that nobody can
// change any more, and sockets.
const (
	kindFile   = "file"
	kindMemfd  = "memfd"
	kindSocket = "socket"
	kindShared = "shared" // the memory of a stream
)

// maxDescriptors is the kernel's own bound for one message; unix(7).
const maxDescriptors = 253

// WithFiles is a handler's result that descriptors go along with: regular files,
// sockets, and what Memory.Seal made. They are closed once they are sent.
type WithFiles struct {
	Result any
	Files  []*os.File
}

// parcel is the descriptors of one request, until its handler returns.
type parcel struct {
	mu    sync.Mutex
	files []*os.File
}

type filesKey struct{}

// TakeFiles returns the descriptors that came with a handler's request, which
// the handler closes from then on. What no handler takes is closed once it
// returns.
func TakeFiles(ctx context.Context) []*os.File {
	p, _ := ctx.Value(filesKey{}).(*parcel)
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	files := p.files
	p.files = nil
	return files
}

// isGone tells that the peer has left.
func isGone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// TakeStream opens the stream that came with a handler's request: its only
// descriptors, a socket and, where the host shares it, memory. The handler closes
// it.
func TakeStream(ctx context.Context) (*Stream, error) {
	files := TakeFiles(ctx)
	if len(files) < 1 || len(files) > 2 {
		closeFiles(files)
		return nil, Errorf(CodeInvalidParams, "%d descriptors came where one stream was to", len(files))
	}
	return OpenStream(files[0], files[1:]...)
}

// NewStream makes a stream: this side's end, and the one for CallFiles or
// WithFiles.
func NewStream() (*Stream, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "stream")
	ours, err := OpenStream(os.NewFile(uintptr(fds[0]), "stream"))
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

func withFiles(ctx context.Context, files []*os.File) context.Context {
	if len(files) == 0 {
		return ctx
	}
	return context.WithValue(ctx, filesKey{}, &parcel{files: files})
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // nothing of this side's is lost with it
	}
}

// CallFiles is Call with descriptors: files go along, and are closed in any
// case; those that come with the answer are the caller's to close.
func (c *Conn) CallFiles(ctx context.Context, method string, params any, files []*os.File, result any) ([]*os.File, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	a, err := c.call(ctx, method, params, files)
	if err != nil {
		return nil, c.callError(method, err)
	}
	if result == nil {
		return a.files, nil
	}
	if err := json.Unmarshal(a.result, result); err != nil {
		closeFiles(a.files)
		return nil, Errorf(CodeInternal, "cannot use the answer to %s: %v", method, err)
	}
	return a.files, nil
}

// inlet reads a stream and the descriptors that come with it. It is the
// reader's own.
type inlet struct {
	stream   io.Reader
	sock     descriptors // nil where they cannot come
	oob      []byte
	arrived  []int
	received int64 // bytes read
	until    int64 // received, when the last descriptor came
}

func newInlet(stream io.Reader) *inlet {
	in := &inlet{stream: stream}
	if in.sock, _ = stream.(descriptors); in.sock != nil {
		in.oob = make([]byte, syscall.CmsgSpace(4*maxDescriptors))
	}
	return in
}

// Read implements io.Reader.
func (in *inlet) Read(p []byte) (n int, err error) {
	if in.sock == nil {
		return in.stream.Read(p)
	}
	n, oobn, _, _, err := in.sock.ReadMsgUnix(p, in.oob)
	n = max(n, 0)
	in.received += int64(n)
	if oobn > 0 {
		in.until = in.received
		in.arrived = append(in.arrived, rights(in.oob[:oobn])...)
	}
	if errors.Is(err, io.EOF) || n == 0 && err == nil && len(p) > 0 {
		err = io.EOF // as Read has it: not wrapped
	}
	return n, err
}

// rights takes the descriptors out of a control message buffer.
func rights(oob []byte) (fds []int) {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if more, err := syscall.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, more...)
		}
	}
	return fds
}

// claim hands a message the descriptors that it announces. handled is how far
// the stream has been handled with it.
func (in *inlet) claim(env envelope, msg []byte, handled int64) ([]*os.File, error) {
	if !env.fds.present() && len(in.arrived) == 0 {
		return nil, nil
	}
	var announced []string
	if env.fds.present() && json.Unmarshal(env.fds.of(msg), &announced) != nil {
		return nil, breach(BreachDescriptors, "the member fds must be an array of kinds")
	}
	if len(announced) > len(in.arrived) {
		return nil, breach(BreachDescriptors, "a message announced %d file descriptors and %d came", len(announced), len(in.arrived))
	}
	var files []*os.File
	for i, kind := range announced {
		files = append(files, os.NewFile(uintptr(in.arrived[i]), "received "+kind))
	}
	in.arrived = in.arrived[len(announced):]
	if len(in.arrived) > 0 && handled >= in.until {
		closeFiles(files)
		return nil, breach(BreachDescriptors, "%d file descriptors came along that no message announced", len(in.arrived))
	}
	return files, nil
}

// clear closes what no message claimed.
func (in *inlet) clear() {
	for _, fd := range in.arrived {
		_ = syscall.Close(fd) // received, so ours and open
	}
	in.arrived = nil
}

// kinds are those that this end takes, which depends on the stream.
func (in *inlet) kinds() []string {
	if in.sock == nil {
		return []string{}
	}
	return []string{kindFile, kindMemfd, kindSocket, kindShared}
}

// announce is the member that names the kinds of files.
func announce(files []*os.File) (member []byte, fds []int, err error) {
	names := []string{}
	for _, f := range files {
		fd, kind, err := kindOf(f)
		if err != nil {
			return nil, nil, err
		}
		fds, names = append(fds, fd), append(names, kind)
	}
	list, err := json.Marshal(names)
	return append([]byte(`,"fds":`), list...), fds, err
}

// kindOf says what a file is, and its number. Fd would make it block.
func kindOf(f *os.File) (fd int, kind string, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, "", fmt.Errorf("cannot send a descriptor: %w", err)
	}
	var st syscall.Stat_t
	var seals uintptr
	if ctl := raw.Control(func(n uintptr) {
		fd = int(n)
		err = syscall.Fstat(fd, &st)
		seals, _, _ = syscall.Syscall(syscall.SYS_FCNTL, n, getSeals, 0)
	}); ctl != nil || err != nil {
		return -1, "", fmt.Errorf("cannot send a descriptor: %w", errors.Join(ctl, err))
	}
	switch {
	case st.Mode&syscall.S_IFMT == syscall.S_IFSOCK:
		return fd, kindSocket, nil
	case st.Mode&syscall.S_IFMT != syscall.S_IFREG:
		return -1, "", errors.New("cannot send a descriptor that is neither a regular file nor a socket")
	case int(seals) >= 0 && seals&immutable == immutable && st.Blocks*512 >= st.Size:
		return fd, kindMemfd, nil
	default:
		return fd, kindFile, nil
	}
}

// From linux/fcntl.h and linux/memfd.h.
const (
	addSeals, getSeals = 1033, 1034
	immutable          = 0x2 | 0x4 | 0x8 // shrink, grow, write
	memfdFlags         = 0x1 | 0x2       // close on exec, allow sealing
)

// Memory is bytes to be filled in place and then sent: nothing copies them.
type Memory struct {
	f     *os.File
	bytes []byte
}

// NewMemory makes size bytes of zeroes that go to the host as one descriptor.
// End it by Seal or Close.
func NewMemory(size int) (*Memory, error) {
	number := map[string]uintptr{"amd64": 319, "arm64": 279}[runtime.GOARCH] // memfd_create(2)
	if number == 0 || size <= 0 {
		return nil, fmt.Errorf("cannot make %d bytes of memory on %s", size, runtime.GOARCH)
	}
	name := []byte("cordon\x00")
	fd, _, errno := syscall.Syscall(number, uintptr(unsafe.Pointer(&name[0])), memfdFlags, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("memfd_create", errno)
	}
	f := os.NewFile(fd, "memory")
	err := f.Truncate(int64(size))
	if err == nil {
		var bytes []byte
		bytes, err = syscall.Mmap(int(fd), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_POPULATE)
		if err == nil {
			return &Memory{f: f, bytes: bytes}, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("cannot make %d bytes of memory: %w", size, err), f.Close())
}

// Bytes is the memory. It is gone after Seal and Close.
func (m *Memory) Bytes() []byte { return m.bytes }

// Seal makes the memory a file for WithFiles or CallFiles, which nobody can
// change any more.
func (m *Memory) Seal() (*os.File, error) {
	if err := syscall.Munmap(m.bytes); err != nil {
		return nil, errors.Join(os.NewSyscallError("munmap", err), m.f.Close())
	}
	m.bytes = nil
	f := m.f
	m.f = nil
	fd, _, err := kindOf(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), addSeals, immutable); errno != 0 {
		return nil, errors.Join(os.NewSyscallError("fcntl", errno), f.Close())
	}
	return f, nil
}

// Close gives the memory back without sending it. It may follow Seal.
func (m *Memory) Close() error {
	if m.f == nil {
		return nil
	}
	err := syscall.Munmap(m.bytes)
	m.bytes = nil
	err = errors.Join(err, m.f.Close())
	m.f = nil
	return err
}
