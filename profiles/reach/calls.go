package reach

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/seccomp"
)

// arms are what the filter says of a call, in the order in which it is tried;
// that it is watched changes nothing.
func (m *Model) arms(name string) []seccomp.Arm {
	f := m.plan.Seccomp
	f.Watch = nil
	calls, err := f.Calls()
	if err != nil {
		return nil
	}
	for _, c := range calls {
		if c.Name == name {
			return c.Arms
		}
	}
	return nil
}

// mayCall says whether some arguments of a call are let through: by the filter,
// or by whoever is told of the violation and only records it.
func (m *Model) mayCall(name string) bool {
	arms := m.arms(name)
	if m.onlyRecorded() && (len(arms) == 0 || len(arms[len(arms)-1].Args) > 0) {
		return true
	}
	return slices.ContainsFunc(arms, func(a seccomp.Arm) bool {
		return passes(a.Action) || a.Action == seccomp.ActNotify && m.onlyRecorded()
	})
}

// onlyRecorded says whether a violation of the filter goes on.
func (m *Model) onlyRecorded() bool { return m.plan.Violation["seccomp"].Action == "log" }

// makes says whether a call with these arguments goes through.
func (m *Model) makes(name string, args ...uint64) bool {
	v := m.Decide(name, args)
	return passes(v.Action) || v.Action == seccomp.ActNotify && m.onlyRecorded()
}

func passes(a seccomp.Action) bool { return a == seccomp.ActAllow || a == seccomp.ActLog }

// Verdict is what the filter does with one call.
type Verdict struct {
	Action seccomp.Action
	// Errno is what the call is answered with, for SCMP_ACT_ERRNO.
	Errno string
}

// Decide is what the filter does with a call with these arguments; those that
// are not given are 0. What no rule decides goes to the listener.
func (m *Model) Decide(name string, args []uint64) Verdict {
	nr, _ := seccomp.Number(name)
	arms := m.arms(name)
	for _, arm := range arms {
		if !slices.ContainsFunc(arm.Args, func(c seccomp.Condition) bool { return !holds(nr, c, args) }) {
			return Verdict{arm.Action, arm.Errno}
		}
	}
	return Verdict{Action: seccomp.ActNotify}
}

// holds compares as the kernel does: over the bits that it reads, unsigned.
func holds(nr int, c seccomp.Condition, args []uint64) bool {
	var v uint64
	if int(c.Index) < len(args) {
		v = args[c.Index]
	}
	if bits := seccomp.ArgBits(nr, c.Index); bits < 64 {
		v &= 1<<bits - 1
	}
	switch c.Op {
	case seccomp.OpEqual:
		return v == c.Value
	case seccomp.OpNotEqual:
		return v != c.Value
	case seccomp.OpLess:
		return v < c.Value
	case seccomp.OpLessEqual:
		return v <= c.Value
	case seccomp.OpGreater:
		return v > c.Value
	case seccomp.OpGreaterEqual:
		return v >= c.Value
	case seccomp.OpMaskedEqual:
		return v&c.Value == c.ValueTwo
	}
	return false
}

// Call answers whether the filter lets a call through; args nil asks for any
// arguments. What the call then does the kernel decides, for a process without
// a single capability.
func (m *Model) Call(name string, args []uint64) (Answer, error) {
	if _, ok := seccomp.Number(name); !ok {
		_, err := seccomp.Expand([]string{name})
		if err == nil {
			err = fmt.Errorf("%s is a group: ask for its calls one by one", name)
		}
		return Answer{}, fmt.Errorf("cannot answer: %w", err)
	}
	a := Answer{Question: strings.TrimSpace("call " + name + " " + numbers(args))}
	if name == "execve" && m.plan.Seccomp.ExecOnce {
		if m.onlyRecorded() {
			a.Can, a.Note = true, recorded
			a.Why = []Reason{{Wall: "seccomp", Text: "execve is to happen once, and a second one is only recorded", Origin: m.plan.Origins["violation.seccomp"]}}
			return a, nil
		}
		m.refuseAnother(&a)
		return a, nil
	}
	arms := m.arms(name)
	open := len(arms) == 1 && len(arms[0].Args) == 0
	if args == nil && !open && m.mayCall(name) {
		a.Can = true
		a.Note = "not with every argument: " + describe(arms)
		if m.onlyRecorded() {
			a.Note = recorded
		}
		a.Why = []Reason{{Wall: "seccomp", Text: name + " is allowed with some arguments", Origin: m.callOrigin(name)}}
		return a, nil
	}
	m.decided(&a, name, m.Decide(name, args))
	return a, nil
}

