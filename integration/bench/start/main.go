// Command start measures what a start costs: cordon inside a daemon and as cordon
// run, beside other launchers and beside a C program that makes the same system
// calls with no daemon around it. make bench-start runs it, as root.
//
// All are asked in turn, so that whatever else the machine does meets all of
// them alike; what is compared are medians. Each start is timed to the first
// instruction of the same tiny static program, by that program itself, and to
// its reaped exit. A line for each figure says
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
	"os/signal"
	"syscall"
	"time"

	"github.com/cordonhq/cordon/integration/bench/machine"
)

// effort is how much is measured.
type effort struct {
	rounds   int           // interleaved rounds, each of one start a contender
	spacing  time.Duration // between starts of the spaced part
	launches int           // of each throughput
}

var full = effort{rounds: 101, spacing: 30 * time.Millisecond, launches: 200}

// errShort says that a figure misses its target.
var errShort = errors.New("a figure is short of its target")

func main() {
	e := full
	flag.IntVar(&e.rounds, "rounds", e.rounds, "interleaved rounds")
	flag.IntVar(&e.launches, "launches", e.launches, "launches of each throughput")
	cordon := flag.String("cordon", "bin/cordon", "the command line to measure, with its cordond beside it")
	flag.Parse()
	if err := measure(os.Stdout, e, *cordon); err != nil {
		fmt.Fprintln(os.Stderr, "cannot measure:", err)
		os.Exit(1)
	}
}

// measure does everything, in the order in which it is read.
func measure(out io.Writer, e effort, cordon string) error {
	if os.Geteuid() != 0 {
		return errors.New("raising walls needs root")
	}
	// What is interrupted leaves nothing, either.
	ctx, stop := signal.NotifyContext(background, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	b, err := newBench(ctx, cordon)
	if err != nil {
		return err
	}
	defer b.close()
	r := &report{out: out}
	r.machine(b, e)
	began := machine.Now()
	for _, part := range []struct {
		name  string
		pause time.Duration
	}{{"back_to_back", 0}, {"spaced", e.spacing}} {
		results, err := b.interleave(e.rounds, part.pause)
		if err != nil {
			return err
		}
		r.table(part.name, results)
		r.figures(part.name, results)
	}
	if err := b.charges(r, e.rounds, e.spacing); err != nil {
		return err
	}
	if err := b.setUp(r, e.rounds); err != nil {
		return err
	}
	if err := b.throughput(r, e.launches); err != nil {
		return err
	}
	r.say("%s", machine.Now().Since(began))
	if r.short {
		return errShort
	}
	return nil
}

// report prints figures and remembers whether one is short.
type report struct {
	out   io.Writer
	short bool
}

func (r *report) say(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

// figure prints one; target 0 is none. Less is better.
func (r *report) figure(name string, value, target float64) {
	if target == 0 {
		r.say("figure %s %.3f - ok", name, value)
		return
	}
	verdict := "ok"
	if value > target {
		verdict, r.short = "short", true
	}
	r.say("figure %s %.3f %.2f %s", name, value, target, verdict)
}

// machine says where the figures come from.
func (r *report) machine(b *bench, e effort) {
	r.say("machine: %s", machine.Name())
	for _, c := range b.contenders {
		r.say("  %-20s %s", c.name, c.about)
	}
	for _, m := range b.missing {
		r.say("  %-20s not measured: %s", m.name, m.about)
	}
	r.say("counts: %d interleaved rounds back to back, %d spaced %s apart, %d launches of each throughput; medians and p95 in microseconds",
		e.rounds, e.rounds, e.spacing, e.launches)
}

// table prints one part of the run.
func (r *report) table(part string, results map[string]*samples) {
	r.say("%-20s %9s %9s %9s %9s", part, "first", "p95", "reaped", "p95")
	for _, name := range order {
		if s := results[name]; s != nil {
			r.say("%-20s %9.0f %9.0f %9.0f %9.0f", name, s.first(50), s.first(95), s.reaped(50), s.reaped(95))
		}
	}
}

// figures compares medians. The daemon's starts are compared to the first
// instruction, whole processes to their reaped exit.
func (r *report) figures(part string, results map[string]*samples) {
	first := func(a, b string, target float64) {
		if results[a] != nil && results[b] != nil {
			r.figure(part+"_"+a+"_to_"+b, results[a].first(50)/results[b].first(50), target)
		}
	}
	whole := func(a, b string, target float64) {
		if results[a] != nil && results[b] != nil {
			r.figure(part+"_"+a+"_to_"+b+"_whole", results[a].reaped(50)/results[b].reaped(50), target)
		}
	}
	first("cold", "bubblewrap", 0.30)
	first("cold", "floor", 1.25)
	first("pooled", "pooled_floor", 1.35)
	whole("run_cached", "bubblewrap", 0.8)
	whole("run_uncached", "bubblewrap", 1.6)
	for _, peer := range []string{"crun", "runc", "firejail", "minijail", "nsjail"} {
		first("cold", peer, 0)
	}
}
