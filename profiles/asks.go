package profiles

import (
	"fmt"
	"time"

	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/profiles/strict"
)

// refuse records something that was not granted.
func (b *builder) refuse(r plan.Refusal) { b.plan.Refusals = append(b.plan.Refusals, r) }

// ceiling takes away what the profile grants above the host's ceiling, and
// records each thing.
func (b *builder) ceiling() {
	c, p := b.in.Ceiling, b.plan
	b.capSize("memory.max", &p.Limits.MemoryMax, int64(c.MemoryMax), func(n int64) string { return strict.Size(n).String() })
	b.capSize("pids.max", &p.Limits.PidsMax, int64(c.PidsMax), func(n int64) string { return strict.Count(n).String() })
	b.capCPU()
	if wall := time.Duration(c.TimeWall); wall > 0 && (p.Time.Wall == 0 || p.Time.Wall > wall) {
		b.lowered("time.wall", p.Time.Wall.String(), wall.String())
		p.Time.Wall = wall
	}
	b.capNetwork()
	for _, at := range sortedKeys(b.grants) {
		g := b.grants[at]
		if at == "/data" {
			continue
		}
		if why := c.refuses(g.From, g.Access); why != "" {
			b.refuse(plan.Refusal{
				Ask: fmt.Sprintf("file %s %s", g.From, short(g.Access)), Why: "granted by " + g.Origin,
				By: "ceiling", Hint: why,
			})
			delete(b.grants, at)
		}
	}
}

func (b *builder) lowered(key, from, to string) {
	origin := b.plan.Origins["resources."+key]
	if origin == "" {
		origin = b.plan.Profile
	}
	b.refuse(plan.Refusal{
		Ask: key + " " + from, Why: "granted by " + origin, By: "ceiling",
		Hint: fmt.Sprintf("lowered to ceiling.%s = %s", key, to),
	})
	b.plan.Origins["resources."+key] = "ceiling"
}

// capSize lowers one bound to the ceiling; no bound is above every ceiling.
func (b *builder) capSize(key string, dst **int64, most int64, text func(int64) string) {
	if most == strict.Unlimited || *dst != nil && **dst <= most {
		return
	}
	from := int64(strict.Unlimited)
	if *dst != nil {
		from = **dst
	}
	b.lowered(key, text(from), text(most))
	*dst = bound(most)
}

func (b *builder) capCPU() {
	most := cpuMax(b.in.Ceiling.CPUMax)
	have := b.plan.Limits.CPUMax
	if most == nil || have != nil && have.Quota <= most.Quota {
		return
	}
	b.lowered("cpu.max", percentOf(have).String(), b.in.Ceiling.CPUMax.String())
	b.plan.Limits.CPUMax = most
}

// asks decides each thing that the manifest asks for. An ask never adds to
// what the profile grants; a bound that is asked lower is lowered.
func (b *builder) asks() {
	m := b.in.Manifest
	if m == nil { // nobody asks: this is what could be had
		b.plan.Capabilities = b.offers
		return
	}
	for _, f := range m.Files {
		b.askFile(f)
	}
	b.askResources(&m.Resources)
	for _, c := range m.Capabilities {
		b.askCapability(c)
	}
}

func (b *builder) granted(ask, why, decision string, args ...any) {
	b.plan.Asks = append(b.plan.Asks, plan.Ask{Ask: ask, Why: why, Granted: true, Decision: fmt.Sprintf(decision, args...)})
}

func (b *builder) refused(r plan.Refusal, decision string, args ...any) {
	b.refuse(r)
	b.plan.Asks = append(b.plan.Asks, plan.Ask{Ask: r.Ask, Why: r.Why, Decision: fmt.Sprintf(decision, args...)})
}

func (b *builder) askFile(f manifest.File) {
	ask := fmt.Sprintf("file %s %s", f.Path, f.Access)
	refuse := func(by, hint, decision string, args ...any) {
		b.refused(plan.Refusal{Ask: ask, Why: f.Why, By: by, Hint: hint}, decision, args...)
	}
	at, err := expandVariables(f.Path)
	if err != nil {
		refuse("host", "", "refused: %v", err)
		return
	}
	if at == "/data" && f.Access != "rx" || at == "/plugin" && f.Access != "rw" {
		b.granted(ask, f.Why, "granted: it is the plugin's own")
		return
	}
	if err := checkGrant(at); err != nil {
		refuse("host", "", "refused by the host: %v", err)
		return
	}
	access := shorthands[f.Access]
	if g, ok := b.covering(at, access); ok {
		b.granted(ask, f.Why, "granted by %s", g.Origin)
		return
	}
	if why := b.in.Ceiling.refuses(at, access); why != "" {
		refuse("ceiling", "", "refused by the ceiling: %s", why)
		return
	}
	refuse("profile", fmt.Sprintf("[[files]]\npath = %q\naccess = %q\n", at, f.Access), "refused: profile %s has no such grant", b.plan.Profile)
}

