// Command tier runs one tier of the tests and fails if it tested nothing.
//
// It passes its arguments to go test and prints go test's own verdicts, the
// whole output of what failed, and the reason of every skip:
//
//	go run ./.ci/tier NAME [go test's flags and packages]
//
// After "--" stands another command that prints what go test -json prints.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

// event is one line of go test -json; go doc test2json.
type event struct {
	Action, Package, Test, Output string
}

// tally is what a tier did.
type tally struct {
	passed, failed, skipped int
	output                  map[string][]string // of each test that is not done
	out                     io.Writer
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: tier NAME [go test's flags and packages]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		os.Exit(1)
	}
}

func run(name string, args []string) error {
	fmt.Printf("=== the %s tier\n", name)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := endWithParent(); err != nil {
		return err
	}
	give, err := takeScratch()
	if err != nil {
		return err
	}
	defer give()
	command := append([]string{"go", "test", "-json"}, args...)
	if args[0] == "--" && len(args) > 1 {
		command = args[1:]
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...) // #nosec G204 -- the Makefile's
	// go test and its tests are one process group, which ends together.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "TMPDIR="+scratch)
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot run %s: %w", command[0], err)
	}
	t := &tally{output: map[string][]string{}, out: os.Stdout}
	t.read(events)
	return t.verdict(name, cmd.Wait())
}

// endWithParent has this program told when what started it is killed, so that
// tests do not run on without anyone to read them; prctl(2).
func endWithParent() error {
	const setPdeathsig = 1
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setPdeathsig, uintptr(syscall.SIGTERM), 0); errno != 0 {
		return fmt.Errorf("cannot prepare for an early end: %w", errno)
	}
	return nil
}

// read takes all of go test's events.
func (t *tally) read(events io.Reader) {
	r := bufio.NewReader(events)
	for {
		line, err := r.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil {
			t.add(e)
		} else if len(line) > 0 { // what go itself prints, such as a failed build
			fmt.Fprint(t.out, string(line))
		}
		if err != nil {
			return
		}
	}
}

func (t *tally) add(e event) {
	id := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		t.note(id, e)
		return
	case "pass":
		if e.Test != "" {
			t.passed++
		}
	case "fail":
		if e.Test != "" {
			t.failed++
		} else {
			t.unfinished(e.Package)
		}
		fmt.Fprint(t.out, strings.Join(t.output[id], ""))
	case "skip":
		if e.Test != "" {
			t.skipped++
			fmt.Fprint(t.out, strings.Join(t.output[id], ""))
		}
	default:
		return
	}
	delete(t.output, id)
}

// unfinished prints what the tests said that a failed package did not end: the
// stacks of one that ran out of time stand there, and nowhere else.
func (t *tally) unfinished(pkg string) {
	for id, lines := range t.output {
		if strings.HasPrefix(id, pkg+" ") {
			fmt.Fprint(t.out, strings.Join(lines, ""))
			delete(t.output, id)
		}
	}
}

// note prints a package's verdict at once and keeps a test's output until the
// test is done.
func (t *tally) note(id string, e event) {
	switch {
	case e.Test != "" || e.Package == "":
		if e.Action == "build-output" {
			fmt.Fprint(t.out, e.Output)
			return
		}
		t.output[id] = append(t.output[id], e.Output)
	case e.Output == "PASS\n":
	default:
		fmt.Fprint(t.out, e.Output)
	}
}

func (t *tally) verdict(name string, err error) error {
	fmt.Fprintf(t.out, "=== the %s tier: %d passed, %d failed, %d skipped\n", name, t.passed, t.failed, t.skipped)
	switch {
	case err != nil:
		return fmt.Errorf("the %s tier: %w", name, err)
	case t.passed == 0:
		return fmt.Errorf("the %s tier ran no test", name)
	}
	return nil
}
