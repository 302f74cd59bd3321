package supervisor

import (
	"maps"
	"reflect"
	"testing"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
)

func resolved(t *testing.T, profile string) *plan.Plan {
	t.Helper()
	p, err := profiles.Builtin(profile)
	if err != nil {
		t.Fatal(err)
	}
	out, err := profiles.Resolve(profiles.Input{Profile: p, Ceiling: profiles.DefaultCeiling(), Argv: []string{"/x"}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPlansOfAProfileShareTheirWords(t *testing.T) {
	var s sayings
	first, second, other := resolved(t, "strict"), resolved(t, "strict"), resolved(t, "node")
	second.Origins["seccomp.allow.never"] = "another file"
	want := maps.Clone(second.Origins)
	filter := other.Seccomp
	for _, p := range []*plan.Plan{first, second, other} {
		s.share(p)
	}
	if &first.Seccomp.Rules[0] != &second.Seccomp.Rules[0] {
		t.Error("the filters of one profile are there twice")
	}
	if !maps.Equal(second.Origins, want) {
		t.Error("a plan that says something else took what the last one said")
	}
	if !reflect.DeepEqual(other.Seccomp, filter) {
		t.Error("a plan took another profile's filter")
	}
	third := resolved(t, "strict")
	third.Origins["seccomp.allow.never"] = "another file"
	s.share(third)
	if reflect.ValueOf(third.Origins).Pointer() != reflect.ValueOf(second.Origins).Pointer() {
		t.Error("the origins of one profile are there twice")
	}
}
