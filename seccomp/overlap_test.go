package seccomp

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func rule(name string, action Action, args ...Condition) Rule {
	r := Rule{Names: []string{name}, Args: args, Action: action}
	if action == ActErrno {
		r.Errno = "EPERM"
	}
	return r
}

func is(op Operator, index uint, value uint64) Condition {
	return Condition{Index: index, Op: op, Value: value}
}

func bits(index uint, mask, value uint64) Condition {
	return Condition{Index: index, Op: OpMaskedEqual, Value: mask, ValueTwo: value}
}

func TestOverlaps(t *testing.T) {
	for name, c := range map[string]struct {
		rules []Rule
		want  string
	}{
		"exception":                 {[]Rule{rule("socket", ActAllow), rule("socket", ActNotify, is(OpEqual, 0, 2))}, ""},
		"nested exceptions":         {[]Rule{rule("socket", ActAllow), rule("socket", ActErrno, is(OpEqual, 0, 2)), rule("socket", ActAllow, is(OpEqual, 0, 2), is(OpEqual, 1, 1))}, ""},
		"different values":          {[]Rule{rule("socket", ActAllow, is(OpEqual, 0, 1)), rule("socket", ActErrno, is(OpEqual, 0, 2))}, ""},
		"different calls":           {[]Rule{rule("getpid", ActAllow), rule("getppid", ActErrno)}, ""},
		"twice":                     {[]Rule{rule("getpid", ActAllow), rule("getpid", ActAllow)}, "shadowed 1 by 0 getpid"},
		"stricter":                  {[]Rule{rule("getpid", ActAllow), rule("getpid", ActErrno)}, "shadowed 0 by 1 getpid"},
		"bits that nobody reads":    {[]Rule{rule("socket", ActAllow, is(OpEqual, 0, 1<<64-1)), rule("socket", ActErrno, is(OpEqual, 0, 1<<32-1))}, "shadowed 0 by 1 socket"},
		"wider and stricter":        {[]Rule{rule("socket", ActAllow, is(OpEqual, 0, 2)), rule("socket", ActErrno, is(OpLessEqual, 0, 5))}, "shadowed 0 by 1 socket"},
		"one value in two bounds":   {[]Rule{rule("socket", ActErrno, is(OpEqual, 0, 5)), rule("socket", ActAllow, is(OpGreater, 0, 1), is(OpLess, 0, 9))}, "shadowed 0 by 1 socket"},
		"narrower mask":             {[]Rule{rule("clone", ActAllow, bits(0, 0xff, 0x11)), rule("clone", ActKillProcess, bits(0, 0x0f, 0x1))}, "shadowed 0 by 1 clone"},
		"other mask":                {[]Rule{rule("clone", ActAllow, bits(0, 0xff, 0x11)), rule("clone", ActKillProcess, bits(0, 0x0f, 0x2))}, ""},
		"says the same as the rest": {[]Rule{rule("socket", ActAllow), rule("socket", ActAllow, is(OpEqual, 0, 2))}, "redundant 1 by 0 socket"},
		"says the same, but not after another": {
			[]Rule{rule("socket", ActAllow), rule("socket", ActErrno, is(OpGreater, 1, 7)), rule("socket", ActAllow, is(OpEqual, 0, 2), is(OpEqual, 1, 9))},
			"",
		},
		"either may hold": {[]Rule{rule("socket", ActAllow, is(OpEqual, 0, 2)), rule("socket", ActErrno, is(OpEqual, 1, 1))}, "ambiguous 0 by 1 socket"},
		"either may hold, masks": {
			[]Rule{rule("clone", ActAllow, bits(0, 0xf0, 0x10)), rule("clone", ActNotify, bits(0, 0x0f, 0x1))},
			"ambiguous 0 by 1 clone",
		},
		"not equal to one is no range": {[]Rule{rule("socket", ActAllow, is(OpNotEqual, 0, 2)), rule("socket", ActErrno, is(OpEqual, 0, 2))}, ""},
		"not equal, and other values":  {[]Rule{rule("socket", ActAllow, is(OpEqual, 0, 3)), rule("socket", ActErrno, is(OpNotEqual, 0, 2))}, "shadowed 0 by 1 socket"},
		"groups": {
			[]Rule{{Names: []string{"getpid", "getppid"}, Action: ActAllow}, {Names: []string{"getuid", "getppid", "getpid"}, Action: ActAllow}},
			"shadowed 1 by 0 getpid,getppid",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Filter{Rules: c.rules}.Overlaps()
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, o := range got {
				lines = append(lines, fmt.Sprintf("%s %d by %d %s", o.Kind, o.Rule, o.By, strings.Join(o.Calls, ",")))
			}
			if s := strings.Join(lines, "; "); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
		})
	}
}

