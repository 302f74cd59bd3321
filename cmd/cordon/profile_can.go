package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/reach"
)

// exitTrouble is for verbs whose 1 is an answer: no, or different.
const exitTrouble = 2

func profileCan(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "can PROFILE VERB WHAT...", Short: "Answer what a profile lets a plugin reach",
		Long: `Answer whether a plugin behind a profile's walls can do something, which rule
decides, and by which links and mounts a file is reached. Nothing is started: the
answer is computed from the profile and from this host's files as they are now.

Questions:
  read, list, write, truncate, execute PATH   of what is there, as the plugin sees it
  create, mkdir, symlink PATH                 a new file, directory or link
  remove, rmdir PATH                          the name of a file, or an empty directory
  call NAME [ARG...]                          a system call, with numbers for arguments
  use QUOTA AMOUNT                            memory, pids, files, tmp, shm, data, time, cpu-time
  become UID, hold CAPABILITY                 another user, a capability
  connect HOST:PORT                           a place in the network
  listen ADDRESS:PORT                         an address of the host, to be reached at

Exit status: 0 yes, 1 no, 2 no answer.`,
		Example: `  cordon profile can ./thumbs.toml write /etc/passwd
  cordon profile can node call socket 16 3 0
  cordon profile can python use memory 1G`,
		Args: cobra.MinimumNArgs(0),
	}
	sets, asJSON := setFlag(cmd), jsonFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) < 3 {
			return usage(cmd, "there is no "+[]string{"profile", "verb", "thing to ask about"}[len(args)])
		}
		answer, err := ask(args[0], *sets, args[1], args[2:])
		if err != nil {
			var unknown *reach.UnknownError
			if errors.As(err, &unknown) {
				return usage(cmd, err.Error())
			}
			return &failure{err, "", exitTrouble}
		}
		if *asJSON {
			if err := printJSON(a.out, answer); err != nil {
				return err
			}
		} else {
			a.printAnswer(answer)
		}
		if !answer.Can {
			return &statusError{exitFailure}
		}
		return nil
	}
	return cmd
}

func ask(name string, sets []string, verb string, what []string) (*answered, error) {
	p, ceiling, err := findProfile(name, sets)
	if err != nil {
		return nil, err
	}
	pl, err := planOf(p, ceiling, nil)
	if err != nil {
		return nil, err
	}
	view, _, err := preview(pl, ceiling)
	if err != nil {
		return nil, err
	}
	m, err := reach.New(pl, view, &hostFiles{}, namespaces.LandlockABI())
	if err != nil {
		return nil, fmt.Errorf("cannot answer for %s: %w", pl.Profile, err)
	}
	a, err := m.Can(verb, what...)
	if err != nil {
		return nil, err
	}
	return &answered{Answer: a, Profile: pl.Profile, PolicyDigest: pl.PolicyDigest(), Time: time.Now()}, nil
}

// answered is an answer with the moment and the policy that it is for.
type answered struct {
	reach.Answer
	Profile      string    `json:"profile"`
	PolicyDigest string    `json:"policy_digest"`
	Time         time.Time `json:"time"`
}

func (a *app) printAnswer(r *answered) {
	word := a.paint(green, "yes")
	if !r.Can {
		word = a.paint(red, "no")
	}
	fmt.Fprintf(a.out, "%s: %s can%s %s\n", word, lines(r.Profile), map[bool]string{true: "", false: "not"}[r.Can], lines(r.Question))
	for _, why := range r.Why {
		text := why.Wall + ": " + why.Text
		if why.Origin != "" {
			text += " (" + why.Origin + ")"
		}
		fmt.Fprintf(a.out, "  %s\n", lines(text))
	}
	if len(r.Path) > 0 {
		fmt.Fprintf(a.out, "  on the way: %s\n", lines(strings.Join(r.Path, "; ")))
	}
	if r.Note != "" {
		fmt.Fprintf(a.out, "  note: %s\n", lines(r.Note))
	}
	where := ""
	if r.Mount != "" {
		where = "for " + lines(r.Mount) + ", "
	}
	fmt.Fprintf(a.out, "  %sas this host was at %s\n", where, timeText(r.Time))
}

// hostFiles is this host, as the model asks for it.
type hostFiles struct {
	once   sync.Once
	points map[string]bool
}

// Lstat describes what is at a path.
func (h *hostFiles) Lstat(path string) (reach.Info, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return reach.Info{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return reach.Info{}, fs.ErrInvalid
	}
	return reach.Info{Mode: info.Mode(), UID: st.Uid, GID: st.Gid, Dev: st.Dev, Ino: st.Ino}, nil
}

// Readlink reads a symbolic link.
func (h *hostFiles) Readlink(path string) (string, error) { return os.Readlink(path) }

// Real is a path without links.
func (h *hostFiles) Real(path string) (string, error) { return filepath.EvalSymlinks(path) }

// MountPoint reads the mounts of this process once; proc_pid_mountinfo(5).
func (h *hostFiles) MountPoint(path string) bool {
	h.once.Do(func() {
		h.points = map[string]bool{}
		f, err := os.Open("/proc/self/mountinfo")
		if err != nil {
			return
		}
		defer f.Close()
		unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
		for in := bufio.NewScanner(f); in.Scan(); {
			if fields := strings.Fields(in.Text()); len(fields) > 4 {
				h.points[unescape.Replace(fields[4])] = true
			}
		}
	})
	return h.points[path]
}
