package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// daemon is one life of cordond.
type daemon struct {
	cmd *exec.Cmd
	// ended is closed when it has gone; err is valid after that.
	ended chan struct{}
	err   error
}

// startDaemon starts bin/cordond with the planted secret in its environment,
// and returns when it answers.
func (s *stage) startDaemon(ctx context.Context) error {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.root, "bin/cordond"), "--config", filepath.Join(stageDir, "cordond.toml"))
	cmd.Env = append(os.Environ(), "TMPDIR="+scratch, planted+"="+s.secret)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own, so that Ctrl-C reaches it through us, in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start cordond: %w", err)
	}
	d := &daemon{cmd: cmd, ended: make(chan struct{})}
	s.daemon = d
	go func() {
		d.err = cmd.Wait()
		close(d.ended)
	}()
	return await(ctx, "cordond to answer", func() (bool, error) {
		select {
		case <-d.ended:
			return false, fmt.Errorf("cordond ended at its start (%w): %s", orExited(d.err), s.logTail())
		default:
			_, err := s.cordon(ctx, "ps", "--json")
			return err == nil, ctx.Err()
		}
	})
}

func orExited(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// stop ends the daemon as a service manager does; killed after patience.
func (d *daemon) stop() error {
	if err := d.end(syscall.SIGTERM); err != nil {
		return err
	}
	if d.err != nil && !d.cmd.ProcessState.Success() {
		return fmt.Errorf("cordond did not end cleanly: %w", d.err)
	}
	return nil
}

// end sends a signal and waits for the daemon to go.
func (d *daemon) end(signal syscall.Signal) error {
	select {
	case <-d.ended:
		return nil
	default:
	}
	if err := d.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.ended:
		return nil
	case <-time.After(patience):
		err := d.cmd.Process.Kill()
		<-d.ended
		return errors.Join(fmt.Errorf("cordond did not end within %v of %v", patience, signal), err)
	}
}

func (s *stage) logFile() string { return filepath.Join(stageDir, "cordond.log") }

// logTail is the last of what the daemon printed.
func (s *stage) logTail() string {
	text, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
