// Command demo is what make run shows: real, unmodified third-party plugins at
// work behind Cordon's walls, hostile ones running into them, and a quarantine
// that survives its daemon. Each claim is a sentence, followed by the real
// commands with their real output, and is checked: the first that does not hold
// ends the demo with a non-zero status. Nothing of it stays on the machine.
//
// It is run from the top of the checkout, as root, after make build examples.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// act is one point of the demonstration.
type act struct {
	title string
	show  func(context.Context, *stage) error
}

var acts = []act{
	{"What this host can give", showDoctor},
	{"An MCP server, and a secret that it must not see", showEverything},
	{"A file server, and a file that it was not granted", showFilesystem},
	{"A language server", showLanguageServer},
	{"Plugins of one's own, in Python, Go and shell", showSmall},
	{"Six hostile plugins, six violations", showHostile},
	{"What is quarantined stays so", showQuarantine},
	{"Everything at a glance", showList},
}

func main() {
	// Children die with the thread that started them (see endWithParent), so
	// all are started by this one, which lives as long as the program.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	started := time.Now()
	if err := demonstrate(ctx); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted; everything is cleaned up")
		}
		fmt.Fprintf(os.Stderr, "\nFAIL: %v\n", err)
		os.Exit(1)
	}
	fmt.Printf("\nAll of it held, and nothing is left behind (%.1f s).\n", time.Since(started).Seconds())
}

// demonstrate shows all acts on a stage of its own, and strikes the stage
// whatever happened.
func demonstrate(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("raising the walls needs root: run sudo make run")
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	for _, need := range []string{"bin/cordon", "bin/cordond", nodeBinary} {
		if _, err := os.Stat(filepath.Join(root, need)); err != nil {
			return fmt.Errorf("cannot find %s: run make run from the top of the checkout", need)
		}
	}
	if err := endWithParent(); err != nil {
		return err
	}
	s, err := setStage(ctx, root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.strike(), leftovers()) }()
	for i, a := range acts {
		fmt.Printf("\n%d. %s\n", i+1, a.title)
		if err := a.show(ctx, s); err != nil {
			if ctx.Err() == nil {
				say("")
				say("The daemon's last words:")
				printOutput(s.logTail())
			}
			return fmt.Errorf("%d. %s: %w", i+1, a.title, err)
		}
	}
	return nil
}
