package supervisor

import (
	"context"
	"encoding/json"
	"syscall"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/contract"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/launch"
)

// Launcher starts plugins behind their walls.
type Launcher interface {
	// Start returns when the plugin's first instruction may run, or with
	// nothing left behind.
	Start(ctx context.Context, r launch.Request) (Process, error)
	// Close ends every process and leaves nothing.
	Close() error
}

// Process is a started plugin: all processes of it. Its methods may be called
// from any goroutine.
type Process interface {
	PID() int
	PlanDigest() string
	// Done is closed when the last process has gone; Exit is valid after it.
	Done() <-chan struct{}
	Exit() launch.Exit
	Kill() error
	Freeze(ctx context.Context) error
	Signal(s syscall.Signal) error
	Usage() (cgroups.Usage, error)
	// Memory is the part of Usage that every list shows, in bytes; -1 for unknown.
	Memory() int64
	// Adjust changes limits and responses to those of a plan that is the same in
	// everything else; on an error nothing has changed.
	Adjust(next *plan.Plan) error
	Enforced() (launch.Enforced, error)
	// Procs are the ids, as the host sees them, of what is there now.
	Procs() ([]int, error)
	// Release gives back what the process held; only after Done.
	Release() error
}

// Bundle is a sealed copy of what an author ships.
type Bundle struct {
	// Path is the host's directory that becomes /plugin.
	Path     string
	Digest   string
	Name     string
	Version  string
	Protocol ipc.Protocol
	// Manifest is what the author asks for.
	Manifest *manifest.Manifest
	// Contract is what its methods take and answer; nil allows everything.
	Contract *contract.Contract
}

// Source opens bundles and resolves what they may do.
type Source interface {
	// Seal copies the bundle in dir to where sealed bundles are kept.
	Seal(dir string) (*Bundle, error)
	// Open verifies the sealed copy of a digest and opens it.
	Open(digest string) (*Bundle, error)
	// Resolve makes the plan of a bundle under a profile, a name or a path.
	Resolve(b *Bundle, profile string) (*plan.Plan, error)
	// Discard removes the sealed copy of a digest; one that is not there is none.
	Discard(digest string) error
}

// Connector speaks the plugins' protocols. Connect takes the transport over,
// also when it fails. handler answers what the plugin asks of its host; nil
// answers nothing.
type Connector interface {
	Connect(t ipc.Transport, name string, p *plan.Plan, handler ipc.Handler) (Conn, error)
}

// Conn is a connection to one plugin.
type Conn interface {
	// Run serves it until it ends. An *ipc.ProtocolError is a violation;
	// anything else only says that the connection is no more.
	Run(ctx context.Context) error
	// Hello performs the protocol's handshake and returns what the plugin said
	// of itself, nil where the protocol has none. Run must be running.
	Hello(ctx context.Context) (json.RawMessage, error)
	Call(ctx context.Context, method string, params json.RawMessage) (json.RawMessage, error)
	// Health asks the plugin how it is. An answer of any kind says that it is
	// alive; ErrUnwell that it says of itself that it is not well.
	Health(ctx context.Context) error
	// Goodbye asks the plugin to leave.
	Goodbye(ctx context.Context) error
	// Attach joins a client that speaks the plugin's own protocol; see
	// control.Service.
	Attach(deliver func(json.RawMessage) error) (control.Bridge, error)
	Close() error
}
