package ipc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DescriptorKind is what a file descriptor is, as the kernel says.
type DescriptorKind string

// The kinds that may travel. All else, directories and O_PATH descriptors among
// it, stays where it is.
const (
	// KindFile is a regular file. Its sender may go on writing and truncating:
	// read it, never map it.
	KindFile DescriptorKind = "file"
	// KindMemfd is a memfd_create(2) whose size and content nobody can change
	// any more, and all of whose bytes are there: it may be mapped.
	KindMemfd DescriptorKind = "memfd"
	// KindSocket is a socket of any family. O_NONBLOCK is shared with its sender.
	KindSocket DescriptorKind = "socket"
	// KindShared is a memfd_create(2) with exactly the seals F_SEAL_SEAL,
	// F_SEAL_SHRINK and F_SEAL_GROW, for both ends of a stream to map. The host
	// makes it and a plugin takes it: what a plugin made would be a KindFile.
	KindShared DescriptorKind = "shared"
)

// kinds are all of them; a set of them is a mask of their places here.
var kinds = []DescriptorKind{KindFile, KindMemfd, KindSocket, KindShared}

// single is what nearly every message with descriptors says of them.
var single = map[string]DescriptorKind{`["file"]`: KindFile, `["memfd"]`: KindMemfd, `["socket"]`: KindSocket}

// maxDescriptors is the kernel's own bound for one message (SCM_MAX_FD);
// unix(7).
const maxDescriptors = 253

// immutable are the seals of a KindMemfd.
const immutable = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// errNotSendable is for descriptors of no kind that may travel.
var errNotSendable = errors.New("neither a regular file, nor a sealed memfd, nor a socket")

// KindOf says what fd is. A memfd that is not sealed, or has holes, which
// reading would fill at the reader's expense, is a KindFile.
func KindOf(fd int) (DescriptorKind, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", fmt.Errorf("cannot tell what a descriptor is: %w", os.NewSyscallError("fstat", err))
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return "", fmt.Errorf("cannot tell what a descriptor is: %w", os.NewSyscallError("fcntl", err))
	}
	switch {
	case flags&unix.O_PATH != 0:
		return "", errNotSendable
	case st.Mode&unix.S_IFMT == unix.S_IFSOCK:
		return KindSocket, nil
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return "", errNotSendable
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	switch {
	case err != nil: // no file system that seals
		return KindFile, nil
	case seals&immutable == immutable && st.Blocks*512 >= st.Size && inMemory(fd):
		return KindMemfd, nil
	case seals == sharedSeals && inMemory(fd):
		return KindShared, nil
	default:
		return KindFile, nil
	}
}

// inMemory leaves out hugetlbfs, whose pages a reader may be unable to map.
func inMemory(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.TMPFS_MAGIC
}

// Descriptor is one that came with a message. Whoever has it closes File.
type Descriptor struct {
	Kind DescriptorKind
	File *os.File
}

// CloseDescriptors closes all of them. Those without a File are skipped.
func CloseDescriptors(ds []Descriptor) {
	for i := range ds {
		if ds[i].File != nil {
			_ = ds[i].File.Close() // nothing was written by this side
			ds[i].File = nil
		}
	}
}

// WithFiles is a handler's result that descriptors go along with. The connection
// closes Files, whatever happens. The peer must take their kinds: see Conn.Takes.
type WithFiles struct {
	Result any
	Files  []*os.File
}

// Answer is what a call brought. The caller closes Files.
type Answer struct {
	Result json.RawMessage
	Files  []Descriptor
}

// Takes says whether the peer takes descriptors of this kind. None does before
// its hello.
func (c *Conn) Takes(kind DescriptorKind) bool {
	i := slices.Index(kinds, kind)
	return i >= 0 && c.takes.Load()&(1<<i) != 0
}

// offered notes what the peer takes. What is unknown is ignored.
func (c *Conn) offered(names []DescriptorKind) {
	if c.o.Protocol != ProtocolCordon {
		return
	}
	mask := uint32(0)
	for _, name := range names {
		if i := slices.Index(kinds, name); i >= 0 {
			mask |= 1 << i
		}
	}
	c.takes.Store(mask)
	c.o.Journal.takes(mask)
}

// parcel is descriptors on their way out, owned by the queue.
type parcel struct {
	files []*os.File
	fds   []int // of files, in their order
	kinds []byte
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // nothing of ours is lost with it
	}
}

// pack makes a parcel of files that the peer takes, or closes them.
func (c *Conn) pack(files []*os.File) (*parcel, error) {
	if len(files) == 0 {
		return nil, nil //nolint:nilnil // a message without descriptors has none
	}
	p, err := c.packed(files)
	if err != nil {
		closeFiles(files)
		return nil, err
	}
	return p, nil
}

