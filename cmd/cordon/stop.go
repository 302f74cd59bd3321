package main

import (
	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func stopVerb(a *app) *cobra.Command {
	return statusVerb(a, control.MethodStop, &cobra.Command{
		Use: "stop NAME", Short: "Stop a plugin",
		Long: `Stop a plugin: it is asked to end, and killed with all its processes when it does
not within its profile's timeout_stop_sec. It stays stopped until it is started.`,
		Example: `  cordon stop thumbs`,
	})
}
