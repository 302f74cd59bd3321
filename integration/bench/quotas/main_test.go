package main

import (
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	samples := []time.Duration{5, 1, 4, 2, 3}
	for part, want := range map[float64]time.Duration{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := quantile(samples, part); got != want {
			t.Errorf("the quantile %v is %v, want %v", part, got, want)
		}
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("no samples have a quantile")
	}
}

func TestParseRecord(t *testing.T) {
	r, ok := parseRecord("6,33459,15489494803,-;Memory cgroup out of memory: Killed process 1 (a;b)\n SUBSYSTEM=x\n")
	if !ok || r.at != 15489494803*time.Microsecond || r.text[:6] != "Memory" {
		t.Errorf("got %+v, %v", r, ok)
	}
	for _, bad := range []string{"", ";", "6,1;x", "6,1,y,-;x"} {
		if r, ok := parseRecord(bad); ok {
			t.Errorf("%q is %+v", bad, r)
		}
	}
}

func TestFigureIsShortAboveItsTarget(t *testing.T) {
	var out strings.Builder
	b := &bench{out: &out}
	b.figure("a", 1, 0)
	b.figure("b", 3, 3)
	if b.short {
		t.Error("a figure at its target is short")
	}
	b.figure("c", 3.1, 3)
	if want := "figure a 1.000 - ok\nfigure b 3.000 3.00 ok\nfigure c 3.100 3.00 short\n"; !b.short || out.String() != want {
		t.Errorf("printed %q", out.String())
	}
}

func TestOnlyAttacksThatThereAre(t *testing.T) {
	if err := (&bench{only: []string{"fork", "stress-vm"}}).known(); err != nil {
		t.Error(err)
	}
	if err := (&bench{only: []string{"frok"}}).known(); err == nil {
		t.Error("an attack that there is not was taken")
	}
}
