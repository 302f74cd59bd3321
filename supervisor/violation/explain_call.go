package violation

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
)

// isCallName says whether s may stand in a profile as the name of a call.
func isCallName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789_"
	return s != "" && len(s) <= 64 && strings.Trim(s, letters) == "" && !strings.HasPrefix(s, "syscall_")
}

// adviseCall explains a call that the filter refused.
func adviseCall(v *Violation, p *plan.Plan) advice {
	call := v.Call
	if call == "" {
		call = v.What
	}
	if v.Killed && !isCallName(call) {
		return advice{
			rule: ruled(p, []string{"seccomp.allow", "seccomp"}, "a call of another architecture is never allowed, and killed at once"),
			also: neverLine + "a filter of one architecture could be gone round by another's numbers.",
		}
	}
	if !isCallName(call) {
		return advice{
			rule: ruled(p, []string{"seccomp.allow", "seccomp"}, "a call without a name in the tables is never allowed"),
			also: neverLine + "the call is not known by a name.",
		}
	}
	r := refusalOf(call, v.RawArgs, p)
	a := advice{rule: ruled(p, callKeys(call), "%s", r.rule()), also: callDanger(call, v)}
	if r.guarded() {
		a.also = "It comes with a guard: " + call + " passes with the arguments that programs need, and with others it stays refused."
	}
	if why, never := neverCall(call); never {
		a.also = why
		return a
	}
	if a.change = r.change(v.Args); call == "execve" && p.Seccomp.ExecOnce {
		a.rule = ruled(p, []string{"seccomp.execve"}, "execve is let through once, for the plugin's own program")
		a.change = "[seccomp]\nexecve = \"any\"\n"
	}
	if at := p.Origins["seccomp.deny."+call]; inProfile(at, p) {
		a.also = "First take it off the list at " + at + ", as cordon profile apply does: what a file denies wins over what it allows. " + a.also
	}
	return a
}

// callKeys are the origins that can be behind a refused call, the nearest
// first.
func callKeys(call string) []string {
	return []string{
		"seccomp.deny." + call, "seccomp.rule." + call, "seccomp.allow." + call, "seccomp.errno." + call,
		"seccomp.allow", "seccomp",
	}
}

// inProfile says whether at, as "file:line", is in the file of the profile
// itself and not in one that it extends.
func inProfile(at string, p *plan.Plan) bool {
	file, _, _ := strings.Cut(path.Base(at), ":")
	return at != "" && file == p.Profile+".toml"
}

// refusal is one use of a call that the plan's filter refused.
type refusal struct {
	call string
	nr   int
	raw  []uint64 // empty where the arguments are not known
	arms []seccomp.Arm
}

// refusalOf finds what the plan's filter says about call.
func refusalOf(call string, raw []uint64, p *plan.Plan) refusal {
	nr, _ := seccomp.Number(call)
	var about seccomp.Filter
	for _, r := range p.Seccomp.Rules {
		if slices.Contains(r.Names, call) {
			r.Names = []string{call}
			about.Rules = append(about.Rules, r)
		}
	}
	calls, err := about.Calls()
	if err != nil { // a plan's filter was checked when it was resolved
		calls = nil
	}
	r := refusal{call: call, nr: nr, raw: raw}
	r.arms = armsOf(call, calls)
	return r
}

func armsOf(call string, calls []seccomp.Call) []seccomp.Arm {
	for _, c := range calls {
		if c.Name == call {
			return c.Arms
		}
	}
	return nil
}

// guarded says whether this use passes the guard that comes with allowing the
// call by its name, where nothing is said of the call so far.
func (r refusal) guarded() bool {
	if len(r.arms) > 0 || len(r.raw) == 0 || !profiles.HasGuard(r.call) {
		return false
	}
	calls, err := profiles.Allowing(r.call).Calls()
	if err != nil {
		return false
	}
	for _, arm := range armsOf(r.call, calls) {
		if r.holds(arm.Args) {
			return arm.Action == seccomp.ActAllow
		}
	}
	return false
}

