package namespaces

import (
	"bytes"
	"context"
	_ "embed" // the keeper's program
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed keeper/keeper_amd64
var keeperProgram []byte

// ErrKeeperGone is returned for launches when the keeper has ended; every
// plugin has ended with it.
var ErrKeeperGone = errors.New("the keeper has ended")

// StepError is a launch that failed before the plugin's first instruction.
// Nothing of it is left.
type StepError struct {
	Step   int    // index into the launch's steps; -1 if none of them
	Text   string // what it was doing
	Wall   string
	Op     Op // 0 if no step
	Errno  syscall.Errno
	Detail uint32
	Died   bool // its process was ended before its exec
}

func (e *StepError) Error() string {
	if e.Step < 0 {
		return fmt.Sprintf("cannot %s: %v", e.Text, e.Errno)
	}
	return fmt.Sprintf("cannot %s (step %d): %v", e.Text, e.Step+1, e.Errno)
}

// Unwrap gives the errno.
func (e *StepError) Unwrap() error { return e.Errno }

// Launch is one plugin to start: steps and the descriptors that they index.
type Launch struct {
	Steps []Step
	Files []*os.File // the caller keeps and closes its own
	// CgroupFile is the index of the v2 group's directory, or NoFile.
	CgroupFile int
	// NetNSFile is the index of a network namespace made ahead, which becomes the
	// plugin's and its reaper's; NoFile has one made.
	NetNSFile int
	// ReaperUID and ReaperGID are host ids, never the plugin's.
	ReaperUID, ReaperGID uint32
	// Staged, if set, is called with the plugin's pid when every wall is up and
	// before its first instruction; the exec waits for it.
	Staged func(pid int)
	// Describe gives the same steps with their texts, where Steps are terse; may
	// be nil.
	Describe func() []Step
}

// Child is a started plugin. PIDFD is closed by Forget, and nil if the plugin
// ended at once; Listener, nil without a filter, belongs to the caller.
type Child struct {
	PID, ReaperPID  int
	PIDFD, Listener *os.File
	Started         time.Time

	id     uint64
	keeper *Keeper
	done   chan struct{}
	end    ChildEnd
	then   []func() // under the keeper's lock
}

// ChildEnd is how a plugin ended.
type ChildEnd struct {
	// Orphaned says that the keeper ended first, and the plugin with it.
	Orphaned     bool
	Status       syscall.WaitStatus
	Time         time.Time
	User, System time.Duration
	MaxRSS       int64 // bytes
}

// Done is closed when the plugin and everything in its pid namespace are gone.
func (c *Child) Done() <-chan struct{} { return c.done }

// Then has f called, on a goroutine of its own, when it is done: a thousand
// children that run need none that wait.
func (c *Child) Then(f func()) {
	c.keeper.mu.Lock()
	defer c.keeper.mu.Unlock()
	select {
	case <-c.done:
		go f()
	default:
		c.then = append(c.then, f)
	}
}

// over is under the keeper's lock.
func (c *Child) over() {
	close(c.done)
	for _, f := range c.then {
		go f()
	}
	c.then = nil
}

// End is how it ended; valid after Done.
func (c *Child) End() ChildEnd { return c.end }

// Signal sends a signal to the plugin's first process.
func (c *Child) Signal(sig syscall.Signal) error {
	if c.PIDFD == nil {
		return os.ErrProcessDone
	}
	if switchedOff(WallPidfd) {
		return unix.Kill(c.PID, sig)
	}
	if err := unix.PidfdSendSignal(int(c.PIDFD.Fd()), sig, nil, 0); err != nil {
		return fmt.Errorf("cannot signal process %d: %w", c.PID, err)
	}
	return nil
}

// Forget tells the keeper that the plugin's groups were removed, and closes
// PIDFD. Call it once, after Done.
func (c *Child) Forget() error {
	err := c.keeper.say(wireKindForget, c.id)
	if errors.Is(err, ErrKeeperGone) { // and everything that it held with it
		err = nil
	}
	if c.PIDFD != nil {
		err = errors.Join(err, c.PIDFD.Close())
	}
	return err
}

type answer struct {
	reply wireReply
	files []*os.File
	child *Child // of a launch that started; it has taken the files
	lost  bool   // descriptors did not arrive: this process may have no more
}

// Keeper is the daemon's side of one keeper process. Safe for concurrent use.
type Keeper struct {
	conn *net.UnixConn
	proc keeperProcess
	gone chan struct{} // closed when it has ended, and everything that was below it
	// launching has an element for each launch in flight. Beyond them the keeper
	// reads nothing, the GO included that the launches themselves wait for.
	launching chan struct{}
	end       error // of the keeper's process; valid after gone

	mu       sync.Mutex
	next     uint64
	pending  map[uint64]chan answer // buffered: at most STAGED and one more
	children map[uint64]*Child
}

// StartKeeper starts the embedded keeper from a sealed memfd, so that what runs
// is what was built in. Close ends it and every plugin. The calling process
// becomes the subreaper of what the keeper may leave (PR_SET_CHILD_SUBREAPER).
func StartKeeper() (*Keeper, error) {
	program, err := sealedProgram()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	k := &Keeper{conn: ours, gone: make(chan struct{}), launching: make(chan struct{}, wireMaxLaunches), pending: map[uint64]chan answer{}, children: map[uint64]*Child{}}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot become the keeper's subreaper: %w", err), ours.Close())
	}
	pid, err := execute(program, theirs)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the keeper: %w", err), ours.Close())
	}
	k.proc = startedKeeper{pid}
	go k.read()
	return k, nil
}

