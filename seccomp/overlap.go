package seccomp

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// OverlapKind is how two rules of a filter stand to each other.
type OverlapKind string

// The kinds that Overlaps reports. An exception, that is a rule with more
// conditions beside one with fewer, is what conditions are for and is none.
const (
	// Shadowed rules never decide: another that is looked at before them holds
	// whenever they do.
	Shadowed OverlapKind = "shadowed"
	// Redundant rules decide, but as the next rule would have.
	Redundant OverlapKind = "redundant"
	// Ambiguous rules can hold at once with another of equally many conditions
	// that says something else; the stricter of the two decides.
	Ambiguous OverlapKind = "ambiguous"
)

// Overlap says that one rule of a filter is affected by another. Rule and By
// are indices into Filter.Rules; they are equal if a rule repeats a condition
// in other words.
type Overlap struct {
	Kind  OverlapKind `json:"kind"`
	Rule  int         `json:"rule"`
	By    int         `json:"by"`
	Calls []string    `json:"calls"` // for which it is so, sorted by number
}

// String is a sentence; rules are counted from 1, as in Validate's errors.
func (o Overlap) String() string {
	calls := strings.Join(o.Calls[:min(len(o.Calls), 3)], ", ")
	if more := len(o.Calls) - 3; more > 0 {
		calls = fmt.Sprintf("%s and %d more", calls, more)
	}
	switch o.Kind {
	case Shadowed:
		return fmt.Sprintf("rule %d never decides on %s: rule %d holds whenever it does and comes before it", o.Rule+1, calls, o.By+1)
	case Redundant:
		return fmt.Sprintf("rule %d changes nothing for %s: rule %d says the same", o.Rule+1, calls, o.By+1)
	case Ambiguous:
		return fmt.Sprintf("rule %d and rule %d can both hold for %s with equally many conditions; rule %d stands, because it is stricter",
			o.Rule+1, o.By+1, calls, o.By+1)
	default:
		return fmt.Sprintf("rules %d and %d overlap for %s", o.Rule+1, o.By+1, calls)
	}
}

// ruledArm is an arm with the rule that it comes from.
type ruledArm struct {
	Arm
	rule int
}

// Overlaps reports the rules that are shadowed, redundant or ambiguous, sorted
// by rule. What it reports is so; where the conditions of several rules
// together shadow one, or conditions on one argument leave nothing, it may be
// silent. The filter must be valid; the error is that of Validate.
func (f Filter) Overlaps() ([]Overlap, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	arms := new([len(table)][]ruledArm)
	for i, r := range f.Rules {
		calls, err := r.calls()
		if err != nil {
			return nil, err
		}
		for nr := range calls.Each {
			arms[nr] = append(arms[nr], ruledArm{r.arm(nr), i})
		}
	}
	type key struct {
		kind     OverlapKind
		rule, by int
	}
	found := map[key][]string{}
	for nr, list := range arms {
		if len(list) < 2 {
			continue
		}
		slices.SortStableFunc(list, func(a, b ruledArm) int { return compareArms(a.Arm, b.Arm) })
		for _, o := range overlapsOf(list) {
			k := key{o.Kind, o.Rule, o.By}
			found[k] = append(found[k], table[nr].name)
		}
	}
	out := make([]Overlap, 0, len(found))
	for k, names := range found {
		out = append(out, Overlap{k.kind, k.rule, k.by, names})
	}
	slices.SortFunc(out, func(a, b Overlap) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.By, b.By), cmp.Compare(a.Kind, b.Kind))
	})
	return out, nil
}

// overlapsOf looks at the arms of one call, in the order of precedence. An arm
// is reported once: as shadowed, or else as redundant, or else as ambiguous
// beside each arm that makes it so.
func overlapsOf(arms []ruledArm) []Overlap {
	var out []Overlap
	for i, a := range arms {
		if by, ok := shadowedBy(a, arms[:i]); ok {
			out = append(out, Overlap{Kind: Shadowed, Rule: a.rule, By: by})
			continue
		}
		if by, ok := redundantBy(a, arms[i+1:]); ok {
			out = append(out, Overlap{Kind: Redundant, Rule: a.rule, By: by})
			continue
		}
		for _, b := range arms[:i] {
			if len(a.Args) == len(b.Args) && !a.same(b.Arm) && !disjoint(a.Args, b.Args) {
				out = append(out, Overlap{Kind: Ambiguous, Rule: a.rule, By: b.rule})
			}
		}
	}
	return out
}

// shadowedBy finds an arm before a that holds whenever a does.
func shadowedBy(a ruledArm, before []ruledArm) (rule int, ok bool) {
	for _, b := range before {
		if impliesAll(a.Args, b.Args) {
			return b.rule, true
		}
	}
	return 0, false
}

