package main

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/profiles"
)

func profileShow(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show PROFILE", Short: "Show a profile with everything it extends, as one file",
		Long: `Show what a profile amounts to with everything that it extends, as one file that
extends nothing, and behind each line who wrote it. The output is a profile
itself; it resolves to the same walls.`,
		Example: `  cordon profile show builtin:node
  cordon profile show thumbs --set resources.memory.max=1G
  cordon profile show --origin=false ./thumbs.toml > flat.toml`,
		Args: takes("profile"),
	}
	sets, asJSON := setFlag(cmd), jsonFlag(cmd)
	origin := cmd.Flags().Bool("origin", true, "say behind each line who wrote it")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		p, _, err := findProfile(args[0], *sets)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.out, shownLines(p.Effective()))
		}
		a.printEffective(p.Effective(), *origin)
		return nil
	}
	return cmd
}

// shown is a line as JSON has it.
type shown struct {
	Text   string `json:"text"`
	Origin string `json:"origin,omitempty"`
}

func shownLines(list []profiles.Line) []shown {
	out := make([]shown, len(list))
	for i, l := range list {
		out[i] = shown(l)
	}
	return out
}

// originColumn is where origins stand, for lines that leave room.
const originColumn = 48

// printEffective writes the lines as they are: they hold no more than a valid
// profile may, and are read by programs too.
func (a *app) printEffective(list []profiles.Line, origin bool) {
	for _, l := range list {
		text := l.Text
		if origin && l.Origin != "" {
			room := max(originColumn-utf8.RuneCountInString(text), 1)
			text += strings.Repeat(" ", room) + a.paint(green, "# "+cellText(l.Origin))
		}
		fmt.Fprintln(a.out, text)
	}
}