func (c *Conn) packed(files []*os.File) (*parcel, error) {
	if len(files) > maxDescriptors {
		return nil, Errorf(CodeTooLarge, "%d descriptors in one message, over %d", len(files), maxDescriptors)
	}
	if c.out.sock == nil {
		return nil, Errorf(CodeUnsupported, "descriptors travel over a unix socket alone")
	}
	p := &parcel{files: files, kinds: []byte{'['}}
	for i, f := range files {
		fd, kind, err := described(f)
		if err != nil {
			return nil, err
		}
		if !c.Takes(kind) {
			return nil, Errorf(CodeUnsupported, "the peer takes no descriptor of kind %s", kind)
		}
		if i > 0 {
			p.kinds = append(p.kinds, ',')
		}
		p.fds, p.kinds = append(p.fds, fd), strconv.AppendQuote(p.kinds, string(kind))
	}
	p.kinds = append(p.kinds, ']')
	return p, nil
}

// described returns the number and kind of a file, which stays as it is: Fd
// would make it block.
func described(f *os.File) (fd int, kind DescriptorKind, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, "", fmt.Errorf("cannot send a descriptor: %w", err)
	}
	if ctl := raw.Control(func(n uintptr) {
		fd = int(n)
		kind, err = KindOf(fd)
	}); ctl != nil {
		err = ctl
	}
	if err != nil {
		return -1, "", fmt.Errorf("cannot send a descriptor: %w", err)
	}
	return fd, kind, nil
}

// member is what the message says of its descriptors, before its last brace.
func (p *parcel) member() []byte {
	if p == nil {
		return closeBrace
	}
	return append(append([]byte(`,"fds":`), p.kinds...), '}')
}

func (p *parcel) close() {
	if p != nil {
		closeFiles(p.files)
		p.files = nil
	}
}

// inbox is what came over a socket and no message has claimed yet. Its fields,
// but for held, are the reader's own.
type inbox struct {
	max     int
	arrived []int
	// until is how far the stream had been read when the last of them came. They
	// travel with a byte of the message that they belong to, so once all before
	// until is handled, none may be left.
	until int64
	// held are those that handlers have.
	held atomic.Int64
}

// socketReader reads a unix socket with room for descriptors.
type socketReader struct {
	raw  syscall.RawConn
	st   *counters
	box  *inbox
	oob  []byte
	seen func() int64 // how many bytes of the stream were read before
	// patient has a read wait in the kernel for a while: see await. One of a socket
	// that the runtime does not poll always does.
	patient, unpolled bool
	// receive is what raw.Read runs, made once so that a read allocates nothing;
	// head and the rest are its parameters and results.
	receive func(fd uintptr) bool
	head    unix.Msghdr
	iov     unix.Iovec
	n       int
	errno   syscall.Errno
}

// reader gives the function that reads the transport, and its socketReader,
// where it is a socket.
func (t Transport) reader(st *counters, box *inbox, seen func() int64) (func([]byte) (int, error), *socketReader) {
	c, ok := t.R.(messenger)
	if !ok {
		return t.R.Read, nil
	}
	raw, err := c.SyscallConn()
	if err != nil { // it is closed, which a read will tell
		return t.R.Read, nil
	}
	s := &socketReader{raw: raw, st: st, box: box, seen: seen}
	_, s.unpolled = c.(*socket)
	// Without room for more than may come, the kernel closes the rest itself.
	s.oob = make([]byte, unix.CmsgSpace(4*max(1, box.max)))
	s.receive = s.receiveNow
	return s.read, s
}

// receiveNow is recvmsg(2). It says whether that came to an end, or has to wait
// for the poller.
func (s *socketReader) receiveNow(fd uintptr) bool {
	for waited := false; ; waited = true {
		n, _, errno := syscall.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&s.head)), unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		switch {
		case errno == 0:
			s.n, s.errno = int(n), 0
			return true
		case errno == unix.EINTR:
		case errno != unix.EAGAIN:
			s.n, s.errno = 0, errno
			return true
		case waited || !s.patient && !s.unpolled || !await(fd, pollIn):
			return false
		}
	}
}

// read is recvmsg(2). A control message that the kernel had to cut
// (MSG_CTRUNC), or that is of another kind, is a breach: this side never asked
// for one.
func (s *socketReader) read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.iov.Base = &p[0]
	s.iov.SetLen(len(p))
	s.head = unix.Msghdr{Iov: &s.iov, Control: &s.oob[0]}
	s.head.SetIovlen(1)
	s.head.SetControllen(len(s.oob))
	err := s.raw.Read(s.receive)
	if err == nil && s.errno != 0 {
		err = os.NewSyscallError("recvmsg", s.errno)
	}
	s.iov.Base = nil
	if err != nil {
		return 0, err
	}
	n, oobn, flags := s.n, int(s.head.Controllen), int(s.head.Flags)
	if (oobn > 0 || flags&unix.MSG_CTRUNC != 0) && !switchedOff("descriptors of peers") {
		fds, other := received(s.oob[:oobn])
		s.st.descriptors.Add(uint64(len(fds)))
		s.box.arrived = append(s.box.arrived, fds...)
		s.box.until = s.seen() + int64(n)
		if err := s.box.crowded(flags&unix.MSG_CTRUNC != 0, other); err != nil {
			s.box.clear()
			return 0, err
		}
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// crowded says why what came may not be kept, even until it is known what it
// came for: two messages may be in one read, and each has max at most.
func (b *inbox) crowded(truncated, other bool) error {
	switch {
	case b.max == 0:
		return breach(BreachDescriptors, "file descriptors came along, and none is accepted")
	case truncated:
		return breach(BreachDescriptors, "more file descriptors came along than the %d that one message may carry, or this side has no room left", b.max)
	case other:
		return breach(BreachDescriptors, "a control message that carries no descriptors")
	case len(b.arrived) > 2*b.max:
		return breach(BreachDescriptors, "%d file descriptors came along and no message for them", len(b.arrived))
	default:
		return nil
	}
}

// received takes the descriptors out of a control message buffer, and says
// whether anything else was in it.
func received(oob []byte) (fds []int, other bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, true // the kernel wrote it; nothing in it can be closed
	}
	for i := range msgs {
		more, err := unix.ParseUnixRights(&msgs[i])
		fds, other = append(fds, more...), other || err != nil
	}
	return fds, other
}

