package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/cmd/cordon/run"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

func whyVerb(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "why NAME|FILE", Short: "Explain violations: which wall, which rule, and what would allow it",
		Long: `Explain each violation of a plugin, or of a run whose report is in FILE: which
wall refused what, where in the plugin, by which rule of which file, the smallest
change of the profile that would allow it, and when not to make that change.

An argument with a slash, one that names a file here, and - (standard input) is
the report of cordon run --report, and needs no daemon. Any other is a plugin.

--toml prints the changes alone, without the same one twice, ready to be added to
the profile. Read the explanation before you add them.`,
		Example: `  cordon why thumbs
  cordon run --report /tmp/r --ro /usr -- /usr/bin/mount -t tmpfs none /mnt
  cordon why /tmp/r
  cordon why /tmp/r --toml >>thumbs.toml`,
		GroupID: groupLook, Args: takes("NAME or FILE"), ValidArgsFunction: a.completeName,
	}
	onlyTOML := cmd.Flags().Bool("toml", false, "print only the changes that would allow it")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *asJSON && *onlyTOML {
			return usage(cmd, "--json and --toml exclude each other")
		}
		violations, end, err := a.violations(cmd, args[0])
		switch {
		case err != nil:
			return err
		case *asJSON:
			return printEach(violations, func(v violation.Violation) error { return printJSON(a.out, v) })
		case *onlyTOML:
			return a.printChanges(violations)
		}
		a.printWhy(args[0], violations, end)
		if !isReport(args[0]) {
			return a.printWaits(cmd, args[0])
		}
		return nil
	}
	return cmd
}

// violations are those of a report or of a plugin; end is how a reported run
// ended.
func (a *app) violations(cmd *cobra.Command, name string) (list []violation.Violation, end string, err error) {
	if !isReport(name) {
		err = a.call(cmd.Context(), control.MethodWhy, control.NameParams{Name: name}, &list)
		return list, "", err
	}
	in := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, "", fmt.Errorf("cannot read the report: %w", err)
		}
		defer f.Close()
		in = f
	}
	list, result, err := run.ReadReport(in)
	if err != nil {
		return nil, "", fmt.Errorf("cannot read the report %s: %w", name, err)
	}
	return list, resultText(result), nil
}

// isReport tells a file from the name of a plugin.
func isReport(name string) bool {
	if name == "-" || strings.Contains(name, "/") {
		return true
	}
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// resultText says how a reported run ended.
func resultText(r *run.Result) string {
	switch {
	case r == nil:
		return "The report has no last line: cordon run was cut off."
	case r.Error != "":
		return "It did not run: " + violation.Escape(r.Error, 1024)
	case r.TimedOut:
		return "It was killed by --timeout after " + spanText(r.Duration) + "."
	case r.Signal != "":
		return "It was ended by " + cellText(r.Signal) + " after " + spanText(r.Duration) + "."
	case r.ExitCode != nil:
		return fmt.Sprintf("It exited with status %d after %s.", *r.ExitCode, spanText(r.Duration))
	}
	return ""
}

// printWhy explains each violation in a paragraph.
func (a *app) printWhy(name string, violations []violation.Violation, end string) {
	if len(violations) == 0 {
		fmt.Fprintf(a.out, "%s hit no wall.\n", cellText(name))
	}
	for i, v := range violations {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		if !v.Time.IsZero() {
			fmt.Fprintf(a.out, "%s  ", v.Time.UTC().Format("2006-01-02 15:04:05 MST"))
		}
		fmt.Fprint(a.out, violation.Paragraph(v))
	}
	if end != "" {
		fmt.Fprintf(a.out, "\n%s\n", end)
	}
}

// printWaits says what keeps a plugin from running that hit no wall.
func (a *app) printWaits(cmd *cobra.Command, name string) error {
	plugins, err := a.list(cmd.Context())
	if err != nil {
		return err
	}
	for _, p := range plugins {
		if p.Name == name && (p.Waits != "" || p.Draining != "" || p.Degraded != nil) {
			fmt.Fprintf(a.out, "\n%s\n", a.statusLine(p))
		}
	}
	return nil
}

// printChanges prints what would allow everything. Without any change it is an
// error, so that nobody takes an empty answer for advice.
func (a *app) printChanges(violations []violation.Violation) error {
	changes := violation.Changes(violations)
	if changes == "" {
		return &failure{errors.New("there is nothing to change"), "see cordon why without --toml", exitFailure}
	}
	_, err := io.WriteString(a.out, changes)
	return err
}
