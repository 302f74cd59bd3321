package seccomp

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
)

// actions are those a rule may name, from the weakest to the strictest.
// NOTIFY is stricter than ERRNO because it is a violation.
var actions = []Action{ActAllow, ActLog, ActErrno, ActNotify, ActKillProcess}

// operators are those a condition may name.
var operators = []Operator{OpNotEqual, OpLess, OpLessEqual, OpEqual, OpGreaterEqual, OpGreater, OpMaskedEqual}

// strictness orders the actions; -1 is not one.
func strictness(a Action) int { return slices.Index(actions, a) }

// unimplemented is the signature of a number that never had a call.
const unimplemented = "?"

// ArgBits tells how many of the 64 bits of an argument the kernel reads: 64,
// 32 for an int, 16 for a mode. A filter that compares the others can be gone
// round by setting one of them. What the table does not know has 64.
func ArgBits(nr int, index uint) int {
	if !Known(nr) || int(index) >= len(table[nr].sig) {
		return 64
	}
	switch table[nr].sig[index] {
	case 'i', 'u', 'x', 'f', 'd':
		return 32
	case 'o':
		return 16
	default:
		return 64
	}
}

// Call is what a filter says about one call: its arms in the order in which
// they are tried. The first whose conditions all hold decides. If none does,
// the call goes to the listener.
type Call struct {
	Name string `json:"name"`
	NR   int    `json:"nr"`
	// Arms are never empty; only the last can be without conditions.
	Arms []Arm `json:"arms"`
}

// Arm is one decision. The values of Args are cut to what the kernel reads of
// the argument (see ArgBits), and comparisons are unsigned.
type Arm struct {
	Args   []Condition `json:"args,omitempty"`
	Action Action      `json:"action"`
	Errno  string      `json:"errno,omitempty"`
}

// passes tells whether the kernel goes on with the call.
func (a Arm) passes() bool { return a.Action == ActAllow || a.Action == ActLog }

// same tells whether two arms lead to the same.
func (a Arm) same(b Arm) bool { return a.Action == b.Action && a.Errno == b.Errno }

// Calls resolves the rules into what they say about each call, by number. It
// is the one rule of precedence: of the rules whose conditions hold, the one
// with the most conditions wins, and of those with equally many the strictest
// (kill, notify, errno, log, allow; of two errnos the one whose name sorts
// first). Arms that cannot change the answer are left out, so that two filters
// that say the same in other words mostly come out equal.
//
// A call that is left to the listener whatever its arguments is not listed.
// Where a watched call is let through it goes to the listener instead.
// The filter must be valid; the error is that of Validate.
func (f Filter) Calls() ([]Call, error) {
	sets, err := f.valid()
	if err != nil {
		return nil, err
	}
	arms := f.armsOf(sets)
	watched, err := expand(f.Watch)
	if err != nil {
		return nil, err
	}
	out := make([]Call, 0, len(table))
	for nr, a := range arms {
		if len(a) > 0 && watched.in(nr) {
			a = toListener(a)
		}
		if len(a) > 0 {
			out = append(out, Call{Name: table[nr].name, NR: nr, Arms: a})
		}
	}
	return out, nil
}

// Counts are how many calls a filter allows whatever their arguments, decides by
// their arguments, and refuses without the listener.
type Counts struct{ Allowed, Conditional, Refused int }

// Counts counts what Calls lists, and is quicker. It needs known names; whether
// the filter is valid it does not ask.
func (f Filter) Counts() (Counts, error) {
	var n Counts
	arms, err := f.arms()
	if err != nil {
		return n, err
	}
	watched, err := expand(f.Watch)
	if err != nil {
		return n, err
	}
	for nr, a := range arms {
		if len(a) > 0 && watched.in(nr) {
			a = toListener(a)
		}
		switch {
		case len(a) == 0:
		case len(a) > 1 || len(a[0].Args) > 0:
			n.Conditional++
		case a[0].passes():
			n.Allowed++
		default:
			n.Refused++
		}
	}
	return n, nil
}

