package violation

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

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
	keys := []string{"seccomp.allow." + call, "seccomp.deny." + call, "seccomp.rule." + call, "seccomp.allow", "seccomp"}
	if !isCallName(call) {
		return advice{
			rule: ruled(p, keys, "a call without a name in the tables is never allowed"),
			also: "No line of a profile lifts this: the call is not known by a name.",
		}
	}
	a := advice{rule: ruled(p, keys, "%s", callRule(call, p)), also: callDanger(call, v)}
	if why, never := neverCall(call); never {
		a.also = why
		return a
	}
	a.change = callChange(call, v, p)
	return a
}

// callRule says in words what the plan allows of call.
func callRule(call string, p *plan.Plan) string {
	var uses []string
	for _, r := range p.Seccomp.Rules {
		if r.Action == seccomp.ActAllow && len(r.Args) > 0 && slices.Contains(r.Names, call) {
			uses = append(uses, conditionsInWords(r.Args))
		}
	}
	switch n := len(uses); {
	case n == 0:
		return call + " is on no list of calls that are allowed"
	case n > 3:
		uses = append(uses[:3], fmt.Sprintf("%d more", n-3))
	}
	return call + " is allowed only where " + strings.Join(uses, ", or ")
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

// callChange is the smallest TOML that allows v's use of call: a rule on its
// arguments where they tell one use from another, the whole call otherwise.
func callChange(call string, v *Violation, p *plan.Plan) string {
	conditions := useOf(call, v.RawArgs, p)
	if len(conditions) == 0 {
		return fmt.Sprintf("[seccomp]\nallow = [%q]\n", call)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[[seccomp.rule]]\nnames = [%q]\naction = %q\nargs = [\n", call, seccomp.ActAllow)
	for _, c := range conditions {
		b.WriteString("  " + conditionTOML(c) + "," + argComment(c.Index, v.Args) + "\n")
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
func argComment(index uint, args []string) string {
	if index >= uint(len(args)) || args[index] == "" {
		return ""
	}
	if _, err := strconv.ParseInt(args[index], 0, 64); err == nil {
		return ""
	}
	return " # " + Escape(args[index], maxArg)
}

// scalars are the calls that are many calls in one, by the plain arguments that
// say which: their manual pages, section 2.
var scalars = map[string][]uint{
	"socket":        {0, 1, 2},
	"socketpair":    {0, 1, 2},
	"ioctl":         {1},
	"fcntl":         {1},
	"prctl":         {0},
	"arch_prctl":    {0},
	"personality":   {0},
	"clone":         {0},
	"unshare":       {0},
	"mmap":          {2, 3},
	"mprotect":      {2},
	"pkey_mprotect": {2},
	"setsockopt":    {1, 2},
	"getsockopt":    {1, 2},
	"madvise":       {2},
	"prlimit64":     {1},
	"memfd_create":  {1},
}

// useOf is the conditions that hold for this use of call and few others; none
// where the call is one thing, or its arguments are not known.
func useOf(call string, raw []uint64, p *plan.Plan) []seccomp.Condition {
	nr, _ := seccomp.Number(call)
	var out []seccomp.Condition
	for _, index := range scalarsOf(call, p) {
		if index >= uint(len(raw)) {
			return nil
		}
		value := raw[index] & (1<<seccomp.ArgBits(nr, index) - 1)
		if value > math.MaxInt64 { // where TOML's integers end
			return nil
		}
		out = append(out, useOfArg(call, index, value))
	}
	return out
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

// scalarsOf is the table's row, or else the arguments that the plan's own rules
// for the call look at.
func scalarsOf(call string, p *plan.Plan) []uint {
	if row, ok := scalars[call]; ok {
		return row
	}
	var out []uint
	for _, r := range p.Seccomp.Rules {
		if !slices.Contains(r.Names, call) {
			continue
		}
		for _, c := range r.Args {
			if !slices.Contains(out, c.Index) {
				out = append(out, c.Index)
			}
		}
	}
	return out
}
