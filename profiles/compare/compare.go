// Package compare says in words what one plan allows that another does not, over
// every wall. Where two plans cannot be compared (the same call with other
// conditions, another tree at the same path), both sides are named: who approves
// a change must see it.
package compare

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
)

// Difference is one thing that differs.
type Difference struct {
	Wall string `json:"wall"` // "seccomp", "files", "memory" ...
	Text string `json:"text"`
}

// Result is how plan B differs from plan A.
type Result struct {
	// More is what B allows and A does not, Less the reverse. Other is what
	// differs without opening or closing anything.
	More  []Difference `json:"more"`
	Less  []Difference `json:"less"`
	Other []Difference `json:"other"`
}

// Plans compares two plans.
func Plans(a, b *plan.Plan) Result {
	r := &Result{More: []Difference{}, Less: []Difference{}, Other: []Difference{}}
	r.calls(a, b)
	r.files(a, b)
	r.inside(a, b)
	r.reach(a, b)
	r.quotas(a, b)
	r.requirements(a, b)
	r.violations(a, b)
	r.connection(a, b)
	r.others(a, b)
	return *r
}

func (r *Result) more(wall, format string, args ...any) {
	r.More = append(r.More, Difference{wall, fmt.Sprintf(format, args...)})
}

func (r *Result) less(wall, format string, args ...any) {
	r.Less = append(r.Less, Difference{wall, fmt.Sprintf(format, args...)})
}

// ordered says one thing that has more and less: B's against A's.
func (r *Result) ordered(wall string, order int, format string, args ...any) {
	switch {
	case order > 0:
		r.more(wall, format, args...)
	case order < 0:
		r.less(wall, format, args...)
	}
}

// The ways in which a filter may answer a call, from the least to the most that
// it lets happen.
const (
	violation = "a violation"
	killed    = "killed"
	quietly   = "refused quietly"
	guarded   = "allowed with some arguments"
	allowed   = "allowed"
)

// moreArguments is of a call that both allow with some arguments.
const moreArguments = "allowed with more arguments than in the other"

var openness = []string{killed, violation, quietly, guarded, allowed}

// callState is what a filter does with a call, in a word, and exactly.
type callState struct {
	word string
	arms []seccomp.Arm
}

// same says whether two states of one word are one.
func (s callState) same(other callState) bool {
	return slices.EqualFunc(s.arms, other.arms, sameArm)
}

func sameArm(a, b seccomp.Arm) bool {
	return a.Action == b.Action && a.Errno == b.Errno && slices.Equal(a.Args, b.Args)
}

func passes(a seccomp.Arm) bool { return a.Action == seccomp.ActAllow || a.Action == seccomp.ActLog }

// widens says whether a call gets through under s wherever it does under
// before: the arms are those of before in their order, with some that let it
// through put in, or some that make it a violation taken out.
func (s callState) widens(before callState) bool {
	kept := slices.DeleteFunc(slices.Clone(s.arms), func(a seccomp.Arm) bool { return passes(a) && !before.has(a) })
	left := slices.DeleteFunc(slices.Clone(before.arms), func(a seccomp.Arm) bool { return a.Action == seccomp.ActNotify && !s.has(a) })
	return slices.EqualFunc(kept, left, sameArm)
}

func (s callState) has(a seccomp.Arm) bool {
	return slices.ContainsFunc(s.arms, func(have seccomp.Arm) bool { return sameArm(have, a) })
}

func callStates(f seccomp.Filter) map[string]callState {
	out := map[string]callState{}
	f.Watch = nil // what is watched goes on all the same
	calls, err := f.Calls()
	if err != nil {
		return out
	}
	for _, c := range calls {
		out[c.Name] = stateOf(c)
	}
	return out
}

func stateOf(c seccomp.Call) callState {
	s := callState{word: quietly, arms: c.Arms}
	only := len(c.Arms) == 1 && len(c.Arms[0].Args) == 0
	switch {
	case only && passes(c.Arms[0]):
		return callState{word: allowed}
	case slices.ContainsFunc(c.Arms, passes):
		s.word = guarded
	case only && c.Arms[0].Action == seccomp.ActKillProcess:
		s.word = killed
	case only && c.Arms[0].Action == seccomp.ActNotify:
		s.word = violation
	}
	return s
}

