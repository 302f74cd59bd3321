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
the evidence stays. With --probation any violation quarantines it again for so
long, also one that its profile would have had denied or killed for.`,
		Example: `  cordon release thumbs --reason "2.4.2 no longer calls mount"
  cordon release thumbs --reason "the author says so" --probation 24h`,
		GroupID: groupPlugins, Args: takes("NAME"), ValidArgsFunction: a.completeName,
	}
	reason := cmd.Flags().String("reason", "", "why it may run again, for the audit log (`text`)")
	probation := cmd.Flags().Duration("probation", 0, "how long any violation quarantines it again (`duration`, a year at most)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if strings.TrimSpace(*reason) == "" {
			return usage(cmd, "there is no --reason: say why it may run again")
		}
		var status control.Status
		params := control.ReleaseParams{Name: args[0], Reason: *reason, Probation: *probation}
		if err := a.call(cmd.Context(), control.MethodRelease, params, &status); err != nil {
			return err
		}
		return a.printStatus(status, *asJSON)
	}
	return cmd
}
