package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/profiles/strict"
)

// checked is what profile check prints of one profile.
type checked struct {
	Profile  string    `json:"profile"`
	OK       bool      `json:"ok"`
	Errors   []finding `json:"errors"`
	Warnings []finding `json:"warnings"`
	// Weakened is one sentence for each thing that opens a wall.
	Weakened []string `json:"weakened"`
}

// finding is one error or warning. Where a file as a whole is meant, or this
// host, there is no line.
type finding struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	Key    string `json:"key,omitempty"`
	Text   string `json:"text"`
	Hint   string `json:"hint,omitempty"`
	// whole is the finding as a line.
	whole string
}

func profileCheck(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "check PROFILE", Short: "Say what is wrong with a profile, and what it opens",
		Long: `Say every error of a profile and of what it extends, every line that is hardly
meant, what this host would refuse of it, and one sentence for each thing that
opens a wall.

The exit status is 1 if there is an error. Warnings are none.`,
		Example: `  cordon profile check ./thumbs.toml
  cordon profile check --json thumbs | jq .weakened`,
		Args: takes("profile"),
	}
	sets, asJSON := setFlag(cmd), jsonFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		c, err := check(args[0], *sets)
		if err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(a.out, c)
		} else {
			a.printChecked(c)
		}
		if err == nil && !c.OK {
			err = &statusError{exitFailure}
		}
		return err
	}
	return cmd
}

// check collects what there is to say; its error is about a profile that is not
// there or cannot be read.
func check(name string, sets []string) (*checked, error) {
	c := &checked{Profile: name, Errors: []finding{}, Warnings: []finding{}, Weakened: []string{}}
	p, ceiling, err := findProfile(name, sets)
	var wrong strict.Errors
	if errors.As(err, &wrong) {
		for _, one := range wrong {
			c.Errors = append(c.Errors, findingOf(one))
		}
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	for _, one := range p.Warnings() {
		c.Warnings = append(c.Warnings, findingOf(one))
	}
	pl, err := planOf(p, ceiling, nil)
	if err != nil {
		c.Errors = append(c.Errors, plainFinding("%v", err))
		return c, nil
	}
	c.OK = true
	c.Weakened = append(c.Weakened, pl.Weakened...)
	c.onHost(pl, ceiling)
	return c, nil
}

// onHost adds what this host would not give.
func (c *checked) onHost(pl *plan.Plan, ceiling *profiles.Ceiling) {
	for _, r := range pl.Refusals {
		c.Warnings = append(c.Warnings, plainFinding("%s, %s: refused by the host's %s: %s", r.Ask, r.Why, r.By, r.Hint))
	}
	look := lookUp(ceiling)
	for _, f := range pl.Files {
		found := look(f.From, f.Access)
		switch {
		case found.Refused != "" && f.Optional:
			c.Warnings = append(c.Warnings, plainFinding("%s, granted by %s: it leads to %s, which the host's ceiling refuses, so it is left out: %s", f.From, f.Origin, found.Real, found.Refused))
		case found.Refused != "":
			c.Warnings = append(c.Warnings, plainFinding("%s, granted by %s: it leads to %s, which the host's ceiling refuses, so nothing would start: %s", f.From, f.Origin, found.Real, found.Refused))
		case !f.Optional && found.Missing:
			c.Warnings = append(c.Warnings, plainFinding("%s, granted by %s: this host does not have it, so nothing would start; write optional = true if it may be missing", f.From, f.Origin))
		}
	}
}

func findingOf(e *strict.Error) finding {
	return finding{File: e.File, Line: e.Line, Column: e.Column, Key: e.Key, Text: e.Msg, Hint: e.Hint, whole: e.Error()}
}

func plainFinding(format string, args ...any) finding {
	text := fmt.Sprintf(format, args...)
	return finding{Text: text, whole: text}
}

func (a *app) printChecked(c *checked) {
	for _, e := range c.Errors {
		fmt.Fprintf(a.out, "%s %s\n", a.paint(red, "error:"), lines(e.whole))
	}
	for _, w := range c.Warnings {
		fmt.Fprintf(a.out, "%s %s\n", a.paint(yellow, "warning:"), lines(w.whole))
	}
	for _, w := range c.Weakened {
		fmt.Fprintf(a.out, "opens: %s\n", lines(w))
	}
	if !c.OK {
		fmt.Fprintf(a.out, "%s cannot be used: %s\n", lines(c.Profile), count(len(c.Errors), "error"))
		return
	}
	opened := "nothing"
	if n := len(c.Weakened); n > 0 {
		opened = count(n, "thing")
	}
	fmt.Fprintf(a.out, "%s is valid: %s, %s opened\n", lines(c.Profile), count(len(c.Warnings), "warning"), opened)
}

// count is a number with its word.
func count(n int, word string) string {
	switch n {
	case 0:
		return "no " + word + "s"
	case 1:
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