// holds says whether every condition of an arm holds for the use.
func (r refusal) holds(conditions []seccomp.Condition) bool {
	for _, c := range conditions {
		if c.Index >= uint(len(r.raw)) || !compare(c, r.raw[c.Index]&mask(r.nr, c.Index)) {
			return false
		}
	}
	return true
}

// mask is the bits of an argument that the kernel reads.
func mask(nr int, index uint) uint64 { return 1<<seccomp.ArgBits(nr, index) - 1 }

func compare(c seccomp.Condition, value uint64) bool {
	switch c.Op {
	case seccomp.OpEqual:
		return value == c.Value
	case seccomp.OpNotEqual:
		return value != c.Value
	case seccomp.OpLess:
		return value < c.Value
	case seccomp.OpLessEqual:
		return value <= c.Value
	case seccomp.OpGreaterEqual:
		return value >= c.Value
	case seccomp.OpGreater:
		return value > c.Value
	case seccomp.OpMaskedEqual:
		return value&c.Value == c.ValueTwo
	}
	return false
}

// refusing is the arm that refused this use, if one did by its conditions.
func (r refusal) refusing() (seccomp.Arm, bool) {
	for _, arm := range r.arms {
		if len(r.raw) > 0 && len(arm.Args) > 0 && arm.Action != seccomp.ActAllow && r.holds(arm.Args) {
			return arm, true
		}
	}
	return seccomp.Arm{}, false
}

// rule says in words which rule of the plan refused it.
func (r refusal) rule() string {
	if arm, ok := r.refusing(); ok {
		return r.call + " is refused where " + conditionsInWords(arm.Args)
	}
	var uses []string
	for _, arm := range r.arms {
		if arm.Action == seccomp.ActAllow && len(arm.Args) > 0 {
			uses = append(uses, conditionsInWords(arm.Args))
		}
	}
	switch n := len(uses); {
	case n == 0 && len(r.arms) > 0:
		return r.call + " is not allowed with every argument"
	case n == 0:
		return r.call + " is on no list of calls that are allowed"
	case n > 3:
		uses = append(uses[:3], fmt.Sprintf("%d more", n-3))
	}
	return r.call + " is allowed only where " + strings.Join(uses, ", or ")
}

// conditionsInWords writes conditions as a person would say them.
func conditionsInWords(conditions []seccomp.Condition) string {
	words := make([]string, len(conditions))
	for i, c := range conditions {
		words[i] = fmt.Sprintf("argument %d %s", c.Index, conditionInWords(c))
	}
	return strings.Join(words, " and ")
}

func conditionInWords(c seccomp.Condition) string {
	switch c.Op {
	case seccomp.OpEqual:
		return fmt.Sprintf("is %d", c.Value)
	case seccomp.OpNotEqual:
		return fmt.Sprintf("is not %d", c.Value)
	case seccomp.OpLess:
		return fmt.Sprintf("is below %d", c.Value)
	case seccomp.OpLessEqual:
		return fmt.Sprintf("is at most %d", c.Value)
	case seccomp.OpGreaterEqual:
		return fmt.Sprintf("is at least %d", c.Value)
	case seccomp.OpGreater:
		return fmt.Sprintf("is above %d", c.Value)
	case seccomp.OpMaskedEqual:
		return fmt.Sprintf("masked by %#x is %#x", c.Value, c.ValueTwo)
	}
	return "meets " + string(c.Op)
}

