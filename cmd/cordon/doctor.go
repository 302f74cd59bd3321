package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/cmd/cordon/run"
	"github.com/cordonhq/cordon/supervisor/launch"
)

func doctorVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "Show which walls this host can give",
		Long: `Try out what this host's kernel can do, wall by wall, and say what is missing and
which kernel option or version would give it. Nothing is changed and no daemon is
needed; as root it finds out more.

The exit status is 1 if something is missing without which nothing can be walled.`,
		Example: `  sudo cordon doctor
  cordon doctor --json | jq '.[] | select(.have | not)'`,
		GroupID: groupAlone, Args: takes(),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := run.HostConfig()
		if err != nil {
			return err
		}
		features := launch.Doctor(cfg)
		if *asJSON {
			if err := printJSON(a.out, features); err != nil {
				return err
			}
		} else {
			a.printFeatures(features)
		}
		return missing(features)
	}
	return cmd
}

func (a *app) printFeatures(features []launch.Feature) {
	rows := [][]string{{"WALL", "FEATURE", "HERE", "DETAIL"}}
	for _, f := range features {
		here := "yes"
		if !f.Have {
			here = "no"
		}
		rows = append(rows, []string{f.Wall, f.Name, here, f.Detail})
	}
	table(a.out, rows)
	for _, f := range features {
		if f.Have {
			continue
		}
		colour, weight := yellow, "missing"
		if f.Hard {
			colour, weight = red, "missing, and nothing can be walled without it"
		}
		text := fmt.Sprintf("%s (%s) is %s.", cellText(f.Name), cellText(f.Wall), a.paint(colour, weight))
		if f.Need != "" {
			text += " It needs: " + cellText(f.Need) + "."
		}
		fmt.Fprintln(a.out, text)
	}
}

// missing is an error if a feature is not there that every profile needs.
func missing(features []launch.Feature) error {
	count := 0
	for _, f := range features {
		if f.Hard && !f.Have {
			count++
		}
	}
	if count == 0 {
		return nil
	}
	return &failure{errors.New("this host cannot wall anything"), fmt.Sprintf("%d features are missing; see above", count), exitFailure}
}
