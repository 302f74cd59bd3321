package manifest

import "fmt"

// Need is another plugin that this one requires, wants, or cannot run beside.
type Need struct {
	// Name is that under which the other is installed.
	Name string `json:"name"`
	// Version is a range; see ParseRange.
	Version string `json:"version,omitempty"`
	// WhenGone is what becomes of this one when the other does not run any more:
	// GoneStop, GoneDrain or GoneTell; empty of a conflict.
	WhenGone string `json:"when_gone,omitempty"`
	// Why is the author's reason, Origin where it stands, as file:line.
	Why    string `json:"-"`
	Origin string `json:"-"`
}

// What becomes of a plugin when what it needs is gone.
const (
	GoneStop  = "stop"  // it is asked to leave at once
	GoneDrain = "drain" // it gets no more calls, ends those that it has, and leaves
	GoneTell  = "tell"  // it is told, and goes on
)

// Needs are what a plugin needs of others, in the order written.
type Needs struct {
	Requires  []Need `json:"requires,omitempty"`
	Wants     []Need `json:"wants,omitempty"`
	Conflicts []Need `json:"conflicts,omitempty"`
}

// Empty says that there is none.
func (n Needs) Empty() bool { return len(n.Requires)+len(n.Wants)+len(n.Conflicts) == 0 }

// maxNeeds bounds how many others a plugin may name.
const maxNeeds = 64

// needTable is a [[requires]] or [[wants]].
type needTable struct {
	Name     *string `toml:"name"`
	Version  *string `toml:"version"`
	WhenGone *string `toml:"when_gone" oneof:"stop drain tell"`
	Why      string  `toml:"why"`
}

// conflictTable is a [[conflicts]].
type conflictTable struct {
	Name    *string `toml:"name"`
	Version *string `toml:"version"`
	Why     string  `toml:"why"`
}

func (t conflictTable) need() needTable {
	return needTable{Name: t.Name, Version: t.Version, Why: t.Why}
}

// needs judges the tables about other plugins.
func (c *checker) needs(doc *document) {
	if n := len(doc.Requires) + len(doc.Wants) + len(doc.Conflicts); n > maxNeeds {
		c.fail("requires", "", "too many other plugins: at most %d", maxNeeds)
		return
	}
	seen := map[string]string{}
	if doc.Plugin.Name != nil {
		seen[*doc.Plugin.Name] = "it is this plugin itself"
	}
	for i, t := range doc.Requires {
		c.other(fmt.Sprintf("requires[%d]", i), t, seen)
	}
	for i, t := range doc.Wants {
		c.other(fmt.Sprintf("wants[%d]", i), t, seen)
	}
	for i, t := range doc.Conflicts {
		c.other(fmt.Sprintf("conflicts[%d]", i), t.need(), seen)
	}
}

func (c *checker) other(at string, t needTable, seen map[string]string) {
	c.need(t.Name != nil, at+".name", "write the name under which the other plugin is installed")
	if t.Name != nil {
		why, twice := seen[*t.Name]
		switch {
		case !ValidName(*t.Name):
			c.fail(at+".name", "", "expected a plugin's name, got %q", clip(*t.Name))
		case twice:
			c.fail(at+".name", "", "%q cannot stand here: %s", *t.Name, why)
		default:
			seen[*t.Name] = "it stands in " + at + " already"
		}
	}
	if t.Version != nil {
		if _, err := ParseRange(*t.Version); err != nil {
			c.fail(at+".version", "", "expected a range such as \">=1.2, <2\": %v", err)
		}
	}
	c.why(at, t.Why)
}

// needsOf turns the checked tables into Needs.
func (c *checker) needsOf(doc *document) (n Needs) {
	for i, t := range doc.Requires {
		n.Requires = append(n.Requires, c.needOf(fmt.Sprintf("requires[%d]", i), t, GoneStop))
	}
	for i, t := range doc.Wants {
		n.Wants = append(n.Wants, c.needOf(fmt.Sprintf("wants[%d]", i), t, GoneTell))
	}
	for i, t := range doc.Conflicts {
		n.Conflicts = append(n.Conflicts, c.needOf(fmt.Sprintf("conflicts[%d]", i), t.need(), ""))
	}
	return n
}

func (c *checker) needOf(at string, t needTable, gone string) Need {
	n := Need{Name: *t.Name, WhenGone: gone, Why: t.Why, Origin: c.pos.Of(at)}
	if t.Version != nil {
		r, _ := ParseRange(*t.Version) // it was checked
		n.Version = r.String()
	}
	if t.WhenGone != nil {
		n.WhenGone = *t.WhenGone
	}
	return n
}