// keeperProcess is the process of a keeper, of our own making or not.
type keeperProcess interface {
	PID() int
	// wait returns when it has ended and what was below it is being ended; an
	// error says that it did not end by itself.
	wait(children []*Child) error
}

func sealedProgram() (*os.File, error) {
	fd, err := unix.MemfdCreate("cordon-keeper", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 memfds are executable anyway
		fd, err = unix.MemfdCreate("cordon-keeper", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a memfd for the keeper: %w", err)
	}
	f := os.NewFile(uintptr(fd), "cordon-keeper")
	if _, err := f.Write(keeperToRun()); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot write the keeper: %w", err), f.Close())
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot seal the keeper: %w", err), f.Close())
	}
	// The kernel refuses to execute what is open for writing: a second opening,
	// read-only, is what runs.
	defer f.Close()
	ro, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("cannot open the sealed keeper: %w", err)
	}
	return ro, nil
}

// socketPair is of SOCK_SEQPACKET: messages arrive whole or not at all.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make the keeper's socket: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "keeper")
	ours := os.NewFile(uintptr(fds[0]), "keeper")
	defer ours.Close()
	growSendBuffer(fds[0])
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("cannot use the keeper's socket: %w", err), theirs.Close())
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.Join(errors.New("cannot use the keeper's socket: not a unix socket"), theirs.Close(), conn.Close())
	}
	return unixConn, theirs, nil
}

// growSendBuffer: a request may be larger than the default buffer; too small
// shows as EMSGSIZE.
func growSendBuffer(fd int) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4*wireMaxMessage); err != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4*wireMaxMessage)
	}
}

// PID is the keeper's process id.
func (k *Keeper) PID() int { return k.proc.PID() }

// Gone is closed when the keeper has ended.
func (k *Keeper) Gone() <-chan struct{} { return k.gone }

// Close ends every plugin and the keeper, and waits for both. The groups of the
// plugins that still ran are removed by the keeper; one that was killed could
// not, and nothing but groups is left of it.
func (k *Keeper) Close() error {
	_ = k.conn.CloseWrite()
	err := k.conn.Close()
	<-k.gone
	if k.end != nil && !wasKilled(k.end) && err == nil {
		err = fmt.Errorf("cannot end the keeper cleanly: %w", k.end)
	}
	return err
}

func (k *Keeper) send(msg []byte, files []*os.File) error {
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := k.conn.WriteMsgUnix(msg, oob, nil); err != nil {
		return fmt.Errorf("%w: %w", ErrKeeperGone, err)
	}
	return nil
}

