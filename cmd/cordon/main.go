// Cordon is the command line: it talks to the daemon over its control socket,
// and runs one command behind the walls without any daemon.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/cordonhq/cordon/cmd/cordon/run"
)

func main() { os.Exit(dispatch(os.Args[1:])) }

// dispatch sends run on its way before anything of the other verbs is set up:
// its start is measured in fractions of a millisecond.
func dispatch(args []string) int {
	if len(args) > 0 && args[0] == "run" {
		if status, err := run.Main(args[1:]); err == nil {
			return status
		}
		args = []string{"run", "--help"}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return execute(ctx, args)
}
