// Command profiles measures what it takes to know what a built-in profile
// amounts to: read it and all that it extends, resolve it, and make the steps
// of a start, with nothing remembered from before. make bench-profiles runs it.
//
// Each measurement of "first" is a new process, which is what a person waits
// for in cordon run; those of "again" are one process's, as in the daemon. The
// profiles take turns. What is compared with the target is the median of the
// dearest profile, in processor time of the whole process: this bounds what a
// person waits for on a machine that has time, and is the same on one that has
// not. Time on the clock is printed beside it. A line for each figure says
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
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/integration/bench/machine"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/supervisor/launch"
)

// childEnv names the profile that a child measures once.
const childEnv = "CORDON_BENCH_PROFILE"

// target is what is promised of the largest profile, in milliseconds.
const target = 2.0

// landlockABI is the kernel's that the steps are made for; any will do.
const landlockABI = 7

func main() {
	if name := os.Getenv(childEnv); name != "" {
		t, err := once(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(t.processor, t.clock)
		return
	}
	rounds := flag.Int("rounds", 101, "measurements of each profile")
	flag.Parse()
	if err := measure(os.Stdout, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "cannot measure:", err)
		os.Exit(1)
	}
}

// took is how long one measurement took, in nanoseconds.
type took struct{ processor, clock int64 }

// once reads, resolves and plans a built-in profile for a host that has all that
// it grants.
func once(name string) (took, error) {
	begin, used := time.Now(), processorTime()
	p, err := profiles.Builtin(name)
	if err != nil {
		return took{}, err
	}
	plan, err := profiles.Resolve(profiles.Input{Profile: p, Argv: []string{"/usr/bin/true"}})
	if err != nil {
		return took{}, err
	}
	_, steps, err := launch.Preview(plan, landlockABI, func(string, []string) launch.Found { return launch.Found{Dir: true} })
	if err == nil && len(steps) == 0 {
		err = fmt.Errorf("%s has a plan without steps", name)
	}
	return took{processorTime() - used, time.Since(begin).Nanoseconds()}, err
}

// processorTime is what this process has used, in nanoseconds.
func processorTime() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		panic(err) // every Linux has it
	}
	return t.Nano()
}

var errShort = errors.New("a figure is short of its target")

// measure has every profile measured in turn, and prints the figures.
func measure(out io.Writer, rounds int) error {
	fmt.Fprintf(out, "machine: %s; %d interleaved rounds of %d profiles, medians\n", machine.Name(), rounds, len(profiles.BuiltinNames()))
	began := machine.Now()
	names := profiles.BuiltinNames()
	first, again := map[string][]took{}, map[string][]took{}
	for range rounds {
		for _, name := range names {
			t, err := inChild(name)
			if err != nil {
				return err
			}
			first[name] = append(first[name], t)
			if t, err = once(name); err != nil {
				return err
			}
			again[name] = append(again[name], t)
		}
	}
	dearest := names[0]
	for _, name := range names {
		f, a := medians(first[name]), medians(again[name])
		fmt.Fprintf(out, "%-7s first %.3f ms (clock %.3f), again %.3f ms (clock %.3f)\n", name, f.processor, f.clock, a.processor, a.clock)
		if f.processor > medians(first[dearest]).processor {
			dearest = name
		}
	}
	fmt.Fprintln(out, machine.Now().Since(began))
	fmt.Fprintf(out, "the dearest is %s\n", dearest)
	ok := figure(out, "profile_plan_first_ms", medians(first[dearest]).processor)
	if !figure(out, "profile_plan_again_ms", medians(again[dearest]).processor) || !ok {
		return errShort
	}
	return nil
}

// inChild measures in a new process, where nothing has run before.
func inChild(name string) (t took, err error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err == nil {
		_, err = fmt.Sscan(string(text), &t.processor, &t.clock)
	}
	if err != nil {
		return t, fmt.Errorf("cannot measure %s in a process of its own: %w", name, err)
	}
	return t, nil
}

// millis is a median, in milliseconds.
type millis struct{ processor, clock float64 }

func medians(list []took) millis {
	median := func(of func(took) int64) float64 {
		sorted := make([]int64, len(list))
		for i, t := range list {
			sorted[i] = of(t)
		}
		slices.Sort(sorted)
		return float64(sorted[len(sorted)/2]) / 1e6
	}
	return millis{median(func(t took) int64 { return t.processor }), median(func(t took) int64 { return t.clock })}
}

// figure prints one; less is better.
func figure(out io.Writer, name string, value float64) bool {
	verdict := "ok"
	if value > target {
		verdict = "short"
	}
	fmt.Fprintf(out, "figure %s %.3f %.2f %s\n", name, value, target, verdict)
	return value <= target
}