// ask sends a request and waits for its first answer. When ctx ends first, the
// answer is dealt with when it comes: a plugin that still starts is killed.
func (k *Keeper) ask(ctx context.Context, h wireRequest, steps []wireStep, data []byte, files []*os.File, staged func(pid int)) (answer, error) {
	if len(files) > wireMaxFds {
		return answer{}, fmt.Errorf("cannot start with %d descriptors: at most %d", len(files), wireMaxFds)
	}
	answered, err := k.turn(ctx, h.Kind)
	if err != nil {
		return answer{}, err
	}
	h.Nfds = uint32(len(files))
	ch := make(chan answer, 2)
	k.mu.Lock()
	k.next++
	h.ID = k.next
	k.pending[h.ID] = ch
	k.mu.Unlock()
	msg, err := pack(h, steps, data)
	if err == nil {
		err = k.send(msg, files)
	}
	if err != nil {
		answered()
		k.mu.Lock()
		delete(k.pending, h.ID)
		k.mu.Unlock()
		return answer{}, err
	}
	return k.await(ctx, h.ID, ch, staged, answered)
}

// turn waits until a request of that kind may be sent. answered is to be called
// once when it has been answered.
func (k *Keeper) turn(ctx context.Context, kind uint32) (answered func(), err error) {
	if kind != wireKindLaunch {
		return func() {}, nil
	}
	select {
	case k.launching <- struct{}{}:
		return func() { <-k.launching }, nil
	case <-k.gone:
		return nil, ErrKeeperGone
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (k *Keeper) await(ctx context.Context, id uint64, ch chan answer, staged func(pid int), answered func()) (answer, error) {
	for {
		select {
		case a := <-ch:
			if a.reply.Kind != wireKindStaged {
				answered()
				return a, nil
			}
			staged(int(a.reply.Pid))
			if ctx.Err() != nil {
				continue // nobody wants it any more: it shall not run
			}
			if err := k.say(wireKindGo, id); err != nil {
				answered()
				return answer{}, err
			}
		case <-k.gone:
			answered()
			return answer{}, ErrKeeperGone
		case <-ctx.Done():
			go k.abandon(id, ch, answered)
			return answer{}, context.Cause(ctx)
		}
	}
}

// say sends a word about a plugin.
func (k *Keeper) say(kind uint32, id uint64) error {
	msg, err := pack(wireRequest{ID: id, Kind: kind, CgroupFD: wireNoString, NetnsFD: wireNoString}, nil, nil)
	if err != nil {
		return err
	}
	return k.send(msg, nil)
}

// abandon ends what started for someone who did not wait for it.
func (k *Keeper) abandon(id uint64, ch chan answer, answered func()) {
	_ = k.say(wireKindForget, id) // ends what has not reached its exec
	for {
		select {
		case a := <-ch:
			if a.reply.Kind == wireKindStaged {
				continue
			}
			answered()
			a.discard()
			return
		case <-k.gone:
			answered()
			return
		}
	}
}

// discard ends what an answer brought.
func (a answer) discard() {
	closeAll(a.files)
	if c := a.child; c != nil && a.lost {
		_ = c.keeper.endLost(c)
	} else if c != nil {
		_ = c.Signal(unix.SIGKILL)
		if c.Listener != nil {
			_ = c.Listener.Close()
		}
		<-c.done
		_ = c.Forget()
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// UserNS makes a user namespace with the given maps, in the form of
// /proc/PID/uid_map (user_namespaces(7)); no namespace can be made below it.
// The caller closes it.
func (k *Keeper) UserNS(ctx context.Context, uidMap, gidMap string) (*os.File, error) {
	var b blob
	b.strs([]string{uidMap, gidMap})
	a, err := k.ask(ctx, wireRequest{Kind: wireKindUserns, CgroupFD: wireNoString, NetnsFD: wireNoString}, nil, b.data, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot make a user namespace: %w", err)
	}
	if a.reply.Kind != wireKindUsernsMade || len(a.files) != 1 {
		closeAll(a.files)
		return nil, fmt.Errorf("cannot make a user namespace (maps %q, %q): %w", uidMap, gidMap, syscall.Errno(a.reply.Error))
	}
	return a.files[0], nil
}

// Template makes a mount namespace by steps of the mount phase alone, those of
// l. It is entered by a copy (OpTemplate) and never itself. A failure is a
// *StepError. The caller closes it.
func (k *Keeper) Template(ctx context.Context, l Launch) (*os.File, error) {
	steps, data, err := encode(l.Steps)
	if err != nil {
		return nil, err
	}
	a, err := k.ask(ctx, templateRequest(), steps, data, l.Files, nil)
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot prepare a mount namespace: %w", err)
	case a.reply.Kind == wireKindTemplateMade && len(a.files) == 1:
		return a.files[0], nil
	case a.reply.Kind == wireKindTemplateMade:
		return nil, fmt.Errorf("cannot prepare a mount namespace: it did not arrive: %w", unix.EMFILE)
	}
	closeAll(a.files)
	return nil, stepError(a.reply, l.described())
}

func (l Launch) described() []Step {
	if l.Describe != nil {
		return l.Describe()
	}
	return l.Steps
}

// Launch starts a plugin and returns when its exec has happened. A failure is a
// *StepError and leaves no process.
func (k *Keeper) Launch(ctx context.Context, l Launch) (*Child, error) {
	steps, data, err := encode(l.Steps)
	if err != nil {
		return nil, err
	}
	a, err := k.ask(ctx, l.request(), steps, data, l.Files, l.Staged)
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot start: %w", err)
	case a.child != nil && a.lost:
		return nil, errors.Join(fmt.Errorf("cannot start: the plugin's descriptors did not arrive: %w", unix.EMFILE), k.endLost(a.child))
	case a.child != nil:
		return a.child, nil
	default:
		closeAll(a.files)
		return nil, stepError(a.reply, l.described())
	}
}

func (l Launch) request() wireRequest {
	h := wireRequest{Kind: wireKindLaunch, ReaperUID: l.ReaperUID, ReaperGID: l.ReaperGID, CgroupFD: wireNoString, NetnsFD: wireNoString}
	if l.CgroupFile >= 0 {
		h.CgroupFD = uint32(l.CgroupFile)
	}
	if l.NetNSFile >= 0 {
		h.NetnsFD = uint32(l.NetNSFile)
	}
	if l.Staged != nil {
		h.Flags |= wireFlagStage
	}
	return h
}

// Message is the launch as the keeper reads it, for a program that takes the
// same steps without a keeper: files is how many descriptors go with it.
func (l Launch) Message(files int) ([]byte, error) {
	steps, data, err := encode(l.Steps)
	if err != nil {
		return nil, err
	}
	h := l.request()
	h.Nfds = uint32(files)
	return pack(h, steps, data)
}

// TemplateMessage is the same of the steps of a template.
func (l Launch) TemplateMessage(files int) ([]byte, error) {
	steps, data, err := encode(l.Steps)
	if err != nil {
		return nil, err
	}
	h := templateRequest()
	h.Nfds = uint32(files)
	return pack(h, steps, data)
}

func templateRequest() wireRequest {
	return wireRequest{Kind: wireKindTemplate, CgroupFD: wireNoString, NetnsFD: wireNoString}
}

// KeeperProgram is the keeper as it was built in.
func KeeperProgram() []byte { return bytes.Clone(keeperProgram) }

// endLost ends a plugin whose descriptors did not arrive: nobody could watch or
// signal it but the keeper.
func (k *Keeper) endLost(c *Child) error {
	err := k.say(wireKindForget, c.id)
	if c.Listener != nil {
		err = errors.Join(err, c.Listener.Close())
	}
	<-c.done // the keeper ends it, or has ended itself
	return errors.Join(err, c.Forget())
}

// notReceived is the place in a request of which a part did not arrive, as
// launcher.c has it.
const notReceived = 11

func stepError(r wireReply, steps []Step) error {
	e := &StepError{Step: -1, Errno: syscall.Errno(r.Error), Detail: r.Detail}
	switch {
	case int(r.Step) < len(steps):
		s := steps[r.Step]
		e.Step, e.Text, e.Wall, e.Op = int(r.Step), s.String(), s.Wall, s.Op
		if s.Number > 0 {
			e.Step = s.Number - 1
		}
	case r.Step == wireStepRequest && r.Detail == notReceived:
		// No request is too large: that is seen before it is sent.
		e.Text, e.Errno = "receive the plan's descriptors", syscall.EMFILE
	case r.Step == wireStepRequest:
		e.Text = fmt.Sprintf("read the plan (place %#x)", r.Detail)
	case r.Step == wireStepClone:
		e.Text = "make the plugin's process"
	case r.Step == wireStepReaper:
		e.Text = fmt.Sprintf("make the reaper (stage %d)", r.Detail)
	case r.Step == wireStepFull:
		e.Text = fmt.Sprintf("keep another plugin (at most %d)", wireMaxSlots)
	default:
		e.Text, e.Died = "start: the plugin's process was ended before its exec", true
	}
	return e
}

// read takes replies until the socket ends; then every child is over.
func (k *Keeper) read() {
	defer close(k.gone)
	for in := newReplies(k.conn); ; {
		a, err := in.next()
		if err != nil {
			break
		}
		k.deliver(a)
	}
	_ = k.conn.CloseWrite() // whyever reading ended, it shall end now
	k.end = k.proc.wait(k.living())
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, c := range k.children {
		c.end = ChildEnd{Orphaned: true, Status: syscall.WaitStatus(syscall.SIGKILL), Time: time.Now()}
		c.over()
		delete(k.children, id)
	}
}

// living are the plugins that have not ended.
func (k *Keeper) living() []*Child {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.children))
}

