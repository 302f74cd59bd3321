package main

import (
	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func enableVerb(a *app) *cobra.Command {
	return statusVerb(a, control.MethodEnable, &cobra.Command{
		Use: "enable NAME", Short: "Start a plugin whenever the daemon starts",
		Long:    `Start a plugin whenever the daemon starts. It is not started now.`,
		Example: `  cordon enable thumbs`,
	})
}
