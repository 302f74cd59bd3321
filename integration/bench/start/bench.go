package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/seccomp/compile"
	"github.com/cordonhq/cordon/supervisor/launch"
)

// The host uids of this bench, beside those of a daemon.
const (
	uidBase  = 1900300000
	uidCount = 256
)

// contender is one way to start the program.
type contender struct {
	name, about string
	start       func() (sample, error)
	// parallel makes a start of its own for a second one at the same time.
	parallel func() (func() (sample, error), error)
}

type bench struct {
	ended      context.Context // ends the measuring, before the next start
	dir        string          // holds everything that is made
	cordon     string          // the command line
	program    string          // what is started
	plan       *plan.Plan
	filter     []byte
	peerFilter []byte
	keeper     *namespaces.Keeper
	cold       *launch.Launcher
	pooled     *launch.Launcher
	drivers    []*driver
	steps      []namespaces.Step // of the floor, in their order
	contenders []contender
	missing    []contender
	undo       []func()
}

// newBench makes everything that is measured. Close takes it away.
func newBench(ctx context.Context, cordon string) (_ *bench, err error) {
	b := &bench{ended: ctx}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	// Not below a directory that others can write, nor one that firejail hides.
	if b.dir, err = os.MkdirTemp("/opt", "cordon-bench-"); err != nil {
		return nil, err
	}
	b.undo = append(b.undo, func() { _ = os.RemoveAll(b.dir) })
	for _, stage := range []func() error{func() error { return b.check(cordon) }, b.build, b.resolve, b.bundle, b.launchers, b.floors, b.programs} {
		if err := errors.Join(ctx.Err(), stage()); err != nil {
			return nil, err
		}
	}
	return b, ctx.Err()
}

func (b *bench) close() {
	for i := len(b.undo) - 1; i >= 0; i-- {
		b.undo[i]()
	}
}

// build compiles the two C programs.
func (b *bench) build() error {
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	b.program = filepath.Join(b.dir, "first")
	const keeper = "namespaces/keeper/"
	here := "integration/bench/start/floor/"
	for _, args := range [][]string{
		{"-Os", "-static", "-nostdlib", "-fno-stack-protector", "-o", b.program, here + "first.c"},
		{
			"-O2", "-DHOSTED", "-D_GNU_SOURCE", "-I", keeper, "-o", filepath.Join(b.dir, "floor"),
			here + "floor.c", keeper + "steps.c", keeper + "turns.c", keeper + "check.c", keeper + "reaper.c",
		},
	} {
		cmd := exec.Command("gcc", args...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot compile: %w: %s", err, out)
		}
	}
	return os.WriteFile(filepath.Join(b.dir, "keeper"), namespaces.KeeperProgram(), 0o755)
}

// root is where the module is; make runs this there.
var root = "."

func (b *bench) resolve() error {
	profile, err := profiles.Builtin("strict")
	if err != nil {
		return err
	}
	b.plan, err = profiles.Resolve(profiles.Input{
		Profile: profile, Ceiling: profiles.DefaultCeiling(), Argv: []string{"/first"},
		Files: []plan.File{{Path: "/first", From: b.program, Access: []string{"execute", "read_file"}}},
	})
	if err != nil {
		return err
	}
	if b.filter, err = compile.Compile(b.plan.Seccomp); err != nil {
		return err
	}
	// A launcher that puts its own pid 1 under the program's filter needs more.
	peer := b.plan.Seccomp
	peer.ExecOnce = false // page 0 is the keeper's alone
	peer.Rules = append(slices.Clone(peer.Rules), seccomp.Rule{
		Names: []string{"wait4", "waitid", "kill", "prctl", "clone", "fork", "exit", "capset", "setresuid", "execve"}, Action: seccomp.ActAllow,
	})
	b.peerFilter, err = compile.Compile(peer)
	return err
}

