package profiles

import (
	"sort"

	"github.com/cordonhq/cordon/profiles/strict"
	"github.com/cordonhq/cordon/seccomp"
)

// calls is what the layers so far say about each system call, by its number. A
// call of which nothing is said goes to the listener: it is a violation.
//
// Within one file the order is remove, allow, errno, rule, deny, so that
// allow = ["@system-service"] and deny = ["@ipc"] mean what they say; a later
// file is applied whole after an earlier one.
type calls [seccomp.TableSize]*call

// call is what is said of one call, or alike of several: it does not change.
type call struct {
	// rules are everything that is said of the call, without its name.
	rules []seccomp.Rule
	// guarded says that rules are the guard's and an allow that carries it.
	guarded bool
	origin  string
	// key is under which origin is known, such as "seccomp.allow".
	key string
}

// of is what is said of a call; nil for nothing, and for a name that is none.
func (c *calls) of(name string) *call {
	if nr, ok := seccomp.Number(name); ok {
		return c[nr]
	}
	return nil
}

// say has something said of a call.
func (c *calls) say(name string, of *call) {
	if nr, ok := seccomp.Number(name); ok {
		c[nr] = of
	}
}

// names are the calls of which something is said, sorted.
func (c *calls) names() []string {
	out := make([]string, 0, manyCalls)
	for nr := range seccomp.ByName {
		if c[nr] != nil {
			out = append(out, seccomp.Name(nr))
		}
	}
	return out
}

func (c *calls) apply(t *seccompTable, pos *strict.Positions, removed map[string]string) {
	for i, name := range t.Remove {
		c.forget(name, pos.OfElement("seccomp.remove", i), removed)
	}
	for i, name := range t.Allow {
		c.allow(name, pos.OfElement("seccomp.allow", i), removed)
	}
	for _, name := range sortedKeys(t.Errno) {
		said := &call{
			rules:  []seccomp.Rule{{Action: seccomp.ActErrno, Errno: t.Errno[name]}},
			origin: pos.Of(keyed("seccomp.errno", name)), key: "seccomp.errno",
		}
		members := seccomp.Members(name)
		for nr := range members.Each {
			c[nr] = said
			delete(removed, seccomp.Name(nr))
		}
	}
	for i := range t.Rule {
		c.rule(&t.Rule[i], pos.Of(index("seccomp.rule", i)), removed)
	}
	for i, name := range t.Deny {
		c.forget(name, pos.OfElement("seccomp.deny", i), removed)
	}
}

// allow allows what a name stands for.
func (c *calls) allow(name, origin string, removed map[string]string) {
	members := seccomp.Members(name)
	plain := &call{rules: always, origin: origin, key: keyAllow} // one for all of them
	for nr := range members.Each {
		member := seccomp.Name(nr)
		c[nr] = plain
		if guards[member] != nil {
			guarded := allowed(member, origin)
			c[nr] = &guarded
		}
		delete(removed, member)
	}
}

// forget takes away what a name stands for.
func (c *calls) forget(name, origin string, removed map[string]string) {
	members := seccomp.Members(name)
	for nr := range members.Each {
		c[nr] = nil
		removed[seccomp.Name(nr)] = origin
	}
}

// rule adds one written rule. Without conditions it replaces whatever was said
// of its calls, a guard too. With conditions it adds to conditional rules, and
// to an allow that it narrows, but replaces a plain errno that it opens.
func (c *calls) rule(r *ruleTable, origin string, removed map[string]string) {
	spec := r.spec()
	for _, name := range r.Names {
		members := seccomp.Members(name)
		for nr := range members.Each {
			have := c[nr]
			opens := have != nil && have.key == "seccomp.errno" && spec.Action == seccomp.ActAllow
			if have == nil || len(spec.Args) == 0 || opens {
				have = &call{}
			}
			one := spec
			one.Names = nil
			c[nr] = &call{
				rules: append(append([]seccomp.Rule{}, have.rules...), one), guarded: have.guarded,
				origin: origin, key: "seccomp.rule",
			}
			delete(removed, seccomp.Name(nr))
		}
	}
}

// expanded gives the calls that a name stands for, sorted, nothing for a name
// that is none.
func expanded(name string) []string {
	members := seccomp.Members(name)
	out := make([]string, 0, members.Len())
	for nr := range members.Each {
		out = append(out, seccomp.Name(nr))
	}
	sort.Strings(out)
	return out
}

// isCall says whether a name stands for any call.
func isCall(name string) bool {
	members := seccomp.Members(name)
	return members.Len() > 0
}

// always are the rules of a call that is allowed whatever its arguments; they
// are shared, and copied before more is added.
var always = []seccomp.Rule{{Action: seccomp.ActAllow}}

func allowed(name, origin string) call {
	if guard := guards[name]; guard != nil {
		return call{rules: guard(), guarded: true, origin: origin, key: keyAllow}
	}
	return call{rules: always, origin: origin, key: keyAllow}
}

// keyAllow is where allowed calls stand.
const keyAllow = "seccomp.allow"

// open says whether a call is allowed whatever its arguments.
func (c *calls) open(name string) bool { return c.of(name).open() }

// open says whether every call of the kind goes through.
func (c *call) open() bool {
	have := c
	return have != nil && len(have.rules) == 1 && have.rules[0].Action == seccomp.ActAllow && len(have.rules[0].Args) == 0
}

// may says whether some arguments of a call are allowed.
func (c *calls) may(name string) bool {
	have := c.of(name)
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

// manyCalls is about how many calls a profile says something of, and manyRules
// how many rules its guards are.
const (
	manyCalls = 256
	manyRules = 64
)

// filter writes the calls down in one order: what is allowed outright, then
// errnos, then what has conditions, call by call.
func (c *calls) filter(watch []string) seccomp.Filter {
	plain := make([]string, 0, manyCalls)
	errnos := map[string][]string{}
	rest := make([]seccomp.Rule, 0, manyRules)
	for nr := range seccomp.ByName {
		if c[nr] == nil {
			continue
		}
		name, rules := seccomp.Name(nr), c[nr].rules
		switch {
		case c[nr].open():
			plain = append(plain, name)
		case len(rules) == 1 && rules[0].Action == seccomp.ActErrno && len(rules[0].Args) == 0:
			errnos[rules[0].Errno] = append(errnos[rules[0].Errno], name)
		default:
			names := []string{name}
			for _, r := range rules {
				r.Names = names
				rest = append(rest, r)
			}
		}
	}
	f := seccomp.Filter{Rules: make([]seccomp.Rule, 0, 1+len(errnos)+len(rest))}
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
func (c *calls) openFamily() []string {
	var out []string
	for _, name := range []string{"creat", "open", "openat", "openat2"} {
		if c.may(name) {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out
}