// toListener has what was let through seen by the listener, and leaves the
// order of the arms as it is.
func toListener(arms []Arm) []Arm {
	arms = slices.Clone(arms)
	for i, a := range arms {
		if a.passes() {
			arms[i].Action = ActNotify
		}
	}
	for n := len(arms); n > 0 && arms[n-1].Action == ActNotify; n-- {
		arms = arms[:n-1]
	}
	return arms
}

// Observed are the watched calls of a filter, by number, with what it says of
// them when nobody watches.
type Observed map[int][]Arm

// Observed returns the calls that the filter watches. It must be valid; the
// error is that of Validate.
func (f Filter) Observed() (Observed, error) {
	if len(f.Watch) == 0 {
		return nil, nil
	}
	sets, err := f.valid()
	if err != nil {
		return nil, err
	}
	arms := f.armsOf(sets)
	watched, err := expand(f.Watch)
	if err != nil {
		return nil, err
	}
	out := Observed{}
	for nr := range watched.Each {
		out[nr] = arms[nr]
	}
	return out, nil
}

// Passes tells whether a call that reached the listener did so only to be
// observed: the filter lets it through. It looks at the registers alone, which
// the plugin cannot change while the call waits.
func (o Observed) Passes(n Notification) bool {
	for _, a := range o[n.NR] {
		if a.Holds(n.NR, n.Args) {
			return a.passes()
		}
	}
	return false
}

// Holds tells whether every condition of an arm of Calls holds for a call.
func (a Arm) Holds(nr int, args [maxArgs]uint64) bool {
	return !slices.ContainsFunc(a.Args, func(c Condition) bool {
		v := args[c.Index]
		if bits := ArgBits(nr, c.Index); bits < 64 {
			v &= 1<<bits - 1
		}
		return !c.holds(v)
	})
}

// arms collects and orders the arms of every call, by number. It needs known
// names and no more.
func (f Filter) arms() (*[len(table)][]Arm, error) {
	sets := make([]callSet, len(f.Rules))
	for i, r := range f.Rules {
		calls, err := r.calls()
		if err != nil {
			return nil, err
		}
		sets[i] = calls
	}
	return f.armsOf(sets), nil
}

// armsOf is arms for rules that name these calls.
func (f Filter) armsOf(sets []callSet) *[len(table)][]Arm {
	arms := new([len(table)][]Arm)
	for _, n := range alwaysAllowed {
		nr, _ := Number(n)
		arms[nr] = []Arm{{Action: ActAllow}}
	}
	for i, r := range f.Rules {
		calls := &sets[i]
		var same []Arm // what a rule without conditions says of each of its calls
		if len(r.Args) == 0 {
			same = []Arm{r.arm(0)}
		}
		for nr := range calls.Each {
			switch {
			case same == nil:
				arms[nr] = append(arms[nr], r.arm(nr))
			case arms[nr] == nil:
				arms[nr] = same[:1:1] // whoever adds to it copies it
			default:
				arms[nr] = append(arms[nr], same[0])
			}
		}
	}
	for nr, a := range arms {
		if len(a) > 0 {
			arms[nr] = settle(a)
		}
	}
	if f.ExecOnce {
		once, _ := Number(callExecve)
		arms[once] = []Arm{{Args: []Condition{{Op: OpLess, Value: ExecOncePage}}, Action: ActAllow}}
	}
	return arms
}

// arm is the rule for one call.
func (r Rule) arm(nr int) Arm {
	a := Arm{Action: r.Action, Errno: r.Errno}
	for _, c := range r.Args {
		a.Args = append(a.Args, c.narrow(ArgBits(nr, c.Index)))
	}
	slices.SortFunc(a.Args, compareConditions)
	a.Args = slices.Compact(a.Args)
	return a
}

