package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/profiles"
)

func profileApply(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "apply PROFILE [CHANGE]", Short: "Add what cordon why --toml prints to a profile's file",
		Long: `Add a change to a profile's file. The change is TOML, as cordon why --toml prints
it, from the file CHANGE or from standard input. What it sets replaces, what it lists
is added, a grant of a path that the file grants already is replaced; a call that it
allows is taken off the file's own lists of denied calls, which would win. Comments
and the order of lines stay, and the file is in the form of cordon profile fmt.

The lines that change are printed. With --dry-run nothing is written. A change that
would leave a file with mistakes is refused, and what was there stays. Plugins have
a changed profile from their next start on.`,
		Example: `  cordon why thumbs --toml | sudo cordon profile apply thumbs
  cordon why ./report --toml >change.toml
  cordon profile apply --dry-run ./thumbs.toml change.toml`,
		Args: cobra.MinimumNArgs(0),
	}
	dry := cmd.Flags().Bool("dry-run", false, "print the lines that would change, and write nothing")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return usage(cmd, "there is no profile")
		case 1:
			args = append(args, "-")
		case 2:
		default:
			return usage(cmd, fmt.Sprintf("%q is one argument too many", lines(args[2])))
		}
		return a.applyChange(args[0], args[1], *dry)
	}
	return cmd
}

func (a *app) applyChange(profile, from string, dry bool) error {
	file, err := profileFile(profile)
	if err != nil {
		return err
	}
	data, err := a.readProfile(file)
	if err != nil {
		return err
	}
	change, err := a.readProfile(from)
	if err != nil {
		return err
	}
	if from == "-" {
		from = "the change"
	}
	out, err := profiles.Amend(file, data, from, change)
	if err != nil {
		return err
	}
	if bytes.Equal(data, out) {
		_, err = fmt.Fprintf(a.out, "%s says so already.\n", lines(file))
		return err
	}
	if !dry {
		if err := replaceFile(file, out); err != nil {
			return err
		}
	}
	a.printLines(file, string(data), string(out))
	return nil
}

// printLines prints what lines were taken away and added.
func (a *app) printLines(file, before, after string) {
	fmt.Fprintf(a.out, "%s:\n", lines(file))
	old, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	common := commonLines(old, now)
	for len(old)+len(now) > 0 {
		switch {
		case len(old) > 0 && (len(common) == 0 || old[0] != common[0]):
			fmt.Fprintf(a.out, "  %s %s\n", a.paint(red, "-"), lines(old[0]))
			old = old[1:]
		case len(now) > 0 && (len(common) == 0 || now[0] != common[0]):
			fmt.Fprintf(a.out, "  %s %s\n", a.paint(green, "+"), lines(now[0]))
			now = now[1:]
		default:
			old, now, common = old[1:], now[1:], common[1:]
		}
	}
}

// commonLines is the longest list of lines that both have in this order. A file
// has at most some thousands of lines.
func commonLines(a, b []string) []string {
	length := make([][]int, len(a)+1)
	for i := range length {
		length[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			length[i][j] = max(length[i+1][j], length[i][j+1])
			if a[i] == b[j] {
				length[i][j] = length[i+1][j+1] + 1
			}
		}
	}
	var out []string
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i] == b[j]:
			out = append(out, a[i])
			i, j = i+1, j+1
		case length[i+1][j] >= length[i][j+1]:
			i++
		default:
			j++
		}
	}
	return out
}
