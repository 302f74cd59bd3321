package main

import (
	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func restartVerb(a *app) *cobra.Command {
	return statusVerb(a, control.MethodRestart, &cobra.Command{
		Use: "restart NAME", Short: "Stop a plugin and start it again",
		Long:    `Stop a plugin and start it again, with its profile and manifest resolved anew.`,
		Example: `  cordon restart thumbs`,
	})
}
