package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/cmd/cordon/run"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/strict"
)

func profileFmt(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "fmt FILE...", Short: "Write profiles in one form",
		Long: `Write each file in one form: one blank around '=', one blank line before a table,
lists on one line or indented by two, comments of neighbouring lines below each
other. The order of lines, which lines a list has, and every comment stay. A file
that is no TOML is left as it is. Manifests and cordond.toml can be formatted, too.

- reads standard input and writes to standard output. With --check nothing is
written, and the exit status is 1 if a file is not in that form.`,
		Example: `  cordon profile fmt ./thumbs.toml
  cordon profile fmt --check /etc/cordon/profiles/*.toml
  cordon profile show --origin=false node | cordon profile fmt -`,
		Args: cobra.MinimumNArgs(0),
	}
	check := cmd.Flags().Bool("check", false, "name the files that are not in that form, and write none")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage(cmd, "there is no file")
		}
		var errs []error
		other := false
		for _, name := range args {
			changed, err := a.format(name, *check)
			errs = append(errs, err)
			other = other || changed
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if *check && other {
			return &statusError{exitFailure}
		}
		return nil
	}
	return cmd
}

// format formats one file, and says whether it was in another form.
func (a *app) format(name string, check bool) (changed bool, err error) {
	data, err := a.readProfile(name)
	if err != nil {
		return false, err
	}
	out, err := profiles.Format(name, data)
	if err != nil {
		return false, err
	}
	changed = !bytes.Equal(data, out)
	switch {
	case check && changed:
		_, err = fmt.Fprintln(a.out, lines(name))
	case check:
	case name == "-":
		_, err = a.out.Write(out)
	case changed:
		if err = replaceFile(name, out); err == nil {
			_, err = fmt.Fprintln(a.out, lines(name))
		}
	}
	return changed, err
}

// readProfile reads a file, or standard input for "-", within a profile's bounds.
func (a *app) readProfile(name string) (data []byte, err error) {
	if name == "-" {
		data, err = io.ReadAll(io.LimitReader(a.in, strict.MaxFile+1))
	} else {
		data, err = profiles.ReadBounded(name)
	}
	var at *os.PathError
	if errors.As(err, &at) {
		err = at.Err // the path is named once
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return data, nil
}

// replaceFile writes a file anew, so that whoever reads it meanwhile finds the
// old one whole or the new one whole. Owner and mode stay; a link is followed.
func replaceFile(name string, data []byte) (err error) {
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	f, err := os.CreateTemp(filepath.Dir(real), "."+filepath.Base(real)+".*")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot write %s: %w", name, errors.Join(err, os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(info.Mode().Perm()))
	if st, ok := info.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		err = errors.Join(err, f.Chown(int(st.Uid), int(st.Gid)))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), real)
}

// profileFile gives the file of a profile that people named: a path, or a name
// below the host's profiles. A built-in profile has none.
func profileFile(name string) (string, error) {
	dir, _, err := run.HostProfiles()
	if err != nil {
		return "", err
	}
	return profiles.FileOf(name, dir)
}
