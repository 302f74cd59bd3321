package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// took is how long a test took by its guest's own clock, in seconds.
type took struct {
	test    string
	seconds float64
}

// slowestShown is how many of the slowest tests a run names.
const slowestShown = 20

// slowest says which tests took longest, for whoever wants the run to be
// shorter: "A 3.0 s, B 1.5 s".
func slowest(tests []took, shown int) string {
	sorted := slices.SortedStableFunc(slices.Values(tests), func(a, b took) int { return cmp.Compare(b.seconds, a.seconds) })
	var words []string
	for _, t := range sorted[:min(shown, len(sorted))] {
		words = append(words, fmt.Sprintf("%s %.1f s", t.test, t.seconds))
	}
	return strings.Join(words, ", ")
}
