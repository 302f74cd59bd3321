package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

func eventsVerb(a *app) *cobra.Command {
	var p control.EventsParams
	cmd := &cobra.Command{
		Use: "events [NAME]", Short: "Print what happened: starts, violations, quarantines, releases",
		Long: `Print the audit log: what happened, when, to which plugin and by whom, for one
plugin or all. --follow goes on as things happen.`,
		Example: `  cordon events --follow
  cordon events thumbs --json | jq 'select(.kind == "violation")'`,
		GroupID: groupLook, ValidArgsFunction: a.completeName,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return takes("NAME")(cmd, args)
		},
	}
	cmd.Flags().BoolVarP(&p.Follow, "follow", "f", false, "go on printing as things happen")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			p.Name = args[0]
		}
		var events []control.Event
		return a.follow(cmd.Context(), control.MethodEvents, p, p.Follow, &events,
			func() error {
				return printEach(events, func(e control.Event) error { return a.printEvent(e, *asJSON) })
			},
			func(note json.RawMessage) error {
				var e control.Event
				if err := json.Unmarshal(note, &e); err != nil {
					return fmt.Errorf("cannot read the daemon's answer: %w", err)
				}
				return a.printEvent(e, *asJSON)
			})
	}
	return cmd
}

func (a *app) printEvent(e control.Event, asJSON bool) error {
	if asJSON {
		return printJSON(a.out, e)
	}
	_, err := fmt.Fprintf(a.out, "%s %6d %-12s %-16s %s (%s)\n",
		timeText(e.Time), e.Seq, cellText(e.Kind), cellText(e.Plugin), violation.Escape(e.Text, 4096), cellText(e.Actor))
	return err
}
