// Command cordond is the root daemon that keeps plugins behind their walls.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/profiles/strict"
)

func main() { os.Exit(execute(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// execute runs the daemon and returns its exit status: 0 after a clean stop, 1
// when it could not start or stop cleanly, 2 for a wrong command line.
func execute(args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot(in, out, errs)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.Execute()
	var wrong *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &wrong):
		fmt.Fprintf(errs, "cordond: %v\nhint: cordond --help\n", err)
		return 2
	default:
		printError(errs, err)
		return 1
	}
}

// printError prints an error, or each of several that a file has, on its line.
func printError(w io.Writer, err error) {
	var several strict.Errors
	if !errors.As(err, &several) {
		fmt.Fprintf(w, "cordond: %v\n", err)
		return
	}
	for _, e := range several {
		fmt.Fprintf(w, "cordond: %v\n", e)
	}
}

// usageError is a wrong command line.
type usageError struct{ error }

func newRoot(in io.Reader, out, errs io.Writer) *cobra.Command {
	var configFile string
	var logFormat string
	var upgrade bool
	root := &cobra.Command{
		Use: "cordond", Short: "Keep plugins behind walls that hold",
		Long: `cordond keeps plugins: it starts each behind the walls of its profile, talks to
it, restarts it, and quarantines it when it hits a wall. It must run as root. The
command cordon talks to it over its control socket.

SIGTERM and SIGINT stop every plugin and end it; a second one kills them at once.
SIGHUP reads [ceiling] and [evidence] anew. cordond --upgrade has the daemon that
runs become this program, without a call that fails or a plugin that ends. Without a configuration file the defaults hold.`,
		Version: version(), Args: cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := options{configFile: configFile, explicit: cmd.Flags().Changed("config"), logFormat: logFormat, errs: errs}
			if upgrade {
				return requestUpgrade(o, out)
			}
			return runDaemon(o)
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return &usageError{fmt.Errorf("%q is one argument too many", args[0])}
		}
		return nil
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.Flags().StringVar(&configFile, "config", defaultConfig, "the configuration `file`")
	root.Flags().StringVar(&logFormat, "log-format", "", "text or json; default: text on a terminal")
	root.Flags().BoolVar(&upgrade, "upgrade", false, "have the daemon that runs become this program")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Hidden: true})
	root.AddCommand(compileFilter(in, out), setLimit(in), canSucceed(out))
	return root
}

// release is set by the linker for a release; otherwise the module's version
// and revision say what this is.
var release string

func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	text := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && text == "(devel)" {
			text += " " + s.Value
		}
	}
	return text
}
