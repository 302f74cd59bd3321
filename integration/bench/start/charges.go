package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// charges prints what the kernel takes for each part of the floor's start: of
// the stages in turn, and of the plugin's steps, those of one kind together. The
// stages are of one process and the steps of another, so that they do not add up.
func (b *bench) charges(r *report, rounds int, pause time.Duration) error {
	taken := map[string][]int64{}
	var order []string
	for range rounds {
		time.Sleep(pause) //nolint:forbidigo // the pause is what is measured
		if err := b.ended.Err(); err != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
		if err := b.drivers[0].line("t"); err != nil {
			return err
		}
		sums := map[string]int64{}
		for i, word := range strings.Fields(b.drivers[0].out.Text()) {
			part, value, ok := strings.Cut(word, "=")
			if i < 2 {
				continue // the whole, which is not looked at here
			}
			n, err := strconv.ParseInt(value, 10, 64)
			if !ok || err != nil {
				return fmt.Errorf("the driver said %q", word)
			}
			part = b.partOf(part)
			if _, seen := taken[part]; !seen && sums[part] == 0 {
				order = append(order, part)
			}
			sums[part] += n
		}
		for part, n := range sums {
			taken[part] = append(taken[part], n)
		}
	}
	median := func(part string) int64 { slices.Sort(taken[part]); return taken[part][len(taken[part])/2] }
	slices.SortFunc(order, func(a, b string) int {
		return cmp.Or(strings.Compare(strings.SplitN(a, " ", 2)[0], strings.SplitN(b, " ", 2)[0]), cmp.Compare(median(b), median(a)))
	})
	r.say("%-32s %9s", "what the floor's start is made of", "median")
	for _, part := range order {
		r.say("%-32s %9.1f", part, float64(median(part))/1000)
	}
	return nil
}

// partOf names a part as the driver has it for people.
func (b *bench) partOf(part string) string {
	if at, err := strconv.Atoi(strings.TrimPrefix(part, "step")); err == nil && at < len(b.steps) {
		return "step " + b.steps[at].Op.String()
	}
	return "stage " + map[string]string{
		"groups": "groups and their limits", "files": "descriptors and trees", "network": "waiting for the network",
		"reaper": "clone the reaper", "plugin": "clone the plugin", "switch": "until its first step",
		"let_go": "waiting at the gate", "exec": "gate to first instruction", "end": "end and reap both",
	}[part]
}

var initLine = regexp.MustCompile(`^init \S+ @.*, ([0-9.]+) ms clock`)

// setUp measures what the packages of cordon run take before main.
func (b *bench) setUp(r *report, rounds int) error {
	var all []float64
	for range rounds {
		run := exec.Command(b.cordon, "run", "--there-is-no-such-flag")
		run.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		out, _ := run.CombinedOutput() // it ends with 125
		sum, packages := 0.0, 0
		for line := range strings.Lines(string(out)) {
			if m := initLine.FindStringSubmatch(line); m != nil {
				ms, err := strconv.ParseFloat(m[1], 64)
				if err != nil {
					return fmt.Errorf("the runtime said %q: %w", line, err)
				}
				sum, packages = sum+ms, packages+1
			}
		}
		if packages == 0 {
			return fmt.Errorf("the runtime told of no package: %s", out)
		}
		all = append(all, sum)
	}
	slices.Sort(all)
	r.figure("run_package_init_ms", all[len(all)/2], 0.3)
	return nil
}
