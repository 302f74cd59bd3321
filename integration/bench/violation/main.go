// Command violation measures what happens to a plugin that hits a wall: from its
// call to its standing still, to its quarantine being on the disk, and to its
// death. make bench-violation runs it, as root, against the built daemon.
//
// The plugin says when it was about to make the call; everything else is seen
// from outside: cgroup.events and the process's pidfd, as the kernel reports them,
// and the daemon's log, which says when the quarantine is on the disk. Each round
// asks every size in turn, and beside each ends a bare process of the same size
// with cgroup.kill and writes a bare file with fsync. A line for each figure says
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

	"github.com/cordonhq/cordon/integration/bench/machine"
)

// errShort says that a figure misses its target.
var errShort = errors.New("a figure is short of its target")

func main() {
	rounds := flag.Int("rounds", 101, "interleaved rounds")
	bin := flag.String("bin", "bin", "the directory of cordond")
	flag.Parse()
	if err := measure(os.Stdout, *rounds, *bin); err != nil {
		fmt.Fprintln(os.Stderr, "cannot measure:", err)
		os.Exit(1)
	}
}

// size is one kind of plugin.
type size struct {
	name     string
	mib      int // touched memory
	children int
	pairs    int // deaths in a round, a plugin's and a bare one each: those of a large one differ by milliseconds
}

var sizes = []size{{"tiny", 0, 0, 1}, {"16MiB", 16, 0, 2}, {"64MiB", 64, 0, 4}, {"tree_of_10", 0, 9, 1}}

// samples are the durations of one size, in microseconds.
type samples struct {
	told, contained, persisted, quarantinedDead, killedDead, bareDead, fsync []float64
}

func measure(out io.Writer, rounds int, bin string) error {
	if os.Geteuid() != 0 {
		return errors.New("raising walls needs root")
	}
	b, err := newBench(bin)
	if err != nil {
		return err
	}
	began := machine.Now()
	all, err := b.run(rounds)
	meanwhile := machine.Now().Since(began)
	if err := errors.Join(err, b.close()); err != nil {
		return err
	}
	r := &report{out: out}
	r.machine(rounds)
	r.say("%s", meanwhile)
	for _, s := range sizes {
		r.figures(s.name, all[s.name])
	}
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
		r.say("figure %s %.0f - ok", name, value)
		return
	}
	verdict := "ok"
	if value > target {
		verdict, r.short = "short", true
	}
	r.say("figure %s %.0f %.0f %s", name, value, target, verdict)
}

// figures are in microseconds; the targets of one run are made of its own bare
// figures.
func (r *report) figures(name string, s *samples) {
	fsync, bare := at(s.fsync, 50), at(s.bareDead, 50)
	r.say("%s: bare cgroup.kill p50 %.0f p95 %.0f us, bare fsync p50 %.0f p95 %.0f us", name, bare, at(s.bareDead, 95), fsync, at(s.fsync, 95))
	r.say("%s: told to freeze and answered p50 %.0f p95 %.0f us", name, at(s.told, 50), at(s.told, 95))
	r.say("%s: contained p95 %.0f, persisted p95 %.0f, dead p95 %.0f (kill), p50 %.0f (quarantine, after its evidence)", name,
		at(s.contained, 95), at(s.persisted, 95), at(s.killedDead, 95), at(s.quarantinedDead, 50))
	r.figure(name+"_contained_p50_us", at(s.contained, 50), 1000)
	over := make([]float64, len(s.bareDead))
	for i, bare := range s.bareDead {
		over[i] = s.killedDead[i] - bare
	}
	r.say("%s: dead p50 %.0f us, of a bare one %.0f us", name, at(s.killedDead, 50), bare)
	r.figure(name+"_dead_over_bare_p50_us", at(over, 50), 500)
	r.figure(name+"_persisted_p50_us", at(s.persisted, 50), 4*fsync+1000)
}

// at is a percentile.
func at(list []float64, percent int) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[(len(sorted)-1)*percent/100]
}

// machine says where the figures come from.
func (r *report) machine(rounds int) {
	r.say("machine: %s", machine.Name())
	r.say("counts: %d interleaved rounds of %d sizes; each a quarantine, a kill and a bare one (16 MiB: 2 of each, 64 MiB: 4), and a bare fsync; microseconds", rounds, len(sizes))
}
