//go:build walltest

package escape

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
)

// daemon serves the control socket; everything else of a daemon is not asked.
type daemon struct {
	control.Service // nil: what is not below is never reached
	listed, reloads atomic.Int64
	server          *control.Server
	path            string
}

// List counts who got so far.
func (d *daemon) List(context.Context) ([]control.Status, error) {
	d.listed.Add(1)
	return nil, nil
}

// Reload counts who got so far.
func (d *daemon) Reload(context.Context, control.Caller) (control.Reloaded, error) {
	d.reloads.Add(1)
	return control.Reloaded{}, nil
}

const observers = 1717 // the group that may look

// serveControl binds the socket as cordond does. With its modes off everyone
// may connect.
func serveControl(t *trial) {
	d := &daemon{path: t.fileIn("control/cordon.sock")}
	socket, err := control.Listen(d.path, observers)
	t.must(err)
	if t.isOff("socket modes") {
		t.must(os.Chmod(t.fileIn("control"), 0o755))
		t.must(os.Chmod(d.path, 0o666))
	}
	d.server = control.NewServer(d, observers, nil)
	served := make(chan struct{})
	go func() {
		defer close(served)
		d.server.Serve(socket.UnixListener)
	}()
	t.cleanup(func() {
		t.must(socket.Close())
		d.server.Close()
		<-served
	})
	t.host = d
}

func (t *trial) daemon() *daemon { return t.host.(*daemon) }

func controlCases() []escape {
	return inCategory("control socket", []escape{
		{
			name: "a plugin asks the daemon", walls: []string{"mount namespace", "socket modes", "roles"}, prepare: serveControl,
			args: func(t *trial) []string { return []string{"ask", t.daemon().path, control.MethodReload, "{}"} },
			escaped: func(t *trial) string {
				if n := t.daemon().reloads.Load(); n > 0 {
					return "the daemon reloaded for it"
				}
				return ""
			},
		},
		{
			name: "a user who may look acts as root", walls: []string{"roles"}, prepare: serveControl, try: byUser(observers, control.MethodReload),
		},
		{
			name: "a user who may not even look", walls: []string{"socket modes", "roles"}, prepare: serveControl, try: byUser(owner, control.MethodList),
		},
		{
			name: "every place of the daemon's", after: "starvation", walls: []string{"places"}, prepare: serveControl, try: crowded,
		},
		{
			name: "the daemon's own directories as a grant", walls: []string{"ceiling"}, try: daemonsDirectories,
		},
	})
}

// byUser asks as a user of the host, of a group.
func byUser(group uint32, method string) func(*trial) string {
	return func(t *trial) string {
		t.runAs(group, "ask", t.daemon().path, method, "{}")
		if t.daemon().listed.Load()+t.daemon().reloads.Load() > 0 {
			return "the daemon did it"
		}
		return ""
	}
}

// runAs runs an attack as an ordinary user until it is done trying.
func (t *trial) runAs(group uint32, args ...string) (stop func()) {
	t.Helper()
	cmd := outsideCommand(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner, Gid: group}, Pdeathsig: syscall.SIGKILL}
	stop = t.untilReady(cmd)
	t.cleanup(stop)
	return stop
}

// crowded opens more connections as one user than there are for one, and sees
// how many of them are served.
func crowded(t *trial) string {
	t.runAs(observers, "crowd", t.daemon().path, "60")
	const perUser = 16
	open := func() int {
		n := 0
		data, _ := os.ReadFile("/proc/net/unix")
		for _, line := range strings.Split(string(data), "\n") {
			if f := strings.Fields(line); len(f) == 8 && f[7] == t.daemon().path && f[5] == "03" { // connected
				n++
			}
		}
		return n
	}
	if t.isOff("places") {
		if eventually(func() bool { return open() > perUser }) {
			return fmt.Sprintf("%d connections of one user", open())
		}
		return ""
	}
	// Root is served all the same: then all others before it were looked at.
	client, err := control.Dial(t.Context(), t.daemon().path)
	t.must(err)
	defer client.Close()
	_, err = client.List(t.Context())
	t.must(err)
	if !eventually(func() bool { return open() <= perUser+1 }) {
		return fmt.Sprintf("%d connections of one user", open())
	}
	return ""
}

// daemonsDirectories asks for what no profile may ever grant, also by a link.
func daemonsDirectories(t *trial) string {
	ceiling := profiles.DefaultCeiling()
	if t.isOff("ceiling") {
		ceiling.DenyPaths = nil
	}
	p, err := profiles.Builtin("static")
	t.must(err)
	for _, path := range []string{"/var/lib/cordon", "/var/lib", "/run/cordon", "/run", "/etc/cordon", "/etc", "/proc", "/sys", "/dev"} {
		_, err := profiles.Resolve(profiles.Input{
			Profile: p, Ceiling: ceiling, Argv: []string{program}, Files: []plan.File{grant(path, reading)},
		})
		if err == nil {
			return path + " was granted"
		}
	}
	return ""
}