// redundantBy finds an arm behind a that says the same whenever a holds, with
// nothing between them that could say otherwise. One that a shadows is not
// meant: that arm is the one too many.
func redundantBy(a ruledArm, behind []ruledArm) (rule int, ok bool) {
	for _, b := range behind {
		if a.same(b.Arm) && impliesAll(a.Args, b.Args) && !impliesAll(b.Args, a.Args) {
			return b.rule, true
		}
		if !a.same(b.Arm) && !disjoint(a.Args, b.Args) {
			return 0, false
		}
	}
	return 0, false
}

// impliesAll tells whether all of want hold where all of have do. It errs by
// saying no.
func impliesAll(have, want []Condition) bool {
	return !slices.ContainsFunc(want, func(w Condition) bool {
		return !slices.ContainsFunc(have, func(h Condition) bool { return h.implies(w) })
	})
}

// disjoint tells whether a and b cannot hold at once. It errs by saying no.
func disjoint(a, b []Condition) bool {
	return slices.ContainsFunc(a, func(x Condition) bool {
		return slices.ContainsFunc(b, func(y Condition) bool { return x.implies(y.negation()) || y.implies(x.negation()) || x.masksDiffer(y) })
	})
}

// masksDiffer tells whether both fix a bit, differently.
func (c Condition) masksDiffer(d Condition) bool {
	m, x, ok := c.mask()
	n, y, ok2 := d.mask()
	return c.Index == d.Index && ok && ok2 && (x^y)&m&n != 0
}

// implies tells whether d holds for every value for which c does. It errs by
// saying no.
func (c Condition) implies(d Condition) bool {
	if c.Index != d.Index {
		return false
	}
	if c == d {
		return true
	}
	low, high, isRange := c.span()
	if isRange && (low > high || low == high && d.holds(low)) {
		return true
	}
	if from, to, ok := d.span(); ok && isRange {
		return from <= low && high <= to
	}
	if d.Op == OpNotEqual {
		return c.excludes(d.Value)
	}
	m, x, ok := c.mask()
	n, y, ok2 := d.mask()
	return ok && ok2 && n&^m == 0 && x&n == y
}

// excludes tells whether c cannot hold for v.
func (c Condition) excludes(v uint64) bool { return !c.holds(v) }

// holds tells whether c holds for a value.
func (c Condition) holds(v uint64) bool {
	switch c.Op {
	case OpNotEqual:
		return v != c.Value
	case OpMaskedEqual:
		return v&c.Value == c.ValueTwo
	case OpLess, OpLessEqual, OpEqual, OpGreaterEqual, OpGreater:
		low, high, _ := c.span()
		return low <= v && v <= high
	default:
		return false
	}
}

// span is the range of values for which c holds, if it is one; it is empty if
// low is above high.
func (c Condition) span() (low, high uint64, ok bool) {
	switch c.Op {
	case OpEqual:
		return c.Value, c.Value, true
	case OpLess:
		if c.Value == 0 {
			return 1, 0, true
		}
		return 0, c.Value - 1, true
	case OpLessEqual:
		return 0, c.Value, true
	case OpGreater:
		if c.Value == math.MaxUint64 {
			return 1, 0, true
		}
		return c.Value + 1, math.MaxUint64, true
	case OpGreaterEqual:
		return c.Value, math.MaxUint64, true
	case OpNotEqual, OpMaskedEqual:
		return 0, 0, false
	default:
		return 0, 0, false
	}
}

// mask is what c fixes of the bits: all of them, or those of its mask.
func (c Condition) mask() (mask, value uint64, ok bool) {
	switch c.Op {
	case OpEqual:
		return math.MaxUint64, c.Value, true
	case OpMaskedEqual:
		return c.Value, c.ValueTwo, true
	case OpNotEqual, OpLess, OpLessEqual, OpGreaterEqual, OpGreater:
		return 0, 0, false
	default:
		return 0, 0, false
	}
}

// negation holds where c does not. Of a mask there is none in one condition,
// and what it returns then is implied by nothing.
func (c Condition) negation() Condition {
	n := c
	switch c.Op {
	case OpEqual:
		n.Op = OpNotEqual
	case OpNotEqual:
		n.Op = OpEqual
	case OpLess:
		n.Op = OpGreaterEqual
	case OpLessEqual:
		n.Op = OpGreater
	case OpGreaterEqual:
		n.Op = OpLess
	case OpGreater:
		n.Op = OpLessEqual
	case OpMaskedEqual:
		n.Op = ""
	}
	return n
}
