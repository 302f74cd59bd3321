package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func releaseVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "release NAME --reason TEXT", Short: "Let a plugin out of quarantine",
		Long: `Let a plugin out of quarantine. It is stopped afterwards, and may be started.

Read cordon why NAME first. The reason is kept in the audit log with your user id;
the evidence stays.`,
		Example: `  cordon release thumbs --reason "2.4.2 no longer calls mount"`,
		GroupID: groupPlugins, Args: takes("NAME"), ValidArgsFunction: a.completeName,
	}
	reason := cmd.Flags().String("reason", "", "why it may run again, for the audit log (`text`)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if strings.TrimSpace(*reason) == "" {
			return usage(cmd, "there is no --reason: say why it may run again")
		}
		var status control.Status
		params := control.ReleaseParams{Name: args[0], Reason: *reason}
		if err := a.call(cmd.Context(), control.MethodRelease, params, &status); err != nil {
			return err
		}
		return a.printStatus(status, *asJSON)
	}
	return cmd
}
