package supervisor

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/broker"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/egress"
	"github.com/cordonhq/cordon/supervisor/ingress"
)

// Admit implements ingress.Grants.
func (c connections) Admit(at string) (egress.Lease, error) {
	l, err := c.Session.Admit(grant.Listen, at)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// enterListening makes the listening sockets of a run; nil where its plan has
// none. The session ends it.
func (p *plugin) enterListening(ctx context.Context, pl *plan.Plan, caps *broker.Session) (*ingress.Room, error) {
	if len(pl.Network.Listen) == 0 || caps == nil {
		return nil, nil
	}
	room, err := p.house.Enter(ctx, pl.Network.Listen, p.warn)
	if err != nil {
		return nil, err
	}
	p.tie(room, caps)
	return room, nil
}

// tie has a room follow what its session grants.
func (p *plugin) tie(room *ingress.Room, caps *broker.Session) {
	caps.OnTurn(room.Look)
	caps.BeforeEnd(room.Close)
}

func (p *plugin) warn(text string) { p.logger.Warn(text, "plugin", p.name) }

// adoptListening goes on with the listening sockets that an earlier daemon kept,
// the last of files; it gives the others back.
func (p *plugin) adoptListening(pl *plan.Plan, caps *broker.Session, files []*os.File) (*ingress.Room, []*os.File, error) {
	n := ingress.KeptFiles(pl.Network.Listen)
	if n == 0 || caps == nil {
		return nil, files, nil
	}
	if len(files) < n {
		return nil, files, fmt.Errorf("cannot go on with its descriptors: %d were kept, and its listening sockets have %d", len(files), n)
	}
	own, rest := files[len(files)-n:], files[:len(files)-n]
	room, err := p.house.Adopt(pl.Network.Listen, own, p.warn)
	if err != nil {
		return nil, rest, err
	}
	p.tie(room, caps)
	return room, rest, nil
}

// keepListening gives up the addresses of a plugin that neither runs nor is to
// run again by itself.
func (p *plugin) keepListening() {
	switch p.state.Phase {
	case control.Starting, control.Running, control.Stopping, control.Backoff:
	case control.Stopped, control.Failed, control.Quarantined, removed:
		p.house.Close()
	}
}

// mayGrant says why an operator cannot grant what only a start can make.
func (p *plugin) mayGrant(params control.GrantParams) error {
	switch {
	case params.Capability == grant.Egress && !p.hasPlaces(params.Target):
		return control.Errorf(ipc.CodeConflict, "write it into network.egress of the profile, and restart the plugin", "cannot grant egress to what the profile does not have: its listeners are made when the plugin starts")
	case params.Capability == grant.Listen && !p.hasSockets(params.Target):
		return control.Errorf(ipc.CodeConflict, "write it into network.listen of the profile, and restart the plugin", "cannot grant listen at what the profile does not have: a plugin has its sockets from its start")
	}
	return nil
}

// hasSockets says whether the plan has listening sockets at all of these addresses.
func (p *plugin) hasSockets(targets []string) bool {
	spec, _ := grant.Find(grant.Listen)
	return p.plan != nil && !slices.ContainsFunc(targets, func(t string) bool {
		return !slices.ContainsFunc(p.plan.Network.Listen, func(s plan.Socket) bool { return spec.Covers(t, s.At) })
	})
}
