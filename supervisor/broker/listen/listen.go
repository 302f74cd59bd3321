// Package listen is the capability net.listen: a listening socket for what
// connects to the host.
//
// The host listens, and what the plugin gets is a listening socket of its own,
// a unix one that no other process can reach, into which the host relays what
// connects. It never gets a socket of the host's network: one that listens can
// be disconnected by who holds it, connect(2) with AF_UNSPEC, and then connected
// to anywhere.
package listen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
	"github.com/cordonhq/cordon/supervisor/broker/stream"
	"github.com/cordonhq/cordon/supervisor/egress"
)

// The bounds of one listener.
const (
	backlog  = 128
	maxOpen  = 256 // connections at once; more wait to be taken
	pause    = 50 * time.Millisecond
	handTime = 10 * time.Second // for the plugin to take a connection
)

// New makes the capability. Its sockets lie in a directory that root alone can
// enter, while they are being made.
func New(dir string) capability.Capability {
	streams := stream.NewTable("net.listen")
	all := &doors{dir: dir, open: map[string]*door{}}
	return capability.Capability{
		Name: "net.listen",
		Text: "Listens at a granted address of the host and hands a listening socket over, on which the plugin accepts what connects. It is a unix socket: the host relays, so a revocation ends it with all its connections.",
		Cost: capability.Network, Phases: capability.Always(),
		Left: streams.Left,
		Methods: append([]capability.Method{{
			Name: "net.listen", Text: "gives a listening stream socket", Params: atSchema,
			Result: `{"type": "object", "properties": {"address": {"type": "string"}}, "required": ["address"]}`,
			Target: target, Serve: func(_ context.Context, c *capability.Call) (any, error) { return all.serve(c) },
		}, {
			Name: "net.listen.open", Text: "listens, and gives a stream to accept streams from by calls", Params: atSchema,
			Result: `{"type": "object", "properties": {"address": {"type": "string"}, "stream": {"type": "string"}}, "required": ["address", "stream"]}`,
			Target: target, Serve: func(_ context.Context, c *capability.Call) (any, error) { return all.serveBytes(c, streams) },
		}, streams.Accept()}, streams.Methods()...),
	}
}

const atSchema = `{"type": "object", "properties": {"at": {"type": "string", "minLength": 3, "maxLength": 100}, "_meta": {"type": "object"}}, "required": ["at"], "additionalProperties": false}`

// target is the address in the words of grants.
func target(params json.RawMessage) (string, error) {
	var r struct {
		At string `json:"at"`
	}
	if err := json.Unmarshal(params, &r); err != nil {
		return "", err
	}
	t, err := grant.ParseAddress(r.At)
	if err == nil && t.Port == 0 {
		err = errors.New(`expected one port, as in "127.0.0.1:8080"`)
	}
	return t.String(), err
}

// serve is the descriptor form.
func (a *doors) serve(c *capability.Call) (any, error) {
	if err := c.Needs(ipc.KindSocket, "net.listen.open"); err != nil {
		return nil, err
	}
	address, theirs, err := a.listen(c)
	if err != nil {
		return nil, err
	}
	return ipc.WithFiles{Result: struct {
		Address string `json:"address"`
	}{address}, Files: []*os.File{theirs}}, nil
}

// serveBytes is the byte form.
func (a *doors) serveBytes(c *capability.Call, streams *stream.Table) (any, error) {
	address, theirs, err := a.listen(c)
	if err != nil {
		return nil, err
	}
	l, err := net.FileListener(theirs)
	if err = errors.Join(err, theirs.Close()); err != nil {
		return nil, err
	}
	id, err := streams.AddListener(c, l)
	if err != nil {
		return nil, err
	}
	return struct {
		Address string `json:"address"`
		Stream  string `json:"stream"`
	}{address, id}, nil
}

// listen gives the plugin's listening socket, into which what connects to the
// host is relayed from then on.
func (a *doors) listen(c *capability.Call) (address string, theirs *os.File, err error) {
	at, err := grant.ParseAddress(c.Target)
	if err != nil {
		return "", nil, err
	}
	in, err := open(a.dir)
	if err != nil {
		return "", nil, err
	}
	life, end := context.WithCancel(context.Background())
	done, err := c.Hold(end)
	if err != nil {
		end()
		return "", nil, errors.Join(err, in.close(), in.file.Close())
	}
	s := &server{in: in, c: c, ctx: life, end: end}
	if err := a.enter(at, s); err != nil {
		end()
		done()
		return "", nil, errors.Join(err, in.close(), in.file.Close())
	}
	address = s.door.out.Addr().String()
	go func() {
		defer done()
		<-life.Done()
		s.leave()
		s.work.Wait()
		_ = in.close()
	}()
	c.Note("listening", map[string]any{"address": address})
	return address, in.file, nil
}

// inner is the plugin's listener, and how to reach it.
type inner struct {
	file *os.File // the listening socket, which goes to the plugin
	dir  *os.File // in which it has its name
}

// path is short, wherever the directory is: a socket's name has 108 bytes.
func (i *inner) path() string { return fmt.Sprintf("/proc/self/fd/%d/s", i.dir.Fd()) }

func (i *inner) close() error { return errors.Join(os.RemoveAll(i.dir.Name()), i.dir.Close()) }

// open makes a listening unix socket in a directory of its own.
func open(dir string) (*inner, error) {
	own, err := os.MkdirTemp(dir, "listen-")
	if err != nil {
		return nil, err
	}
	held, err := os.Open(own)
	if err != nil {
		return nil, errors.Join(err, os.Remove(own))
	}
	i := &inner{dir: held}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("socket", err), i.close())
	}
	i.file = os.NewFile(uintptr(fd), "net.listen") // #nosec G115 -- a descriptor
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: i.path()}); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), i.file.Close(), i.close())
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, errors.Join(os.NewSyscallError("listen", err), i.file.Close(), i.close())
	}
	return i, nil
}

// server relays what connects to one process's listener.
type server struct {
	door *door
	in   *inner
	c    *capability.Call
	ctx  context.Context //nolint:containedctx // of the listener's own life
	end  context.CancelFunc
	work sync.WaitGroup
}

// pass relays one connection. Where nobody listens any more, so does the host.
func (s *server) pass(conn *net.TCPConn) {
	dial, cancel := context.WithTimeout(s.ctx, handTime)
	defer cancel()
	made, err := (&net.Dialer{}).DialContext(dial, "unix", s.in.path())
	inside, ok := made.(*net.UnixConn)
	if err != nil || !ok {
		_ = conn.Close()
		if errors.Is(err, unix.ECONNREFUSED) { // every copy of the plugin's socket is closed
			s.end()
		}
		return
	}
	egress.Bridge(s.ctx, inside, conn, note{s.c}, time.Now)
}

// note is a call as the relay sees it.
type note struct{ c *capability.Call }

func (n note) Spend(bytes int64) error                  { return n.c.Spend(bytes) }
func (n note) Note(outcome string, data map[string]any) { n.c.Note(outcome, data) }
