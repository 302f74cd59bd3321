package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/supervisor/violation"
)

func TestFiguresAreJudgedByTheirOwnRun(t *testing.T) {
	var out bytes.Buffer
	r := &report{out: &out}
	s := &samples{
		told: []float64{1}, contained: []float64{900, 100, 999}, persisted: []float64{1401, 1401, 1401}, quarantinedDead: []float64{1, 2, 3},
		killedDead: []float64{700, 700, 700}, bareDead: []float64{200, 100, 300}, fsync: []float64{100, 100, 100},
	}
	r.figures("x", s)
	for _, want := range []string{"figure x_contained_p50_us 900 1000 ok", "figure x_dead_over_bare_p50_us 500 500 ok", "figure x_persisted_p50_us 1401 1400 short"} {
		if !strings.Contains(out.String(), want+"\n") {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	if !r.short {
		t.Error("a short figure was overlooked")
	}
}

func TestTheLastHitCounts(t *testing.T) {
	if _, _, err := newest(nil); err == nil {
		t.Error("a hit that never was")
	}
	hit := func(told, began int64) violation.Violation {
		return violation.Violation{Time: time.Unix(0, told), RawArgs: []uint64{0, 0, 0, uint64(began)}}
	}
	began, told, err := newest([]violation.Violation{hit(20, 7), hit(10, 9), {Time: time.Unix(0, 30)}})
	if began != 7 || told != 20 || err != nil {
		t.Errorf("got %d, %d, %v", began, told, err)
	}
}

func TestSince(t *testing.T) {
	got := seen{contained: 5000, dead: 9000}.since(1000)
	if got != (seen{contained: 4, dead: 8}) {
		t.Errorf("got %+v", got)
	}
}
