package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// plugin is one line of cordon ps --json, as far as the demo looks at it.
type plugin struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Reason string `json:"reason"`
}

// violation is one entry of cordon why --json, likewise.
type violation struct {
	Wall       string   `json:"wall"`
	What       string   `json:"what"`
	Call       string   `json:"call"`
	Args       []string `json:"args"`
	Path       string   `json:"path"`
	Access     string   `json:"access"`
	Action     string   `json:"action"`
	Rule       string   `json:"rule"`
	Change     string   `json:"change"`
	Also       string   `json:"also"`
	Limit      int64    `json:"limit"`
	Unverified bool     `json:"unverified"`
}

// command is bin/cordon, aimed at the stage's daemon.
func (s *stage) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.root, "bin/cordon"), args...)
	cmd.Env = append(os.Environ(),
		"TMPDIR="+scratch,
		"CORDON_SOCKET="+socket,
		"CORDON_CGROUP_ROOT="+cgroupRoot)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second // after an interruption
	return cmd
}

// cordon runs the command line in silence and returns what it printed to its
// standard output; the error has what it printed to its standard error.
func (s *stage) cordon(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out, complaint bytes.Buffer
	cmd := s.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), &commandError{args, strings.TrimSpace(complaint.String()), err}
	}
	return out.String(), nil
}

// commandError is a cordon that exited with a status other than 0.
type commandError struct {
	args      []string
	complaint string
	err       error
}

func (e *commandError) Error() string {
	return fmt.Sprintf("cordon %s: %v: %s", strings.Join(e.args, " "), e.err, e.complaint)
}

func (e *commandError) Unwrap() error { return e.err }

// show runs the command line for everyone to see.
func (s *stage) show(ctx context.Context, args ...string) (string, error) {
	printCommand(args)
	out, err := s.cordon(ctx, args...)
	printOutput(out)
	return out, err
}

// showRefused runs a command that has to be refused, with the refusal.
func (s *stage) showRefused(ctx context.Context, args ...string) error {
	out, err := s.show(ctx, args...)
	var refused *commandError
	switch {
	case err == nil:
		return fmt.Errorf("cordon %s was not refused: %s", strings.Join(args, " "), out)
	case ctx.Err() != nil:
		return ctx.Err()
	case !errors.As(err, &refused):
		return err
	}
	printOutput(refused.complaint)
	return nil
}

// install installs a bundle of examples/ under a profile, and starts it. Of what
// install prints, lines many are shown.
func (s *stage) install(ctx context.Context, dir, name, profile string, lines int) error {
	args := []string{"install", filepath.Join("examples", dir), "--profile", profile}
	printCommand(args)
	out, err := s.cordon(ctx, args...)
	printLines(out, lines)
	if err != nil {
		return err
	}
	_, err = s.show(ctx, "start", name)
	return err
}

// plugins is what cordon ps says, by name.
func (s *stage) plugins(ctx context.Context) (map[string]plugin, error) {
	out, err := s.cordon(ctx, "ps", "--json")
	if err != nil {
		return nil, err
	}
	list, err := decodeAll[plugin](out)
	if err != nil {
		return nil, fmt.Errorf("cannot read cordon ps --json: %w", err)
	}
	byName := make(map[string]plugin, len(list))
	for _, p := range list {
		byName[p.Name] = p
	}
	return byName, nil
}

// why is what cordon why says about a plugin, newest last.
func (s *stage) why(ctx context.Context, name string) ([]violation, error) {
	out, err := s.cordon(ctx, "why", name, "--json")
	if err != nil {
		return nil, err
	}
	list, err := decodeAll[violation](out)
	if err != nil {
		return nil, fmt.Errorf("cannot read cordon why %s --json: %w", name, err)
	}
	return list, nil
}

// decodeAll reads a JSON array, or one value after the other.
func decodeAll[T any](text string) ([]T, error) {
	if strings.HasPrefix(strings.TrimSpace(text), "[") {
		var list []T
		return list, json.Unmarshal([]byte(text), &list)
	}
	var list []T
	for d := json.NewDecoder(strings.NewReader(text)); d.More(); {
		var one T
		if err := d.Decode(&one); err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, nil
}