// change is the smallest TOML that allows this use: a rule on its arguments
// where they tell one use of the call from another, the whole call otherwise,
// with its guard if it has one that lets this use pass.
// A list does where nothing was said about the call; a rule without conditions
// is what lifts the conditions that a profile puts on it.
func (r refusal) change(args []string) string {
	_, manyInOne := scalars[r.call]
	if len(r.arms) == 0 && !manyInOne || r.guarded() {
		return fmt.Sprintf("[seccomp]\nallow = [%q]\n", r.call)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[[seccomp.rule]]\nnames = [%q]\naction = %q\n", r.call, seccomp.ActAllow)
	conditions := r.use()
	if len(conditions) == 0 {
		return b.String()
	}
	b.WriteString("args = [\n")
	for _, c := range conditions {
		b.WriteString("  " + conditionTOML(c) + "," + argComment(c, args) + "\n")
	}
	b.WriteString("]\n")
	return b.String()
}

func conditionTOML(c seccomp.Condition) string {
	if c.Op == seccomp.OpMaskedEqual {
		return fmt.Sprintf("{ index = %d, op = %q, value = %d, value_two = %d }", c.Index, c.Op, c.Value, c.ValueTwo)
	}
	return fmt.Sprintf("{ index = %d, op = %q, value = %d }", c.Index, c.Op, c.Value)
}

// argComment names the argument as it was decoded, unless that is a number.
func argComment(c seccomp.Condition, args []string) string {
	if c == always(c.Index) {
		return " # always holds: of two rules the one with more conditions decides"
	}
	if c.Index >= uint(len(args)) || args[c.Index] == "" {
		return ""
	}
	if _, err := strconv.ParseInt(args[c.Index], 0, 64); err == nil {
		return ""
	}
	return " # " + Escape(args[c.Index], maxArg)
}

// scalars are the calls that are many calls in one, by the plain arguments that
// say which: their manual pages, section 2.
var scalars = map[string][]uint{
	"socket":        {0, 1, 2},
	"socketpair":    {0, 1, 2},
	"ioctl":         {1},
	"prctl":         {0},
	"personality":   {0},
	"clone":         {0},
	"unshare":       {0},
	"mmap":          {2, 3},
	"mprotect":      {2},
	"pkey_mprotect": {2},
	"memfd_create":  {1},
}

// use is the conditions that hold for this use and few others; none where the
// arguments are not known or cannot be written. There are more of them than of
// any rule that refuses the use, because that is how a rule wins.
func (r refusal) use() []seccomp.Condition {
	var out []seccomp.Condition
	for _, index := range r.telling() {
		if index >= uint(len(r.raw)) {
			return nil
		}
		value := r.raw[index] & mask(r.nr, index)
		if value > math.MaxInt64 { // where TOML's integers end
			return nil
		}
		out = append(out, useOfArg(r.call, index, value))
	}
	if arm, ok := r.refusing(); ok {
		for i := 0; len(out) <= len(arm.Args) && i < len(r.telling()); i++ {
			out = append(out, always(out[i].Index))
		}
	}
	return out
}

// always is a condition that holds for every value.
func always(index uint) seccomp.Condition {
	return seccomp.Condition{Index: index, Op: seccomp.OpGreaterEqual, Value: 0}
}

// sockType are the bits of socket(2)'s type without SOCK_NONBLOCK and
// SOCK_CLOEXEC.
const sockType = 0xf

// useOfArg compares one argument in those bits that tell uses apart.
func useOfArg(call string, index uint, value uint64) seccomp.Condition {
	if index == 1 && (call == "socket" || call == "socketpair") {
		return seccomp.Condition{Index: index, Op: seccomp.OpMaskedEqual, Value: sockType, ValueTwo: value & sockType}
	}
	return seccomp.Condition{Index: index, Op: seccomp.OpEqual, Value: value}
}

// telling are the arguments that tell uses apart: the table's row, or else
// those that the plan's own rules for the call look at.
func (r refusal) telling() []uint {
	if row, ok := scalars[r.call]; ok {
		return row
	}
	var out []uint
	for _, arm := range r.arms {
		for _, c := range arm.Args {
			if !slices.Contains(out, c.Index) {
				out = append(out, c.Index)
			}
		}
	}
	return out
}
