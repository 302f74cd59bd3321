package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func pinVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "pin NAME", Short: "Hold an MCP server to the tools that it lists now",
		Long: `Hold an MCP server to the tools that it lists now: their names and schemas become
its contract. Arguments and structured results of tools/call are checked against
them, and a tool that is new or has other schemas is a violation, at every start
and whenever the tools are listed. The plugin has to run.

Look at cordon call NAME tools/list first. To take an update's tools, remove the
pin, update, and pin anew.`,
		Example: `  cordon pin search
  cordon pin search --remove`,
		GroupID: groupPlugins, Args: takes("NAME"), ValidArgsFunction: a.completeName,
	}
	remove := cmd.Flags().Bool("remove", false, "hold it to no tools any more")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var pinned control.Pinned
		if err := a.call(cmd.Context(), control.MethodPin, control.PinParams{Name: args[0], Remove: *remove}, &pinned); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.out, pinned)
		}
		for _, name := range pinned.Tools {
			if _, err := fmt.Fprintln(a.out, cellText(name)); err != nil {
				return err
			}
		}
		if *remove {
			_, err := fmt.Fprintf(a.out, "the tools of %s are pinned no more\n", cellText(args[0]))
			return err
		}
		_, err := fmt.Fprintf(a.out, "%d tools are pinned: %s\n", len(pinned.Tools), pinned.Digest)
		return err
	}
	return cmd
}
