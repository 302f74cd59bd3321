package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFiguresAreJudgedByTheirOwnRun(t *testing.T) {
	var out bytes.Buffer
	r := &report{out: &out}
	s := &samples{
		told: []float64{1}, contained: []float64{900, 100, 999}, persisted: []float64{1401, 1401, 1401}, quarantinedDead: []float64{1, 2, 3},
		killedDead: []float64{700, 700, 700}, bareDead: []float64{200, 100, 300}, fsync: []float64{100, 100, 100},
	}
	r.figures("x", s)
	for _, want := range []string{"figure x_contained_p50_us 900 1000 ok", "figure x_dead_p50_us 700 700 ok", "figure x_persisted_p50_us 1401 1400 short"} {
		if !strings.Contains(out.String(), want+"\n") {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	if !r.short {
		t.Error("a short figure was overlooked")
	}
}

func TestTheLastWordCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if lastT0(path) != 0 {
		t.Error("a word without a log")
	}
	if err := os.WriteFile(path, []byte(`{"text":"t0 12"}`+"\n"+`{"text":"t0 345"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lastT0(path); got != 345 {
		t.Errorf("got %d", got)
	}
}

func TestSince(t *testing.T) {
	got := seen{contained: 5000, dead: 9000}.since(1000)
	if got != (seen{contained: 4, dead: 8}) {
		t.Errorf("got %+v", got)
	}
}
