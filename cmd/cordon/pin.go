package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func pinVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "pin NAME", Short: "Hold an MCP server to its tools, or a plugin to its interpreter, as they are now",
		Long: `Hold an MCP server to the tools that it lists now: their names and schemas become
its contract. Arguments and structured results of tools/call are checked against
them, and a tool that is new or has other schemas is a violation, at every start
and whenever the tools are listed. The plugin has to run.

Look at cordon call NAME tools/list first. To take an update's tools, remove the
pin, update, and pin anew.

With --interpreter, have a plugin be run by the host's programs as they are now:
its command, what the first line of a script names, what env is asked for there.
The first start pins them by itself, and a start by a file that was changed is
refused. After an upgrade of the host's this is how to accept it; with --remove,
whatever is there at the next start is pinned.`,
		Example: `  cordon pin search
  cordon pin search --remove
  cordon pin thumbs --interpreter`,
		GroupID: groupPlugins, Args: takes("NAME"), ValidArgsFunction: a.completeName,
	}
	remove := cmd.Flags().Bool("remove", false, "hold it to no tools any more")
	interpreter := cmd.Flags().Bool("interpreter", false, "pin the host's programs that the plugin is run by")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var pinned control.Pinned
		if err := a.call(cmd.Context(), control.MethodPin, control.PinParams{Name: args[0], Remove: *remove, Interpreter: *interpreter}, &pinned); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.out, pinned)
		}
		if *interpreter {
			return a.printInterpreters(args[0], pinned.Interpreters, *remove)
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

// printInterpreters says what a plugin is run by from now on.
func (a *app) printInterpreters(name string, files map[string]string, removed bool) error {
	if removed {
		_, err := fmt.Fprintf(a.out, "%s is run by what there is at its next start\n", cellText(name))
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if _, err := fmt.Fprintf(a.out, "%s %s\n", cellText(path), files[path]); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(a.out, "%d programs of the host are pinned\n", len(files))
	return err
}
