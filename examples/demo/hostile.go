package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// attack is one hostile plugin and the violation that it must end in.
type attack struct {
	dir      string // below examples/hostile
	sentence string
	wall     string
	// what has to stand in the report: the call or limit, and the argument or
	// path that gave it away.
	what, detail string
}

var attacks = []attack{
	{"mount", "It mounts a file system of its own.", "seccomp", "mount", "tmpfs"},
	{"ptrace", "It attaches to another process.", "seccomp", "ptrace", "PTRACE_ATTACH"},
	{"raw-socket", "It opens a raw socket.", "seccomp", "socket", "SOCK_RAW"},
	{"shadow", "It reads /etc/shadow.", "files", "/etc/shadow", "read"},
	{"fork", "It forks without end.", "pids", "pids.max", "16"},
	{"memory", "It takes all the memory that it can.", "memory", "memory.max", "64"},
}

func (a attack) name() string { return "hostile-" + a.dir }

// showHostile is point 5: each attack ends in quarantine, with its reason.
func showHostile(ctx context.Context, s *stage) error {
	seen := map[string]string{}
	for _, a := range attacks {
		say("")
		say("%s", a.sentence)
		v, err := s.provoke(ctx, a)
		if err != nil {
			return fmt.Errorf("%s: %w", a.name(), err)
		}
		key := v.Wall + " " + v.What
		if other, again := seen[key]; again {
			return fmt.Errorf("%s and %s are the same violation, %s", other, a.name(), key)
		}
		seen[key] = a.name()
	}
	say("")
	say("%d attacks, %d different violations.", len(attacks), len(seen))
	return nil
}

// provoke runs one hostile plugin into its wall and returns the violation.
func (s *stage) provoke(ctx context.Context, a attack) (violation, error) {
	if _, err := s.cordon(ctx, "install", "examples/hostile/"+a.dir, "--profile", "hostile"); err != nil {
		return violation{}, err
	}
	if _, err := s.cordon(ctx, "start", a.name()); err != nil {
		return violation{}, err
	}
	if err := s.expect(ctx, "at your service", "call", a.name(), "hello"); err != nil {
		return violation{}, err
	}
	if err := s.showAttack(ctx, a.name()); err != nil {
		return violation{}, err
	}
	if err := s.awaitState(ctx, a.name(), "quarantined"); err != nil {
		return violation{}, err
	}
	text, err := s.show(ctx, "why", a.name())
	if err != nil {
		return violation{}, err
	}
	list, err := s.why(ctx, a.name())
	if err != nil {
		return violation{}, err
	}
	return a.judge(list, text)
}

// showAttack calls the method that attacks. Most often the plugin is stopped
// before it can answer. The file watch only looks on while the walls refuse, so
// there the plugin may live to say that it was refused.
func (s *stage) showAttack(ctx context.Context, name string) error {
	out, err := s.show(ctx, "call", name, "attack")
	var refused *commandError
	switch {
	case err == nil && strings.HasPrefix(strings.TrimSpace(out), `"refused:`):
		return nil
	case err == nil:
		return fmt.Errorf("the attack succeeded: %s", cut(out))
	case ctx.Err() != nil || !errors.As(err, &refused):
		return err
	}
	printOutput(refused.complaint)
	return nil
}

// judge checks that the violation and its explanation say what has to be said:
// the wall, the call or limit, the argument, and what would allow it.
func (a attack) judge(list []violation, text string) (violation, error) {
	for _, v := range list {
		if v.Action != "quarantine" {
			continue
		}
		facts := strings.Join(append([]string{v.What, v.Call, v.Path, v.Access, fmt.Sprint(v.Limit), fmt.Sprint(v.Limit >> 20)}, v.Args...), " ")
		switch {
		case v.Wall != a.wall:
			return v, fmt.Errorf("it hit the wall %q, expected %q", v.Wall, a.wall)
		case !strings.Contains(facts, a.what) || !strings.Contains(facts, a.detail):
			return v, fmt.Errorf("the report does not name %s and %s: %s", a.what, a.detail, facts)
		case !strings.Contains(strings.ToLower(text), a.wall) || !strings.Contains(text, a.what) || !strings.Contains(text, a.detail):
			return v, fmt.Errorf("cordon why does not say %s, %s and %s", a.wall, a.what, a.detail)
		case v.Rule == "" || v.Change == "" && v.Also == "":
			return v, fmt.Errorf("cordon why does not say which rule it was, or what would allow it")
		}
		return v, nil
	}
	return violation{}, fmt.Errorf("no violation led to its quarantine")
}

func (s *stage) awaitState(ctx context.Context, name, state string) error {
	var last plugin
	err := await(ctx, name+" to be "+state, func() (bool, error) {
		list, err := s.plugins(ctx)
		last = list[name]
		return last.State == state, err
	})
	if err != nil {
		return fmt.Errorf("%w: it is %s (%s)", err, last.State, last.Reason)
	}
	return nil
}

// showQuarantine goes on with point 5: neither a stop nor a crash of the daemon
// lets one of them out, only an operator does.
func showQuarantine(ctx context.Context, s *stage) error {
	if _, err := s.show(ctx, "enable", "everything"); err != nil {
		return err
	}
	for _, end := range []struct {
		signal   syscall.Signal
		sentence string
	}{
		{syscall.SIGTERM, "The daemon is stopped and started again."},
		{syscall.SIGKILL, "The daemon is killed with SIGKILL and started again."},
	} {
		say("%s", end.sentence)
		if err := s.daemon.end(end.signal); err != nil {
			return err
		}
		if err := s.startDaemon(ctx); err != nil {
			return err
		}
		if err := s.awaitState(ctx, "everything", "running"); err != nil {
			return err
		}
		if err := s.allQuarantined(ctx); err != nil {
			return err
		}
	}
	say("What was enabled runs again; all six are still in quarantine, and refuse to start:")
	if err := s.showRefused(ctx, "start", "hostile-mount"); err != nil {
		return err
	}
	say("An operator lets one of them out, with a reason:")
	if _, err := s.show(ctx, "release", "hostile-mount", "--reason", "looked into"); err != nil {
		return err
	}
	if _, err := s.show(ctx, "start", "hostile-mount"); err != nil {
		return err
	}
	return s.expect(ctx, "at your service", "call", "hostile-mount", "hello")
}

func (s *stage) allQuarantined(ctx context.Context) error {
	list, err := s.plugins(ctx)
	if err != nil {
		return err
	}
	for _, a := range attacks {
		if state := list[a.name()].State; state != "quarantined" {
			return fmt.Errorf("%s is %q after a restart of the daemon", a.name(), state)
		}
	}
	return nil
}
