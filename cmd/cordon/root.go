package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// The exit statuses of every verb but run.
const (
	exitFailure  = 1 // what was asked for failed, or doctor found a wall that cannot be had
	exitUsage    = 2 // the command line is wrong
	exitNoDaemon = 3 // the daemon cannot be reached
)

const rootLong = `Cordon runs programs that nobody has to trust behind walls that hold.

The daemon, cordond, keeps plugins: it starts each in namespaces of its own with
a seccomp filter, Landlock rules and quotas, talks to it, restarts it, and puts
it in quarantine when it hits a wall. Every verb but run, profile, doctor, version
and why FILE talks to the daemon over its control socket.

cordon run needs no daemon: it runs one command behind the walls of a profile.

Exit status:
  0  done
  1  what was asked for failed
  2  the command line is wrong
  3  the daemon cannot be reached
cordon run has its own; see cordon run --help.

Environment:
  CORDON_SOCKET  the control socket, if not /run/cordon/cordon.sock
  NO_COLOR       no colours, as without a terminal`

const rootExample = `  cordon doctor
  sudo cordon run --ro /usr -- /usr/bin/python3 -c 'print("hello")'
  cordon install ./thumbs --profile python
  cordon start thumbs
  cordon call thumbs tools/list`

// app is what the verbs share.
type app struct {
	socket string
	in     io.Reader
	out    io.Writer
	err    io.Writer
	// colour says whether out is a terminal that shows colours.
	colour bool
}

// execute runs the verb in args and returns the exit status.
func execute(ctx context.Context, args []string) int {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, colour: showsColour(os.Stdout)}
	root := newRoot(a)
	root.SetArgs(args)
	return a.explain(root.ExecuteContext(ctx))
}

// newRoot builds the tree of verbs.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use: "cordon", Short: "Run plugins behind walls", Long: rootLong, Example: rootExample,
		SilenceErrors: true, SilenceUsage: true, DisableAutoGenTag: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return rootHelp(cmd, args) },
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(cmd, err.Error())
	})
	root.PersistentFlags().StringVar(&a.socket, "socket", defaultSocket(), "the daemon's control `socket`")
	root.AddGroup(
		&cobra.Group{ID: groupPlugins, Title: "Keep plugins:"},
		&cobra.Group{ID: groupLook, Title: "Look at them:"},
		&cobra.Group{ID: groupAlone, Title: "Without a daemon:"},
	)
	for _, verb := range []func(*app) *cobra.Command{
		installVerb, removeVerb, startVerb, stopVerb, restartVerb, swapVerb, enableVerb, disableVerb, releaseVerb, pinVerb,
		psVerb, inspectVerb, callVerb, attachVerb, logsVerb, eventsVerb, whyVerb,
		auditVerb, evidenceVerb, reloadVerb, capabilityVerb, grantVerb, revokeVerb, flagVerb,
		runVerb, newVerb, profileVerb, doctorVerb, versionVerb,
	} {
		root.AddCommand(verb(a))
	}
	return root
}

// The groups in which help lists the verbs.
const (
	groupPlugins = "plugins"
	groupLook    = "look"
	groupAlone   = "alone"
)

// rootHelp answers cordon without a verb, or with one that does not exist.
func rootHelp(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	text := fmt.Sprintf("there is no verb %q", violation.Escape(args[0], 64))
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	}
	return usage(cmd, text)
}

// usageError is a wrong command line.
type usageError struct{ text, hint string }

func (e *usageError) Error() string { return e.text }

func usage(cmd *cobra.Command, text string) error {
	text = strings.Replace(text, "unknown flag: ", "there is no flag ", 1)
	return &usageError{text: text, hint: "see " + cmd.CommandPath() + " --help"}
}

// takes wants exactly these arguments, named for the message.
func takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage(cmd, "there is no "+names[len(args)])
		case len(args) > len(names):
			return usage(cmd, fmt.Sprintf("%q is one argument too many", violation.Escape(args[len(names)], 64)))
		}
		return nil
	}
}

// failure is an error with what to do about it, and its exit status.
type failure struct {
	err    error
	hint   string
	status int
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// explain prints err as every verb prints errors, and gives the exit status.
func (a *app) explain(err error) int {
	status, hint := exitFailure, ""
	var wrong *usageError
	var failed *failure
	var answer *control.Error
	var ended *statusError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ended):
		return ended.status
	case errors.As(err, &wrong):
		status, hint = exitUsage, wrong.hint
	case errors.As(err, &failed):
		status, hint = failed.status, failed.hint
	case errors.As(err, &answer):
		hint = answer.Hint
	}
	fmt.Fprintf(a.err, "cordon: %s\n", lines(err.Error()))
	if hint != "" {
		fmt.Fprintf(a.err, "hint: %s\n", lines(hint))
	}
	return status
}

// lines escapes each line of text that may quote a plugin or a file.
func lines(text string) string { return violation.EscapeLines(text, 4096) }
