package supervisor

import (
	"maps"
	"reflect"
	"sync"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
)

// sayings have plans of one profile hold once what they say alike: the filter,
// and who wrote each of its rules, three quarters of a plan. Nobody changes
// either in a plan that was resolved.
type sayings struct {
	mu   sync.Mutex
	last map[string]saying // by profile
}

type saying struct {
	filter  seccomp.Filter
	origins map[string]string
}

// maxSayings bounds the profiles that are remembered; then all are forgotten.
const maxSayings = 64

// share replaces in p what the last plan of its profile says in the same words.
func (s *sayings) share(p *plan.Plan) {
	s.mu.Lock()
	last := s.last[p.Profile]
	s.mu.Unlock()
	switch {
	case maps.Equal(last.origins, p.Origins):
		p.Origins = last.origins
	default:
		p.Origins = maps.Clone(p.Origins) // of its own size; what it was made in is larger
	}
	if reflect.DeepEqual(last.filter, p.Seccomp) {
		p.Seccomp = last.filter
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil || len(s.last) >= maxSayings {
		s.last = map[string]saying{}
	}
	s.last[p.Profile] = saying{filter: p.Seccomp, origins: p.Origins}
}