func TestOverlapsOfAnInvalidFilter(t *testing.T) {
	if _, err := (Filter{Rules: []Rule{rule("gitpid", ActAllow)}}).Overlaps(); err == nil {
		t.Error("an unknown call has no overlaps")
	}
}

func TestOverlapSentence(t *testing.T) {
	o := Overlap{Kind: Shadowed, Rule: 1, By: 0, Calls: []string{"a", "b", "c", "d", "e"}}
	if got, want := o.String(), "rule 2 never decides on a, b, c and 2 more: rule 1 holds whenever it does and comes before it"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func callsOf(t *testing.T, f Filter) []Call {
	t.Helper()
	calls, err := f.Calls()
	if err != nil {
		t.Fatal(err)
	}
	return calls
}

// answerOf decides one call by the reference.
func answerOf(calls []Call, nr int, args [6]uint64) string {
	for _, c := range calls {
		for _, a := range c.Arms {
			if c.NR == nr && !slices.ContainsFunc(a.Args, func(cond Condition) bool {
				v := args[cond.Index]
				if b := ArgBits(nr, cond.Index); b < 64 {
					v &= 1<<b - 1
				}
				return !cond.holds(v)
			}) {
				return string(a.Action) + a.Errno
			}
		}
	}
	return string(ActNotify)
}

// What is reported is so: without a shadowed or redundant rule the filter
// answers as with it, for every pair of small arguments.
func TestOverlapsAreTrue(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 7)) // the same filters every time
	nr, _ := Number("kcmp")
	kinds := map[OverlapKind]int{}
	for range 1000 {
		f := randomFilter(r)
		overlaps, err := f.Overlaps()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range overlaps {
			kinds[o.Kind]++
			if o.Kind == Ambiguous {
				continue
			}
			with, without := callsOf(t, f), callsOf(t, Filter{Rules: slices.Delete(slices.Clone(f.Rules), o.Rule, o.Rule+1)})
			for a := range uint64(8) {
				for b := range uint64(8) {
					args := [6]uint64{a, b}
					if got, want := answerOf(without, nr, args), answerOf(with, nr, args); got != want {
						t.Fatalf("%s\n%+v\nwith %d, %d it is %s, without the rule %s", o, f.Rules, a, b, want, got)
					}
				}
			}
		}
	}
	for _, k := range []OverlapKind{Shadowed, Redundant, Ambiguous} {
		if kinds[k] < 50 {
			t.Errorf("only %d %s rules were tried", kinds[k], k)
		}
	}
}

func randomFilter(r *rand.Rand) Filter {
	var f Filter
	for range 2 + r.IntN(3) {
		var args []Condition
		for range r.IntN(3) {
			c := Condition{Index: uint(r.IntN(2)), Op: operators[r.IntN(len(operators))], Value: uint64(r.IntN(8))}
			if c.Op == OpMaskedEqual {
				c.Value++
				c.ValueTwo = c.Value & uint64(r.IntN(8))
			}
			args = append(args, c)
		}
		f.Rules = append(f.Rules, rule("kcmp", []Action{ActAllow, ActErrno, ActNotify}[r.IntN(3)], args...))
	}
	return f
}

func FuzzConditionsImply(f *testing.F) {
	f.Add(uint8(0), uint64(1), uint64(0), uint8(6), uint64(3), uint64(1), uint64(5))
	f.Add(uint8(1), uint64(0), uint64(0), uint8(5), uint64(1<<64-1), uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, op1 uint8, v1, w1 uint64, op2 uint8, v2, w2, x uint64) {
		a := Condition{Op: operators[int(op1)%len(operators)], Value: v1, ValueTwo: w1}
		b := Condition{Op: operators[int(op2)%len(operators)], Value: v2, ValueTwo: w2}
		for _, v := range []uint64{x, v1, v2, v1 + 1, v1 - 1, v2 + 1, v2 - 1, w1, w2, 0, 1<<64 - 1} {
			if a.implies(b) && a.holds(v) && !b.holds(v) {
				t.Errorf("%+v is said to imply %+v, but for %#x it does not", a, b, v)
			}
			if disjoint([]Condition{a}, []Condition{b}) && a.holds(v) && b.holds(v) {
				t.Errorf("%+v and %+v are said to be disjoint, but hold for %#x", a, b, v)
			}
		}
	})
}
