// Package recipe names what a compiler was asked for, so that a program that
// was compiled once need not be again: tests make the same small programs over
// and over, and emulated, each takes seconds.
package recipe

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Recipe is one command of a compiler.
type Recipe struct {
	// Dir is where it ran, Args its arguments without the output.
	Dir  string
	Args []string
	// Sources are the texts of those arguments that are files.
	Sources map[string]string
	// Out is what it makes, empty if it makes no file.
	Out string `json:"-"`
}

// Of reads a command's sources.
func Of(dir string, args []string) Recipe {
	r := Recipe{Dir: dir, Sources: map[string]string{}}
	for i := 0; i < len(args); i++ {
		if args[i] == "-o" && i+1 < len(args) {
			r.Out = args[i+1]
			i++
			continue
		}
		r.Args = append(r.Args, args[i])
		file := args[i]
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		if data, err := os.ReadFile(file); err == nil && !strings.HasPrefix(args[i], "-") {
			r.Sources[args[i]] = string(data)
		}
	}
	return r
}

// Key is a digest of everything that decides what is made, but not of where it
// lies. What the sources include is taken not to change meanwhile.
func (r Recipe) Key() string {
	sum := sha256.New()
	for _, arg := range r.Args {
		text, ok := r.Sources[arg]
		if !ok {
			text = arg
		}
		fmt.Fprintf(sum, "%d:%s", len(text), text)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
