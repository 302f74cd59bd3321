// Command seccomp measures what the filters cost: allowed calls, checked
// arguments, a refused call beside ptrace's way of refusing it, and making and
// loading a program. make bench-seccomp runs it.
//
// Variants are processes that live side by side and are asked in turn, so that
// whatever else the machine does meets all of them alike; what is compared are
// medians. A line for each figure says
//
//	figure NAME VALUE TARGET ok|short
//
// with "-" for a figure that has no target. It ends with 1 if one is short.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/integration/bench/machine"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/seccomp/compile"
)

// effort is how much is measured.
type effort struct {
	generations int // sets of processes, each with its own addresses
	rounds      int // interleaved batches in each generation
	turns       int // calls in a batch
	trips       int // refused calls in a batch
	loads       int // loadings of each order
	compiles    int
}

var full = effort{generations: 5, rounds: 121, turns: 5000, trips: 200, loads: 101, compiles: 21}

func main() {
	switch os.Getenv(roleEnv) {
	case roleVictim:
		beVictim()
	case roleLoader:
		beLoader()
	case roleDenied:
		beDenied()
	}
	rounds := flag.Int("rounds", full.rounds, "interleaved batches of each generation")
	flag.Parse()
	e := full
	e.rounds = *rounds
	if err := measure(os.Stdout, e); err != nil {
		fmt.Fprintln(os.Stderr, "cannot measure:", err)
		os.Exit(1)
	}
}

// errShort says that a figure misses its target.
var errShort = errors.New("a figure is short of its target")

// report prints figures and remembers whether one is short.
type report struct {
	out   io.Writer
	short bool
}

// figure prints one; target 0 is none. Less is better.
func (r *report) figure(name string, value, target float64) {
	if target == 0 {
		fmt.Fprintf(r.out, "figure %s %.3f - ok\n", name, value)
		return
	}
	verdict := "ok"
	if value > target {
		verdict, r.short = "short", true
	}
	fmt.Fprintf(r.out, "figure %s %.3f %.2f %s\n", name, value, target, verdict)
}

func (r *report) say(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

// measure does everything, in the order in which it is read.
func measure(out io.Writer, e effort) error {
	r := &report{out: out}
	name, filter, err := r.largest()
	if err != nil {
		return err
	}
	r.machine(e)
	began := machine.Now()
	for _, part := range []func(effort, string, seccomp.Filter) error{r.allowed, r.refused, r.compiled, r.loaded} {
		if err := part(e, name, filter); err != nil {
			return err
		}
	}
	r.say("%s", machine.Now().Since(began))
	if r.short {
		return errShort
	}
	return nil
}

// machine says where the figures come from.
func (r *report) machine(e effort) {
	r.say("machine: %s", machine.Name())
	r.say("libseccomp %s; BPF compiled by the kernel: %s", compile.Version(), jit())
	r.say("counts: %d generations of %d interleaved rounds; %d allowed or %d refused calls a batch; %d loads; %d compilations; medians",
		e.generations, e.rounds, e.turns, e.trips, e.loads, e.compiles)
}

func jit() string {
	b, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable")
	if err != nil {
		return "unknown"
	}
	return map[string]string{"0": "no", "1": "yes", "2": "yes, with debugging"}[strings.TrimSpace(string(b))]
}

// largest finds the built-in profile with the longest program.
func (r *report) largest() (string, seccomp.Filter, error) {
	var name string
	var filter seccomp.Filter
	most := 0
	for _, n := range profiles.BuiltinNames() {
		f, err := builtin(n)
		if err != nil {
			return "", filter, err
		}
		program, err := compile.Compile(f)
		if err != nil {
			return "", filter, err
		}
		r.say("builtin:%s has %d instructions", n, len(program)/8)
		if len(program) > most {
			name, filter, most = n, f, len(program)
		}
	}
	return name, filter, nil
}

// builtin is the filter of a built-in profile.
func builtin(name string) (seccomp.Filter, error) {
	p, err := profiles.Builtin(name)
	if err != nil {
		return seccomp.Filter{}, err
	}
	resolved, err := profiles.Resolve(profiles.Input{Profile: p, Ceiling: profiles.DefaultCeiling(), Argv: []string{"/bin/true"}})
	if err != nil {
		return seccomp.Filter{}, err
	}
	return resolved.Seccomp, nil
}

// median sorts what it is given.
func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
