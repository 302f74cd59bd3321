// Command fleet measures a daemon with a thousand plugins of which a hundred
// crash in loops: what the healthy ones' callers notice, what the daemon uses,
// and how long a restarted daemon takes to start all of them. make bench-fleet
// runs it, as root, against the built daemon. With -memory (make bench-memory)
// it measures what plugins cost that do nothing.
//
// Quiet and crashing windows take turns, so that whatever else the machine does
// meets both alike. A line for each figure says
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
	"time"

	"github.com/cordonhq/cordon/integration/bench/machine"
)

// effort is how much is measured.
type effort struct {
	plugins, crashing int
	windows           int           // of each kind
	calls             int           // in a window, at least
	span              time.Duration // of a window, at least
}

// errShort says that a figure misses its target.
var errShort = errors.New("a figure is short of its target")

func main() {
	e := effort{plugins: 1000, crashing: 100, windows: 3, calls: 2000, span: 5 * time.Second}
	flag.IntVar(&e.plugins, "plugins", e.plugins, "plugins in all")
	flag.IntVar(&e.crashing, "crashing", e.crashing, "of them, those that crash in loops")
	flag.IntVar(&e.calls, "calls", e.calls, "calls in each window, at least")
	flag.DurationVar(&e.span, "span", e.span, "length of each window, at least")
	bin := flag.String("bin", "bin", "the directory of cordond")
	memory := flag.Bool("memory", false, "measure what plugins cost that do nothing, and how long they take to start")
	flag.Parse()
	measure := measure
	if *memory {
		measure = measureMemory
	}
	if err := measure(os.Stdout, e, *bin); err != nil {
		fmt.Fprintln(os.Stderr, "cannot measure:", err)
		os.Exit(1)
	}
}

// window is what was seen in one.
type window struct {
	entering  []float64 // microseconds; of calls before all that crash did so in loops
	latencies []float64
	cores     float64 // of the daemon
	crashes   int
	span      time.Duration
}

func measure(out io.Writer, e effort, bin string) error {
	switch {
	case os.Geteuid() != 0:
		return errors.New("raising walls needs root")
	case e.crashing < 1 || e.plugins <= e.crashing || e.calls < 100:
		return fmt.Errorf("cannot measure %d plugins of which %d crash by %d calls", e.plugins, e.crashing, e.calls)
	}
	b, err := newBench(bin, e)
	if err != nil {
		return err
	}
	r := &report{out: out}
	r.machine(e)
	if err := errors.Join(b.measure(r), b.close()); err != nil {
		return err
	}
	if r.short {
		return errShort
	}
	return nil
}

// measure does everything, in the order in which it is read.
func (b *bench) measure(r *report) error {
	if err := b.startCalm(); err != nil {
		return err
	}
	before := machine.Now()
	var quiet, entering, crashing []float64
	cores, crashes, span := 0.0, 0, time.Duration(0)
	for range b.effort.windows {
		w, err := b.window(false)
		if err != nil {
			return err
		}
		quiet = append(quiet, w.latencies...)
		if w, err = b.window(true); err != nil {
			return err
		}
		crashing, entering = append(crashing, w.latencies...), append(entering, w.entering...)
		cores, crashes, span = max(cores, w.cores), crashes+w.crashes, span+w.span
	}
	r.say("%d restarts were seen in the windows; %d calls quiet, %d crashing; a call quiet p50 %.0f p99 %.0f us, crashing p50 %.0f p99 %.0f us",
		crashes, len(quiet), len(crashing), at(quiet, 50), at(quiet, 99), at(crashing, 50), at(crashing, 99))
	if crashes == 0 {
		return errors.New("nothing crashed")
	}
	r.say("the windows: %s", machine.Now().Since(before))
	r.say("%d calls before all crashed in loops, started again as fast as the machine can: p50 %.0f p99 %.0f us", len(entering), at(entering, 50), at(entering, 99))
	// A fleet that is not started again costs nobody anything.
	r.figure("fleet_crash_cycle_s", span.Seconds()*float64(b.effort.crashing)/float64(crashes), maxCycle)
	r.figure("fleet_call_p99_crashing_to_quiet", at(crashing, 99)/at(quiet, 99), 3)
	r.figure("fleet_daemon_cores", cores, 1)
	peak, err := b.peakMiB()
	if err != nil {
		return err
	}
	r.figure("fleet_daemon_peak_MiB", peak, 256)
	took, meanwhile, err := b.restart()
	if err != nil {
		return err
	}
	r.say("starting all again: %s", meanwhile)
	r.figure("fleet_start_of_all_s", took.Seconds(), 5)
	return nil
}

// maxCycle is how often, in seconds, each plugin of the crashing ones must have
// come round for the other figures to mean anything: 1.1 on a machine that starts
// it at once; a hundred loops that live a tenth of a second, one of them at a time
// for two processors, come round in 10.
const maxCycle = 15

// report prints figures and remembers whether one is short.
type report struct {
	out   io.Writer
	short bool
}

func (r *report) say(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

// figure prints one. Less is better.
func (r *report) figure(name string, value, target float64) {
	verdict := "ok"
	if value > target {
		verdict, r.short = "short", true
	}
	r.say("figure %s %.2f %.2f %s", name, value, target, verdict)
}

// at is a percentile.
func at(list []float64, percent int) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[(len(sorted)-1)*percent/100]
}

// machine says where the figures come from.
func (r *report) machine(e effort) {
	r.host()
	r.say("counts: %d plugins, %d of them crash 0.1 s after each start and are started again after 1 s; %d windows of each kind, each at least %v and %d calls",
		e.plugins, e.crashing, e.windows, e.span, e.calls)
}

func (r *report) host() {
	r.say("machine: %s", machine.Name())
}

// patience bounds every wait.
const patience = 5 * time.Minute
