package main

import "slices"

// order is how contenders are listed and asked.
var order = []string{
	"floor", "cold", "pooled_floor", "pooled", "run_cached", "run_uncached",
	"bubblewrap", "crun", "runc", "firejail", "minijail", "nsjail",
}

// sample is one start: nanoseconds to the program's first instruction and to
// its reaped exit.
type sample struct{ first, reaped int64 }

// samples are those of one contender.
type samples struct{ all []sample }

func (s *samples) percentile(p int, of func(sample) int64) float64 {
	values := make([]int64, len(s.all))
	for i, one := range s.all {
		values[i] = of(one)
	}
	slices.Sort(values)
	return float64(values[(len(values)-1)*p/100]) / 1000
}

// first is a percentile in microseconds, and so is reaped.
func (s *samples) first(p int) float64 {
	return s.percentile(p, func(one sample) int64 { return one.first })
}

func (s *samples) reaped(p int) float64 {
	return s.percentile(p, func(one sample) int64 { return one.reaped })
}
