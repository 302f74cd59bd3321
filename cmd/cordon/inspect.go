package main

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/violation"
)

func inspectVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "inspect NAME", Short: "Show everything about a plugin: its walls as the kernel has them, and its plan",
		Long: `Show everything about one plugin: its state, the digests of what was installed and
resolved, each wall as planned beside what the kernel says now, what is observed,
and its violations. --json has the whole plan as well.`,
		Example: `  cordon inspect thumbs
  cordon inspect thumbs --json | jq .walls`,
		GroupID: groupLook, Args: takes("NAME"), ValidArgsFunction: a.completeName,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var in control.Inspection
		if err := a.call(cmd.Context(), control.MethodInspect, control.NameParams{Name: args[0]}, &in); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.out, in)
		}
		a.printInspection(&in)
		return nil
	}
	return cmd
}

func (a *app) printInspection(in *control.Inspection) {
	s := in.Status
	fmt.Fprintln(a.out, a.statusLine(s))
	rows := [][]string{
		{"version", s.Version},
		{"profile", s.Profile},
		{"protocol", in.Protocol},
		{"bundle", in.Digest + " (" + in.Signature + ")"},
		{"policy", in.PolicyDigest},
		{"plan", in.PlanDigest},
		{"uptime", spanText(s.Uptime)},
		{"restarts", fmt.Sprint(s.Restarts)},
		{"memory", bytesText(s.Memory)},
	}
	for _, path := range slices.Sorted(maps.Keys(in.Interpreters)) {
		rows = append(rows, []string{"run by", cellText(path) + " " + in.Interpreters[path]})
	}
	if len(in.Stages) > 0 {
		rows = append(rows, []string{"start", stagesText(in.Stages)})
	}
	observed := make([]string, 0, len(in.Observed))
	for wall := range in.Observed {
		observed = append(observed, wall)
	}
	sort.Strings(observed)
	for _, wall := range observed {
		rows = append(rows, []string{wall, in.Observed[wall]})
	}
	table(a.out, rows)
	fmt.Fprintln(a.out)
	a.printWalls(in.Walls)
	if in.Plan != nil {
		for _, sentence := range in.Plan.Weakened {
			fmt.Fprintf(a.out, "%s %s\n", a.paint(yellow, "open:"), violation.Escape(sentence, 1024))
		}
	}
	if n := len(in.Violations); n > 0 {
		fmt.Fprintf(a.out, "\n%d violations, the last: %s\nSee cordon why %s.\n", n, violation.Sentence(in.Violations[n-1]), cellText(s.Name))
	}
}

// stagesText is how long each stage of the last start took.
func stagesText(stages []control.Stage) string {
	var out []string
	for _, s := range stages {
		out = append(out, s.Name+" "+s.Took.Round(10*time.Microsecond).String())
	}
	return strings.Join(out, ", ")
}

// printWalls shows each wall as planned beside what the kernel says.
func (a *app) printWalls(walls []launch.Wall) {
	if len(walls) == 0 {
		fmt.Fprintln(a.out, "It does not run, so there are no walls to read back.")
		return
	}
	rows := [][]string{{"WALL", "FOR", "STATE", "PLANNED", "THE KERNEL SAYS", "NOTE"}}
	for _, w := range walls {
		note := w.Note
		if note == "" {
			note = " "
		}
		rows = append(rows, []string{w.Name, w.Promise, w.State, w.Planned, w.Actual, note})
	}
	table(a.out, rows)
}
