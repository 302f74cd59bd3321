package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/profiles/score"
)

// scored is what profile score prints of one profile as JSON.
type scored struct {
	Profile string `json:"profile"`
	score.Score
}

func profileScore(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "score PROFILE [PROFILE...]", Short: "Say in a number what a profile leaves open, or compare several",
		Long: `Say in a number from 0 to 100 how little a profile leaves open: what is open at each
wall, what that is worth to an attacker, and what it costs. More is stronger; a
profile that allows less than another never scores lower. Several profiles are
compared in a table, by what each wall costs them.

Each point has a weight from 1 to 10 and is open from 0 to 100%; the score is 100
less the weighted mean. It is a measure of what a profile allows, under this host's
ceiling, and not of the programs behind it: read what is open before the number.`,
		Example: `  cordon profile score ./thumbs.toml
  cordon profile score strict node ./thumbs.toml
  cordon profile score --all --json node | jq .score`,
		Args: cobra.MinimumNArgs(0),
	}
	sets, asJSON := setFlag(cmd), jsonFlag(cmd)
	all := cmd.Flags().Bool("all", false, "print what is closed, too")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage(cmd, "there is no profile")
		}
		list := make([]scored, 0, len(args))
		for _, name := range args {
			p, ceiling, err := findProfile(name, *sets)
			if err != nil {
				return err
			}
			pl, err := planOf(p, ceiling, nil)
			if err != nil {
				return err
			}
			list = append(list, scored{name, score.Of(pl)})
		}
		switch {
		case *asJSON:
			return printEach(list, func(s scored) error { return printJSON(a.out, s) })
		case len(list) == 1:
			a.printScore(list[0], *all)
		default:
			a.printScores(list)
		}
		return nil
	}
	return cmd
}

// printScore prints what is open at each wall, and the number.
func (a *app) printScore(s scored, all bool) {
	rows := [][]string{{"WALL", "POINT", "OPEN", "WEIGHT", "COST", "WHAT IS OPEN, AND WHY IT MATTERS"}}
	for _, pt := range s.Points {
		if pt.Open == 0 && !all {
			continue
		}
		text := pt.Why
		if pt.Text != "" {
			text = pt.Text + ": " + pt.Why
		}
		rows = append(rows, []string{pt.Wall, pt.Name, fmt.Sprintf("%.0f%%", 100*pt.Open), fmt.Sprintf("%.0f", pt.Weight), fmt.Sprintf("%.1f", pt.Cost), cellText(text)})
	}
	table(a.out, rows)
	fmt.Fprintf(a.out, "%s scores %.1f of 100; more is stronger\n", lines(s.Profile), s.Score.Score)
}

// printScores compares several by what each wall costs them.
func (a *app) printScores(list []scored) {
	head := []string{"WALL", "AT MOST"}
	for _, s := range list {
		head = append(head, cellText(s.Profile))
	}
	rows := [][]string{head}
	for _, wall := range list[0].Walls() {
		_, most := list[0].Cost(wall)
		row := []string{wall, fmt.Sprintf("%.1f", most)}
		for _, s := range list {
			cost, _ := s.Cost(wall)
			row = append(row, fmt.Sprintf("-%.1f", cost))
		}
		rows = append(rows, row)
	}
	last := []string{"score", "100.0"}
	for _, s := range list {
		last = append(last, fmt.Sprintf("%.1f", s.Score.Score))
	}
	table(a.out, append(rows, last))
}
