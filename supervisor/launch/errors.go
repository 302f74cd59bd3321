package launch

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/cordonhq/cordon/namespaces"
)

// ErrEnded is what is asked of a plugin that is no more.
var ErrEnded = errors.New("the plugin has ended")

func (e *ExecError) Error() string {
	switch e.Errno {
	case syscall.ENOENT:
		return fmt.Sprintf("cannot execute %s: not found in the plugin's view, or its interpreter is not", e.Path)
	case syscall.EACCES:
		return fmt.Sprintf("cannot execute %s: not executable there (a grant needs the access \"rx\")", e.Path)
	case syscall.ENOEXEC:
		return fmt.Sprintf("cannot execute %s: not a program of this machine", e.Path)
	default:
		return fmt.Sprintf("cannot execute %s: %v", e.Path, e.Errno)
	}
}

// Unwrap gives the errno.
func (e *ExecError) Unwrap() error { return e.Errno }

// MissingWallError refuses a start because this host cannot give a wall that
// the profile requires.
type MissingWallError struct {
	Wall string
	// Need is the kernel option, version or setting that would give it.
	Need string
	// MayGoWithout is the line of a profile that would start without it; empty
	// if nothing may.
	MayGoWithout string
}

func (e *MissingWallError) Error() string {
	s := fmt.Sprintf("cannot raise the wall %q on this host: it needs %s", e.Wall, e.Need)
	if e.MayGoWithout != "" {
		return s + "; a profile may go without it by " + e.MayGoWithout
	}
	return s + "; no profile may go without it"
}

// startError turns the keeper's failure into the caller's words.
func startError(err error, argv0 string) error {
	var step *namespaces.StepError
	switch {
	case !errors.As(err, &step):
		return err
	case step.Op == namespaces.OpExec:
		return &ExecError{Path: argv0, Errno: step.Errno}
	}
	if why := exhausted(step); why != "" {
		return fmt.Errorf("%w: %s", err, why)
	}
	if over := step.Errno == syscall.ENOTDIR || step.Op == namespaces.OpAttach && step.Errno == syscall.EINVAL; over && namespaces.Phase(step.Op) == "mount" {
		return fmt.Errorf("%w: of what is there and what is shown over it, or below it, one is a file and not a directory; grant it at another path", err)
	}
	return err
}

// withoutDescriptors says who sets how many descriptors there are, where this
// process has no more.
func withoutDescriptors(err error) error {
	var step *namespaces.StepError
	if errors.As(err, &step) || !outOfDescriptors(err) {
		return err
	}
	return fmt.Errorf("%w: there is no descriptor left, of this process (LimitNOFILE= of the daemon's unit, ulimit -n) or of the host (fs.file-max)", err)
}

// exhausted says what there was too little of, and who sets how much there is.
func exhausted(step *namespaces.StepError) string {
	switch {
	case step.Died || step.Errno == syscall.EOWNERDEAD:
		return "it was killed from outside, or memory.max of the plan is too small to start in"
	case step.Errno == syscall.ENOMEM:
		return "there is no memory left, of the host or of the plan's memory.max"
	case step.Errno == syscall.EAGAIN && step.Step < 0:
		return "there is no process left, of the host (kernel.pid_max, kernel.threads-max) or of the plan's pids.max"
	case step.Errno == syscall.EMFILE || step.Errno == syscall.ENFILE:
		return "there is no descriptor left, of the keeper (LimitNOFILE= of its unit) or of the host (fs.file-max)"
	case step.Errno == syscall.ENOSPC:
		return "there is no namespace left (user.max_*_namespaces), or a tmpfs of the plan is too small for what is made in it"
	}
	return ""
}
