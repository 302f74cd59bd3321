// Package dial is the capability net.dial: a connection to a granted place.
//
// What the plugin gets is one end of a socket pair, and the host relays between
// the other and the real connection. It never gets that itself: a TCP socket of
// the host's network can be disconnected by who holds it, connect(2) with
// AF_UNSPEC, and then connected to anywhere else.
package dial

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
	"github.com/cordonhq/cordon/supervisor/broker/stream"
	"github.com/cordonhq/cordon/supervisor/egress"
)

const toSchema = `{"type": "object", "properties": {"to": {"type": "string", "minLength": 3, "maxLength": 300}, "_meta": {"type": "object"}}, "required": ["to"], "additionalProperties": false}`

// New makes the capability.
func New() capability.Capability {
	streams := stream.NewTable("net.dial")
	d := &dialer{connect: connect, streams: streams}
	return capability.Capability{
		Name: "net.dial",
		Text: "Connects to a granted place by TCP and hands the connection over as a socket. The host looks the name up, checks where it leads as for network.egress, and relays: a revocation ends the connection.",
		Cost: capability.Network, Phases: capability.Always(),
		Left: streams.Left,
		Methods: append([]capability.Method{{
			Name: "net.dial", Text: "gives a connected stream socket", Params: toSchema,
			Result: `{"type": "object", "properties": {"address": {"type": "string"}}, "required": ["address"]}`,
			Target: target, Serve: d.serve,
		}, {
			Name: "net.dial.open", Text: "connects, and gives a stream to send into and receive from by calls", Params: toSchema,
			Result: `{"type": "object", "properties": {"address": {"type": "string"}, "stream": {"type": "string"}}, "required": ["address", "stream"]}`,
			Target: target, Serve: d.open,
		}}, streams.Methods()...),
	}
}

type request struct {
	To string `json:"to"`
}

// target is the place in the words of grants.
func target(params json.RawMessage) (string, error) {
	var r request
	if err := json.Unmarshal(params, &r); err != nil {
		return "", err
	}
	t, err := grant.ParseEndpoint(r.To)
	switch {
	case err != nil:
		return "", err
	case t.UDP || t.Wildcard || t.Port == 0:
		return "", errors.New(`expected one host and one port such as "api.example.com:443"`)
	}
	return t.String(), nil
}

// connect connects as the plugin's plan lets it.
func connect(ctx context.Context, c *capability.Call, to grant.Target) (egress.End, error) {
	return egress.NewDialer(c.Env.Addresses).TCP(ctx, to)
}

type dialer struct {
	connect func(ctx context.Context, c *capability.Call, to grant.Target) (egress.End, error)
	streams *stream.Table
}

// serve is the descriptor form.
func (d *dialer) serve(ctx context.Context, c *capability.Call) (any, error) {
	if err := c.Needs(ipc.KindSocket, "net.dial.open"); err != nil {
		return nil, err
	}
	address, theirs, err := d.reach(ctx, c)
	if err != nil {
		return nil, err
	}
	return ipc.WithFiles{Result: struct {
		Address string `json:"address"`
	}{address}, Files: []*os.File{theirs}}, nil
}

// open is the byte form.
func (d *dialer) open(ctx context.Context, c *capability.Call) (any, error) {
	address, theirs, err := d.reach(ctx, c)
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(theirs)
	if err = errors.Join(err, theirs.Close()); err != nil {
		return nil, err
	}
	id, err := d.streams.Add(c, conn)
	if err != nil {
		return nil, err
	}
	return struct {
		Address string `json:"address"`
		Stream  string `json:"stream"`
	}{address, id}, nil
}

// reach connects, and gives the plugin's end of what is relayed from then on.
func (d *dialer) reach(ctx context.Context, c *capability.Call) (address string, theirs *os.File, err error) {
	to, err := grant.ParseEndpoint(c.Target)
	if err != nil {
		return "", nil, err
	}
	life, end := context.WithCancel(context.Background()) // of the connection, which outlives the call
	done, err := c.Hold(end)
	if err != nil {
		end()
		return "", nil, err
	}
	release := func() {
		end()
		done()
	}
	dialling, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(life, cancel)()
	real, err := d.connect(dialling, c, to)
	if err != nil {
		release()
		return "", nil, shown(c, to, err)
	}
	ours, theirs, err := pair()
	if err != nil {
		release()
		return "", nil, errors.Join(err, real.Close())
	}
	go func() {
		defer release()
		egress.Bridge(life, ours, real, note{c}, time.Now)
	}()
	return real.RemoteAddr().String(), theirs, nil
}

// note is a call as the relay sees it.
type note struct{ c *capability.Call }

func (n note) Spend(bytes int64) error                  { return n.c.Spend(bytes) }
func (n note) Note(outcome string, data map[string]any) { n.c.Note(outcome, data) }

// shown is what the plugin is told of a connection that did not come about: the
// network's word, and of a name that leads astray that it was refused.
func shown(c *capability.Call, to grant.Target, err error) error {
	var refused *egress.RefusedError
	if errors.As(err, &refused) {
		c.Deny(refused.Error())
		return ipc.Errorf(ipc.CodeDenied, "cannot connect to %s: %w", to, err)
	}
	return ipc.Errorf(ipc.CodeNotFound, "cannot connect to %s: %w", to, err)
}

// pair is a socket pair: our end, and the plugin's.
func pair() (egress.End, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	f, theirs := os.NewFile(uintptr(fds[0]), "net.dial"), os.NewFile(uintptr(fds[1]), "net.dial") // #nosec G115 -- descriptors
	made, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	ours, ok := made.(*net.UnixConn)
	if !ok {
		return nil, nil, errors.Join(errors.New("it is no unix socket"), made.Close(), theirs.Close())
	}
	return ours, theirs, nil
}
