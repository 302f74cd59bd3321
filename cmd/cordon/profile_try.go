package main

import (
	"flag"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/cmd/cordon/run"
)

// tryShell is what is tried when no command is named.
const tryShell = "/bin/sh"

func profileTry(*app) *cobra.Command {
	var o run.Options
	cmd := &cobra.Command{
		Use: "try PROFILE [-- CMD [ARG...]]", Short: "Run a shell or a command inside a profile's walls",
		Long: `Run a shell, or the command after --, inside exactly the walls of a profile, and
say what it hits: every open of a file is watched too. It needs root.

It is cordon run --explain: cordon run --help has the flags and exit statuses. A
profile that grants no shell has none to try; name a program that it grants, or
grant one for this run with --ro.`,
		Example: `  sudo cordon profile try shell
  sudo cordon profile try ./thumbs.toml --set violation.seccomp=deny -- node main.js`,
		Args: cobra.MinimumNArgs(0),
	}
	flags := flag.NewFlagSet("try", flag.ContinueOnError)
	run.FlagsBeside(flags, &o)
	cmd.Flags().AddGoFlagSet(flags)
	_ = cmd.Flags().MarkHidden("explain") // it always does
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		name, argv, err := profileAndCommand(cmd, args)
		if err != nil {
			return err
		}
		if len(argv) == 0 {
			argv = []string{tryShell}
		}
		o.Profile, o.Argv, o.Explain = name, argv, true
		if err := o.Check(); err != nil {
			return cannotRun(err)
		}
		return &statusError{run.Run(&o)}
	}
	return cmd
}
