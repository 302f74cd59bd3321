package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

func capabilityVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "capability", Short: "List and show what the host serves to plugins",
		Long: `A plugin owns nothing that it was not handed. What the host serves are capabilities:
a plugin's manifest asks for them with a reason, a profile grants them, the ceiling
bounds them, and cordon grant and cordon revoke change them while it runs.`,
		Example: `  cordon capability list
  cordon capability list thumbs
  cordon capability show fs.open`,
		GroupID: groupLook, Args: takes("list or show"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return usage(cmd, fmt.Sprintf("there is no %q here: list or show", violation.Escape(args[0], 64)))
		},
	}
	cmd.AddCommand(capabilityList(a), capabilityShow(a))
	return cmd
}

func capabilityList(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [NAME]", Short: "List the capabilities, or a plugin's grants and how they were used",
		Long: `List the capabilities that the host serves. With the name of a plugin, list what it
was granted: what for, by whom, until when its lease runs, and how it was used.`,
		Example: `  cordon capability list thumbs`, ValidArgsFunction: a.completeName,
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
		var found control.Capabilities
		if err := a.call(cmd.Context(), control.MethodCapabilities, p, &found); err != nil {
			return err
		}
		switch {
		case *asJSON && p.Name != "":
			return printJSON(a.out, map[string]any{"grants": found.Grants, "metrics": found.Metrics})
		case *asJSON:
			return printJSON(a.out, found.Catalogue)
		case p.Name != "":
			a.printGrants(found.Grants)
			return nil
		}
		rows := [][]string{{"CAPABILITY", "TARGETS", "COST", "WHAT"}}
		for _, c := range found.Catalogue {
			what, _, _ := strings.Cut(c.Text, ". ")
			rows = append(rows, []string{c.Name, c.Targets, c.Cost, strings.TrimSuffix(what, ".")})
		}
		table(a.out, rows)
		return nil
	}
	return cmd
}

func capabilityShow(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show CAPABILITY", Short: "Show one capability with its calls",
		Long:    `Show one capability: what it gives, what it is granted for, and its calls with the JSON Schemas of their parameters.`,
		Example: `  cordon capability show fs.open`, Args: takes("CAPABILITY"),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var found control.Capabilities
		if err := a.call(cmd.Context(), control.MethodCapabilities, control.NameParams{}, &found); err != nil {
			return err
		}
		at := slices.IndexFunc(found.Catalogue, func(c control.Capability) bool { return c.Name == args[0] })
		if at < 0 {
			return &failure{err: fmt.Errorf("there is no capability %q", violation.Escape(args[0], 64)), hint: "cordon capability list", status: exitFailure}
		}
		if *asJSON {
			return printJSON(a.out, found.Catalogue[at])
		}
		return a.printCapability(found.Catalogue[at])
	}
	return cmd
}

func (a *app) printCapability(c control.Capability) error {
	fmt.Fprintf(a.out, "%s: %s\n\nTargets: %s. Costs: %s. Served while a plugin is %s.\n", c.Name, c.Text, c.Targets, c.Cost, strings.Join(c.Phases, " or "))
	for _, m := range c.Methods {
		fmt.Fprintf(a.out, "\n%s: %s\n", m.Name, m.Text)
		if _, err := fmt.Fprintln(a.out, indentLines(m.Params)); err != nil {
			return err
		}
	}
	return nil
}

func indentLines(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		out = append(out, "  "+strings.TrimSpace(line))
	}
	return strings.Join(out, "\n")
}

func (a *app) printGrants(grants []control.Use) {
	rows := [][]string{{"CAPABILITY", "FOR", "STATE", "USED", "NOW", "BYTES", "BY"}}
	for _, g := range grants {
		state := "granted"
		switch {
		case g.Revoked:
			state = "revoked"
		case !g.Until.IsZero():
			state = "until " + timeText(g.Until)
		}
		what := strings.Join(g.Target, " ")
		if what == "" {
			what = "-"
		}
		rows = append(rows, []string{
			g.Capability, cellText(what), state, strconv.FormatUint(g.Uses, 10), strconv.Itoa(g.Active), bytesText(g.Bytes), cellText(g.By),
		})
	}
	table(a.out, rows)
}

func grantVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "grant NAME CAPABILITY [TARGET...]", Short: "Grant a capability to a plugin, at once",
		Long: `Grant a capability to a plugin beside its profile, for good or for a time. It holds at
once, also for a plugin that runs, and until it is revoked; the ceiling bounds it. A
grant of what was revoked before gives it back.

A profile says what holds for every plugin of it; this is for one.`,
		Example: `  cordon grant thumbs fs.open r:/srv/photos --for 1h
  cordon grant thumbs secret.read api-key`,
		GroupID: groupPlugins, Args: named, ValidArgsFunction: a.completeName,
	}
	span := cmd.Flags().Duration("for", 0, "how long it holds (`duration`; default without end)")
	a.decision(cmd, control.MethodGrant, span)
	return cmd
}

func revokeVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke NAME CAPABILITY [TARGET...]", Short: "Take a capability from a plugin, at once",
		Long: `Take a capability from a plugin, whoever granted it: of all its targets, or of these.
It holds when the command returns: the next call is refused, and connections that
hang on it are cut. It stays taken until cordon grant gives it back.

What a plugin has read it knows: to be rid of that, stop it.`,
		Example: `  cordon revoke thumbs egress api.example.com:443
  cordon revoke thumbs fs.open`,
		GroupID: groupPlugins, Args: named, ValidArgsFunction: a.completeName,
	}
	a.decision(cmd, control.MethodRevoke, nil)
	return cmd
}

// decision makes the body of grant and revoke.
func (a *app) decision(cmd *cobra.Command, method string, span *time.Duration) {
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p := control.GrantParams{Name: args[0], Capability: args[1], Target: args[2:]}
		if span != nil {
			if *span < 0 {
				return usage(cmd, "--for is a time that has not passed yet")
			}
			p.For = *span
		}
		var granted control.Granted
		if err := a.call(cmd.Context(), method, p, &granted); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.out, granted)
		}
		a.printGrants(granted.Grants)
		if granted.Cut > 0 {
			fmt.Fprintf(a.out, "%d connections were cut.\n", granted.Cut)
		}
		return nil
	}
}

// named wants a plugin and a capability, and takes targets.
func named(cmd *cobra.Command, args []string) error {
	if len(args) < 2 {
		return usage(cmd, "there is no "+[]string{"NAME", "CAPABILITY"}[len(args)])
	}
	return nil
}
