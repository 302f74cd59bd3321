package depend

import "strings"

// Kind is why a start cannot be.
type Kind string

// The kinds of refusals.
const (
	Missing  Kind = "missing"  // what is required is not installed
	Mismatch Kind = "mismatch" // it is of another version
	Circle   Kind = "circle"   // plugins require each other
	Conflict Kind = "conflict" // two of them do not go together
	NotReady Kind = "unready"  // what is required does not run
)

// Link says that one plugin requires another, or conflicts with it.
type Link struct{ From, To, Version string }

// Refusal is why a plugin cannot be started, as a chain that begins with it.
type Refusal struct {
	Kind Kind
	// Goal was to be started; Chain leads from it to where it went wrong.
	Goal  string
	Chain []Link
	// Version is what is installed: of the end of the chain, or of the one that By
	// does not go with.
	Version string
	// By is of a conflict: who says that it is one. Chain leads to one of the two,
	// and Other to the other, unless that is Runs, which runs already.
	By    Link
	Other []Link
	Runs  string
	// State is in what state the end of the chain is that does not run.
	State string
}

// Error says it in one sentence.
func (r *Refusal) Error() string {
	switch r.Kind {
	case Missing:
		if len(r.Chain) == 0 {
			return r.Goal + " is not installed"
		}
		return r.words(r.Chain) + ", which is not installed"
	case Mismatch:
		return r.words(r.Chain) + ", but " + end(r.Goal, r.Chain) + " " + r.Version + " is installed"
	case NotReady:
		return r.words(r.Chain) + ", which is " + r.State
	case Circle:
		return r.words(r.Chain) + ": a circle"
	case Conflict:
		return r.conflict()
	}
	return string(r.Kind)
}

func (r *Refusal) conflict() string {
	says := "conflicts with " + target(r.By)
	if r.Runs == r.By.From { // what runs does not want it
		return r.words(r.Chain) + "; but " + r.Runs + ", which runs, " + says + ", and " + r.By.To + " is " + r.Version
	}
	text := r.Goal
	if len(r.Chain) > 0 {
		text = r.words(r.Chain) + ", which"
	}
	text += " " + says + ", and " + r.By.To + " " + r.Version
	if r.Runs != "" {
		return text + " runs"
	}
	if len(r.Other) == 0 {
		return text + " is to be started with it"
	}
	return text + " is needed too: " + r.words(r.Other)
}

// words is a chain in words.
func (r *Refusal) words(chain []Link) string {
	if len(chain) == 0 {
		return r.Goal + " was to be started"
	}
	var b strings.Builder
	b.WriteString(chain[0].From)
	for i, l := range chain {
		if i > 0 {
			b.WriteString(", which")
		}
		b.WriteString(" requires " + target(l))
	}
	return b.String()
}

func target(l Link) string {
	if l.Version == "" || l.Version == "*" {
		return l.To
	}
	return l.To + " " + l.Version
}

func end(goal string, chain []Link) string {
	if len(chain) == 0 {
		return goal
	}
	return chain[len(chain)-1].To
}