// replies are read from the keeper's socket, one at a time.
type replies struct {
	conn     *net.UnixConn
	buf, oob []byte
}

func newReplies(conn *net.UnixConn) *replies {
	return &replies{conn: conn, buf: make([]byte, wireReplySize+1), oob: make([]byte, unix.CmsgSpace(4*(wireMaxHold+2)))}
}

// next leaves out what is no reply.
func (in *replies) next() (answer, error) {
	for {
		n, oobn, flags, _, err := in.conn.ReadMsgUnix(in.buf, in.oob)
		if err != nil {
			return answer{}, err
		}
		if n == 0 {
			return answer{}, io.EOF
		}
		a := answer{files: rights(in.oob[:oobn]), lost: flags&unix.MSG_CTRUNC != 0}
		if v, ok := otherVersion(in.buf[:n]); ok {
			a.reply.Version = v
			return a, nil
		}
		if n == wireReplySize && binary.Read(bytes.NewReader(in.buf[:n]), binary.LittleEndian, &a.reply) == nil && a.reply.Magic == wireMagic {
			return a, nil
		}
		closeAll(a.files)
	}
}

// otherVersion is which version a message is of that is none of ours. Every version
// begins with the same two words.
func otherVersion(b []byte) (uint32, bool) {
	if len(b) < 8 || binary.LittleEndian.Uint32(b) != wireMagic {
		return 0, false
	}
	v := binary.LittleEndian.Uint32(b[4:])
	return v, v != wireVersion
}

