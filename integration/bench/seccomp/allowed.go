package main

import (
	"errors"
	"slices"

	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/seccomp/compile"
)

// oneRule lets the measured calls through by one rule without conditions: the
// least that a filter can cost. The others are the clock's, and what the Go
// runtime makes between two batches.
var oneRule = seccomp.Filter{Rules: []seccomp.Rule{{
	Names: []string{
		"fcntl", "getppid", "mmap", "munmap",
		"clock_gettime", "clone", "epoll_pwait", "futex", "getpid", "gettid", "madvise", "nanosleep",
		"rt_sigaction", "rt_sigprocmask", "sched_yield", "sigaltstack", "tgkill",
	},
	Action: seccomp.ActAllow,
}}}

// allowedLoops are those that no filter here refuses, with what the longest
// program may cost beside one rule.
var allowedLoops = []struct {
	name    string
	loop    loop
	checked string // the call whose arguments are checked
	target  float64
}{
	{"getppid", loopGetppid, "", 1.05},
	{"fcntl", loopFcntl, "fcntl", 2},
	{"mmap", loopMmapNothing, "mmap", 2},
	{"mmap_munmap", loopMmap, "mmap", 2},
}

// allowed measures loops of allowed calls without a filter, under one rule and
// under the longest program.
func (r *report) allowed(e effort, name string, largest seccomp.Filter) error {
	programs := [][]byte{nil, nil, nil}
	for i, f := range []seccomp.Filter{oneRule, largest} {
		program, err := compile.Compile(f)
		if err != nil {
			return err
		}
		programs[i+1] = program
	}
	samples := make([][3][]float64, len(allowedLoops))
	for range e.generations {
		if err := generation(e, programs, samples); err != nil {
			return err
		}
	}
	r.say("\nallowed calls, nanoseconds: no filter, one rule, builtin:%s", name)
	for i, l := range allowedLoops {
		bare, one, most := median(samples[i][0]), median(samples[i][1]), median(samples[i][2])
		how := "whatever the arguments"
		if l.checked != "" && !largest.Allows(l.checked) {
			how = "arguments of " + l.checked + " checked"
		}
		r.say("  %-12s %7.1f %7.1f %7.1f  (%s)", l.name, bare, one, most, how)
		r.figure(l.name+"_largest_to_one_rule", most/one, l.target)
		r.figure(l.name+"_largest_to_unfiltered", most/bare, 0)
	}
	return nil
}

// generation adds the samples of one set of processes.
func generation(e effort, programs [][]byte, samples [][3][]float64) (err error) {
	var victims []*victim
	defer func() {
		for _, v := range victims {
			err = errors.Join(err, v.end())
		}
	}()
	for _, program := range programs {
		v, err := newVictim("0", program)
		if err != nil {
			return err
		}
		victims = append(victims, v)
	}
	order := []int{0, 1, 2}
	for range e.rounds {
		for i, l := range allowedLoops {
			for _, which := range order {
				took, err := victims[which].order(l.loop, e.turns)
				if err != nil {
					return err
				}
				samples[i][which] = append(samples[i][which], took)
			}
		}
		order = append(slices.Clone(order[1:]), order[0]) // nobody is always first
	}
	return nil
}
