package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

func granted(name string, targets ...string) plan.Capability {
	return plan.Capability{Name: name, Target: targets, Origin: "test.toml:1", Budget: plan.Budget{Rate: 1_000_000, Window: time.Second, Concurrent: 1000}}
}

// model is what holds, in the simplest words: what policy says now of what the
// plugin was started with, and over it the operators' decisions, newest last.
type model struct {
	original, policy []plan.Capability
	decisions        []Decision
	ceiling          func(string) bool
}

func inGrants(list []plan.Capability, name, target string) bool {
	spec, _ := grant.Find(name)
	return slices.ContainsFunc(list, func(c plan.Capability) bool {
		return c.Name == name && (spec.Kind == grant.None || slices.ContainsFunc(c.Target, func(t string) bool { return spec.Covers(t, target) }))
	})
}

func (m *model) allows(name, target string, now time.Time) bool {
	spec, _ := grant.Find(name)
	for i := len(m.decisions) - 1; i >= 0; i-- {
		d := m.decisions[i]
		about := d.Capability == name && len(d.Target) == 0
		for _, t := range d.Target {
			if d.Revoked && spec.Kind == grant.Path { // a revocation is of all rights
				_, at, _ := grant.SplitPath(t)
				t = "rw:" + at
			}
			about = about || d.Capability == name && spec.Covers(t, target) && (d.Revoked || m.ceiling(t))
		}
		switch {
		case !about:
		case d.Revoked:
			return false
		case d.Until.IsZero() || now.Before(d.Until):
			if spec.Kind == grant.None && !m.ceiling("") {
				continue
			}
			return true
		}
	}
	return inGrants(m.original, name, target) && inGrants(m.policy, name, target)
}

// TestNothingPassesThatTheLatestPolicyForbids walks random sequences of grants,
// revocations, changed profiles, lowered ceilings and time that passes, and
// asks after each step for everything there is. Leases are renewed as the
// daemon does; what hangs on a grant must be cut with it.
func TestNothingPassesThatTheLatestPolicyForbids(t *testing.T) {
	for seed := range uint64(200) {
		walkGrants(t, rand.New(rand.NewPCG(seed, 7)))
	}
}

var targetsOf = map[string][]string{
	"fs.open":     {"r:/a", "rw:/a", "r:/a/b", "rw:/a/b", "r:/a/b/c", "rw:/ab", "r:/ab"},
	"secret.read": {"x", "x.y", "x.*", "*", "y"},
	"egress":      {"a.example:1", "*.a.example:1", "a.example:*", "b.a.example:1", "10.0.0.1:1", "udp:a.example:1", "*:1"},
	"net.dial":    {"a.example:1", "*.a.example:1", "b.a.example:1", "10.0.0.1:1", "*:1"},
	"net.listen":  {"127.0.0.1:80", "127.0.0.1:*", "0.0.0.0:80", "[::]:80"},
	"listen":      {"127.0.0.1:80", "0.0.0.0:80", "[::]:80"},
	"host.call":   {"x", "x.y", "x.*", "*"},
	"kv":          nil,
}

func someTargets(r *rand.Rand, name string) []string {
	var out []string
	for _, t := range targetsOf[name] {
		if r.IntN(3) == 0 {
			out = append(out, t)
		}
	}
	return out
}

func someGrants(r *rand.Rand) []plan.Capability {
	var out []plan.Capability
	for _, name := range sortedKeys(targetsOf) {
		targets := someTargets(r, name)
		if r.IntN(3) > 0 && (len(targets) > 0 || name == "kv") {
			out = append(out, granted(name, targets...))
		}
	}
	return out
}

