// Package capability is the shape of everything that the host serves to
// plugins: what a capability says of itself, and what a call of it is handed.
package capability

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/plan"
)

// Cost is what a capability takes of the host, mostly.
type Cost string

// The classes of cost.
const (
	Memory  Cost = "memory"
	Disk    Cost = "disk"
	Network Cost = "network"
)

// Phase is when in a plugin's life a capability may be used.
type Phase string

// The phases. Before the hello is answered and while it is draining no plugin
// can ask for anything.
const (
	Ready   Phase = "ready"   // before the first call of the host: to get ready in
	Serving Phase = "serving" // afterwards
)

// Always is every phase.
func Always() []Phase { return []Phase{Ready, Serving} }

// Capability is one thing that the host serves, as plain data and functions.
type Capability struct {
	Name   string // one of grant.Names
	Text   string // a paragraph for people
	Cost   Cost
	Phases []Phase
	// Methods are what a plugin calls. Egress has none: it is used by programs
	// that know nothing of it.
	Methods []Method
	// Left is called when a run has ended, with the Env of its calls; Closed after
	// it, unless another process of the plugin goes on with what is open; and Forget
	// when the plugin was removed: what is kept for it is to go. Each may be nil.
	Left   func(env *Env) error
	Closed func(plugin string) error
	Forget func(plugin string) error
}

// Method is one call.
type Method struct {
	Name string
	Text string
	// Params and Result are JSON Schemas (2020-12). Parameters that break theirs
	// never reach Serve.
	Params string
	Result string
	// Target says what a call is about, in the words of grants; nil for a
	// capability that takes no targets. Its error is shown to the plugin.
	Target func(params json.RawMessage) (string, error)
	// Serve answers. It must end soon after ctx does. An *ipc.RPCError is shown
	// to the plugin; any other error is a failure of the capability itself.
	Serve func(ctx context.Context, c *Call) (any, error)
	// Summed calls are not audited one by one but counted, and the count is
	// audited when the run ends.
	Summed bool
}

// ErrCut is what Hold says when the grant was taken away meanwhile.
var ErrCut = errors.New("the grant was revoked meanwhile")

// Call is one call that was let through.
type Call struct {
	Plugin string
	Method string
	Params json.RawMessage
	// Target is what the call is about, and Root the target of the grant that
	// covers it; both empty where there are none.
	Target, Root string
	Grant        plan.Capability
	// Meta is what the plugin says that the call belongs to: a claim.
	Meta ipc.Meta
	// Narrowed says that something beneath Root was revoked.
	Narrowed bool
	// Takes says whether the plugin takes descriptors of a kind: only then may
	// the result be an ipc.WithFiles. nil is a plugin that takes none.
	Takes func(ipc.DescriptorKind) bool
	Env   *Env
	// Spend takes n bytes of the grant's budget and fails when it is used up.
	Spend func(n int64) error
	// Hold keeps a thing that outlives the call, such as a connection: cut is
	// called, once, when the grant goes. It counts against the grant's
	// concurrency until done is called, which is to be called when the thing has
	// ended. It fails with ErrCut if the grant has gone already.
	Hold func(cut func()) (done func(), err error)
	// Note records what became of a thing that outlives the call.
	Note func(outcome string, data map[string]any)
	// Deny reports what a rule that is no grant's has refused: a violation.
	Deny func(rule string)
}

// Needs refuses a call whose answer would be a descriptor that this plugin does
// not take; instead names the byte form.
func (c *Call) Needs(kind ipc.DescriptorKind, instead string) error {
	if c.Takes == nil || !c.Takes(kind) {
		return ipc.Errorf(ipc.CodeUnsupported, "cannot call %s: its answer is a descriptor (%s), and the plugin's hello takes none of that kind; %s gives bytes", c.Method, kind, instead)
	}
	return nil
}

// Env is what a capability may know of the plugin it serves.
type Env struct {
	// Data is the host's directory behind /data, empty if it is not kept.
	Data string
	// Addresses are the networks that a name may lead to besides public ones.
	Addresses []string
	// DataSize bounds a /data that is not kept, in bytes.
	DataSize int64
	// Log adds a line to the plugin's log; control characters are escaped there.
	Log func(text string)
	// Standby says that another process of the plugin takes the calls: this one is
	// to take its place, or was replaced. nil is never.
	Standby func() bool
	// Done is closed when the run has ended: what is made for it after that is to go
	// at once. nil is never.
	Done <-chan struct{}
	// Redact keeps a secret out of everything that is written down from now on.
	Redact func(secret string)
}
