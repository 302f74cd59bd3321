package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// statusVerb is a verb that takes the name of a plugin and answers with its
// status.
func statusVerb(a *app, method string, cmd *cobra.Command) *cobra.Command {
	cmd.GroupID, cmd.Args, cmd.ValidArgsFunction = groupPlugins, takes("NAME"), a.completeName
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var status control.Status
		if err := a.call(cmd.Context(), method, control.NameParams{Name: args[0]}, &status); err != nil {
			return err
		}
		return a.printStatus(status, *asJSON)
	}
	return cmd
}

// printStatus says in a line what has become of a plugin.
func (a *app) printStatus(s control.Status, asJSON bool) error {
	if asJSON {
		return printJSON(a.out, s)
	}
	fmt.Fprintln(a.out, a.statusLine(s))
	return nil
}

func (a *app) statusLine(s control.Status) string {
	text := cellText(s.Name) + " is " + a.stateText(s.State)
	if s.PID > 0 {
		text += fmt.Sprintf(" as process %d", s.PID)
	}
	if !s.Enabled {
		text += ", and does not start with the daemon"
	}
	if reason := reasonText(s); reason != "" {
		text += ": " + violation.Escape(reason, 1024)
	}
	return text
}

// stateText is the state in its colour.
func (a *app) stateText(s control.State) string {
	text := cellText(string(s))
	switch s {
	case control.Running:
		return a.paint(green, text)
	case control.Quarantined, control.Failed:
		return a.paint(red, text)
	case control.Starting, control.Stopping, control.Backoff:
		return a.paint(yellow, text)
	case control.Stopped:
	}
	return text
}

// completeName offers the names of installed plugins to the shell.
func (a *app) completeName(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	plugins, err := a.list(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, len(plugins))
	for i, p := range plugins {
		names[i] = p.Name
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
