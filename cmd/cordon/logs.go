package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// maxLogText bounds one line of a plugin's output when it is shown.
const maxLogText = 64 << 10

func logsVerb(a *app) *cobra.Command {
	var p control.LogsParams
	cmd := &cobra.Command{
		Use: "logs NAME", Short: "Print what a plugin has written",
		Long: `Print the last lines that a plugin has written to its standard streams (the
standard output of an MCP or LSP plugin is its protocol and is not here). What
does not print is escaped.`,
		Example: `  cordon logs thumbs -n 50
  cordon logs thumbs -f`,
		GroupID: groupLook, Args: takes("NAME"), ValidArgsFunction: a.completeName,
	}
	cmd.Flags().IntVarP(&p.Lines, "lines", "n", 100, "how many `lines`")
	cmd.Flags().BoolVarP(&p.Follow, "follow", "f", false, "go on printing as they come")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if p.Lines < 0 {
			return usage(cmd, "--lines must not be negative")
		}
		p.Name = args[0]
		var lines []control.LogLine
		return a.follow(cmd.Context(), control.MethodLogs, p, p.Follow, &lines,
			func() error { return printEach(lines, func(l control.LogLine) error { return a.printLog(l, *asJSON) }) },
			func(note json.RawMessage) error {
				var l control.LogLine
				if err := json.Unmarshal(note, &l); err != nil {
					return fmt.Errorf("cannot read the daemon's answer: %w", err)
				}
				return a.printLog(l, *asJSON)
			})
	}
	return cmd
}

func printEach[T any](list []T, show func(T) error) error {
	for _, one := range list {
		if err := show(one); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printLog(l control.LogLine, asJSON bool) error {
	if asJSON {
		return printJSON(a.out, l)
	}
	stream := cellText(l.Stream)
	if l.Stream == "stderr" {
		stream = a.paint(yellow, stream)
	}
	_, err := fmt.Fprintf(a.out, "%s %s %s\n", timeText(l.Time), stream, violation.Escape(l.Text, maxLogText))
	return err
}
