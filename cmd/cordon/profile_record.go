package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/cmd/cordon/run"
	"github.com/cordonhq/cordon/profiles/record"
)

const recordLong = `Run a command, note what it does, and write the profile that allows that and no
more: the system calls it made, with their arguments where these make one call many;
the files it opened, asked about or executed; the memory, processes and limits it
came to. It needs root.

The command runs without a network and as a user who owns nothing. It sees the
host's programs, libraries and their configuration read-only, and what --ro and --rw
add. Calls that no ordinary program needs (mount, ptrace, new namespaces, keys ...)
are refused as always, and the profile says that it made them.

The profile goes to FILE, and what it was written from to FILE.recording beside it. A
second recording into the same FILE adds to the first: run everything that the program
is for. FILE is written anew each time; what you add to it belongs in a profile that
extends it.

The coverage in its first lines says which of the calls behind the functions that the
program imports were never seen. Of scripts, of interpreters and of programs that are
linked statically nobody can tell, and it says that. Whatever was not seen will be a
violation: read the profile, try it ("cordon profile try"), and only then enforce it.

Exit status: as for cordon run; 125 also if no profile could be written.`

func profileRecord(a *app) *cobra.Command {
	var o run.Options
	cmd := &cobra.Command{
		Use: "record -o FILE [flags] -- CMD [ARG...]", Short: "Write a profile from what a command really does",
		Long: recordLong,
		Example: `  sudo cordon profile record -o thumbs.toml --ro ./thumbs:/srv/thumbs -- node /srv/thumbs/main.js
  sudo cordon profile try ./thumbs.toml -- node /srv/thumbs/main.js`,
		Args: cobra.ArbitraryArgs,
	}
	file := cmd.Flags().StringP("output", "o", "", "write the profile to `FILE`, and the recording to FILE.recording")
	fresh := cmd.Flags().Bool("fresh", false, "forget what earlier recordings into FILE have seen")
	flags := flag.NewFlagSet("record", flag.ContinueOnError)
	run.FlagsBeside(flags, &o)
	cmd.Flags().AddGoFlagSet(flags)
	_ = cmd.Flags().MarkHidden("explain") // there is nothing to explain
	cmd.Flags().SetInterspersed(false)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if o.Argv = args; *file == "" {
			return usage(cmd, "there is no file to write the profile to: say -o FILE")
		}
		if err := o.Check(); err != nil {
			return cannotRun(err)
		}
		return a.record(&o, *file, *fresh)
	}
	return cmd
}

// record runs, merges and writes. Nothing is written unless all of it can be.
func (a *app) record(o *run.Options, file string, fresh bool) error {
	before, err := recorded(file, fresh)
	if err != nil {
		return cannotRecord(err)
	}
	r := run.Record(o)
	if r.Recording == nil {
		return &statusError{max(r.Status, run.StatusFailure)}
	}
	if r.Status != 0 {
		fmt.Fprintf(os.Stderr, "cordon: the command ended with %d: what it does when it succeeds may not be in the profile\n", r.Status)
	}
	before.Merge(r.Recording)
	coverage := record.Cover(before, r.Program)
	text, err := before.Profile(coverage, time.Now())
	if err != nil {
		return cannotRecord(err)
	}
	data, err := before.Encode()
	if err != nil {
		return cannotRecord(err)
	}
	if err := errors.Join(replace(file+recordingSuffix, data), replace(file, []byte(text))); err != nil {
		return cannotRecord(err)
	}
	for _, line := range coverage.Lines() {
		fmt.Fprintf(os.Stderr, "cordon: %s\n", lines(line))
	}
	fmt.Fprintf(os.Stderr, "cordon: wrote %s from %d recorded; read it, then: cordon profile try %s -- %s\n",
		lines(file), before.Runs, lines(file), lines(strings.Join(o.Argv, " ")))
	return &statusError{r.Status}
}

// recordingSuffix is of the file beside a recorded profile.
const recordingSuffix = ".recording"

// recorded is what earlier recordings into a file have seen. A profile that was
// not recorded is not to be overwritten.
func recorded(file string, fresh bool) (*record.Recording, error) {
	if strings.HasPrefix(filepath.Base(file), "-") {
		return nil, fmt.Errorf("%q is no name of a file", file)
	}
	_, err := os.Lstat(file)
	there := err == nil
	f, err := os.Open(file + recordingSuffix)
	switch {
	case errors.Is(err, os.ErrNotExist) && there:
		return nil, fmt.Errorf("%s is there and was not recorded: choose another name, and extend it", file)
	case errors.Is(err, os.ErrNotExist) || err == nil && fresh:
		return record.New(), nil
	case err != nil:
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, record.MaxFile+1))
	if err != nil {
		return nil, err
	}
	r, err := record.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s%s: %w", file, recordingSuffix, err)
	}
	return r, nil
}

// replace writes a file whole or not at all.
func replace(file string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(data))
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()) // a profile is for everybody to read
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func cannotRecord(err error) error {
	return &failure{fmt.Errorf("cannot record: %w", err), "", run.StatusFailure}
}
