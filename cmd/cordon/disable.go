package main

import (
	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func disableVerb(a *app) *cobra.Command {
	return statusVerb(a, control.MethodDisable, &cobra.Command{
		Use: "disable NAME", Short: "Do not start a plugin with the daemon",
		Long:    `Do not start a plugin when the daemon starts. If it runs, it goes on running.`,
		Example: `  cordon disable thumbs`,
	})
}