func rights(oob []byte) []*os.File {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "keeper"))
		}
	}
	return files
}

func (k *Keeper) deliver(a answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := a.reply
	switch r.Kind {
	case wireKindStarted:
		a.child, a.files = k.started(r, a.files), nil
	case wireKindExited:
		closeAll(a.files)
		if c := k.children[r.ID]; c != nil {
			c.end = childEnd(r)
			c.over()
			delete(k.children, r.ID)
		}
		return
	}
	if ch := k.pending[r.ID]; ch != nil {
		if r.Kind != wireKindStaged {
			delete(k.pending, r.ID)
		}
		ch <- a
		return
	}
	closeAll(a.files)
}

// started makes the child of a launch. Without a pidfd it has ended already and
// the reply came late.
func (k *Keeper) started(r wireReply, files []*os.File) *Child {
	c := &Child{
		PID: int(r.Pid), ReaperPID: int(r.Reaper), Started: time.Now(),
		id: r.ID, keeper: k, done: make(chan struct{}),
	}
	k.children[r.ID] = c
	if len(files) > 0 {
		c.PIDFD = files[0]
	}
	if len(files) > 1 {
		c.Listener = files[1]
	}
	return c
}

func childEnd(r wireReply) ChildEnd {
	status := syscall.WaitStatus(r.Status << 8)
	if r.Code != 1 { // not CLD_EXITED: killed, or dumped core
		status = syscall.WaitStatus(r.Status)
	}
	return ChildEnd{
		Status: status, Time: time.Now(), MaxRSS: int64(r.Maxrss) << 10,
		User: time.Duration(r.Utime) * time.Microsecond, System: time.Duration(r.Stime) * time.Microsecond,
	}
}
