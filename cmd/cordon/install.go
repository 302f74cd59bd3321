package main

import (
	"fmt"
	"path/filepath"
	"sort"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

func installVerb(a *app) *cobra.Command {
	var p control.InstallParams
	cmd := &cobra.Command{
		Use: "install DIR --profile NAME [--as NAME]", Short: "Install a plugin, and show what it asks beside what it gets",
		Long: `Install the plugin in DIR: a directory with a plugin.toml and its files.

The daemon takes a sealed copy, so that what runs is what was installed, resolves
manifest, profile and the host's ceiling against each other, and prints each ask
of the plugin beside the decision. Nothing is started; an ask that was refused is
no error. The same plugin can be installed under several names.`,
		Example: `  cordon install ./thumbs --profile python
  cordon install ./thumbs --profile /root/thumbs.toml --as thumbs-b`,
		GroupID: groupPlugins, Args: takes("DIR"),
	}
	cmd.Flags().StringVar(&p.Profile, "profile", "", "the walls: a built-in `profile`, or NAME of /etc/cordon/profiles/NAME.toml")
	cmd.Flags().StringVar(&p.As, "as", "", "install under this `name`, not the manifest's")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if p.Profile == "" {
			return usage(cmd, "there is no --profile: say what the plugin may do")
		}
		dir, err := filepath.Abs(args[0])
		if err != nil {
			return fmt.Errorf("cannot install %s: %w", args[0], err)
		}
		p.Dir = dir
		var result control.InstallResult
		if err := a.call(cmd.Context(), control.MethodInstall, p, &result); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.out, result)
		}
		a.printInstalled(&result)
		return nil
	}
	return cmd
}

// printInstalled shows the asks beside the decisions, and then what the plugin
// gets in all.
func (a *app) printInstalled(r *control.InstallResult) {
	fmt.Fprintf(a.out, "Installed %s %s behind the profile %s.\n", cellText(r.Name), cellText(r.Version), cellText(r.Profile))
	fmt.Fprintf(a.out, "Sealed as %s; the bundle is unsigned.\n\n", cellText(r.Digest))
	if len(r.Asks) == 0 {
		fmt.Fprintln(a.out, "It asks for nothing.")
	} else {
		table(a.out, askRows(r.Asks))
	}
	if r.Plan != nil {
		fmt.Fprintln(a.out)
		table(a.out, grantRows(r.Plan))
		for _, sentence := range r.Plan.Weakened {
			fmt.Fprintf(a.out, "%s %s\n", a.paint(yellow, "open:"), violation.Escape(sentence, 1024))
		}
	}
	for _, sentence := range r.Warnings {
		fmt.Fprintf(a.out, "%s %s\n", a.paint(yellow, "warning:"), violation.Escape(sentence, 1024))
	}
	fmt.Fprintf(a.out, "\nStart it with: cordon start %s\n", cellText(r.Name))
}

func askRows(asks []control.Ask) [][]string {
	rows := [][]string{{"IT ASKS", "BECAUSE", "GRANTED", "DECISION"}}
	for _, ask := range asks {
		granted := "no"
		if ask.Granted {
			granted = "yes"
		}
		rows = append(rows, []string{ask.What, ask.Why, granted, ask.Decision})
	}
	return rows
}

// grantRows lists what a plan gives.
func grantRows(p *plan.Plan) [][]string {
	rows := [][]string{{"IT GETS", "HOW"}}
	for _, f := range p.Files {
		what := violation.AccessWord(f.Access)
		if f.From != "" && f.From != f.Path {
			what += " (the host's " + f.From + ")"
		}
		rows = append(rows, []string{f.Path, what})
	}
	limits := limitTexts(p)
	keys := make([]string, 0, len(limits))
	for key := range limits {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		rows = append(rows, []string{key, limits[key]})
	}
	return append(rows, []string{"network", p.Network.Mode})
}

// limitTexts are the quotas that a plan sets, by their names in profiles.
func limitTexts(p *plan.Plan) map[string]string {
	out := map[string]string{}
	if n := p.Limits.MemoryMax; n != nil {
		out["memory.max"] = violation.Size(*n)
	}
	if n := p.Limits.PidsMax; n != nil {
		out["pids.max"] = fmt.Sprint(*n)
	}
	if c := p.Limits.CPUMax; c != nil && c.Period > 0 {
		out["cpu.max"] = fmt.Sprintf("%d%%", c.Quota*100/int64(c.Period))
	}
	if p.Time.Wall > 0 {
		out["time.wall"] = violation.Span(p.Time.Wall)
	}
	if p.Time.CPU > 0 {
		out["time.cpu"] = violation.Span(p.Time.CPU)
	}
	return out
}
