package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
)

func psVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "ps", Aliases: []string{"list"}, Short: "List plugins with state, uptime, restarts and memory",
		Long: `List every installed plugin: its state and why it is in it, its process as the
host sees it, for how long it has run, how often it was restarted, and the memory
of all its processes. A wall that only complains ([violation] seccomp = "log") is
named beside the state: it is not enforced.`,
		Example: `  cordon ps
  cordon ps --json | jq '.[] | select(.state == "quarantined")'`,
		GroupID: groupLook, Args: takes(),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		plugins, err := a.list(cmd.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.out, plugins)
		}
		table(a.out, psRows(plugins))
		return nil
	}
	return cmd
}

// list asks for every plugin; never nil without an error.
func (a *app) list(ctx context.Context) ([]control.Status, error) {
	plugins := []control.Status{}
	err := a.call(ctx, control.MethodList, struct{}{}, &plugins)
	return plugins, err
}

func psRows(plugins []control.Status) [][]string {
	rows := [][]string{{"NAME", "VERSION", "PROFILE", "STATE", "PID", "UPTIME", "RESTARTS", "MEMORY", "REASON"}}
	for _, p := range plugins {
		pid, memory := "", ""
		if p.PID > 0 {
			pid, memory = fmt.Sprint(p.PID), bytesText(p.Memory)
		}
		rows = append(rows, []string{
			p.Name, p.Version, p.Profile, stateText(p), pid, spanText(p.Uptime), fmt.Sprint(p.Restarts), memory, reasonText(p),
		})
	}
	return rows
}

// reasonText is why a plugin is as it is, and what it waits for.
func reasonText(p control.Status) string {
	switch {
	case p.Waits != "":
		return "waits: " + p.Waits
	case p.Draining != "":
		return "takes no more calls: " + p.Draining
	case p.Degraded != nil && len(p.Degraded.Serves) > 0:
		return "degraded, serves only " + strings.Join(p.Degraded.Serves, ", ") + ": " + p.Degraded.Reason
	case p.Degraded != nil:
		return "degraded: " + p.Degraded.Reason
	}
	return p.Reason
}

// stateText is the state, and which walls are none at the operator's word.
func stateText(p control.Status) string {
	text := string(p.State)
	if p.Stage != "" {
		text += " (" + p.Stage + ")"
	}
	if len(p.NotEnforced) > 0 {
		text += " (not enforced: " + strings.Join(p.NotEnforced, ", ") + ")"
	}
	return text
}
