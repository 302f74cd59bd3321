package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/cordonhq/cordon/integration/vm/recipe"
)

// recipes is where the recipes stay that guests had to compile themselves.
func recipes(dir string) string { return filepath.Join(dir, "recipes") }

// remember keeps a recipe of a guest's for the next run. What cannot be kept is
// compiled by the next guest, too.
func remember(dir, words string) {
	var r recipe.Recipe
	if json.Unmarshal([]byte(words), &r) != nil || os.MkdirAll(recipes(dir), 0o755) != nil {
		return
	}
	file := filepath.Join(recipes(dir), r.Key())
	if os.WriteFile(file+".new", []byte(words), 0o600) == nil {
		_ = os.Rename(file+".new", file)
	}
}

// compileAhead makes the programs of all remembered recipes with this host's
// compiler, which is the guest's, from the sources as they are now. It gives the
// files that it made, each under its key; recipes that have become wrong are
// forgotten.
func compileAhead(ctx context.Context, dir, into string) []string {
	files, _ := filepath.Glob(recipes(dir) + "/*")
	if os.MkdirAll(into, 0o755) != nil {
		return nil
	}
	var mu sync.Mutex
	var made []string
	var jobs sync.WaitGroup
	work := make(chan string)
	for range runtime.NumCPU() {
		jobs.Go(func() {
			runtime.LockOSThread() // its children die with its thread
			defer runtime.UnlockOSThread()
			for file := range work {
				if out := compileOne(ctx, file, into); out != "" {
					mu.Lock()
					made = append(made, out)
					mu.Unlock()
				} else if ctx.Err() == nil {
					_ = os.Remove(file)
				}
			}
		})
	}
	for _, file := range files {
		work <- file
	}
	close(work)
	jobs.Wait()
	say("%d programs of the tests are compiled ahead", len(made))
	return made
}

// compileOne makes one program, "" if it cannot.
func compileOne(ctx context.Context, file, into string) (out string) {
	text, err := os.ReadFile(file)
	var then recipe.Recipe
	if err != nil || json.Unmarshal(text, &then) != nil {
		return ""
	}
	below, ok := strings.CutPrefix(then.Dir, home)
	dir := filepath.Join(".", below)
	if !ok { // it ran elsewhere: all of its sources are in the recipe
		dir = into
	}
	args := make([]string, len(then.Args))
	for i, arg := range then.Args {
		args[i] = arg
		source, isFile := then.Sources[arg]
		if !isFile || !filepath.IsAbs(arg) && ok {
			continue // of the checkout: as it is now
		}
		place, err := os.MkdirTemp(into, "source-")
		if err != nil {
			return ""
		}
		defer os.RemoveAll(place)
		if args[i], err = filepath.Abs(filepath.Join(place, filepath.Base(arg))); err != nil || os.WriteFile(args[i], []byte(source), 0o600) != nil {
			return ""
		}
	}
	now := recipe.Of(dir, args)
	out = filepath.Join(into, now.Key())
	target, err := filepath.Abs(out)
	if err != nil {
		return ""
	}
	cmd := command(ctx, "gcc", append(args, "-o", target)...)
	cmd.Dir = dir
	if cmd.Run() != nil {
		return ""
	}
	return out
}
