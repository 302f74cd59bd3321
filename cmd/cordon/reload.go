package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func reloadVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "reload", Short: "Have the daemon read its configuration anew",
		Long: `Have the daemon read [ceiling] and [evidence] of its configuration anew, as SIGHUP
does. They hold for plugins that start, and quarantines, from then on. With a
mistake in the file, what held before holds on, and the mistake is printed.

What needs more than a reload:
  a start of the daemon    every key of [daemon]: state_dir, runtime_dir, profiles_dir,
                           socket, cgroup_root, uid_base, uid_count, log_format
  a restart of the plugin  its profile and all that it extends, its bundle, and what the
                           new ceiling would refuse of a plugin that runs already`,
		Example: `  cordon reload`,
		GroupID: groupPlugins, Args: takes(),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := a.call(cmd.Context(), control.MethodReload, nil, nil); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.out, "Reloaded.")
		return err
	}
	return cmd
}
