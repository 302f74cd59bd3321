package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/depend"
	"github.com/cordonhq/cordon/supervisor/store"
)

// Flag is a feature flag of the configuration: while it is off, what it gates is
// not there.
type Flag struct {
	Name string
	// On is what holds unless an operator says otherwise.
	On bool
	// Plugins are names, or beginnings of names before a final '*'; with
	// Capabilities none is all. Without Capabilities the plugins themselves are
	// gated, with them these of theirs.
	Plugins, Capabilities []string
}

// maxFlags bounds the flags of one host.
const maxFlags = 256

// CheckFlags says what is wrong with flags.
func CheckFlags(flags []Flag) error {
	if len(flags) > maxFlags {
		return fmt.Errorf("flag: at most %d flags, got %d", maxFlags, len(flags))
	}
	seen := map[string]bool{}
	for i, f := range flags {
		if err := f.check(); err != nil {
			return fmt.Errorf("flag[%d]: %w", i, err)
		}
		if seen[f.Name] {
			return fmt.Errorf("flag[%d]: there are two flags %q", i, f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

func (f Flag) check() error {
	if !manifest.ValidName(f.Name) {
		return fmt.Errorf("name: expected up to 64 lower-case letters, digits, '.', '-' and '_', got %.80q", f.Name)
	}
	if len(f.Plugins)+len(f.Capabilities) == 0 {
		return fmt.Errorf("%s gates nothing: expected plugins, capabilities, or both", f.Name)
	}
	for _, name := range f.Plugins {
		if name == "" || strings.ContainsAny(strings.TrimSuffix(name, "*"), "* \t\r\n") {
			return fmt.Errorf("plugins: expected names, or beginnings of names before a final '*', got %.80q", name)
		}
	}
	for _, name := range f.Capabilities {
		if _, ok := grant.Find(name); !ok {
			return fmt.Errorf("capabilities: there is no capability %.80q; known are %s", name, strings.Join(grant.Names(), ", "))
		}
	}
	return nil
}

// covers says whether a flag is about a plugin.
func (f Flag) covers(plugin string) bool {
	return len(f.Plugins) == 0 || slices.ContainsFunc(f.Plugins, func(name string) bool {
		start, open := strings.CutSuffix(name, "*")
		return name == plugin || open && strings.HasPrefix(plugin, start)
	})
}

// flags are those of the host as they stand. It is asked by actors and waits for
// nothing.
type flags struct {
	flipping sync.Mutex // one change at a time, over all that follows from it
	mu       sync.Mutex
	list     []Flag
	since    time.Time // when list was made so
	flips    map[string]store.Flip
}

// on says how a flag stands; f.mu is held.
func (f *flags) on(one Flag) bool {
	if flip, ok := f.flips[one.Name]; ok {
		return flip.On
	}
	return one.On
}

// gate gives the flag that is off and keeps a plugin from running; "" is none.
func (f *flags) gate(plugin string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.list {
		if len(one.Capabilities) == 0 && one.covers(plugin) && !f.on(one) {
			return one.Name
		}
	}
	return ""
}

// revoked are the capabilities that flags take from a plugin, as the decisions
// that they are.
func (f *flags) revoked(plugin string) (out []control.Decision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.list {
		if !one.covers(plugin) || f.on(one) {
			continue
		}
		since := f.since
		if flip, ok := f.flips[one.Name]; ok {
			since = flip.Time
		}
		for _, name := range one.Capabilities {
			out = append(out, control.Decision{Capability: name, Revoked: true, By: "the flag " + one.Name, Time: since})
		}
	}
	return out
}

func (f *flags) show(one Flag) control.Flag {
	out := control.Flag{Name: one.Name, On: f.on(one), Plugins: one.Plugins, Capabilities: one.Capabilities, Configured: one.On}
	if flip, ok := f.flips[one.Name]; ok {
		out.By, out.Time = flip.By, flip.Time
	}
	return out
}

func (f *flags) shown() []control.Flag {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := []control.Flag{}
	for _, one := range f.list {
		out = append(out, f.show(one))
	}
	return out
}

func (f *flags) find(name string) (control.Flag, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := slices.IndexFunc(f.list, func(one Flag) bool { return one.Name == name })
	if at < 0 {
		return control.Flag{}, false
	}
	return f.show(f.list[at]), true
}

// decisions are what an operator decided about a plugin and, above that, what
// flags take from it.
func (p *plugin) decisions(list []control.Decision) []control.Decision {
	return append(slices.Clone(list), p.flags.revoked(p.name)...)
}

// Flags implements control.Service.
func (s *Supervisor) Flags(context.Context) ([]control.Flag, error) { return s.flags.shown(), nil }

// SetFlag implements control.Service. What is taken is taken before that is
// written down, what is given only afterwards.
func (s *Supervisor) SetFlag(ctx context.Context, by control.Caller, params control.FlagParams) (control.Flagged, error) {
	s.flags.flipping.Lock()
	defer s.flags.flipping.Unlock()
	before, ok := s.flags.find(params.Name)
	if !ok {
		return control.Flagged{}, control.Errorf(ipc.CodeNotFound, "cordon flag lists them; a [[flag]] of cordond.toml makes one", "there is no flag %.80q", params.Name)
	}
	on := before.Configured
	switch params.State {
	case control.FlagOn, control.FlagOff:
		on = params.State == control.FlagOn
	case control.FlagDefault:
	default:
		return control.Flagged{}, control.Errorf(ipc.CodeInvalidParams, "", "expected on, off or default, got %.80q", params.State)
	}
	flip := &store.Flip{Name: params.Name, On: on, By: by.String(), Time: s.clock.Now().UTC()}
	if params.State == control.FlagDefault {
		flip = nil
	}
	var out control.Flagged
	var err error
	if on {
		if err = s.keepFlip(params.Name, flip); err != nil {
			return control.Flagged{Flag: before}, control.Errorf(ipc.CodeInternal, "", "cannot turn on: %w", err)
		}
		s.flags.put(params.Name, flip)
		out = s.applyFlags(ctx, by)
	} else {
		s.flags.put(params.Name, flip)
		out = s.applyFlags(ctx, by)
		if err = s.keepFlip(params.Name, flip); err != nil {
			err = control.Errorf(ipc.CodeInternal, "flip it again once the disk can be written", "the flag %s is off, but only until this cordond ends: %w", params.Name, err)
		}
	}
	out.Flag, _ = s.flags.find(params.Name)
	s.auditFlag(out.Flag, by.String(), out)
	return out, err
}

func (f *flags) put(name string, flip *store.Flip) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.flips, name)
	if flip != nil {
		f.flips[name] = *flip
	}
}

func (s *Supervisor) keepFlip(name string, flip *store.Flip) error {
	if flip == nil {
		return s.store.Unflip(name)
	}
	return s.store.Flip(*flip)
}

// SetFlags makes these the flags, for by. What operators have said of those that
// stay holds on. It returns when all has followed.
func (s *Supervisor) SetFlags(ctx context.Context, list []Flag, by string) {
	s.flags.flipping.Lock()
	defer s.flags.flipping.Unlock()
	before := s.flags.shown()
	s.flags.mu.Lock()
	s.flags.list, s.flags.since = slices.Clone(list), s.clock.Now().UTC()
	s.flags.mu.Unlock()
	after := s.flags.shown()
	done := s.applyFlags(ctx, control.Caller{})
	for _, f := range after {
		i := slices.IndexFunc(before, func(old control.Flag) bool { return old.Name == f.Name })
		if i < 0 || before[i].On != f.On || !slices.Equal(before[i].Plugins, f.Plugins) || !slices.Equal(before[i].Capabilities, f.Capabilities) {
			s.auditFlag(f, by, done)
		}
	}
	for _, f := range before {
		if _, there := s.flags.find(f.Name); !there {
			s.auditFlagText("flag-gone", by, "the flag "+f.Name+" is no more", nil)
		}
	}
}

func (s *Supervisor) auditFlag(f control.Flag, by string, done control.Flagged) {
	state := map[bool]string{true: control.FlagOn, false: control.FlagOff}[f.On]
	text := "the flag " + f.Name + " is " + state
	if f.By == "" {
		text += ", as configured"
	}
	s.auditFlagText("flag-"+state, by, text, map[string]any{
		"flag": f.Name, "plugins": f.Plugins, "capabilities": f.Capabilities, "stopped": done.Stopped, "cut": done.Cut,
	})
}

func (s *Supervisor) auditFlagText(kind, by, text string, data map[string]any) {
	if _, err := s.audit.Append(control.Event{Kind: kind, Actor: by, Text: text, Data: data}); err != nil {
		s.logger.Error("cannot write the audit log", "kind", kind, "err", err)
	}
}

// applyFlags has everything follow the flags: capabilities at once, then plugins,
// those that need them first.
func (s *Supervisor) applyFlags(ctx context.Context, by control.Caller) (out control.Flagged) {
	all := s.all()
	cuts := make([]int, len(all))
	var wait sync.WaitGroup
	for i, p := range all {
		wait.Go(func() { cuts[i] = p.follow(ctx) })
	}
	wait.Wait()
	for i, p := range all {
		out.Cut += cuts[i]
		if flag := s.flags.gate(p.name); flag != "" && s.active(p.name) {
			s.stopGated(ctx, by, p.name, "the flag "+flag+" is off")
			out.Stopped = append(out.Stopped, p.name)
		}
	}
	for _, p := range all {
		s.tryHeld(p)
	}
	return out
}

// follow puts what flags take from a plugin into force.
func (p *plugin) follow(ctx context.Context) (cut int) {
	done := make(chan int, 1)
	if !p.box.post(message{do: func() { done <- p.enforce(p.record.Decisions) }}) {
		return 0
	}
	select {
	case cut = <-done:
	case <-p.ended:
	case <-ctx.Done():
	}
	return cut
}

// active says whether there is something to stop.
func (s *Supervisor) active(name string) bool {
	p := s.plugin(name)
	return p != nil && !slices.Contains([]control.State{control.Stopped, control.Failed, control.Quarantined}, p.shown.Load().record.State)
}

// stopGated stops a plugin after those that need it; all are started again when
// nothing keeps them any more.
func (s *Supervisor) stopGated(ctx context.Context, by control.Caller, name, reason string) {
	steps := s.graph().Stop(name)
	s.relations.leave(steps, 1)
	defer s.relations.leave(steps, -1)
	s.inOrder(steps, func(step depend.Step, _ []error) error {
		if step.Name != name {
			s.stopFor(ctx, by, step.Name, name)
			return nil
		}
		_, err := s.tell(ctx, by, name, message{event: event{Kind: evStop, Reason: reason}, hold: true})
		if err != nil && !errors.Is(err, context.Canceled) {
			s.logger.Error("cannot stop what a flag gates", "plugin", name, "err", err)
		}
		return nil
	})
}

// gated is the refusal to start what a flag gates, nil if none does.
func (s *Supervisor) gated(name, goal string) error {
	flag := s.flags.gate(name)
	if flag == "" {
		return nil
	}
	of := ""
	if name != goal {
		of = " of " + name + ", which it needs,"
	}
	return control.Errorf(ipc.CodeConflict, "cordon flag "+flag+" on", "cannot start %s: the flag %s%s is off", goal, flag, of)
}
