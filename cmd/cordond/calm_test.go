package main

import "testing"

// TestCalm: memory is given back once when it has become calm, and not in a flood.
func TestCalm(t *testing.T) {
	c := calm{}
	for i, step := range []struct {
		allocated uint64
		give      bool
	}{
		{1 << 20, false},            // a start, of which nothing is worth it
		{100 << 20, false},          // a flood
		{300 << 20, false},          // goes on
		{301 << 20, true},           // and is over
		{302 << 20, false},          // nothing since
		{301<<20 + calmBytes, true}, // a little each time comes together
		{302<<20 + calmBytes, false},
	} {
		if give := c.look(step.allocated); give != step.give {
			t.Errorf("step %d: %v", i, give)
		}
	}
}
