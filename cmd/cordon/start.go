package main

import (
	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func startVerb(a *app) *cobra.Command {
	return statusVerb(a, control.MethodStart, &cobra.Command{
		Use: "start NAME", Short: "Start a plugin, and wait until it is ready",
		Long: `Start an installed plugin and wait until it is ready or has failed. A plugin in
quarantine is not started; see cordon why and cordon release.`,
		Example: `  cordon start thumbs`,
	})
}
