package seccomp

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bounds of a filter. They hold the work of every step that takes one; the
// program itself is bounded by the kernel.
const (
	// MaxRules bounds the rules of one filter.
	MaxRules = 1024
	// MaxConditions bounds the conditions of one rule.
	MaxConditions = 8
	// maxArgs is how many arguments a call has at most.
	maxArgs = 6
)

// alwaysAllowed are the calls that every program lets through: the launcher
// makes them behind the filter (it writes the listener's number, waits for an
// answer and executes the plugin), and no process can end or return from a
// signal handler without the others. Sorted.
var alwaysAllowed = []string{"execve", "exit", "exit_group", "read", "rt_sigreturn", "write"}

// AlwaysAllowed returns the calls that every program lets through, whatever
// the filter says; a filter must not say otherwise.
func AlwaysAllowed() []string { return slices.Clone(alwaysAllowed) }

// Validate returns every mistake of the filter at once, or nil.
func (f Filter) Validate() error {
	_, err := f.valid()
	return err
}

// valid is Validate, and gives the calls that each rule names.
func (f Filter) valid() ([]callSet, error) {
	if len(f.Rules) > MaxRules {
		return nil, fmt.Errorf("cannot use the filter: it has %d rules, and at most %d are allowed", len(f.Rules), MaxRules)
	}
	var errs []error
	sets := make([]callSet, len(f.Rules))
	for i, r := range f.Rules {
		calls, err := r.calls()
		sets[i] = calls
		for _, err := range r.mistakes(calls, err) {
			errs = append(errs, fmt.Errorf("cannot use rule %d (%s %s): %w", i+1, r.Action, shortList(r.Names), err))
		}
	}
	if len(errs) == 0 {
		errs = append(f.watchMistakes(sets), f.onceMistakes(sets)...)
	}
	return sets, errors.Join(errs...)
}

