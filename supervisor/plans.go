package supervisor

import (
	"sync"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
)

// plans are those that were resolved last. Plugins of one bundle and one profile
// have one plan, which nobody changes; a thousand that start at once would
// otherwise each take a millisecond and tens of KiB to come to the same.
type plans struct {
	mu   sync.Mutex
	last map[planKey]knownPlan
}

// planKey is all that a plan follows from but the text of the profile. The
// manifest is of the bundle's digest; a ceiling does not change.
type planKey struct {
	digest, profile string
	ceiling         *profiles.Ceiling
}

type knownPlan struct {
	profile *profiles.Profile
	plan    *plan.Plan
}

// maxPlans bounds those that are remembered; then all are forgotten.
const maxPlans = 64

// find gives the plan, nil if there is none or the profile says something else
// by now.
func (ps *plans) find(key planKey, dir string) *plan.Plan {
	ps.mu.Lock()
	known, ok := ps.last[key]
	ps.mu.Unlock()
	if !ok || !known.profile.Current(key.profile, dir) {
		return nil
	}
	return known.plan
}

func (ps *plans) add(key planKey, p *profiles.Profile, pl *plan.Plan) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.last == nil || len(ps.last) >= maxPlans {
		ps.last = map[planKey]knownPlan{}
	}
	ps.last[key] = knownPlan{p, pl}
}
