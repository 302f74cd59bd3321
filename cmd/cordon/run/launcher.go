package run

import (
	"context"

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
