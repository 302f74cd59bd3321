package profiles

import (
	"fmt"
	"slices"

	"github.com/cordonhq/cordon/profiles/strict"
)

// Warnings are what the profile's own file says validly and hardly means, in
// the order of the file: what takes nothing away, what is said twice, what
// never comes to hold.
func (p *Profile) Warnings() []*strict.Error {
	last := len(p.layers) - 1
	l := p.layers[last]
	w := &warner{pos: l.pos, before: p.applied(last), after: p.applied(last + 1)}
	w.removals(&l.doc)
	w.calls(&l.doc.Seccomp)
	w.overlaps(l.doc.Seccomp.Rule)
	w.files(l.doc.Files)
	w.values(&l.doc)
	return sortedErrors(w.found)
}

func sortedErrors(list strict.Errors) []*strict.Error {
	slices.SortStableFunc(list, func(a, b *strict.Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return list
}

// warner looks at one file, with what was said before it and with it.
type warner struct {
	pos           *strict.Positions
	before, after *builder
	found         strict.Errors
}

func (w *warner) warn(key, hint, format string, args ...any) {
	w.found = append(w.found, w.pos.Errorf(key, hint, format, args...))
}

// removals warns of what takes away something that is not there: most often a
// slip of the pen, which would leave open what should be closed.
func (w *warner) removals(doc *document) {
	gone := func(key string, names []string, there func(string) bool) {
		for i, name := range names {
			if !there(name) {
				w.warn(index(key, i), "", "takes nothing away: no profile below has %s", clip(name))
			}
		}
	}
	gone("devices.remove", doc.Devices.Remove, func(name string) bool { return w.before.devices[name] })
	gone("violation.remove", doc.Violation.Remove, func(name string) bool { return w.before.watch[name] })
	gone("environment.remove", doc.Environment.Remove, func(name string) bool {
		_, set := w.before.env[name]
		return set || w.before.pass[name]
	})
	gone("seccomp.remove", doc.Seccomp.Remove, func(name string) bool {
		return slices.ContainsFunc(expanded(name), func(n string) bool { return w.before.calls.of(n) != nil })
	})
}

// calls warns of what the same file both allows and denies by the same word.
func (w *warner) calls(t *seccompTable) {
	for i, name := range t.Deny {
		if contains(t.Allow, name) {
			w.warn(index("seccomp.deny", i), "keep the one that is meant", "%s is allowed in the same file; denied is what counts", clip(name))
		}
	}
}

func (w *warner) files(files []fileTable) {
	said := map[string]int{}
	for i := range files {
		f := &files[i]
		key := index("files", i)
		for _, written := range f.Path {
			p, err := expandVariables(written)
			if err != nil { // checked when the file was read
				continue
			}
			if f.Remove != nil && *f.Remove {
				if _, there := w.before.grants[p]; !there {
					w.warn(key+".path", w.nearestGrant(p), "takes nothing away: no profile below grants %s", clip(p))
				}
				continue
			}
			if _, twice := said[p]; twice {
				w.warn(key+".path", "write it once, with the access that is meant", "%s is granted twice in this file; the last one counts", clip(p))
			}
			said[p] = i
			w.redundant(key, p)
		}
	}
}

func (w *warner) nearestGrant(p string) string {
	if near := strict.Nearest(p, sortedKeys(w.before.grants)); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

// redundant warns of a grant inside another that gives the same.
func (w *warner) redundant(key, p string) {
	g := w.after.grants[p]
	for _, dir := range sortedKeys(w.after.grants) {
		outer := w.after.grants[dir]
		same := outer.From == outer.Path && g.From == g.Path && !outer.Optional
		if dir != p && beneath(p, dir) && same && slices.Equal(outer.Access, g.Access) {
			w.warn(key+".path", "", "%s says nothing new: %s is granted with the same access (%s)", clip(p), clip(dir), outer.Origin)
		}
	}
}

// values warns of what can never come to hold.
func (w *warner) values(doc *document) {
	l := w.after.plan.Limits
	if doc.Resources.MemoryHigh != nil && l.MemoryHigh != nil && l.MemoryMax != nil && *l.MemoryHigh >= *l.MemoryMax {
		w.warn("resources.memory.high", "", "is never reached: memory.max is %s", strict.Size(*l.MemoryMax))
	}
	if doc.Violation.Files != nil && !w.after.watch["files"] {
		w.warn("violation.files", `write watch = ["files"] to have them seen`, "never happens: files are enforced, not observed")
	}
	if doc.Environment.Pass != nil && w.after.plan.Lifecycle.Restart == "always" {
		w.warn("environment.pass", "", "is for cordon run only: the daemon has no caller whose environment could be passed")
	}
}
