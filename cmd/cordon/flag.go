package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

func flagVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "flag [NAME [on|off|default]]", Short: "List feature flags, or flip one at once",
		Long: `List the feature flags of the configuration and what each gates, or flip one.

While a flag is off, the plugins that it gates are stopped, after those that need
them, and are not started; the capabilities that it gates are revoked. Both hold
when the command returns. When it is on again, what was stopped for it starts.

What is said here stands above the configuration, over restarts of the daemon,
until "default" gives the word back to it.`,
		Example: `  cordon flag
  cordon flag photos off
  cordon flag photos default`,
		GroupID: groupPlugins,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 2 {
				return usage(cmd, fmt.Sprintf("%q is one argument too many", violation.Escape(args[2], 64)))
			}
			if len(args) == 2 && !slices.Contains([]string{control.FlagOn, control.FlagOff, control.FlagDefault}, args[1]) {
				return usage(cmd, fmt.Sprintf("expected on, off or default, not %q", violation.Escape(args[1], 64)))
			}
			return nil
		},
		ValidArgsFunction: a.completeFlag,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) < 2 {
			return a.showFlags(cmd, args, *asJSON)
		}
		var done control.Flagged
		if err := a.call(cmd.Context(), control.MethodFlag, control.FlagParams{Name: args[0], State: args[1]}, &done); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.out, done)
		}
		fmt.Fprintf(a.out, "The flag %s is %s.\n", cellText(done.Flag.Name), flagState(done.Flag))
		if len(done.Stopped) > 0 {
			fmt.Fprintf(a.out, "Stopped: %s.\n", cellText(strings.Join(done.Stopped, ", ")))
		}
		if done.Cut > 0 {
			fmt.Fprintf(a.out, "%d connections were cut.\n", done.Cut)
		}
		return nil
	}
	return cmd
}

func (a *app) showFlags(cmd *cobra.Command, args []string, asJSON bool) error {
	flags := []control.Flag{}
	if err := a.call(cmd.Context(), control.MethodFlags, struct{}{}, &flags); err != nil {
		return err
	}
	if len(args) == 1 {
		flags = slices.DeleteFunc(flags, func(f control.Flag) bool { return f.Name != args[0] })
		if len(flags) == 0 {
			return &failure{fmt.Errorf("there is no flag %q", violation.Escape(args[0], 64)), "cordon flag", exitFailure}
		}
	}
	if asJSON {
		return printJSON(a.out, flags)
	}
	rows := [][]string{{"FLAG", "STATE", "GATES", "BY"}}
	for _, f := range flags {
		by := "the configuration"
		if f.By != "" {
			by = f.By + " at " + timeText(f.Time)
		}
		rows = append(rows, []string{f.Name, map[bool]string{true: "on", false: "off"}[f.On], gatesText(f), by})
	}
	table(a.out, rows)
	return nil
}

// gatesText is what a flag gates.
func gatesText(f control.Flag) string {
	plugins := strings.Join(f.Plugins, ", ")
	switch {
	case len(f.Capabilities) == 0:
		return plugins
	case plugins == "":
		return strings.Join(f.Capabilities, ", ") + " of all"
	}
	return strings.Join(f.Capabilities, ", ") + " of " + plugins
}

func flagState(f control.Flag) string {
	text := map[bool]string{true: "on", false: "off"}[f.On]
	if f.By == "" {
		return text + ", as configured"
	}
	return text
}

// completeFlag offers flags, and then what they can be.
func (a *app) completeFlag(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return []string{control.FlagOn, control.FlagOff, control.FlagDefault}, cobra.ShellCompDirectiveNoFileComp
	}
	var flags []control.Flag
	if len(args) > 1 || a.call(cmd.Context(), control.MethodFlags, struct{}{}, &flags) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, len(flags))
	for i, f := range flags {
		names[i] = f.Name
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
