package profiles

import (
	"strconv"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/profiles/strict"
)

// sloTable is what is promised of a plugin's calls, in the words of site
// reliability: an objective, its window, and how fast its error budget may burn.
type sloTable struct {
	Objective *strict.Percent  `toml:"objective"`
	Latency   *strict.Duration `toml:"latency"`
	Window    *strict.Duration `toml:"window"`
	BurnRate  *int             `toml:"burn_rate"`
	MinCalls  *int             `toml:"min_calls"`
	Essential []string         `toml:"essential"`
}

// maxEssential bounds the methods that are named.
const maxEssential = 64

func (c *checker) slo(t *sloTable) {
	if o := t.Objective; o != nil && (*o < 500 || *o > 999) {
		c.fail("slo.objective", "", "expected from \"50%%\" to \"99.9%%\", in tenths of a percent")
	}
	if l := t.Latency; l != nil && *l <= 0 {
		c.fail("slo.latency", "", "expected a duration above 0")
	}
	if w := t.Window; w != nil && (time.Duration(*w) < time.Minute || time.Duration(*w) > 30*24*time.Hour) {
		c.fail("slo.window", "", "expected from 1m to 720h")
	}
	c.count("slo.burn_rate", t.BurnRate, 1, 1000)
	c.count("slo.min_calls", t.MinCalls, 1, 1_000_000)
	if len(t.Essential) > maxEssential {
		c.fail("slo.essential", "", "too many methods: at most %d", maxEssential)
	}
	for i, name := range t.Essential {
		if name == "" || len(name) > 256 {
			c.fail(index("slo.essential", i), "", "expected the name of a method, at most 256 bytes")
		}
	}
}

// slo applies one file's. What stands beside an objective has defaults.
func (b *builder) slo(l *layer) {
	t, p := &l.doc.SLO, &b.plan.SLO
	if t.Objective != nil && !p.Set() {
		p.Window, p.BurnRate, p.MinCalls = orElse(p.Window, time.Hour), orElse(p.BurnRate, 14), orElse(p.MinCalls, 20)
	}
	scalar(b, l, "slo.objective", &p.Objective, (*int64)(t.Objective))
	scalar(b, l, "slo.latency", &p.Latency, (*time.Duration)(t.Latency))
	scalar(b, l, "slo.window", &p.Window, (*time.Duration)(t.Window))
	scalar(b, l, "slo.burn_rate", &p.BurnRate, t.BurnRate)
	scalar(b, l, "slo.min_calls", &p.MinCalls, t.MinCalls)
	if t.Essential != nil {
		p.Essential = t.Essential
		b.origin(l, "slo.essential")
	}
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (s *shower) slo() {
	o := s.b.plan.SLO
	if o.Equal(plan.Objective{}) {
		return
	}
	s.table("slo")
	one := func(name, value string, set bool) {
		if set {
			s.scalar("slo."+name, name, value)
		}
	}
	one("objective", quote(o.Percent()), o.Set())
	one("latency", spanValue(o.Latency), o.Latency > 0)
	one("window", spanValue(o.Window), o.Window > 0)
	one("burn_rate", strconv.Itoa(o.BurnRate), o.BurnRate > 0)
	one("min_calls", strconv.Itoa(o.MinCalls), o.MinCalls > 0)
	one("essential", quotes(o.Essential), o.Essential != nil)
}
