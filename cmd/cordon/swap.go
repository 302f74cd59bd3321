package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func swapVerb(a *app) *cobra.Command {
	var p control.SwapParams
	cmd := &cobra.Command{
		Use: "swap NAME [--bundle DIR] [--profile NAME]", Short: "Replace a running plugin by a new process without a failed call",
		Long: `Replace the process of a running plugin by a new one, without a call that fails.

The new one is started behind walls of its own, as another uid, says hello and is
asked for its health; then it takes every call from the next one on, and the one
before finishes what it has been asked, for as long as --drain says, and is asked
to leave. Where the new one fails at any stage it is ended, and the other goes on.

With --bundle the new process is of another version of the same plugin, with
--profile it is behind other walls; both hold from then on. What is attached, and
connections of the plugin's own, end with the process that has them.

A plugin whose /data is kept is not swapped, for both processes would have it at
once: --share-data says that its program is made for that.`,
		Example: `  cordon swap thumbs
  cordon swap thumbs --bundle ./thumbs-2.5 --drain 1m`,
		GroupID: groupPlugins, Args: takes("NAME"), ValidArgsFunction: a.completeName,
	}
	cmd.Flags().StringVar(&p.Dir, "bundle", "", "the `directory` of another version of the plugin")
	cmd.Flags().StringVar(&p.Profile, "profile", "", "other walls: a built-in `profile`, or NAME of /etc/cordon/profiles/NAME.toml")
	cmd.Flags().DurationVar(&p.Drain, "drain", 30*time.Second, "how long the process before may go on with its calls")
	cmd.Flags().BoolVar(&p.ShareData, "share-data", false, "let both processes have the /data that is kept")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p.Name = args[0]
		if p.Dir != "" {
			dir, err := filepath.Abs(p.Dir)
			if err != nil {
				return fmt.Errorf("cannot swap %s: %w", p.Name, err)
			}
			p.Dir = dir
		}
		var status control.Status
		if err := a.call(cmd.Context(), control.MethodSwap, p, &status); err != nil {
			return err
		}
		return a.printStatus(status, *asJSON)
	}
	return cmd
}