const recorded = "violations of seccomp are only recorded, so the call goes on"

// refuseAnother refuses a second execve.
func (m *Model) refuseAnother(a *Answer) {
	a.refuse("seccomp", m.plan.Origins["seccomp.execve"], "execve is let through once, for the plugin's own program; another is a violation, which leads to %s", m.plan.Violation["seccomp"].Action)
}

func (m *Model) decided(a *Answer, name string, v Verdict) {
	origin := m.callOrigin(name)
	switch {
	case passes(v.Action):
		a.Can = true
		text := name + " is allowed"
		if slices.Contains(seccomp.AlwaysAllowed(), name) {
			text, origin = name+" is always allowed: no program starts or ends without it", ""
		}
		a.Why = []Reason{{Wall: "seccomp", Text: text, Origin: origin}}
		a.Note = "what it then does, the kernel decides for a process without capabilities"
	case v.Action == seccomp.ActErrno:
		a.refuse("seccomp", origin, "%s is answered %s, as on a kernel that cannot do it; that is no violation", name, v.Errno)
	case v.Action == seccomp.ActKillProcess:
		a.refuse("seccomp", origin, "%s kills the process that makes it", name)
	default:
		a.refuse("seccomp", origin, "%s is not allowed: a violation, which leads to %s", name, m.plan.Violation["seccomp"].Action)
	}
	if m.onlyRecorded() && v.Action == seccomp.ActNotify {
		a.Can, a.Note = true, recorded
	}
}

// callOrigin is who wrote what decides a call.
func (m *Model) callOrigin(name string) string {
	for _, key := range []string{"seccomp.rule.", "seccomp.errno.", "seccomp.allow.", "seccomp.deny."} {
		if by := m.plan.Origins[key+name]; by != "" {
			return by
		}
	}
	return ""
}

func numbers(args []uint64) string {
	out := make([]string, len(args))
	for i, v := range args {
		out[i] = fmt.Sprintf("%#x", v)
	}
	return strings.Join(out, " ")
}

// words of the operators as programmers write them.
var operators = map[seccomp.Operator]string{
	seccomp.OpEqual: "==", seccomp.OpNotEqual: "!=", seccomp.OpLess: "<", seccomp.OpLessEqual: "<=",
	seccomp.OpGreater: ">", seccomp.OpGreaterEqual: ">=",
}

// maxDescribed bounds a sentence about a call's arms.
const maxDescribed = 6

// describe says what a call's arms do, first to last.
func describe(arms []seccomp.Arm) string {
	var out []string
	for i, arm := range arms {
		if i == maxDescribed {
			out = append(out, fmt.Sprintf("and %d more", len(arms)-i))
			break
		}
		out = append(out, describeArm(arm))
	}
	if last := arms[len(arms)-1]; len(last.Args) > 0 {
		out = append(out, "else a violation")
	}
	return strings.Join(out, "; ")
}

func describeArm(arm seccomp.Arm) string {
	does := map[seccomp.Action]string{
		seccomp.ActAllow: "allowed", seccomp.ActLog: "allowed", seccomp.ActErrno: arm.Errno,
		seccomp.ActNotify: "a violation", seccomp.ActKillProcess: "killed",
	}[arm.Action]
	if len(arm.Args) == 0 {
		return "else " + does
	}
	conds := make([]string, len(arm.Args))
	for i, c := range arm.Args {
		conds[i] = fmt.Sprintf("argument %d %s %#x", c.Index, operators[c.Op], c.Value)
		if c.Op == seccomp.OpMaskedEqual {
			conds[i] = fmt.Sprintf("argument %d & %#x == %#x", c.Index, c.Value, c.ValueTwo)
		}
	}
	return does + " if " + strings.Join(conds, " and ")
}
