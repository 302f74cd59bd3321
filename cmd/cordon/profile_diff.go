package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/profiles/compare"
)

func profileDiff(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "diff A B", Short: "Say what one profile allows that another does not",
		Long: `Say what profile B allows that A does not, and the reverse, over every wall, with
all that they extend and under this host's ceiling. What cannot be compared, such
as the same call under other conditions, is on both sides.

Exit status: 0 if B allows no more than A, 1 if it does, 2 without an answer.`,
		Example: `  cordon profile diff python ./thumbs.toml
  cordon profile diff --json thumbs thumbs-next.toml | jq .more`,
		Args: takes("profile A", "profile B"),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		r, err := compareProfiles(args[0], args[1])
		if err != nil {
			return &failure{err, "", exitTrouble}
		}
		if *asJSON {
			if err := printJSON(a.out, r); err != nil {
				return err
			}
		} else {
			a.printDifferences(args[0], args[1], r)
		}
		if len(r.More) > 0 {
			return &statusError{exitFailure}
		}
		return nil
	}
	return cmd
}

func compareProfiles(from, to string) (compare.Result, error) {
	var r compare.Result
	p, ceiling, err := findProfile(from, nil)
	if err != nil {
		return r, err
	}
	q, _, err := findProfile(to, nil)
	if err != nil {
		return r, err
	}
	before, err := planOf(p, ceiling, nil)
	if err != nil {
		return r, err
	}
	after, err := planOf(q, ceiling, nil)
	if err != nil {
		return r, err
	}
	return compare.Plans(before, after), nil
}

func (a *app) printDifferences(from, to string, r compare.Result) {
	for _, part := range []struct {
		title, sign string
		colour      int
		list        []compare.Difference
	}{
		{fmt.Sprintf("%s allows, and %s does not:", to, from), "+", red, r.More},
		{fmt.Sprintf("%s allows, and %s does not:", from, to), "-", green, r.Less},
		{fmt.Sprintf("%s is otherwise different, without opening or closing a wall:", to), "~", yellow, r.Other},
	} {
		if len(part.list) == 0 {
			continue
		}
		fmt.Fprintln(a.out, lines(part.title))
		for _, d := range part.list {
			fmt.Fprintf(a.out, "  %s %s: %s\n", a.paint(part.colour, part.sign), d.Wall, lines(d.Text))
		}
	}
	if len(r.More)+len(r.Less)+len(r.Other) == 0 {
		fmt.Fprintf(a.out, "%s and %s are the same\n", lines(from), lines(to))
	}
}
