package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func reloadVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "reload", Short: "Have the daemon read its configuration and profiles anew",
		Long: `Have the daemon read [ceiling], [evidence] and [[secret]] of its configuration, and
the profiles of what runs, anew, as SIGHUP does. With a mistake in a file, what held
before holds on, and the mistake is printed.

Changed at once, without a restart, where the profile (or the ceiling) has changed:
  [resources]   the limits of the group: memory, pids, cpu, cpuset, io, hugetlb. A
                limit can be moved, not lifted.
  [violation]   what violations lead to, and their budgets. What was spent stays so.
  [lifecycle]   when and how often it is started again, and how long that may take.

What needs more than a reload is listed by its keys:
  a restart of the plugin  everything else of its profile: what it sees and calls, its
                           identity, rlimits, times, watchdog_sec, [ipc], capabilities
  a start of the daemon    every key of [daemon]: state_dir, runtime_dir, profiles_dir,
                           socket, cgroup_root, uid_base, uid_count, log_format

The exit status is 1 if a plugin could not be changed.`,
		Example: `  cordon reload
  cordon reload --json`,
		GroupID: groupPlugins, Args: takes(),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var r control.Reloaded
		if err := a.call(cmd.Context(), control.MethodReload, nil, &r); err != nil {
			return err
		}
		show := a.reloaded
		if *asJSON {
			show = func(r control.Reloaded) error { return printJSON(a.out, r) }
		}
		if err := show(r); err != nil {
			return err
		}
		for _, p := range r.Plugins {
			if p.Error != "" {
				return &statusError{exitFailure}
			}
		}
		return nil
	}
	return cmd
}

// reloaded says what holds now and what waits.
func (a *app) reloaded(r control.Reloaded) error {
	text := "Reloaded.\n"
	for _, p := range r.Plugins {
		if len(p.Changed) > 0 {
			text += fmt.Sprintf("%s: changed: %s\n", p.Name, strings.Join(p.Changed, ", "))
		}
		if p.Error != "" {
			text += fmt.Sprintf("%s: not changed; %s\n", p.Name, lines(p.Error))
		}
		if len(p.Restart) > 0 {
			text += fmt.Sprintf("%s: after cordon restart %s: %s\n", p.Name, p.Name, strings.Join(p.Restart, ", "))
		}
	}
	if len(r.Daemon) > 0 {
		text += fmt.Sprintf("cordond: after its next start: %s\n", strings.Join(r.Daemon, ", "))
	}
	_, err := fmt.Fprint(a.out, text)
	return err
}
