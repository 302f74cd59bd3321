package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// ErrUnwell is what a plugin says of itself when asked for its health.
var ErrUnwell = errors.New("it says that it is not well")

// watchHealth asks a running plugin how it is, twice within watchdog_sec, and
// tells the actor when it does not answer or is not well. It ends with the
// process.
func (p *plugin) watchHealth(run *running) {
	half := run.plan().Lifecycle.Watchdog / 2
	if half <= 0 {
		return
	}
	for p.pause(run.ctx, half) {
		err := p.askHealth(run, half)
		switch {
		case run.ctx.Err() != nil:
			return
		case errors.Is(err, ErrUnwell):
			if p.unhealthy(run, err.Error()) {
				return
			}
		case err != nil:
			if p.unhealthy(run, fmt.Sprintf("it did not answer its watchdog (watchdog_sec %s)", violation.Span(2*half))) {
				return
			}
		}
	}
}

// unhealthy tells the actor, as the violation that it is, and says whether that
// ends the run: what follows is the profile's to say.
func (p *plugin) unhealthy(run *running, reason string) (ends bool) {
	v := violation.Violation{
		Kind: "violation", ID: p.newID(), Plugin: p.name, Time: p.clock.Now().UTC(), Wall: violation.Watchdog, What: violation.Escape(reason, 512),
		Where: violation.Where{PID: run.proc.PID()}, PolicyDigest: run.plan().PolicyDigest(), PlanDigest: run.proc.PlanDigest(),
	}
	v.Action = run.judge.Decide(violation.Watchdog, v.Time)
	if v.Action == violation.Kill {
		p.box.post(message{hit: &v, event: event{Kind: evUnhealthy, Run: run.number, Reason: reason}})
		return true
	}
	p.violated(run.number, v)
	return v.Action == violation.Quarantine
}

// askHealth asks once and waits no longer than d.
func (p *plugin) askHealth(run *running, d time.Duration) error {
	ctx, cancel := context.WithCancel(run.ctx)
	defer cancel()
	stop := p.clock.AfterFunc(d, cancel)
	defer stop()
	return run.conn.Health(ctx)
}

// pause waits for d and says whether ctx was still alive then.
func (p *plugin) pause(ctx context.Context, d time.Duration) bool {
	over := make(chan struct{})
	stop := p.clock.AfterFunc(d, func() { close(over) })
	defer stop()
	select {
	case <-over:
		return true
	case <-ctx.Done():
		return false
	}
}

// healthMethod is what is asked. MCP has a method for it; the others answer at
// least that they do not know it. LSP wants such names to begin with $/.
func healthMethod(p ipc.Protocol) string {
	switch p {
	case ipc.ProtocolMCP:
		return "ping"
	case ipc.ProtocolLSP:
		return "$/cordon.health"
	case ipc.ProtocolCordon, ipc.ProtocolJSONRPC:
		return "cordon.health"
	default:
		return "cordon.health"
	}
}

// Health implements Conn. A result {"healthy": false, "reason": TEXT} is how a
// plugin says that it is not well.
func (c *ipcConn) Health(ctx context.Context) error {
	result, err := c.Conn.Call(ctx, healthMethod(c.Protocol()), nil)
	var answer *ipc.RPCError
	if errors.As(err, &answer) && !answer.Local {
		return nil
	}
	if err != nil {
		return err
	}
	return wellness(result)
}

// wellness reads what a plugin says of itself.
func wellness(result json.RawMessage) error {
	var said struct {
		Healthy *bool  `json:"healthy"`
		Reason  string `json:"reason"`
	}
	if json.Unmarshal(result, &said) != nil || said.Healthy == nil || *said.Healthy {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrUnwell, violation.Escape(said.Reason, 200))
}
