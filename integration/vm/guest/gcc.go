package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/cordonhq/cordon/integration/vm/recipe"
	"github.com/cordonhq/cordon/integration/vm/stream"
)

// compiled is where what gcc made is kept; the host's side puts in there what
// it made ahead. asked is what was not there.
const (
	compiled = stream.Compiled
	asked    = stream.Compiled + "/asked"
)

// gcc is this program under gcc's name: it runs the compiler, once for each
// command and source.
func gcc(args []string) int {
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	r := recipe.Of(dir, args)
	if r.Out != "" {
		if data, err := os.ReadFile(filepath.Join(compiled, r.Key())); err == nil && os.WriteFile(r.Out, data, 0o755) == nil { // #nosec G306 -- a program
			return 0
		}
	}
	cmd := exec.Command("/usr/bin/gcc", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "gcc:", err)
		return 1
	}
	if r.Out != "" {
		_ = keep(r) // then it is compiled again
	}
	return 0
}

func keep(r recipe.Recipe) error {
	data, err := os.ReadFile(r.Out)
	if err != nil {
		return err
	}
	words, err := json.Marshal(r)
	if err != nil {
		return err
	}
	for _, dir := range []string{compiled, asked} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	key := r.Key()
	return errors.Join(whole(filepath.Join(compiled, key), data), whole(filepath.Join(asked, key), words))
}

// whole writes a file that others see whole or not at all.
func whole(file string, data []byte) error {
	part := fmt.Sprintf("%s.%d", file, os.Getpid())
	return errors.Join(os.WriteFile(part, data, 0o600), os.Rename(part, file))
}

// tellAsked says what was compiled since the last time.
func tellAsked() {
	files, _ := filepath.Glob(asked + "/*")
	for _, file := range files {
		if words, err := os.ReadFile(file); err == nil && filepath.Ext(file) == "" {
			tell(stream.Message{Kind: stream.Compile, Text: string(words)})
			_ = os.Remove(file)
		}
	}
}