func walkGrants(t *testing.T, r *rand.Rand) {
	t.Helper()
	now := time.Unix(1_000_000, 0)
	m := &model{original: someGrants(r), ceiling: func(string) bool { return true }}
	m.policy = m.original
	g := newGrants(func() time.Time { return now }, m.original)
	cuts := map[string]bool{}
	names := sortedKeys(targetsOf)
	for step := range 40 {
		what := ""
		switch r.IntN(5) {
		case 0, 1:
			name := names[r.IntN(len(names))]
			d := Decision{Capability: name, Target: someTargets(r, name), Revoked: r.IntN(2) == 0, By: "test", Time: now}
			if r.IntN(3) == 0 && !d.Revoked {
				d.Until = now.Add(time.Duration(r.IntN(30)) * time.Second)
			}
			if spec, _ := grant.Find(name); spec.Kind != grant.None && len(d.Target) == 0 && !d.Revoked {
				continue
			}
			list, err := Decide(g.decisions, d)
			if err != nil {
				t.Fatal(err)
			}
			m.decisions = append(m.decisions, d)
			g.decide(list)
			what = fmt.Sprintf("decide %+v", d)
		case 2:
			m.policy = someGrants(r)
			what = fmt.Sprintf("policy %+v", m.policy)
		case 3:
			all := targetsOf[names[r.IntN(len(names))]]
			if len(all) == 0 {
				continue
			}
			bad := all[r.IntN(len(all))]
			m.ceiling = func(t string) bool { return t != bad }
			what = "ceiling refuses " + bad
		case 4:
			now = now.Add(time.Duration(r.IntN(25)) * time.Second)
			what = "time passes"
		}
		g.renew(Policy{Grants: m.policy, Under: func(c plan.Capability) *plan.Capability {
			kept := slices.DeleteFunc(slices.Clone(c.Target), func(t string) bool { return !m.ceiling(t) })
			if len(kept) == 0 && len(c.Target) > 0 {
				return nil
			}
			c.Target = kept
			return &c
		}})
		for _, name := range names {
			for _, target := range append(slices.Clone(targetsOf[name]), "")[:max(1, len(targetsOf[name]))] {
				key := name + " " + target
				want := m.allows(name, target, now)
				a, err := g.admit(name, target)
				if (err == nil) != want {
					t.Fatalf("step %d (%s): %s is let through: %v, and should be: %v (%v)", step, what, key, err == nil, want, err)
				}
				if held, ok := cuts[key]; ok && !held && !want {
					t.Fatalf("step %d (%s): what hangs on %s was not cut", step, what, key)
				}
				if err != nil {
					continue
				}
				a.end()
				if held, ok := cuts[key]; !ok || held {
					cuts[key] = false
					if _, err := a.hold(func() { cuts[key] = true }); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
}

func TestLeaseEndsWithoutRenewal(t *testing.T) {
	now := time.Unix(1, 0)
	g := newGrants(func() time.Time { return now }, []plan.Capability{granted("kv")})
	if _, err := g.admit("kv", ""); err != nil {
		t.Fatal(err)
	}
	now = now.Add(LeaseTime)
	_, err := g.admit("kv", "")
	if err == nil || !strings.Contains(err.Error(), "the lease of its grant has ended") {
		t.Fatalf("after its lease a grant answers %v", err)
	}
	g.renew(Policy{Grants: []plan.Capability{granted("kv")}})
	if _, err := g.admit("kv", ""); err != nil {
		t.Fatalf("a renewed grant: %v", err)
	}
}

func TestBudgets(t *testing.T) {
	now := time.Unix(1, 0)
	c := granted("kv")
	c.Budget = plan.Budget{Rate: 3, Window: time.Minute, Bytes: 10, Concurrent: 2}
	g := newGrants(func() time.Time { return now }, []plan.Capability{c})
	one, err := g.admit("kv", "")
	if err != nil {
		t.Fatal(err)
	}
	two, err := g.admit("kv", "")
	if err != nil {
		t.Fatal(err)
	}
	var over *BudgetError
	if _, err := g.admit("kv", ""); !errors.As(err, &over) || !strings.Contains(over.What, "2 uses of kv at once") {
		t.Fatalf("a third at once: %v", err)
	}
	one.end()
	one.end() // twice gives one place
	if _, err := g.admit("kv", ""); err != nil {
		t.Fatalf("after one ended: %v", err)
	}
	two.end()
	if _, err := g.admit("kv", ""); !errors.As(err, &over) || !strings.Contains(over.What, "3 times in 1m0s") {
		t.Fatalf("a fourth within the minute: %v", err)
	}
	if err := two.spend(10); err != nil {
		t.Fatal(err)
	}
	if err := two.spend(1); !errors.As(err, &over) {
		t.Fatalf("an eleventh byte: %v", err)
	}
	now = now.Add(LeaseTime - time.Second)
	if _, err := g.admit("kv", ""); !errors.As(err, &over) || !strings.Contains(over.What, "10 bytes") {
		t.Fatalf("with its bytes used up: %v", err)
	}
}

// TestTenThousandOpensInASecond: the budget lets a thousand through, says to all
// others what it is, and makes no violation of them; the next second has its own.
func TestTenThousandOpensInASecond(t *testing.T) {
	c := granted("secret.read", "x")
	c.Budget.Rate = 1000
	r := newRig(t, fine, c)
	r.Open("", nil)
	for second := range 2 {
		served := 0
		for range 10_000 {
			switch _, err := r.ask(`{"name":"x"}`); {
			case err == nil:
				served++
			case code(err) != ipc.CodeOverloaded || !strings.Contains(err.Error(), "granted 1000 times in 1s"):
				t.Fatalf("over the budget: %v", err)
			}
		}
		if served != 1000 {
			t.Errorf("in second %d there are %d served", second, served)
		}
		r.clock.pass(time.Second)
	}
	if d := r.denials(); len(d) != 0 {
		t.Errorf("a budget that is used up is a violation: %+v", d)
	}
	if u := r.Uses(); u[0].Uses != 2000 || u[0].Refused != 18_000 || u[0].Active != 0 {
		t.Errorf("its use is %+v", u[0])
	}
}

func TestHoldAfterRevocationIsCut(t *testing.T) {
	g := newGrants(time.Now, []plan.Capability{granted("egress", "a.example:1")})
	a, err := g.admit("egress", "a.example:1")
	if err != nil {
		t.Fatal(err)
	}
	g.decide([]Decision{{Capability: "egress", Revoked: true}})
	if _, err := a.hold(func() {}); !errors.Is(err, capability.ErrCut) {
		t.Fatalf("a hold on what was revoked meanwhile: %v", err)
	}
}

func TestRevocationBeneathIsKnown(t *testing.T) {
	g := newGrants(time.Now, []plan.Capability{granted("fs.open", "r:/srv")})
	list, err := Decide(nil, Decision{Capability: "fs.open", Target: []string{"/srv/private"}, Revoked: true})
	if err != nil {
		t.Fatal(err)
	}
	g.decide(list)
	if a, err := g.admit("fs.open", "r:/srv/x"); err != nil || !a.narrowed {
		t.Fatalf("beside what was revoked: %+v, %v", a, err)
	}
	if _, err := g.admit("fs.open", "r:/srv/private/x"); err == nil {
		t.Fatal("what was revoked is let through")
	}
}

func TestDecisionsAreBounded(t *testing.T) {
	var list []Decision
	var err error
	for i := range MaxDecisions {
		if list, err = Decide(list, Decision{Capability: "secret.read", Target: []string{fmt.Sprint("s", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = Decide(list, Decision{Capability: "secret.read", Target: []string{"one-more"}}); err == nil {
		t.Fatal("there is no bound")
	}
	if list, err = Decide(list, Decision{Capability: "secret.read", Revoked: true}); err != nil || len(list) != 1 {
		t.Fatalf("revoking all leaves %d decisions, %v", len(list), err)
	}
	for _, bad := range []Decision{{Capability: "fs.opn"}, {Capability: "fs.open"}, {Capability: "kv", Target: []string{"x"}}, {Capability: "egress", Target: []string{"x"}}} {
		if _, err := Decide(nil, bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestCatalogueIsTheGrammar(t *testing.T) {
	var names []string
	for _, c := range Catalogue(Host{}) {
		names = append(names, c.Name)
		if c.Text == "" || c.Cost == "" || len(c.Phases) == 0 {
			t.Errorf("%s does not say what it is", c.Name)
		}
	}
	if slices.Sort(names); !slices.Equal(names, grant.Names()) {
		t.Fatalf("the catalogue serves %q and the grammar knows %q", names, grant.Names())
	}
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
