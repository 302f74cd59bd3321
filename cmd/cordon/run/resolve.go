package run

import (
	"fmt"
	"os"
	"path"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
)

// resolve makes the plan of a run: the profile, and what the flags add, under
// the host's ceiling. The command itself gets nothing for being the command.
func resolve(o *Options, h *host) (*plan.Plan, error) {
	profile, err := profiles.Find(o.Profile, h.profilesDir)
	if err != nil {
		return nil, err
	}
	return resolveOn(o, h, profile)
}

// resolveOn is resolve with the profile at hand.
func resolveOn(o *Options, h *host, profile *profiles.Profile) (*plan.Plan, error) {
	profile, err := profile.With(o.Set)
	if err != nil {
		return nil, err
	}
	files, err := grants(o)
	if err != nil {
		return nil, err
	}
	env, err := environment(o, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	if o.Cwd != "" && (!path.IsAbs(o.Cwd) || path.Clean(o.Cwd) != o.Cwd) {
		return nil, fmt.Errorf("--cwd %s: expected an absolute, clean path inside the walls", o.Cwd)
	}
	return profiles.Resolve(profiles.Input{
		Profile: profile, Ceiling: h.ceiling, CallerEnv: os.Environ(),
		Argv: o.Argv, Env: env, Cwd: o.Cwd, Files: files, Watch: o.Explain,
	})
}
