package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/contract"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// exampleTime bounds one example of a contract.
const exampleTime = 10 * time.Second

// warmUp makes the example calls of the contract, one after the other, and says
// which did not come to what its author says. The actor's timer bounds them all.
func (p *plugin) warmUp(run *running) error {
	for _, e := range run.contract.Examples() {
		if err := p.tryExample(run, e); err != nil {
			return fmt.Errorf("the example %d of %s in the contract: %s", e.Number, e.Method, violation.Escape(err.Error(), 600))
		}
	}
	return nil
}

// tryExample makes one call.
func (p *plugin) tryExample(run *running, e contract.Example) error {
	ctx, cancel := context.WithCancel(run.ctx)
	defer cancel()
	defer p.clock.AfterFunc(exampleTime, cancel)()
	note := run.calls.begin(p.clock.Now(), e.Method, e.Params, ipc.Meta{})
	result, err := run.conn.Call(ctx, e.Method, e.Params)
	note(p.clock.Now(), err)
	var answer *ipc.RPCError
	switch {
	case errors.As(err, &answer) && !answer.Local:
		return e.Failed(answer.Code, answer.Message)
	case err != nil && ctx.Err() != nil && run.ctx.Err() == nil:
		return fmt.Errorf("no answer within %v", exampleTime)
	case err != nil:
		return err
	}
	return run.contract.Came(e, json.RawMessage(result))
}
