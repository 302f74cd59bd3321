package supervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cordonhq/cordon/supervisor/control"
)

// suspender is a Conn that can stand still between two messages.
type suspender interface {
	Suspend(ctx context.Context) error
	Resume()
}

// betweenLooks is how often Suspend looks whether a plugin has settled.
const betweenLooks = 5 * time.Millisecond

// Suspend brings every plugin to where a successor of this process can go on
// with it: started or ended, its state on the disk, its connection between two
// messages with nothing unanswered. Nobody may call meanwhile. Resume, or the
// end of this process, follows; on an error everything goes on.
func (s *Supervisor) Suspend(ctx context.Context) error {
	var wait sync.WaitGroup
	all := s.all()
	errs := make([]error, len(all))
	for i, p := range all {
		wait.Go(func() { errs[i] = p.suspend(ctx) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		s.Resume()
		return err
	}
	return nil
}

// Resume ends a Suspend.
func (s *Supervisor) Resume() {
	for _, p := range s.all() {
		if c := p.suspendable(); c != nil {
			c.Resume()
		}
	}
}

func (p *plugin) suspendable() suspender {
	snap := p.shown.Load()
	if snap.run == nil {
		return nil
	}
	c, _ := snap.run.conn.(suspender)
	return c
}

func (p *plugin) suspend(ctx context.Context) error {
	tick := time.NewTicker(betweenLooks)
	defer tick.Stop()
	for !p.atRest() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is still %s", p.name, p.shown.Load().record.State)
		}
	}
	if c := p.suspendable(); c != nil {
		if err := c.Suspend(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return p.written(ctx)
}

// atRest says that nothing is under way that a successor would have to end.
func (p *plugin) atRest() bool {
	snap := p.shown.Load()
	if snap.swapping {
		return false
	}
	switch snap.record.State {
	case control.Starting, control.Stopping:
		return false
	case control.Quarantined:
		return snap.run == nil
	case control.Stopped, control.Running, control.Backoff, control.Failed:
		return true
	default:
		return true
	}
}

// written waits until the disk has what the actor knows.
func (p *plugin) written(ctx context.Context) error {
	done := make(chan error, 1)
	posted := p.box.post(message{do: func() {
		if p.unsaved && p.state.Phase != removed {
			p.save()
		}
		if p.unsaved {
			done <- errors.New("its state cannot be saved")
			return
		}
		p.writeBooks()
		done <- nil
	}})
	if !posted {
		return nil
	}
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		return nil
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s is busy: %w", p.name, ctx.Err())
	}
}
