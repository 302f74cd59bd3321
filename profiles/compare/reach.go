package compare

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/plan"
)

// reach compares what is reached beyond the walls: places and capabilities.
func (r *Result) reach(a, b *plan.Plan) {
	for _, to := range beyond(b.Network, a.Network) {
		r.more("network", "%s", to)
	}
	for _, to := range beyond(a.Network, b.Network) {
		r.less("network", "%s", to)
	}
	for _, c := range ungranted(b.Capabilities, a.Capabilities) {
		r.more("capabilities", "%s", c)
	}
	for _, c := range ungranted(a.Capabilities, b.Capabilities) {
		r.less("capabilities", "%s", c)
	}
}

// beyond are the places of n that m does not reach.
func beyond(n, m plan.Network) []string {
	var out []string
	spec := grant.Spec{Kind: grant.Endpoint}
	for _, to := range n.Egress {
		if !slices.ContainsFunc(m.Egress, func(have string) bool { return spec.Covers(have, to) }) {
			out = append(out, "reaches "+to)
		}
	}
	for _, s := range n.Listen {
		if !slices.ContainsFunc(m.Listen, func(have plan.Socket) bool { return have.At == s.At }) {
			out = append(out, "is reached at "+s.At+" of the host")
		}
	}
	for _, text := range n.Addresses {
		if !slices.ContainsFunc(m.Addresses, func(have string) bool { return holds(have, text) }) {
			out = append(out, "names may lead to addresses in "+text)
		}
	}
	return out
}

// holds says whether one network has all of another.
func holds(outer, inner string) bool {
	o, errO := netip.ParsePrefix(outer)
	i, errI := netip.ParsePrefix(inner)
	return errO == nil && errI == nil && o.Bits() <= i.Bits() && o.Contains(i.Addr())
}

// ungranted are the grants of one plan that no grant of the other gives as
// freely.
func ungranted(of, than []plan.Capability) []string {
	var out []string
	for _, c := range of {
		spec, _ := grant.Find(c.Name)
		for _, target := range targets(c) {
			free := slices.ContainsFunc(than, func(have plan.Capability) bool {
				return have.Name == c.Name && withinBudget(have.Budget, c.Budget) && (target == "" || slices.ContainsFunc(have.Target, func(t string) bool { return spec.Covers(t, target) }))
			})
			if !free {
				out = append(out, strings.TrimSpace(c.Name+" "+target)+budgetText(c.Budget))
			}
		}
	}
	return out
}

func targets(c plan.Capability) []string {
	if len(c.Target) == 0 {
		return []string{""}
	}
	return c.Target
}

// withinBudget says whether inner's bounds are all within outer's.
func withinBudget(outer, inner plan.Budget) bool {
	return float64(inner.Rate)/inner.Window.Seconds() <= float64(outer.Rate)/outer.Window.Seconds() &&
		inner.Concurrent <= outer.Concurrent && (outer.Bytes == 0 || inner.Bytes > 0 && inner.Bytes <= outer.Bytes)
}

func budgetText(b plan.Budget) string {
	text := fmt.Sprintf(" (%d in %s, %d at once", b.Rate, b.Window, b.Concurrent)
	if b.Bytes > 0 {
		text += ", " + size(b.Bytes) + " in all"
	}
	return text + ")"
}
