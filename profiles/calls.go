package profiles

import (
	"sort"
	"sync"

	"github.com/cordonhq/cordon/profiles/strict"
	"github.com/cordonhq/cordon/seccomp"
)

// calls is what the layers so far say about each system call. A call that is
// not in it goes to the listener: it is a violation.
//
// Within one file the order is remove, allow, errno, rule, deny, so that
// allow = ["@system-service"] and deny = ["@ipc"] mean what they say; a later
// file is applied whole after an earlier one.
type calls map[string]*call

type call struct {
	// rules are everything that is said of the call, without its name.
	rules []seccomp.Rule
	// guarded says that rules are the guard's and an allow that carries it.
	guarded bool
	origin  string
	// key is under which origin is known, such as "seccomp.allow".
	key string
}

func (c calls) apply(t *seccompTable, pos *strict.Positions, removed map[string]string) {
	for i, name := range t.Remove {
		at := pos.Of(index("seccomp.remove", i))
		for _, n := range expanded(name) {
			delete(c, n)
			removed[n] = at
		}
	}
	for i, name := range t.Allow {
		at := pos.Of(index("seccomp.allow", i))
		for _, n := range expanded(name) {
			c[n] = allowed(n, at)
			delete(removed, n)
		}
	}
	for _, name := range sortedKeys(t.Errno) {
		at := pos.Of(keyed("seccomp.errno", name))
		for _, n := range expanded(name) {
			c[n] = &call{
				rules:  []seccomp.Rule{{Action: seccomp.ActErrno, Errno: t.Errno[name]}},
				origin: at, key: "seccomp.errno",
			}
			delete(removed, n)
		}
	}
	for i := range t.Rule {
		c.rule(&t.Rule[i], pos.Of(index("seccomp.rule", i)), removed)
	}
	for i, name := range t.Deny {
		at := pos.Of(index("seccomp.deny", i))
		for _, n := range expanded(name) {
			delete(c, n)
			removed[n] = at
		}
	}
}

// rule adds one written rule. Without conditions it replaces whatever was said
// of its calls, a guard too. With conditions it adds to conditional rules, and
// to an allow that it narrows, but replaces a plain errno that it opens.
func (c calls) rule(r *ruleTable, origin string, removed map[string]string) {
	spec := r.spec()
	for _, name := range r.Names {
		for _, n := range expanded(name) {
			have := c[n]
			opens := have != nil && have.key == "seccomp.errno" && spec.Action == seccomp.ActAllow
			if have == nil || len(spec.Args) == 0 || opens {
				have = &call{}
			}
			one := spec
			one.Names = nil
			c[n] = &call{
				rules: append(append([]seccomp.Rule{}, have.rules...), one), guarded: have.guarded,
				origin: origin, key: "seccomp.rule",
			}
			delete(removed, n)
		}
	}
}

// groups remembers the members of the groups that were asked for: there are
// few, and they never change.
var groups sync.Map // string -> []string

// expanded gives the calls that a name stands for, nothing for a name that is
// none. The result is not to be changed.
func expanded(name string) []string {
	if _, ok := seccomp.Number(name); ok { // no group: nothing to expand
		return []string{name}
	}
	if known, ok := groups.Load(name); ok {
		return known.([]string) //nolint:forcetypeassert // nothing else is stored
	}
	out, err := seccomp.Expand([]string{name})
	if err != nil {
		return nil
	}
	groups.Store(name, out)
	return out
}

// always are the rules of a call that is allowed whatever its arguments; they
// are shared, and copied before more is added.
var always = []seccomp.Rule{{Action: seccomp.ActAllow}}

func allowed(name, origin string) *call {
	c := &call{origin: origin, key: "seccomp.allow"}
	if guard := guards[name]; guard != nil {
		c.rules, c.guarded = guard(), true
		return c
	}
	c.rules = always
	return c
}

// open says whether a call is allowed whatever its arguments.
func (c calls) open(name string) bool {
	have := c[name]
	return have != nil && len(have.rules) == 1 && have.rules[0].Action == seccomp.ActAllow && len(have.rules[0].Args) == 0
}

// may says whether some arguments of a call are allowed.
func (c calls) may(name string) bool {
	have := c[name]
	if have == nil {
		return false
	}
	for _, r := range have.rules {
		if r.Action == seccomp.ActAllow {
			return true
		}
	}
	return false
}

// filter writes the calls down in one order: what is allowed outright, then
// errnos, then what has conditions, call by call.
func (c calls) filter(watch []string) seccomp.Filter {
	var plain []string
	errnos := map[string][]string{}
	var rest []seccomp.Rule
	for _, name := range sortedKeys(c) {
		rules := c[name].rules
		switch {
		case c.open(name):
			plain = append(plain, name)
		case len(rules) == 1 && rules[0].Action == seccomp.ActErrno && len(rules[0].Args) == 0:
			errnos[rules[0].Errno] = append(errnos[rules[0].Errno], name)
		default:
			for _, r := range rules {
				r.Names = []string{name}
				rest = append(rest, r)
			}
		}
	}
	f := seccomp.Filter{Rules: []seccomp.Rule{}}
	if len(plain) > 0 {
		f.Rules = append(f.Rules, seccomp.Rule{Names: plain, Action: seccomp.ActAllow})
	}
	for _, errno := range sortedKeys(errnos) {
		f.Rules = append(f.Rules, seccomp.Rule{Names: errnos[errno], Action: seccomp.ActErrno, Errno: errno})
	}
	f.Rules = append(f.Rules, rest...)
	if contains(watch, "files") {
		f.Watch = c.openFamily()
	}
	return f
}

// openFamily are the calls that the file watch observes, of those allowed.
func (c calls) openFamily() []string {
	var out []string
	for _, name := range []string{"creat", "open", "openat", "openat2"} {
		if c.may(name) {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out
}