func (r *Result) calls(a, b *plan.Plan) {
	sa, sb := callStates(a.Seccomp), callStates(b.Seccomp)
	names := map[string]bool{}
	for name := range sa {
		names[name] = true
	}
	for name := range sb {
		names[name] = true
	}
	more, less := map[string][]string{}, map[string][]string{}
	for _, name := range sortedKeys(names) {
		x, y := stateIn(sa, name), stateIn(sb, name)
		switch order := slices.Index(openness, y.word) - slices.Index(openness, x.word); {
		case order > 0:
			change := fmt.Sprintf("%s, and %s in the other", y.word, x.word)
			more[change] = append(more[change], name)
		case order < 0:
			change := fmt.Sprintf("%s, and %s in the other", x.word, y.word)
			less[change] = append(less[change], name)
		case x.same(y):
		case x.word == quietly:
			r.Other = append(r.Other, Difference{"seccomp", name + ": refused quietly, with another errno or under other conditions"})
		case y.widens(x):
			more[moreArguments] = append(more[moreArguments], name)
		case x.widens(y):
			less[moreArguments] = append(less[moreArguments], name)
		default:
			change := x.word + ", under other conditions"
			more[change] = append(more[change], name)
			less[change] = append(less[change], name)
		}
	}
	write := func(say func(string, string, ...any), changes map[string][]string) {
		for _, change := range sortedKeys(changes) {
			say("seccomp", "%s: %s", strings.Join(changes[change], ", "), change)
		}
	}
	write(r.more, more)
	write(r.less, less)
}

func stateIn(states map[string]callState, name string) callState {
	if s, ok := states[name]; ok {
		return s
	}
	return callState{word: violation}
}

// place is what a plan shows at a path: which of the host, and with what rights.
type place struct {
	from   string
	rights []string
}

// writing are the rights that a mount must be writable for.
var writing = []string{
	"make_char", "make_block", "make_dir", "make_fifo", "make_reg", "make_sock", "make_sym", "refer", "remove_dir", "remove_file",
	"truncate", "write_file",
}

// at is what a plan gives at a path: the innermost grant is the mount, and the
// rights of all above it add up, as Landlock's do.
func at(p *plan.Plan, where string) place {
	var out place
	inner := plan.File{}
	rights := map[string]bool{}
	for _, f := range p.Files {
		if !within(where, f.Path) {
			continue
		}
		for _, right := range f.Access {
			rights[right] = true
		}
		if len(f.Path) >= len(inner.Path) {
			inner = f
		}
	}
	if inner.Path == "" {
		return out
	}
	out.from = path.Join(inner.From, strings.TrimPrefix(where, inner.Path))
	writable := slices.ContainsFunc(inner.Access, func(s string) bool { return slices.Contains(writing, s) })
	for _, right := range sortedKeys(rights) {
		readOnly := slices.Contains(writing, right) && !writable
		noexec := right == "execute" && !slices.Contains(inner.Access, right)
		if !readOnly && !noexec {
			out.rights = append(out.rights, right)
		}
	}
	return out
}

func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func (r *Result) files(a, b *plan.Plan) {
	paths := map[string]bool{}
	for _, f := range append(slices.Clone(a.Files), b.Files...) {
		paths[f.Path] = true
	}
	for _, where := range sortedKeys(paths) {
		x, y := at(a, where), at(b, where)
		if x.from != y.from && x.from != "" && y.from != "" {
			r.more("files", "%s shows %s of the host, and %s in the other", where, y.from, x.from)
			r.less("files", "%s shows %s of the host, and %s in the other", where, x.from, y.from)
		}
		if extra := without(y.rights, x.rights); len(extra) > 0 {
			r.more("files", "%s: %s", where, strings.Join(extra, ", "))
		}
		if extra := without(x.rights, y.rights); len(extra) > 0 {
			r.less("files", "%s: %s", where, strings.Join(extra, ", "))
		}
	}
}

// without are the words of a that b lacks.
func without(a, b []string) []string {
	var out []string
	for _, word := range a {
		if !slices.Contains(b, word) {
			out = append(out, word)
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
