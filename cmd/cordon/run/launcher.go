package run

import (
	"context"
	"os"

	"github.com/cordonhq/cordon/supervisor/launch"
)

// realStarter is the starter of real runs.
type realStarter struct{ launcher *launch.Launcher }

func newLauncher(cfg launch.Config) (starter, error) {
	l, err := launch.New(cfg)
	if err != nil {
		return nil, err
	}
	return realStarter{l}, nil
}

func (s realStarter) start(ctx context.Context, r launch.Request) (process, error) {
	p, err := s.launcher.Start(ctx, r)
	if err != nil {
		return nil, err // a nil *Process must not become a process
	}
	return p, nil
}

func (s realStarter) close() error { return s.launcher.Close() }

// opening is a launcher that is being opened while the plan is made: neither
// needs the other, and each takes as long.
type opening struct {
	host *host
	done chan struct{} // nil: it was not begun
	made starter
	err  error
}

// openEarly begins it, for whoever may raise walls.
func openEarly(h *host) *opening {
	o := &opening{host: h}
	if os.Geteuid() != 0 {
		return o
	}
	o.done = make(chan struct{})
	go func() {
		defer close(o.done)
		cfg := h.launch
		cfg.Once = true
		o.made, o.err = newLauncher(cfg)
	}()
	return o
}

// take waits for it.
func (o *opening) take() (starter, error) {
	<-o.done
	return o.made, o.err
}

// drop ends it where there is nothing to be started.
func (o *opening) drop() error {
	if o.done == nil {
		return nil
	}
	if made, err := o.take(); err == nil {
		return made.close()
	}
	return nil
}
