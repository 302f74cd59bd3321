//go:build walltest

package escape

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
	"github.com/cordonhq/cordon/supervisor/broker/dial"
	"github.com/cordonhq/cordon/supervisor/broker/listen"
	"github.com/cordonhq/cordon/supervisor/ingress"
	"github.com/cordonhq/cordon/supervisor/launch"
)

// relayed is the wall of what is handed to a plugin to reach the network by, or
// to be reached by: never a socket of the host's network itself. Off, it is one.
const relayed = "relay"

// doorCases use a socket that was granted for something that was not.
func doorCases() []escape {
	reach := func(name string, door func(t *trial) *os.File) escape {
		var ours *os.File // our copy, which would keep the plugin's connection open
		return escape{
			name: name, walls: []string{relayed, "landlock"}, lacks: landlockFrom(4),
			prepare: func(t *trial) { t.serve("tcp", "127.0.0.1:0") },
			request: func(t *trial, r *launch.Request) {
				ours = door(t)
				r.Socket = ours
			},
			args: func(t *trial) []string { return []string{"away", "3", fmt.Sprint(t.host.(*service).port), t.token} },
			escaped: func(t *trial) string {
				_ = ours.Close()
				return heard(t)
			},
		}
	}
	return inCategory("descriptors", []escape{
		reach("a dialled connection to somewhere else", func(t *trial) *os.File {
			to := t.granted()
			if t.isOff(relayed) {
				c, err := net.Dial("tcp", to)
				t.must(err)
				return t.own(c.(*net.TCPConn))
			}
			return t.handed(dial.New(), "net.dial", "to", to)
		}),
		reach("a listening socket to somewhere else", func(t *trial) *os.File {
			if t.isOff(relayed) {
				return t.own(t.plain())
			}
			return t.handed(listen.New(t.folders("listen")), "net.listen", "at", t.free())
		}),
		reach("a listening socket from its start to somewhere else", func(t *trial) *os.File {
			if t.isOff(relayed) {
				return t.own(t.plain())
			}
			house := &ingress.House{}
			t.cleanup(house.Close)
			room, err := house.Enter(context.Background(), []plan.Socket{{Name: "web", At: t.free()}}, func(text string) { t.Log(text) })
			t.must(err)
			t.cleanup(room.Close)
			return room.Files()[0]
		}),
	})
}

// folders is a directory of the trial that root alone enters.
func (t *trial) folders(name string) string {
	t.Helper()
	dir := filepath.Join(t.dir, name)
	t.must(os.Mkdir(dir, 0o700))
	return dir
}

// granted is a service of the host that the plugin may reach.
func (t *trial) granted() string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	t.must(err)
	t.cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// plain is a listening socket of the host by TCP alone: Go's own choice is
// Multipath TCP, of which Landlock knows nothing.
func (t *trial) plain() *net.TCPListener {
	t.Helper()
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	l, err := c.Listen(context.Background(), "tcp", "127.0.0.1:0")
	t.must(err)
	return l.(*net.TCPListener)
}

// free is an address at which nobody listens.
func (t *trial) free() string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	t.must(err)
	t.must(l.Close())
	return l.Addr().String()
}

// own is the descriptor of a socket of the host.
func (t *trial) own(socket interface {
	File() (*os.File, error)
	Close() error
},
) *os.File {
	t.Helper()
	f, err := socket.File()
	t.must(errors.Join(err, socket.Close()))
	t.cleanup(func() { _ = f.Close() })
	return f
}

// handed is what a capability hands over for a target that is granted.
func (t *trial) handed(c capability.Capability, method, key, target string) *os.File {
	t.Helper()
	params, err := json.Marshal(map[string]string{key: target})
	t.must(err)
	for _, m := range c.Methods {
		if m.Name != method {
			continue
		}
		got, err := m.Serve(context.Background(), &capability.Call{
			Plugin: t.name, Method: method, Params: params, Target: target, Env: &capability.Env{},
			Takes: func(ipc.DescriptorKind) bool { return true },
			Spend: func(int64) error { return nil },
			Hold: func(cut func()) (func(), error) {
				t.cleanup(cut)
				return func() {}, nil
			},
			Note: func(string, map[string]any) {},
			Deny: func(string) {},
		})
		t.must(err)
		files := got.(ipc.WithFiles).Files
		t.cleanup(func() { _ = files[0].Close() })
		return files[0]
	}
	t.Fatalf("there is no %s", method)
	return nil
}
