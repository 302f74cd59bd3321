package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/cmd/cordon/run"
	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/launch"
)

func profileVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "profile", Short: "Check, read, try and change profiles",
		Long: `Check, read, try and change profiles. None of it needs a daemon; only
try and record need root.

PROFILE is a built-in profile, the name of one in /etc/cordon/profiles, or a file.`,
		Example: `  cordon profile check ./thumbs.toml
  cordon profile show builtin:node
  cordon profile plan ./thumbs.toml -- node main.js
  sudo cordon profile try ./thumbs.toml -- node main.js`,
		GroupID: groupAlone, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return rootHelp(cmd, args) },
	}
	for _, verb := range []func(*app) *cobra.Command{profileCheck, profileShow, profilePlan, profileCan, profileDiff, profileScore, profileTry, profileRecord, profileFmt, profileApply} {
		cmd.AddCommand(verb(a))
	}
	return cmd
}

// setFlag adds --set to a verb.
func setFlag(cmd *cobra.Command) *[]string {
	return cmd.Flags().StringArray("set", nil, "say one key on top of the profile: `KEY=VALUE`; may be repeated")
}

// findProfile gives a profile as people name it, with what --set says.
func findProfile(name string, sets []string) (*profiles.Profile, *profiles.Ceiling, error) {
	dir, ceiling, err := run.HostProfiles()
	if err != nil {
		return nil, nil, err
	}
	p, err := profiles.Find(name, dir)
	if err != nil {
		return nil, nil, err
	}
	p, err = p.With(sets)
	return p, ceiling, err
}

// placeholder stands for the command where none was named.
const placeholder = "COMMAND"

// planOf resolves a profile for a command that need not be named.
func planOf(p *profiles.Profile, ceiling *profiles.Ceiling, argv []string) (*plan.Plan, error) {
	if len(argv) == 0 {
		argv = []string{placeholder}
	}
	return profiles.Resolve(profiles.Input{Profile: p, Ceiling: ceiling, Argv: argv})
}

// lookUp says what a path of this host is, and what its ceiling says of where it
// leads.
func lookUp(ceiling *profiles.Ceiling) func(from string, access []string) launch.Found {
	followed := ceiling.Followed(filepath.EvalSymlinks)
	return func(from string, access []string) launch.Found {
		real, err := filepath.EvalSymlinks(from)
		if errors.Is(err, os.ErrNotExist) {
			return launch.Found{Missing: true}
		}
		info, err := os.Stat(from)
		if err != nil { // it may be there; who starts it will see
			return launch.Found{Dir: true}
		}
		return launch.Found{Dir: info.IsDir(), Real: real, Refused: followed.Refuses(real, access)}
	}
}

// preview is what a start of a plan would do on this host.
func preview(p *plan.Plan, ceiling *profiles.Ceiling) (namespaces.View, []namespaces.Step, error) {
	abi := namespaces.LandlockABI()
	if abi == 0 {
		if p.Require["landlock"].Mode == "hard" {
			return namespaces.View{}, nil, errors.New("cannot plan: this kernel has no Landlock, which the profile requires")
		}
	}
	view, steps, err := launch.Preview(p, abi, lookUp(ceiling))
	if err != nil {
		return view, steps, fmt.Errorf("cannot plan %s: %w", p.Profile, err)
	}
	return view, steps, nil
}