// covering finds the grant that gives an access to a path.
func (b *builder) covering(at string, access []string) (plan.File, bool) {
	best, found := plan.File{}, false
	for _, dir := range sortedKeys(b.grants) {
		g := b.grants[dir]
		if beneath(at, dir) && (!found || len(dir) > len(best.Path)) {
			best, found = g, true // the innermost grant is what the plugin sees
		}
	}
	return best, found && subset(access, best.Access)
}

func (b *builder) askResources(r *manifest.Resources) {
	p := b.plan
	if r.MemoryMax != nil {
		b.askBound(r, "memory.max", r.MemoryMax.String(), &p.Limits.MemoryMax, int64(*r.MemoryMax),
			func(n int64) string { return strict.Size(n).String() })
	}
	if r.PidsMax != nil {
		b.askBound(r, "pids.max", r.PidsMax.String(), &p.Limits.PidsMax, int64(*r.PidsMax),
			func(n int64) string { return strict.Count(n).String() })
	}
	if r.CPUMax != nil {
		b.askCPU(r)
	}
	if r.TimeWall != nil {
		b.askTime(r, "time.wall", &p.Time.Wall, time.Duration(*r.TimeWall))
	}
	if r.TimeCPU != nil {
		b.askTime(r, "time.cpu", &p.Time.CPU, time.Duration(*r.TimeCPU))
	}
}

// resource decides one bound; fits says whether it is within the profile's.
func (b *builder) resource(r *manifest.Resources, key, ask, have string, fits bool) {
	by := b.plan.Origins["resources."+key]
	if by == "" {
		by = b.plan.Profile
	}
	if fits {
		b.granted(key+" "+ask, r.Why, "granted: %s by %s bounds it", have, by)
		b.plan.Origins["resources."+key] = r.Origins[key]
		return
	}
	who := "profile"
	if by == "ceiling" {
		who = "ceiling"
	}
	b.refused(plan.Refusal{
		Ask: key + " " + ask, Why: r.Why, By: who,
		Hint: fmt.Sprintf("[resources]\n%s = %s\n", key, quoted(ask)),
	}, "refused: it stays at %s, by %s", have, by)
}

func quoted(s string) string {
	for _, c := range s {
		if c < '0' || c > '9' {
			return fmt.Sprintf("%q", s)
		}
	}
	return s
}

func (b *builder) askBound(r *manifest.Resources, key, ask string, dst **int64, want int64, text func(int64) string) {
	have := "max"
	if *dst != nil {
		have = text(**dst)
	}
	fits := *dst == nil || want != strict.Unlimited && want <= **dst
	b.resource(r, key, ask, have, fits)
	if fits && want != strict.Unlimited {
		*dst = bound(want)
	}
}

func (b *builder) askCPU(r *manifest.Resources) {
	have, want := b.plan.Limits.CPUMax, cpuMax(*r.CPUMax)
	fits := have == nil || want != nil && want.Quota <= have.Quota
	b.resource(r, "cpu.max", r.CPUMax.String(), percentOf(have).String(), fits)
	if fits && want != nil {
		b.plan.Limits.CPUMax = want
	}
}

// askTime decides a time; 0 is no bound.
func (b *builder) askTime(r *manifest.Resources, key string, dst *time.Duration, want time.Duration) {
	have := "no time"
	if *dst > 0 {
		have = dst.String()
	}
	fits := *dst == 0 || want > 0 && want <= *dst
	b.resource(r, key, want.String(), have, fits)
	if fits {
		*dst = want
	}
}

// short writes an access as a person would.
func short(access []string) string {
	for _, word := range []string{"r", "rx", "rw"} {
		if subset(access, shorthands[word]) && subset(shorthands[word], access) {
			return word
		}
	}
	out := ""
	for i, right := range access {
		if i > 0 {
			out += ","
		}
		out += right
	}
	return out
}
