// Package run is cordon run: one command behind the walls of a profile, with
// its standard streams passed through, and without a daemon. It is a package of
// its own so that nothing of the rest of the command line has to be set up on
// the way to a start.
package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// The exit statuses of cordon run that are not the command's own.
const (
	StatusTimeout  = 124 // --timeout ran out
	StatusFailure  = 125 // cordon itself failed; nothing was started
	StatusNotExec  = 126 // the command was found and could not be executed
	StatusNotFound = 127 // the command was not found inside
	StatusSignal   = 128 // plus the number of the signal that ended the command
)

// process is what a run needs of a launch.Process.
type process interface {
	Done() <-chan struct{}
	Exit() launch.Exit
	Kill() error
	Signal(syscall.Signal) error
	Enforced() (launch.Enforced, error)
	PlanDigest() string
	Release() error
}

// starter starts processes; close ends what it started and leaves nothing.
type starter interface {
	start(ctx context.Context, r launch.Request) (process, error)
	close() error
}

// session is one run.
type session struct {
	opts   *Options
	plan   *plan.Plan
	report *Report
	stderr io.Writer
	queue  *queue
	result Result
	// answer and limits are of a run that is recorded.
	answer func(seccomp.Notification) seccomp.Verdict
	limits []string
	// shown counts the sentences printed.
	shown int
}

// Main runs the command that args (what follows "run") name, and returns the
// exit status. ErrHelp is returned when help was asked for instead.
func Main(args []string) (status int, err error) {
	o, err := Parse(args)
	if errors.Is(err, ErrHelp) {
		return 0, ErrHelp
	}
	if err != nil {
		return complain(os.Stderr, fmt.Errorf("cannot run: %w", err), "see cordon run --help"), nil
	}
	return Run(o), nil
}

// Run runs o and returns the exit status. Everything that went wrong has been
// printed by then.
func Run(o *Options) int {
	short()
	h, err := loadHost(hostFile)
	if err != nil {
		return complain(os.Stderr, fmt.Errorf("cannot run %s: %w", name(o), err), "")
	}
	open := openEarly(h)
	p, err := resolve(o, h)
	if err != nil {
		return complain(os.Stderr, errors.Join(fmt.Errorf("cannot run %s: %w", name(o), err), open.drop()), "")
	}
	if os.Geteuid() != 0 {
		return complain(os.Stderr, fmt.Errorf("cannot run %s: raising the walls needs root", name(o)), "use sudo, or ask an operator to install it as a plugin")
	}
	_, _ = h.launch.Compile(launch.Filter(p)) // kept for the start, which tells what fails
	report, err := CreateReport(o.Report)
	if err != nil {
		return complain(os.Stderr, errors.Join(err, open.drop()), "")
	}
	s := newSession(o, p, report, os.Stderr)
	return s.onHost(open.take)
}

// enough is the memory below which a run collects no garbage: few make as much.
const enough = 64 << 20 // bytes

// short prepares the process for a life of milliseconds.
func short() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(enough)
}

// onHost runs with the launcher that open gives and this process's signals.
func (s *session) onHost(open func() (starter, error)) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	// A reader of standard error that goes away must not end a run half-way:
	// with someone to notify, a write fails instead. Nobody has to listen.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return s.run(open, signals)
}

func newSession(o *Options, p *plan.Plan, report *Report, stderr io.Writer) *session {
	s := &session{
		opts: o, plan: p, report: report, stderr: stderr, queue: newQueue(),
		result: Result{Kind: "result", Command: o.Argv, Profile: p.Profile},
	}
	if report != nil {
		s.result.PolicyDigest = p.PolicyDigest()
	}
	return s
}

// run starts the command, follows it to its end and reports.
func (s *session) run(open func() (starter, error), signals <-chan os.Signal) int {
	told := make(chan struct{})
	go func() { s.queue.each(s.tell); close(told) }()
	err := s.launch(open, signals)
	s.queue.close()
	<-told
	s.finish(err)
	s.report.write(&s.result)
	if err := s.report.Close(); err != nil {
		return complain(s.stderr, err, "")
	}
	return s.result.Status
}

// launch raises the walls, starts the command and follows it. Nothing is left
// behind, whatever it returns.
func (s *session) launch(open func() (starter, error), signals <-chan os.Signal) (err error) {
	launcher, err := open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, launcher.close()) }()
	ctx, cancel := s.context()
	defer cancel()
	p, asked, err := s.start(ctx, launcher, signals)
	if err != nil {
		return err
	}
	if s.report != nil { // it takes as long as the start itself, and nobody else asks
		s.readBack(p)
	}
	s.follow(ctx, p, signals, asked)
	exit := p.Exit()
	s.ended(exit)
	if err := p.Release(); err != nil || !exit.Orphaned {
		return err
	}
	return errors.New("cannot go on: the keeper was killed, and the command with it")
}

// readBack puts into the report what was enforced.
func (s *session) readBack(p process) {
	s.result.PlanDigest = p.PlanDigest()
	if enforced, err := p.Enforced(); err == nil {
		s.result.Walls = enforced.Walls
	} else {
		s.result.Error = "the walls could not be read back: " + err.Error()
	}
}

// start starts the command. A signal meanwhile gives the start up; asked is
// that signal, if the command runs all the same.
func (s *session) start(ctx context.Context, launcher starter, signals <-chan os.Signal) (process, os.Signal, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var asked os.Signal
	started, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case asked = <-signals:
			cancel(&interruptedError{asked})
		case <-started:
		}
	}()
	p, err := launcher.start(ctx, launch.Request{
		Name: runName(), Plan: s.plan,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		OnViolation: s.queue.push, KeepWalls: s.opts.Report != "", Answer: s.answer,
	})
	close(started)
	<-watched
	if err != nil && asked != nil {
		err = context.Cause(ctx)
	}
	return p, asked, err
}