// launchers are the daemon's part, in this process as in the daemon.
func (b *bench) launchers() (err error) {
	cache := seccomp.NewCache("", compile.Compile)
	for i, l := range []**launch.Launcher{&b.cold, &b.pooled} {
		cfg := launch.Config{
			CgroupRoot: fmt.Sprintf("cordon-test-start-%d-%d", os.Getpid(), i), RuntimeDir: b.dir,
			UIDBase: uidBase, UIDCount: uidCount, Compile: cache.Program, Ready: 4 * i, Templates: 1,
		}
		if *l, err = launch.New(cfg); err != nil {
			return err
		}
		launcher := *l
		b.undo = append(b.undo, func() {
			if err := launcher.Close(); err != nil {
				fmt.Fprintln(os.Stderr, "cannot close a launcher:", err)
			}
		})
	}
	b.daemon("cold", "cordon in the daemon: profile strict; namespaces, groups and reaper made on the spot, the mounts that all starts of the plan share by the first of them", b.cold, 1)
	b.daemon("pooled", "the same with network namespace and groups made ahead, too", b.pooled, 3)
	return nil
}

func (b *bench) add(c contender) {
	if _, err := c.start(); err != nil {
		c.about = err.Error()
		b.missing = append(b.missing, c)
		return
	}
	b.contenders = append(b.contenders, c)
}

// daemon adds a launcher, which starts as uid number n, or n+1 beside it.
func (b *bench) daemon(name, about string, l *launch.Launcher, n uint32) {
	b.add(contender{
		name: name, about: about, start: daemonStart(l, b.plan, n),
		parallel: func() (func() (sample, error), error) { return daemonStart(l, b.plan, n+1), nil },
	})
}

// daemonStart starts the plan as uid number n of the range.
func daemonStart(l *launch.Launcher, p *plan.Plan, n uint32) func() (sample, error) {
	return func() (s sample, err error) {
		out, err := newPipe()
		if err != nil {
			return s, err
		}
		defer out.close()
		ctx, cancel := context.WithTimeout(background, time.Minute)
		defer cancel()
		if err := l.AwaitReady(ctx); err != nil {
			return s, err
		}
		begin := monotonic()
		proc, err := l.Start(ctx, launch.Request{Name: fmt.Sprintf("bench-%d", n), Plan: p, UID: uidBase + 2*n, Stdout: out.w})
		if err != nil {
			return s, err
		}
		<-proc.Done()
		s.reaped = monotonic() - begin
		first, err := out.instant()
		s.first = first - begin
		return s, errors.Join(err, proc.Release())
	}
}

// interleave asks every contender in turn, rounds times.
func (b *bench) interleave(rounds int, pause time.Duration) (map[string]*samples, error) {
	results := map[string]*samples{}
	for range rounds {
		for _, c := range b.contenders {
			time.Sleep(pause) //nolint:forbidigo // the pause is what is measured
			s, err := b.once(c.start)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if results[c.name] == nil {
				results[c.name] = &samples{}
			}
			results[c.name].all = append(results[c.name].all, s)
		}
	}
	return results, nil
}

// once starts, unless the measuring was interrupted.
func (b *bench) once(start func() (sample, error)) (sample, error) {
	if err := b.ended.Err(); err != nil {
		return sample{}, errors.New("interrupted")
	}
	return start()
}

// throughput is starts a second, one after the other and two at a time.
func (b *bench) throughput(r *report, launches int) error {
	r.say("%-20s %9s %9s", "launches a second", "alone", "two")
	for _, c := range b.contenders {
		n := launches
		if c.parallel == nil {
			c.parallel = func() (func() (sample, error), error) { return c.start, nil }
		}
		second, err := c.parallel()
		if err != nil {
			return err
		}
		alone, err := b.rate(n, c.start)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		two, err := b.rate(n, c.start, second)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		r.say("%-20s %9.0f %9.0f", c.name, alone, two)
		r.figure(c.name+"_launches_a_second_alone", alone, 0)
		r.figure(c.name+"_launches_a_second_two", two, 0)
	}
	return nil
}

// rate shares n starts among the starters.
func (b *bench) rate(n int, starters ...func() (sample, error)) (float64, error) {
	var wait sync.WaitGroup
	errs := make([]error, len(starters))
	begin := time.Now()
	for i, start := range starters {
		wait.Go(func() {
			for range n / len(starters) {
				if _, err := b.once(start); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wait.Wait()
	return float64(n) / time.Since(begin).Seconds(), errors.Join(errs...)
}
