package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cordonhq/cordon/integration/bench/machine"
	"github.com/cordonhq/cordon/supervisor/control"
)

// What a plugin may cost, of the daemon's and the keeper's memory together, and
// all of them to start.
const (
	eachKiB    = 64
	startAll   = 4.0  // seconds for a thousand
	wakesEach  = 0.01 // a second, of daemon, keeper and the plugin itself
	memorySpan = 10 * time.Second
	// settleSpan is until what was done is over for the daemon, too: it gives back
	// the memory that starts took when it has been calm for 10 s.
	settleSpan = 25 * time.Second
)

// measureMemory is of plugins that have said hello and answered one call, and
// then are left alone.
func measureMemory(out io.Writer, e effort, bin string) error {
	if os.Geteuid() != 0 {
		return errors.New("raising walls needs root")
	}
	e.crashing = 0
	b, err := newBench(bin, e)
	if err != nil {
		return err
	}
	r := &report{out: out}
	r.host()
	r.say("counts: %d plugins that said hello and answered one call, their output piped; idle for %v, after %v", e.plugins, memorySpan, settleSpan)
	if err := errors.Join(b.measureMemory(r), b.close()); err != nil {
		return err
	}
	if r.short {
		return errShort
	}
	return nil
}

func (b *bench) measureMemory(r *report) error {
	// The first start makes what all share, and is none of the thousand's.
	first := b.calm()[:1]
	if err := b.each(first, startOne); err != nil {
		return err
	}
	if err := b.each(first, callOne); err != nil {
		return err
	}
	quiet, err := b.wakes()
	if err != nil {
		return err
	}
	before, err := b.look()
	if err != nil {
		return err
	}
	rest := b.calm()[1:]
	used, err := b.used()
	if err != nil {
		return err
	}
	began, then := time.Now(), machine.Now()
	if err := b.each(rest, startOne); err != nil {
		return err
	}
	took, meanwhile := time.Since(began).Seconds(), machine.Now().Since(then)
	cost, err := b.used()
	if err != nil {
		return err
	}
	if err := b.each(rest, callOne); err != nil {
		return err
	}
	time.Sleep(settleSpan) //nolint:forbidigo // the time is what the daemon waits, too
	wakes, err := b.wakes()
	if err != nil {
		return err
	}
	after, err := b.look()
	if err != nil {
		return err
	}
	n := float64(len(rest))
	daemon, keeper := (after.daemon-before.daemon)/n, (after.keeper-before.keeper)/n
	r.say("each plugin: daemon %.1f KiB, keeper %.1f KiB; the kernel %.1f KiB (slab, stacks, page tables, per-cpu; of the whole machine)", daemon, keeper, (after.kernel-before.kernel)/n)
	r.say("each start: processor time of the daemon %.2f ms, of keeper and plugins %.2f ms", (cost.daemon-used.daemon)/n, (cost.rest-used.rest)/n)
	r.say("starting them: %s", meanwhile)
	r.figure("memory_each_KiB", daemon+keeper, eachKiB)
	r.figure("memory_start_of_all_s", took*1000/n, startAll)
	r.figure("memory_idle_wakeups_each_s", max(0, wakes-quiet)/n, wakesEach)
	return nil
}

func startOne(ctx context.Context, c *control.Client, name string) error {
	_, err := c.Start(ctx, name)
	return err
}

func callOne(ctx context.Context, c *control.Client, name string) error {
	_, err := c.CallPlugin(ctx, control.CallParams{Name: name, Method: "ping", Timeout: patience})
	return err
}

// processorTime is in milliseconds: of the daemon, and of keeper, reapers and
// plugins, with those that the keeper made for a moment.
type processorTime struct{ daemon, rest float64 }

func (b *bench) used() (p processorTime, err error) {
	pids, err := b.pids()
	for i, pid := range pids {
		if i == 0 {
			p.daemon = ran(pid)
		} else {
			p.rest += ran(pid)
		}
	}
	return p, err
}

// ran is how long a process has run, from the schedstat of its threads
// (Documentation/scheduler/sched-stats.rst in the kernel's source), and its
// children that have ended, which only proc(5)'s ticks of 10 ms tell.
func ran(pid string) (ms float64) {
	files, _ := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
	for _, file := range files {
		data, _ := os.ReadFile(file) // a thread that has gone has nothing
		if fields := strings.Fields(string(data)); len(fields) > 0 {
			ns, _ := strconv.ParseFloat(fields[0], 64)
			ms += ns / 1e6
		}
	}
	stat, _ := os.ReadFile("/proc/" + pid + "/stat")
	if fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])); len(fields) > 14 {
		user, _ := strconv.ParseFloat(fields[13], 64)
		system, _ := strconv.ParseFloat(fields[14], 64)
		ms += (user + system) * 10
	}
	return ms
}

// memory is in KiB.
type memory struct{ daemon, keeper, kernel float64 }

func (b *bench) look() (m memory, err error) {
	pids, err := b.pids()
	if err != nil {
		return m, err
	}
	status := func(pid string) float64 { return sum("/proc/"+pid+"/status", "VmRSS:") }
	m = memory{daemon: status(pids[0]), keeper: status(pids[1])}
	m.kernel = sum("/proc/meminfo", "Slab:", "KernelStack:", "PageTables:", "Percpu:")
	return m, nil
}

// sum adds the values of a file's lines with these names; proc(5).
func sum(file string, names ...string) (total float64) {
	data, _ := os.ReadFile(file) // a process that has gone has nothing
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		for _, name := range names {
			if len(fields) > 1 && fields[0] == name {
				n, _ := strconv.ParseFloat(fields[1], 64)
				total += n
			}
		}
	}
	return total
}

// pids are the daemon's, its keeper's, and then everybody's whom the keeper made.
func (b *bench) pids() ([]string, error) {
	daemon := strconv.Itoa(b.daemon.Process.Pid)
	for _, pid := range children(daemon) {
		if comm, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil && strings.TrimSpace(string(comm)) == "cordon-keeper" {
			return append([]string{daemon, pid}, children(pid)...), nil
		}
	}
	return nil, fmt.Errorf("cannot find the keeper of process %s", daemon)
}

func children(pid string) (all []string) {
	files, _ := filepath.Glob("/proc/" + pid + "/task/*/children") // none of a process that has gone
	for _, file := range files {
		data, _ := os.ReadFile(file)
		all = append(all, strings.Fields(string(data))...)
	}
	return all
}

// wakes is how often a second all of them, left alone, gave the processor up of
// their own: each time something had woken them.
func (b *bench) wakes() (float64, error) {
	before, err := b.switches()
	if err != nil {
		return 0, err
	}
	time.Sleep(memorySpan) //nolint:forbidigo // doing nothing is what is measured
	after, err := b.switches()
	return (after - before) / memorySpan.Seconds(), err
}

func (b *bench) switches() (total float64, err error) {
	pids, err := b.pids()
	for _, pid := range pids {
		files, _ := filepath.Glob("/proc/" + pid + "/task/*/status")
		for _, file := range files {
			total += sum(file, "voluntary_ctxt_switches:")
		}
	}
	return total, err
}
