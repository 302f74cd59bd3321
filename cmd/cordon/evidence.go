package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

func evidenceVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "evidence", Short: "List and show what was kept of quarantines",
		Long: `At a quarantine the daemon keeps what it can: the violation, the plan, the last
calls (their shapes, not their values), log lines, usage, and the processes with
their maps. Values of the plugin's environment, known shapes of secrets and what
[evidence] redact names are taken out. It stays after a release, within the bounds
of [evidence].`,
		Example: `  cordon evidence list
  cordon evidence show thumbs
  cordon evidence show thumbs --file calls.json`,
		GroupID: groupLook, Args: takes("list or show"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return usage(cmd, fmt.Sprintf("there is no %q here: list or show", violation.Escape(args[0], 64)))
		},
	}
	cmd.AddCommand(evidenceList(a), evidenceShow(a))
	return cmd
}

func evidenceList(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [NAME]", Short: "List what was kept, the oldest first",
		Long:    `List what was kept of quarantines, of one plugin or of all, the oldest first.`,
		Example: `  cordon evidence list thumbs`, ValidArgsFunction: a.completeName,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return takes("NAME")(cmd, args)
		},
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var p control.NameParams
		if len(args) > 0 {
			p.Name = args[0]
		}
		list := []control.Evidence{}
		if err := a.call(cmd.Context(), control.MethodEvidenceList, p, &list); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.out, list)
		}
		rows := [][]string{{"PLUGIN", "ID", "QUARANTINED", "SIZE", "FILES", "RELEASED"}}
		for _, e := range list {
			released := map[bool]string{true: "no", false: "yes"}[e.Held]
			rows = append(rows, []string{e.Plugin, e.ID, timeText(e.Time), bytesText(e.Size), strconv.Itoa(len(e.Files)), released})
		}
		table(a.out, rows)
		return nil
	}
	return cmd
}

func evidenceShow(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME [ID]", Short: "Show one file of what was kept",
		Long: `Show what was kept of a plugin's newest quarantine, or of the one with this ID:
where it lies, which files it has, and the text of one of them. The directory can
be copied as it is.`,
		Example: `  cordon evidence show thumbs
  cordon evidence show thumbs 20300102T030405.000Z-id1 --file log.json`,
		ValidArgsFunction: a.completeName,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return nil
			}
			return takes("NAME")(cmd, args)
		},
	}
	file := cmd.Flags().String("file", "", "the file to print (`name`; default violation.json)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p := control.EvidenceParams{Name: args[0], File: *file}
		if len(args) > 1 {
			p.ID = args[1]
		}
		var found control.EvidenceContent
		if err := a.call(cmd.Context(), control.MethodEvidenceShow, p, &found); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.out, found)
		}
		return a.printEvidence(found, *file == "")
	}
	return cmd
}

func (a *app) printEvidence(e control.EvidenceContent, whole bool) error {
	if whole {
		fmt.Fprintf(a.out, "%s, kept in %s (%s):\n", timeText(e.Time), violation.Escape(e.Dir, 4096), bytesText(e.Size))
		for _, name := range e.Files {
			fmt.Fprintf(a.out, "  %s\n", cellText(name))
		}
		fmt.Fprintf(a.out, "\n%s:\n", cellText(e.File))
	}
	_, err := fmt.Fprintln(a.out, violation.EscapeLines(e.Text, 1<<20))
	return err
}
