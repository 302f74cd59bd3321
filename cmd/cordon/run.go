package main

import (
	"flag"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/cmd/cordon/run"
)

const runLong = `Run one command behind the walls of a profile, without a daemon, with standard
input, output and error passed through unchanged. Raising the walls needs root.

The command sees a private read-only tree: what the profile grants, and what --ro
and --rw add. It gets nothing for being the command: grant its program, its
interpreter and its libraries. PATH may be relative; symbolic links in it are
followed once, now. DEST is where the command sees it, by default the same path;
the colon that counts is the last one before a slash.

A violation of a wall ends the command where the profile says kill or quarantine:
there is nothing to be kept in quarantine here. It is told in a sentence on
standard error, with --explain in a paragraph that says what would allow it, and
in the report for cordon why.

The first SIGINT, SIGTERM, SIGHUP or SIGQUIT is handed on to the command, a second
one kills it. Whatever ends the run, no process, mount or cgroup is left.

Exit status: that of the command, or
  124    --timeout ran out
  125    cordon itself failed; nothing was started
  126    the command was found and cannot be executed
  127    the command was not found inside the walls
  128+n  signal n ended the command; 137 after a violation that ends it

The report has one JSON object a line: {"kind":"violation", ...} for each
violation with wall, what, where and action, and last {"kind":"result", ...} with
exit_code or signal, duration_ns, usage, and the walls as read back from the
kernel.`

const runExample = `  sudo cordon run --ro /usr --ro /lib --ro /lib64 --ro /bin -- /bin/sh -c 'id; ls /'
  sudo cordon run --profile python --rw ./out:/out --timeout 1m -- python3 job.py
  sudo cordon run --explain --profile ./thumbs.toml -- /usr/bin/node main.js
  sudo cordon run --report /tmp/r -- ./tool; cordon why /tmp/r`

// runVerb is here for help and completion, and for flags that come before the
// verb; main sends everything else to package run at once.
func runVerb(*app) *cobra.Command {
	var o run.Options
	cmd := &cobra.Command{
		Use: "run [flags] -- CMD [ARG...]", Short: "Run one command behind walls, without a daemon",
		Long: runLong, Example: runExample, GroupID: groupAlone, Args: cobra.ArbitraryArgs,
	}
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	run.Flags(flags, &o)
	cmd.Flags().AddGoFlagSet(flags)
	cmd.Flags().SetInterspersed(false)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cannotRun(err) })
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		o.Argv = args
		if err := o.Check(); err != nil {
			return cannotRun(err)
		}
		return &statusError{run.Run(&o)}
	}
	return cmd
}

func cannotRun(err error) error {
	return &failure{fmt.Errorf("cannot run: %w", err), "see cordon run --help", run.StatusFailure}
}

// statusError ends the program with a status; everything has been said.
type statusError struct{ status int }

func (e *statusError) Error() string { return "" }
