// Package depend brings plugins that need each other into an order: what is
// started before what, what leaves before what, and why a start cannot be. It is
// pure: the same plugins, in whatever order, give the same result.
//
// The words are systemd's. What a plugin requires is started before it, and
// without it the plugin is not; what it wants is started before it where that
// can be; and it never runs beside what it conflicts with, whichever of the two
// says so.
package depend

import (
	"cmp"
	"maps"
	"slices"

	"github.com/cordonhq/cordon/manifest"
)

// Plugin is one that is installed.
type Plugin struct {
	Name, Version string
	Needs         manifest.Needs
}

// Graph is the plugins of one host. It does not change.
type Graph struct {
	nodes map[string]*node
	names []string // sorted
	// against are those that conflict with others, sorted: few, where a start would
	// otherwise ask of all that are installed whether they run.
	against []string
}

type node struct {
	Plugin
	requires, wants, conflicts []edge
	// before are the wants that are waited for: those that make no circle.
	before     []edge
	dependants []Dependant
}

// edge is a need with its range read.
type edge struct {
	manifest.Need
	within manifest.Range
}

// Dependant is one that requires or wants another.
type Dependant struct {
	Name string
	// Requires tells the two apart.
	Requires bool
	// Fits says that the other is of a version that it takes.
	Fits     bool
	WhenGone string
}

// New makes the graph of what is installed. A range that cannot be read, which
// only a damaged record can have, is one that nothing satisfies.
func New(installed []Plugin) *Graph {
	g := &Graph{nodes: make(map[string]*node, len(installed))}
	for _, p := range installed {
		g.nodes[p.Name] = &node{
			Plugin: p, requires: edges(p.Needs.Requires), wants: edges(p.Needs.Wants), conflicts: edges(p.Needs.Conflicts),
		}
	}
	g.names = slices.Sorted(maps.Keys(g.nodes))
	for _, name := range g.names {
		n := g.nodes[name]
		if len(n.conflicts) > 0 {
			g.against = append(g.against, name)
		}
		for i, e := range slices.Concat(n.requires, n.wants) {
			if to := g.nodes[e.Name]; to != nil {
				to.dependants = append(to.dependants, Dependant{name, i < len(n.requires), e.fits(to), e.WhenGone})
			}
		}
	}
	g.orderWants()
	return g
}

func edges(needs []manifest.Need) (out []edge) {
	for _, n := range needs {
		r, err := manifest.ParseRange(n.Version)
		if err != nil {
			r = never
		}
		out = append(out, edge{n, r})
	}
	return out
}

// never includes no version.
var never, _ = manifest.ParseRange("<0.0.0-0")

func (e edge) fits(n *node) bool { return n != nil && e.within.Includes(n.Version) }

// orderWants finds the wants that are waited for: one by one, by name and as
// written, each that closes no circle with those before it.
func (g *Graph) orderWants() {
	for _, name := range g.names {
		n := g.nodes[name]
		for _, e := range n.wants {
			if to := g.nodes[e.Name]; e.fits(to) && !g.leads(to, name) {
				n.before = append(n.before, e)
			}
		}
	}
}

// leads says whether from comes, over whatever it waits for, to a name.
func (g *Graph) leads(from *node, name string) bool {
	seen := map[string]bool{}
	stack := []*node{from}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if n == nil || seen[n.Name] {
			continue
		}
		if n.Name == name {
			return true
		}
		seen[n.Name] = true
		for _, e := range slices.Concat(n.requires, n.before) {
			stack = append(stack, g.nodes[e.Name])
		}
	}
	return false
}

// Requires are the names that a plugin requires, as written.
func (g *Graph) Requires(name string) []manifest.Need { return g.needs(name, false) }

// Wants are those that it wants and waits for.
func (g *Graph) Wants(name string) []manifest.Need { return g.needs(name, true) }

func (g *Graph) needs(name string, wants bool) (out []manifest.Need) {
	n := g.nodes[name]
	if n == nil {
		return nil
	}
	list := n.requires
	if wants {
		list = n.before
	}
	for _, e := range list {
		out = append(out, e.Need)
	}
	return out
}

// Dependants are those that require or want a plugin, by name.
func (g *Graph) Dependants(name string) []Dependant {
	if n := g.nodes[name]; n != nil {
		return n.dependants
	}
	return nil
}