// interruptedError is a start given up because of a signal.
type interruptedError struct{ signal os.Signal }

func (e *interruptedError) Error() string {
	return "interrupted before it started: " + e.signal.String()
}

// context ends with --timeout.
func (s *session) context() (context.Context, context.CancelFunc) {
	if s.opts.Timeout == 0 {
		return context.WithCancel(context.Background())
	}
	return context.WithTimeout(context.Background(), s.opts.Timeout)
}

// follow waits for p's end. The first signal is handed on, a second one kills;
// a violation that ends the run kills, and so does the timeout.
// asked is a signal that came before.
func (s *session) follow(ctx context.Context, p process, signals <-chan os.Signal, asked os.Signal) {
	deadly, timeout := s.queue.deadly, ctx.Done()
	if asked != nil {
		s.forward(p, asked, false)
	}
	for {
		select {
		case <-p.Done():
			return
		case <-deadly:
			deadly = nil
			s.kill(p)
		case <-timeout: // only --timeout ends ctx
			timeout = nil
			s.result.TimedOut = true
			s.kill(p)
		case sig := <-signals:
			s.forward(p, sig, asked != nil)
			asked = sig
		}
	}
}

func (s *session) forward(p process, sig os.Signal, again bool) {
	number, ok := sig.(syscall.Signal)
	if again || !ok || p.Signal(number) != nil {
		s.kill(p)
	}
}

// kill ends the whole tree. Where even that fails the launcher's close has the
// last word, and the reason is printed.
func (s *session) kill(p process) {
	if err := p.Kill(); err != nil {
		complain(s.stderr, fmt.Errorf("cannot kill %s: %w", name(s.opts), err), "")
	}
}

// ended records how the command's first process ended.
func (s *session) ended(e launch.Exit) {
	s.result.Duration, s.result.Usage = e.Duration, &e.Usage
	switch {
	case e.Status.Signaled():
		s.result.Signal = signalName(e.Status.Signal())
		s.result.Status = StatusSignal + int(e.Status.Signal())
	default:
		code := e.Status.ExitStatus()
		s.result.ExitCode, s.result.Status = &code, code
	}
}

// finish decides the exit status, and prints err. A violation that ends the
// run is never hidden by a status of 0 that came first.
func (s *session) finish(err error) {
	var ended bool
	s.result.Violations, s.result.Unreported, ended = s.queue.counts()
	if s.result.Unreported > 0 {
		fmt.Fprintf(s.stderr, "cordon: %d more violations came too fast to be told\n", s.result.Unreported)
	}
	switch {
	case err != nil:
		s.tellMissing(err)
		complain(s.stderr, fmt.Errorf("cannot run %s: %w", name(s.opts), err), hint(err))
		s.result.Error, s.result.Status = err.Error(), failureStatus(err)
		s.result.TimedOut = errors.Is(err, context.DeadlineExceeded)
	case s.result.TimedOut && !ended:
		s.result.Status = StatusTimeout
		fmt.Fprintf(s.stderr, "cordon: killed %s after %s (--timeout)\n", name(s.opts), s.opts.Timeout)
	case ended && s.result.Signal == "":
		s.result.Status = StatusSignal + int(syscall.SIGKILL)
	}
}

// tellMissing says which file a command that was not found lacks, as what it
// is: a refusal of the files wall.
func (s *session) tellMissing(err error) {
	var exec *launch.ExecError
	if !errors.As(err, &exec) || exec.Errno != syscall.ENOENT && exec.Errno != syscall.EACCES {
		return
	}
	if v, ok := notShown(s.plan, exec.Path); ok {
		s.result.Violations++
		s.tell(v)
	}
}

// failureStatus is the status for a run that did not happen, as shells have it.
func failureStatus(err error) int {
	var exec *launch.ExecError
	var interrupted *interruptedError
	switch {
	case errors.As(err, &exec) && exec.Errno == syscall.ENOENT:
		return StatusNotFound
	case errors.As(err, &exec):
		return StatusNotExec
	case errors.Is(err, context.DeadlineExceeded):
		return StatusTimeout
	case errors.As(err, &interrupted):
		if number, ok := interrupted.signal.(syscall.Signal); ok {
			return StatusSignal + int(number)
		}
	}
	return StatusFailure
}

// hint is what to do about err, where something can be said.
func hint(err error) string {
	var exec *launch.ExecError
	switch {
	case errors.As(err, &exec) && exec.Errno == syscall.ENOENT:
		return "the command sees only what the profile and --ro grant; grant it with --ro, or look for a missing interpreter or loader"
	case errors.As(err, &exec) && exec.Errno == syscall.EACCES:
		return "what is granted with --rw is never executable; grant programs with --ro"
	case errors.Is(err, context.DeadlineExceeded):
		return "--timeout ran out before the command started"
	}
	return ""
}

// complain prints err as this command prints errors, and a line of what to do
// about it. It returns StatusFailure.
func complain(w io.Writer, err error, hint string) int {
	fmt.Fprintf(w, "cordon: %s\n", violation.EscapeLines(err.Error(), 4096))
	if hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
	return StatusFailure
}

// name is the command's, safe to be printed.
func name(o *Options) string { return violation.Escape(o.Argv[0], 128) }

// runName is unique on this host for as long as this process lives.
func runName() string { return fmt.Sprintf("run-%d", os.Getpid()) }