// clear closes what nobody claimed.
func (b *inbox) clear() {
	for _, fd := range b.arrived {
		_ = unix.Close(fd) // received, so ours and open
	}
	b.arrived = nil
}

// claim hands a message its descriptors. names is its member fds, read is how
// far the stream has been handled with it.
func (b *inbox) claim(names []byte, read int64) ([]Descriptor, error) {
	if len(names) == 0 && len(b.arrived) == 0 {
		return nil, nil
	}
	announced, err := b.announced(names)
	if err != nil {
		return nil, err
	}
	ds := make([]Descriptor, len(announced))
	for i, fd := range b.arrived[:len(announced)] {
		ds[i] = Descriptor{Kind: announced[i], File: os.NewFile(uintptr(fd), "received "+string(announced[i]))}
	}
	fds := b.arrived[:len(announced)]
	b.arrived = b.arrived[len(announced):]
	if err := b.check(announced, fds, read); err != nil {
		CloseDescriptors(ds)
		return nil, err
	}
	return ds, nil
}

// announced reads the member fds, an array of the names of kinds.
func (b *inbox) announced(names []byte) ([]DescriptorKind, error) {
	if len(names) == 0 {
		return nil, nil
	}
	if len(names) > 16*maxDescriptors || names[0] != '[' {
		return nil, breach(BreachDescriptors, "the member fds must be an array of at most %d kinds", b.max)
	}
	if kind, ok := single[string(names)]; ok && b.max > 0 && len(b.arrived) > 0 {
		return []DescriptorKind{kind}, nil
	}
	var announced []DescriptorKind
	if err := json.Unmarshal(names, &announced); err != nil {
		return nil, breach(BreachDescriptors, "the member fds must be an array of kinds")
	}
	switch {
	case len(announced) > b.max:
		return nil, breach(BreachDescriptors, "a message with %d file descriptors, over the limit of %d", len(announced), b.max)
	case len(announced) > len(b.arrived):
		return nil, breach(BreachDescriptors, "a message announced %d file descriptors and %d came", len(announced), len(b.arrived))
	}
	return announced, nil
}

// check compares what came with what was announced.
func (b *inbox) check(announced []DescriptorKind, fds []int, read int64) error {
	for i, want := range announced {
		if want == KindShared || !slices.Contains(kinds, want) {
			return breach(BreachDescriptors, "a file descriptor of the unknown kind %.20q", want)
		}
		kind, err := KindOf(fds[i])
		if kind == KindShared { // which a peer cannot offer
			kind = KindFile
		}
		if err != nil || kind != want {
			return breach(BreachDescriptors, "a file descriptor announced as %s is %s", want, orNothing(kind))
		}
	}
	if len(b.arrived) > 0 && read >= b.until {
		return breach(BreachDescriptors, "%d file descriptors came along that no message announced", len(b.arrived))
	}
	return nil
}

func orNothing(kind DescriptorKind) string {
	if kind == "" {
		return errNotSendable.Error()
	}
	return string(kind)
}

// mark is where in the bytes of a queue a message with descriptors begins.
type mark struct {
	at int
	p  *parcel
}

func closeMarks(marks []mark) {
	for _, m := range marks {
		m.p.close()
	}
}

// segment cuts what one write may take from the front of rest, which begins at
// byte at of the active bytes: descriptors go with the first byte of their own
// message, and no byte of the one before.
func segment(rest []byte, at int, marks []mark) ([]byte, *parcel) {
	if len(marks) == 0 {
		return rest, nil
	}
	if marks[0].at > at {
		return rest[:marks[0].at-at], nil
	}
	if len(marks) > 1 {
		rest = rest[:marks[1].at-at]
	}
	return rest, marks[0].p
}

// sendNow is sendmsg(2) that never waits.
func sendNow(raw syscall.RawConn, b []byte, p *parcel) (n int, err error) {
	oob := unix.UnixRights(p.fds...)
	ctl := raw.Write(func(fd uintptr) bool {
		n, err = ignoringEINTR(func() (int, error) {
			return unix.SendmsgN(int(fd), b, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		})
		return true
	})
	switch {
	case ctl != nil:
		return 0, ctl
	case errors.Is(err, unix.EAGAIN):
		return 0, nil
	default:
		return max(n, 0), err
	}
}
