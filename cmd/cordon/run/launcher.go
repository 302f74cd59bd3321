package run

import (
	"context"
	"os"

	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/launch"
)

// defaultCgroupRoot is the group below which runs get theirs, as the daemon's
// plugins do.
const defaultCgroupRoot = "cordon"

// cgroupRootEnv moves that group; tests have their own.
const cgroupRootEnv = "CORDON_CGROUP_ROOT"

// HostConfig is what a launcher has to know of this host, for a run and for
// cordon doctor.
func HostConfig() launch.Config {
	root := os.Getenv(cgroupRootEnv)
	if root == "" {
		root = defaultCgroupRoot
	}
	return launch.Config{
		CgroupRoot: root,
		Compile:    seccomp.NewCache(safeCacheDir(), compileByHelper).Program,
	}
}

// realStarter is the starter of real runs.
type realStarter struct{ launcher *launch.Launcher }

func newLauncher() (starter, error) {
	l, err := launch.New(HostConfig())
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
