package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func removeVerb(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Stop a plugin and remove it with its data",
		Long: `Stop a plugin if it runs, and remove its sealed copy, its state and its data.
What the audit log says about it stays.`,
		Example: `  cordon remove thumbs`,
		GroupID: groupPlugins, Args: takes("NAME"), ValidArgsFunction: a.completeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.call(cmd.Context(), control.MethodRemove, control.NameParams{Name: args[0]}, nil); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "Removed %s.\n", cellText(args[0]))
			return nil
		},
	}
}
