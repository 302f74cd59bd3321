package profiles

import (
	"strings"

	"github.com/cordonhq/cordon/seccomp"
)

// overlaps warns of written rules that never come to hold, or beside each other
// say two things: what a rule without conditions replaces, and what package
// seccomp finds shadowed, redundant or ambiguous.
func (w *warner) overlaps(rules []ruleTable) {
	var f seccomp.Filter
	var at []int // the written rule behind each of the filter's
	for i := range rules {
		spec := rules[i].spec()
		var kept, lost []string
		for _, name := range spec.Names {
			for _, call := range expanded(name) {
				if replaced(rules[i+1:], call) < 0 {
					kept = append(kept, call)
				} else {
					lost = append(lost, call)
				}
			}
		}
		if len(lost) > 0 {
			by := i + 1 + replaced(rules[i+1:], lost[0])
			w.warn(index("seccomp.rule", i), "", "says nothing of %s: the rule at %s, which has no conditions, replaces it", few(lost), w.pos.Of(index("seccomp.rule", by)))
		}
		if len(kept) > 0 {
			spec.Names = kept
			f.Rules, at = append(f.Rules, spec), append(at, i)
		}
	}
	found, err := f.Overlaps()
	if err != nil { // each rule was checked when the file was read
		return
	}
	for _, o := range found {
		by := w.pos.Of(index("seccomp.rule", at[o.By]))
		key, calls := index("seccomp.rule", at[o.Rule]), few(o.Calls)
		switch o.Kind {
		case seccomp.Shadowed:
			w.warn(key, "remove it, or give it more conditions", "never decides on %s: the rule at %s holds whenever it does, and comes first", calls, by)
		case seccomp.Redundant:
			w.warn(key, "remove it", "changes nothing for %s: the rule at %s says the same", calls, by)
		case seccomp.Ambiguous:
			w.warn(key, "give the one that is meant more conditions", "can hold for %s at once with the rule at %s, which has as many conditions and stands because it is stricter", calls, by)
		}
	}
}

// replaced finds the first rule that takes away whatever was said of a call.
func replaced(rules []ruleTable, call string) int {
	for i := range rules {
		if len(rules[i].Args) > 0 {
			continue
		}
		for _, name := range rules[i].Names {
			if contains(expanded(name), call) {
				return i
			}
		}
	}
	return -1
}

// few names some calls.
func few(calls []string) string {
	const most = 3
	if len(calls) > most {
		return strings.Join(calls[:most], ", ") + " and others"
	}
	return strings.Join(calls, ", ")
}
