package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestFigureIsJudged(t *testing.T) {
	var out bytes.Buffer
	r := &report{out: &out}
	r.figure("a", 3, 3)
	if r.short || !strings.Contains(out.String(), "figure a 3.00 3.00 ok\n") {
		t.Errorf("at its target: %s", out.String())
	}
	r.figure("b", 3.1, 3)
	if !r.short || !strings.Contains(out.String(), "figure b 3.10 3.00 short\n") {
		t.Errorf("beyond its target: %s", out.String())
	}
}

func TestNothingToMeasureIsRefused(t *testing.T) {
	var out bytes.Buffer
	for _, e := range []effort{{plugins: 10, crashing: 10, calls: 100}, {plugins: 10, calls: 100}, {plugins: 10, crashing: 1, calls: 1}} {
		if err := measure(&out, e, "bin"); err == nil {
			t.Errorf("%+v was measured", e)
		}
	}
}

func TestPercentile(t *testing.T) {
	list := make([]float64, 100)
	for i := range list {
		list[i] = float64(100 - i)
	}
	if at(list, 50) != 50 || at(list, 99) != 99 || at([]float64{7}, 99) != 7 {
		t.Errorf("got %v and %v", at(list, 50), at(list, 99))
	}
}
