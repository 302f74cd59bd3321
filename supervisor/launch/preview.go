package launch

import (
	"fmt"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
)

// Found is what a path of the host is, as far as a mount of it is concerned.
type Found struct {
	// Missing is a path that this host does not have.
	Missing bool
	Dir     bool
	// Real is the path without symbolic links; empty if there were none.
	Real string
	// Refused is why the host's ceiling does not let it be mounted; empty if it
	// does.
	Refused string
}

// Preview is what Start would do for a plan, without doing it: the view and its
// steps, for a kernel with this Landlock ABI. Find is asked for each path of
// the host that the plan grants; with an answer that is always the same,
// Preview is pure. What only a start knows is left out: numbers of
// descriptors, uids of the host, v1 groups, and the filter's length.
func Preview(p *plan.Plan, abi int, find func(from string, access []string) Found) (namespaces.View, []namespaces.Step, error) {
	r := Request{Plan: p, Data: "DATA"}
	if p.Protocol != "" {
		r.Bundle = "BUNDLE"
	}
	view := buildView(r)
	if cpu := cpuRlimit(p); cpu != nil {
		view.Rlimits = append(append([]namespaces.Rlimit{}, view.Rlimits...), *cpu)
	}
	host := namespaces.Host{
		LandlockABI: abi, Kill: 0, UserNS: 0, UID: p.Process.UID, GID: p.Process.GID, MemfdNoexec: true,
		Descriptors: []namespaces.Descriptor{{Number: 0}, {Number: 1}, {Number: 2}},
		Filter:      make([]byte, 8), ExecOnce: p.Seccomp.ExecOnce,
	}
	for range p.Network.Listen {
		n := len(host.Descriptors)
		if hasSocket(r) {
			n++
		}
		host.Descriptors = append(host.Descriptors, namespaces.Descriptor{Number: n})
	}
	reals := make([]string, len(view.Mounts))
	for i := range view.Mounts {
		m := view.Mounts[i]
		src := namespaces.Source{Dir: true}
		if m.From != "" && m.From != r.Bundle && m.From != r.Data {
			grant, _ := grantAt(p.Files, m.Path)
			found := find(m.From, grant.Access)
			src.Dir, src.Missing = found.Dir, found.Missing || found.Refused != "" && m.Optional
			if found.Refused != "" && !m.Optional {
				return view, nil, refusedSource(m.From, found.Real, found.Refused)
			}
			if reals[i] = found.Real; found.Real == "" && !src.Missing {
				reals[i] = m.From
			}
			if src.Missing {
				reals[i] = ""
			}
			if found.Missing && !m.Optional {
				return view, nil, &namespaces.SourceError{Path: m.From, Why: "this host does not have it"}
			}
			if found.Real != "" && found.Real != m.From {
				followOuter(&view, i, found.Real)
			}
		}
		host.Sources = append(host.Sources, src)
	}
	showLinks(&view, &host, reals)
	steps, err := namespaces.Compile(view, host)
	for i := range steps {
		if steps[i].Op == namespaces.OpSeccomp {
			steps[i].Text = filterText(p.Seccomp)
		}
	}
	return view, steps, err
}

// cpuRlimit is the plan's processor time as each process's own limit.
func cpuRlimit(p *plan.Plan) *namespaces.Rlimit {
	if p.Time.CPU <= 0 {
		return nil
	}
	seconds := uint64((p.Time.CPU + 999_999_999) / 1_000_000_000)
	return &namespaces.Rlimit{Name: "cpu", Soft: seconds, Hard: seconds}
}

// filterText says in numbers what a filter does.
func filterText(f seccomp.Filter) string {
	n, err := f.Counts()
	if err != nil {
		return "load the seccomp filter"
	}
	text := fmt.Sprintf("load the seccomp filter: %d calls allowed, %d by their arguments, %d refused quietly", n.Allowed, n.Conditional, n.Refused)
	if n := len(f.Watch); n > 0 {
		text += fmt.Sprintf(", %d observed", n)
	}
	if f.ExecOnce {
		text += ", execve once"
	}
	return text + "; every other known call is a violation"
}