// Above are all that come, over whatever they need or want, to a plugin; by name.
func (g *Graph) Above(name string) []string {
	seen := map[string]bool{}
	stack := []string{name}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, d := range g.Dependants(at) {
			if !seen[d.Name] {
				seen[d.Name] = true
				stack = append(stack, d.Name)
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// Stands is how a plugin stands: whether it runs, in a word if not, and whether it
// will be started as soon as what it requires runs.
type Stands struct {
	Runs  bool
	State string
	Waits bool
}

// Unready says what keeps a plugin, which Start does not refuse, from being
// started now: the chain to the first that does not run and waits for nothing.
func (g *Graph) Unready(name string, stands func(string) Stands) *Refusal {
	r := &Refusal{Kind: NotReady, Goal: name}
	seen := map[string]bool{}
	for at := name; !seen[at]; {
		seen[at] = true
		var s Stands
		n := g.nodes[at]
		if n == nil {
			break
		}
		i := slices.IndexFunc(n.requires, func(e edge) bool { s = stands(e.Name); return !s.Runs })
		if i < 0 {
			break
		}
		e := n.requires[i]
		r.Chain = append(r.Chain, Link{at, e.Name, e.Version})
		r.State = s.State
		if !s.Waits {
			break
		}
		at = e.Name
	}
	if len(r.Chain) == 0 {
		return nil
	}
	return r
}

// Comes says whether what is wanted will run without anybody doing anything: it
// waits for what will. starting says what is being started.
func (g *Graph) Comes(name string, stands func(string) Stands, starting func(string) bool) bool {
	return g.comes(name, stands, starting, map[string]bool{})
}

func (g *Graph) comes(name string, stands func(string) Stands, starting func(string) bool, seen map[string]bool) bool {
	n := g.nodes[name]
	switch {
	case n == nil || seen[name]:
		return false
	case starting(name):
		return true
	case !stands(name).Waits:
		return false
	}
	seen[name] = true
	for _, e := range n.requires {
		if !e.fits(g.nodes[e.Name]) || !stands(e.Name).Runs && !g.comes(e.Name, stands, starting, seen) {
			return false
		}
	}
	return true
}

// Step is one plugin of an order, and which of the others come before it.
type Step struct {
	Name  string
	After []string
}

// Start gives everything that is started for a plugin, itself last, each after
// what it needs; what runs already stands in it too. running says what runs. The
// error is a *Refusal.
func (g *Graph) Start(name string, running func(string) bool) ([]Step, error) {
	c := &closure{g: g, running: running, in: map[string]bool{}}
	if r := c.add(name); r != nil {
		return nil, r
	}
	for i := 0; i < len(c.found); i++ { // it grows while it is walked
		for _, e := range g.nodes[c.found[i]].before {
			if !c.in[e.Name] {
				_ = c.add(e.Name) // what is only wanted may be missing
			}
		}
	}
	return g.sort(c.in), nil
}

// sort gives a set in order: those first that need none of the others, by name.
func (g *Graph) sort(set map[string]bool) []Step {
	waits := map[string]int{}
	next := map[string][]string{}
	steps := map[string]Step{}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		s := Step{Name: name}
		n := g.nodes[name]
		for _, e := range slices.Concat(n.requires, n.before) {
			if set[e.Name] {
				s.After = append(s.After, e.Name)
				next[e.Name] = append(next[e.Name], name)
			}
		}
		slices.Sort(s.After)
		steps[name], waits[name] = s, len(s.After)
	}
	var out []Step
	for ready := free(waits); len(ready) > 0; ready = free(waits) {
		for _, name := range ready {
			delete(waits, name)
			out = append(out, steps[name])
			for _, n := range next[name] {
				waits[n]--
			}
		}
	}
	return out
}

// free are those that wait for nothing, by name.
func free(waits map[string]int) (out []string) {
	for name, n := range waits {
		if n == 0 {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Stop gives everything that leaves when a plugin is stopped, the plugin itself
// last, each after those that need it. What only wants to be told is not in it.
func (g *Graph) Stop(name string) []Step {
	set := map[string]bool{}
	stack := []string{name}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if set[at] || g.nodes[at] == nil {
			continue
		}
		set[at] = true
		for _, d := range g.nodes[at].dependants {
			if d.WhenGone != manifest.GoneTell {
				stack = append(stack, d.Name)
			}
		}
	}
	return g.turned(set)
}

// Leave gives all plugins, each after those that need it.
func (g *Graph) Leave() []Step {
	set := map[string]bool{}
	for _, name := range g.names {
		set[name] = true
	}
	return g.turned(set)
}

// turned is sort the other way round. What stands in a circle, and so never ran,
// comes last and after nothing.
func (g *Graph) turned(set map[string]bool) []Step {
	steps := g.sort(set)
	after := map[string][]string{}
	sorted := map[string]bool{}
	for _, s := range steps {
		sorted[s.Name] = true
		for _, needed := range s.After {
			after[needed] = append(after[needed], s.Name)
		}
	}
	slices.Reverse(steps)
	for i, s := range steps {
		steps[i].After = after[s.Name]
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if !sorted[name] {
			steps = append(steps, Step{Name: name})
		}
	}
	return steps
}

// closure is what a start comes to.
type closure struct {
	g       *Graph
	running func(string) bool
	in      map[string]bool
	found   []string // in order of discovery
}

// add takes in a plugin with all that it requires, or nothing of it.
func (c *closure) add(name string) *Refusal {
	before := len(c.found)
	r := c.walk(name, nil)
	if r == nil {
		r = c.conflict(name)
	}
	if r != nil {
		for _, n := range c.found[before:] {
			delete(c.in, n)
		}
		c.found = c.found[:before]
	}
	return r
}

// walk goes down what name requires; chain leads to it.
func (c *closure) walk(name string, chain []Link) *Refusal {
	n := c.g.nodes[name]
	if n == nil {
		return &Refusal{Kind: Missing, Goal: name, Chain: chain}
	}
	if c.in[name] {
		return nil
	}
	c.in[name] = true
	c.found = append(c.found, name)
	for _, e := range n.requires {
		next := append(slices.Clone(chain), Link{name, e.Name, e.Version})
		to := c.g.nodes[e.Name]
		switch {
		case slices.ContainsFunc(next, func(l Link) bool { return l.From == e.Name }):
			return &Refusal{Kind: Circle, Goal: next[0].From, Chain: next}
		case to == nil:
			return &Refusal{Kind: Missing, Goal: next[0].From, Chain: next}
		case !e.fits(to):
			return &Refusal{Kind: Mismatch, Goal: next[0].From, Chain: next, Version: to.Version}
		}
		if r := c.walk(e.Name, next); r != nil {
			return r
		}
	}
	return nil
}

// conflict finds two that do not go together, of which one is in the closure.
func (c *closure) conflict(goal string) *Refusal {
	names := slices.SortedFunc(maps.Keys(c.in), cmp.Compare)
	for _, name := range names {
		n := c.g.nodes[name]
		for _, e := range n.conflicts {
			other := c.g.nodes[e.Name]
			if e.fits(other) && (c.in[e.Name] || c.running(e.Name)) {
				return c.clash(goal, name, e, other)
			}
		}
	}
	for _, other := range c.g.against {
		if c.in[other] || !c.running(other) {
			continue
		}
		for _, e := range c.g.nodes[other].conflicts {
			if n := c.g.nodes[e.Name]; c.in[e.Name] && e.fits(n) {
				return &Refusal{Kind: Conflict, Goal: goal, Chain: c.chain(goal, e.Name), By: Link{other, e.Name, e.Version}, Version: n.Version, Runs: other}
			}
		}
	}
	return nil
}

func (c *closure) clash(goal, name string, e edge, other *node) *Refusal {
	r := &Refusal{Kind: Conflict, Goal: goal, Chain: c.chain(goal, name), By: Link{name, e.Name, e.Version}, Version: other.Version}
	if c.in[e.Name] {
		r.Other = c.chain(goal, e.Name)
	} else {
		r.Runs = e.Name
	}
	return r
}

// chain leads from goal over what is required to name, by the shortest way; a
// wanted one that clashes with what is there already begins at itself.
func (c *closure) chain(goal, name string) []Link {
	type reached struct {
		name string
		way  []Link
	}
	seen := map[string]bool{goal: true}
	queue := []reached{{goal, nil}}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		if at.name == name {
			return at.way
		}
		for _, e := range c.g.nodes[at.name].requires {
			if c.in[e.Name] && !seen[e.Name] {
				seen[e.Name] = true
				queue = append(queue, reached{e.Name, append(slices.Clone(at.way), Link{at.name, e.Name, e.Version})})
			}
		}
	}
	return nil
}