// narrow cuts the values to the bits that the kernel reads.
func (c Condition) narrow(bits int) Condition {
	if bits < 64 {
		c.Value &= 1<<bits - 1
		c.ValueTwo &= 1<<bits - 1
	}
	return c
}

// settle orders arms by precedence and leaves out what cannot matter.
func settle(arms []Arm) []Arm {
	if allows(arms) { // most calls
		return arms
	}
	slices.SortFunc(arms, compareArms)
	arms = withoutShadowed(arms)
	last := Arm{Action: ActNotify}
	if n := len(arms); n > 0 && len(arms[n-1].Args) == 0 {
		last, arms = arms[n-1], arms[:n-1]
	}
	for len(arms) > 0 && arms[len(arms)-1].same(last) {
		arms = arms[:len(arms)-1]
	}
	if last.Action != ActNotify {
		arms = append(arms, last)
	}
	return arms
}

// withoutShadowed leaves out arms with the conditions of one before them.
func withoutShadowed(arms []Arm) []Arm {
	kept := arms[:0]
	for _, a := range arms {
		if !slices.ContainsFunc(kept, func(k Arm) bool { return slices.Equal(k.Args, a.Args) }) {
			kept = append(kept, a)
		}
	}
	return kept
}

// compareArms sorts by precedence, and among equals in any fixed order.
func compareArms(a, b Arm) int {
	return cmp.Or(
		cmp.Compare(len(b.Args), len(a.Args)),
		cmp.Compare(strictness(b.Action), strictness(a.Action)),
		cmp.Compare(a.Errno, b.Errno),
		slices.CompareFunc(a.Args, b.Args, compareConditions),
	)
}

func compareConditions(a, b Condition) int {
	return cmp.Or(
		cmp.Compare(a.Index, b.Index),
		cmp.Compare(a.Op, b.Op),
		cmp.Compare(a.Value, b.Value),
		cmp.Compare(a.ValueTwo, b.ValueTwo),
	)
}

// Allows tells whether the filter lets a call through whatever its arguments.
// A watched call is let through. An invalid filter allows nothing.
func (f Filter) Allows(name string) bool {
	nr, ok := Number(name)
	if !ok {
		return false
	}
	arms, err := f.arms()
	if err != nil {
		return false
	}
	return allows(arms[nr])
}

// allows tells whether arms let a call through whatever its arguments.
func allows(arms []Arm) bool {
	return len(arms) == 1 && len(arms[0].Args) == 0 && arms[0].passes()
}

// digestVersion is part of every digest and changes when the same filter
// comes to mean another program.
const digestVersion = "cordon-filter-1"

// Digest is sha256 over what the filter means, as "sha256:" and 64 hex digits:
// the order of rules and names, groups or their members, and arms that cannot
// matter make no difference. It covers the table's known numbers, because the
// program does. An invalid filter has a digest of its own that no valid one
// has.
func (f Filter) Digest() string {
	b := fmt.Appendf(nil, "%s %v\n", digestVersion, KnownRanges())
	calls, err := f.Calls()
	watched, err2 := expand(f.Watch)
	if err != nil || err2 != nil {
		return digestOf(fmt.Appendf(b, "invalid %#v\n", f))
	}
	for _, c := range calls {
		b = c.appendTo(b)
	}
	for nr := range watched.Each {
		b = append(strconv.AppendInt(append(b, "watch "...), int64(nr), 10), '\n')
	}
	return digestOf(b)
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// appendTo writes a call as text that no other call has.
func (c Call) appendTo(b []byte) []byte {
	b = append(strconv.AppendInt(b, int64(c.NR), 10), '\n')
	for _, a := range c.Arms {
		for _, cond := range a.Args {
			b = fmt.Appendf(b, " %d %s %#x %#x", cond.Index, cond.Op, cond.Value, cond.ValueTwo)
		}
		b = append(append(append(append(b, " : "...), a.Action...), ' '), a.Errno...)
		b = append(b, '\n')
	}
	return b
}
