package run

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
)

// Options are what the flags of cordon run say.
type Options struct {
	// Profile is a name or a file.
	Profile string
	// Set are KEY=VALUE, said on top of the profile.
	Set []string
	// ReadOnly and ReadWrite are grants as written, PATH[:DEST].
	ReadOnly, ReadWrite []string
	// Env is as written, NAME or NAME=VALUE.
	Env []string
	// Cwd is inside the walls; empty leaves it to the profile.
	Cwd string
	// Timeout ends the run; 0 is without bound.
	Timeout time.Duration
	// Explain turns the file watch on and prints each violation at length.
	Explain bool
	// Report is the file of the report; empty has none.
	Report string
	// Argv is the command.
	Argv []string
}

// Flags registers the flags of cordon run, with their help, to fill o.
func Flags(fs *flag.FlagSet, o *Options) {
	fs.StringVar(&o.Profile, "profile", "strict", "walls to use: a built-in `profile`, one in /etc/cordon/profiles, or a file")
	FlagsBeside(fs, o)
}

// FlagsBeside registers the flags of a run whose profile is named otherwise.
func FlagsBeside(fs *flag.FlagSet, o *Options) {
	fs.Var((*list)(&o.Set), "set", "say one key on top of the profile: `KEY=VALUE`, such as resources.memory.max=1G; may be repeated")
	fs.Var((*list)(&o.ReadOnly), "ro", "grant reading and executing: `PATH[:DEST]`, seen at DEST inside; may be repeated")
	fs.Var((*list)(&o.ReadWrite), "rw", "grant reading and writing, never executing: `PATH[:DEST]`; may be repeated")
	fs.Var((*list)(&o.Env), "env", "set a variable, or pass one on by name alone: `NAME[=VALUE]`; may be repeated")
	fs.StringVar(&o.Cwd, "cwd", "", "working `directory` inside the walls")
	fs.Var((*positive)(&o.Timeout), "timeout", "kill the command after this `duration` (90s, 5m) and exit 124")
	fs.BoolVar(&o.Explain, "explain", false, "watch file opens too, and explain each violation at length")
	fs.StringVar(&o.Report, "report", "", "write what happened to `file`, one JSON object a line; cordon why reads it")
}

// ErrHelp is returned by Parse when help was asked for.
var ErrHelp = flag.ErrHelp

// Parse reads the arguments after "run". Flags end at "--" or at the first word
// that is none.
func Parse(args []string) (*Options, error) {
	o := &Options{}
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	Flags(fs, o)
	if err := fs.Parse(args); err != nil {
		return nil, wordError(err)
	}
	o.Argv = fs.Args()
	return o, o.Check()
}

// wordError gives the flag package's error this command's form.
func wordError(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return ErrHelp
	}
	text := strings.Replace(err.Error(), "flag provided but not defined: -", "there is no flag --", 1)
	return errors.New(text)
}

// Check says what is wrong with o by itself.
func (o *Options) Check() error {
	if len(o.Argv) == 0 || o.Argv[0] == "" {
		return errors.New("there is no command: write it after --")
	}
	for _, arg := range o.Argv {
		if strings.ContainsRune(arg, 0) {
			return errors.New("the command holds a zero byte")
		}
	}
	return nil
}

// list is a flag that may be repeated.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

// Set adds one value.
func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// Type names the value in help texts.
func (l *list) Type() string { return "strings" }

// positive is a duration above zero.
type positive time.Duration

func (d *positive) String() string {
	if *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}

// Set reads a duration with its unit.
func (d *positive) Set(value string) error {
	n, err := time.ParseDuration(value)
	if err != nil || n <= 0 {
		return errors.New("expected a duration above zero with its unit, such as 90s or 5m")
	}
	*d = positive(n)
	return nil
}

// Type names the value in help texts.
func (d *positive) Type() string { return "duration" }

// environment is the variables that o gives the command, NAME=VALUE. A name
// without a value takes the caller's, which must have it.
func environment(o *Options, lookup func(string) (string, bool)) ([]string, error) {
	out := make([]string, 0, len(o.Env))
	for _, word := range o.Env {
		name, value, given := strings.Cut(word, "=")
		if name == "" || strings.ContainsRune(word, 0) {
			return nil, fmt.Errorf("--env %q: expected NAME or NAME=VALUE", word)
		}
		if !given {
			if value, given = lookup(name); !given {
				return nil, fmt.Errorf("--env %s: the variable is not set here; write %s=VALUE", name, name)
			}
		}
		out = append(out, name+"="+value)
	}
	return out, nil
}
