package supervisor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/store"
)

// Install implements control.Service: seal, resolve, record. On any error
// nothing is left of it.
func (s *Supervisor) Install(_ context.Context, by control.Caller, p control.InstallParams) (control.InstallResult, error) {
	if !filepath.IsAbs(p.Dir) {
		return control.InstallResult{}, control.Errorf(ipc.CodeInvalidParams, "", "cannot install %q: not an absolute path", p.Dir)
	}
	if p.As != "" && !manifest.ValidName(p.As) {
		return control.InstallResult{}, control.Errorf(ipc.CodeInvalidParams, "", "cannot install as %q: %w", p.As, errNoName)
	}
	if strings.ContainsRune(p.Profile, '/') && !filepath.IsAbs(p.Profile) {
		return control.InstallResult{}, control.Errorf(ipc.CodeInvalidParams, "", "cannot install %s: the profile %q is neither a name nor an absolute path", p.Dir, p.Profile)
	}
	s.installing.Lock()
	defer s.installing.Unlock()
	bundle, err := s.source.Seal(p.Dir)
	if err != nil {
		return control.InstallResult{}, control.Errorf(ipc.CodeInvalidParams, "", "cannot install %s: %w", p.Dir, err)
	}
	result, err := s.installSealed(by, p, bundle)
	if err != nil {
		return control.InstallResult{}, errors.Join(err, s.discardIfUnused(bundle.Digest))
	}
	return result, nil
}

func (s *Supervisor) installSealed(by control.Caller, p control.InstallParams, b *Bundle) (control.InstallResult, error) {
	name := p.As
	if name == "" {
		name = b.Name
	}
	pl, err := s.source.Resolve(b, p.Profile)
	if err != nil {
		return control.InstallResult{}, control.Errorf(ipc.CodeInvalidParams, "", "cannot install %s: %w", name, err)
	}
	var needs manifest.Needs
	if b.Manifest != nil {
		needs = b.Manifest.Needs
	}
	if err := s.circle(name, b.Version, needs); err != nil {
		return control.InstallResult{}, err
	}
	if err := s.record(name, p.Profile, b, needs); err != nil {
		return control.InstallResult{}, err
	}
	_, err = s.audit.Append(control.Event{
		Plugin: name, Kind: "installed", Actor: by.String(),
		Text: fmt.Sprintf("%s %s from %s under profile %s", name, b.Version, p.Dir, p.Profile),
		Data: map[string]any{"digest": b.Digest, "policy_digest": pl.PolicyDigest()},
	})
	if err != nil {
		s.logger.Error("cannot write the audit log", "plugin", name, "err", err)
	}
	return control.InstallResult{
		Name: name, Version: b.Version, Digest: b.Digest, Profile: p.Profile, Asks: asksOf(pl), Plan: pl, Warnings: s.warnings(name),
	}, nil
}

// record puts the plugin into the store and makes its actor.
func (s *Supervisor) record(name, profile string, b *Bundle, needs manifest.Needs) error {
	s.mu.RLock()
	closing := s.closing
	s.mu.RUnlock()
	if closing {
		return errClosing()
	}
	now := s.clock.Now()
	r, err := s.store.Create(store.Record{
		Name: name, Version: b.Version, Digest: b.Digest, Protocol: string(b.Protocol), Profile: profile,
		Installed: now, State: control.Stopped, Since: now, Needs: needs,
	})
	switch {
	case errors.Is(err, store.ErrExists):
		return control.Errorf(ipc.CodeConflict, "cordon remove "+name+", or install it under another name with --as", "cannot install %s: %w", name, store.ErrExists)
	case err != nil:
		return control.Errorf(ipc.CodeInternal, "", "cannot install %s: %w", name, err)
	}
	if err := s.add(r); err != nil {
		return errors.Join(err, s.store.Delete(name))
	}
	return nil
}

// asksOf puts the plan's decisions into the words of the control socket.
func asksOf(pl *plan.Plan) []control.Ask {
	out := make([]control.Ask, 0, len(pl.Asks))
	for _, a := range pl.Asks {
		out = append(out, control.Ask{What: a.Ask, Why: a.Why, Granted: a.Granted, Decision: a.Decision})
	}
	return out
}