// mistakes are all of one rule, which names these calls.
func (r Rule) mistakes(calls callSet, err error) []error {
	var errs []error
	if err != nil {
		errs = append(errs, err)
	}
	if strictness(r.Action) < 0 {
		errs = append(errs, fmt.Errorf("unknown action %.60q; expected one of %s", string(r.Action), joinWords(actions)))
	}
	if _, ok := ErrnoNumber(r.Errno); !ok && r.Action == ActErrno {
		errs = append(errs, fmt.Errorf("unknown errno %.60q; expected a name such as EPERM", r.Errno))
	}
	if r.Errno != "" && r.Action != ActErrno {
		errs = append(errs, fmt.Errorf("errno %.60q is only for %s", r.Errno, ActErrno))
	}
	if len(r.Args) > MaxConditions {
		return append(errs, fmt.Errorf("it has %d conditions, and at most %d are allowed", len(r.Args), MaxConditions))
	}
	if err != nil {
		return errs
	}
	for _, n := range alwaysAllowed {
		if calls.Has(n) && (r.Action != ActAllow || len(r.Args) > 0) {
			errs = append(errs, fmt.Errorf("%s is always allowed, because no plugin can be started or ended without it", n))
		}
	}
	for _, c := range r.Args {
		if err := c.mistakeOnAny(&calls); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// mistakeOnAny is the first mistake of a condition on any of the calls.
func (c Condition) mistakeOnAny(calls *callSet) error {
	for nr := range calls.Each {
		if err := c.mistake(nr); err != nil {
			return err
		}
	}
	return nil
}

// calls are those that a rule names, groups expanded.
func (r Rule) calls() (callSet, error) {
	if len(r.Names) == 0 {
		return callSet{}, errors.New("it names no call")
	}
	if len(r.Names) > 2*len(table) {
		return callSet{}, fmt.Errorf("it names %d calls, and at most %d are allowed", len(r.Names), 2*len(table))
	}
	return expand(r.Names)
}

// mistake is what is wrong with a condition on that call. A condition that
// can never hold is a mistake, because nobody means it.
func (c Condition) mistake(nr int) error {
	if c.Index >= maxArgs {
		return fmt.Errorf("a call has no argument %d; the first is 0 and the last 5", c.Index)
	}
	call, sig := table[nr].name, table[nr].sig
	if sig != unimplemented && int(c.Index) >= len(sig) {
		return fmt.Errorf("%s has no argument %d; it has %d, and the first is 0", call, c.Index, len(sig))
	}
	if !slices.Contains(operators, c.Op) {
		return fmt.Errorf("unknown operator %.60q; expected one of %s", string(c.Op), joinWords(operators))
	}
	if c.Op != OpMaskedEqual && c.ValueTwo != 0 {
		return fmt.Errorf("valueTwo is only for %s", OpMaskedEqual)
	}
	return c.valueMistake(call, ArgBits(nr, c.Index))
}

// valueMistake is what is wrong with the values of a condition on an argument
// of which the kernel reads that many bits.
func (c Condition) valueMistake(call string, bits int) error {
	if c.Op != OpMaskedEqual {
		if !fits(c.Value, bits) {
			return fmt.Errorf("value %#x cannot occur: the kernel reads %d bits of argument %d of %s", c.Value, bits, c.Index, call)
		}
		return nil
	}
	n := c.narrow(bits)
	if n.ValueTwo&^n.Value != 0 || !fits(c.ValueTwo, bits) {
		return fmt.Errorf("masked value %#x can never equal %#x: the mask %#x does not have all of its bits (the kernel reads %d bits of argument %d of %s)",
			c.Value, c.ValueTwo, c.Value, bits, c.Index, call)
	}
	if n.Value == 0 {
		return fmt.Errorf("mask %#x selects nothing: the kernel reads %d bits of argument %d of %s", c.Value, bits, c.Index, call)
	}
	return nil
}

// fits tells whether a value can be meant for an argument of that many bits:
// as it stands, or sign-extended as an int such as AT_FDCWD is.
func fits(v uint64, bits int) bool {
	if bits >= 64 {
		return true
	}
	high := v >> (bits - 1)
	return v>>bits == 0 || high == 1<<(65-bits)-1
}

// watchMistakes are those of Watch, for rules that are right.
func (f Filter) watchMistakes(sets []callSet) []error {
	if len(f.Watch) == 0 {
		return nil
	}
	if len(f.Watch) > 2*len(table) {
		return []error{fmt.Errorf("cannot watch %d calls: at most %d are allowed", len(f.Watch), 2*len(table))}
	}
	watched, err := expand(f.Watch)
	if err != nil {
		return []error{fmt.Errorf("cannot watch: %w", err)}
	}
	arms := f.armsOf(sets)
	var errs []error
	for nr := range watched.Each {
		switch n := table[nr].name; {
		case slices.Contains(alwaysAllowed, n):
			errs = append(errs, fmt.Errorf("cannot watch %s: the launcher makes it behind the filter, where nobody would answer", n))
		case !slices.ContainsFunc(arms[nr], Arm.passes):
			errs = append(errs, fmt.Errorf("cannot watch %s: it is not allowed with any argument", n))
		}
	}
	return errs
}

// callExecve is what every program is started by, and ExecOnce about.
const callExecve = "execve"

// onceMistakes are those of ExecOnce, for rules that are right.
func (f Filter) onceMistakes(sets []callSet) []error {
	if !f.ExecOnce {
		return nil
	}
	arms := f.armsOf(sets)
	if nr, _ := Number("execveat"); slices.ContainsFunc(arms[nr], Arm.passes) {
		return []error{errors.New("cannot allow execveat: execve is to happen once, and execveat would execute again")}
	}
	return nil
}

// joinWords lists words for an error.
func joinWords[T ~string](words []T) string {
	s := make([]string, len(words))
	for i, w := range words {
		s[i] = string(w)
	}
	return strings.Join(s, ", ")
}

// shortList names the first of a rule's calls.
func shortList(names []string) string {
	if len(names) == 0 {
		return "without a call"
	}
	first := fmt.Sprintf("%.60s", names[0])
	if len(names) == 1 {
		return first
	}
	return fmt.Sprintf("%s and %d more", first, len(names)-1)
}
