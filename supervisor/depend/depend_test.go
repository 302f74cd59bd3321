package depend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/manifest"
)

// text makes plugins of lines such as "a 1.0.0 requires b >=2; wants c; conflicts d <2".
func plugins(lines ...string) (out []Plugin) {
	for _, line := range lines {
		head, rest, _ := strings.Cut(line, " requires ")
		_ = rest
		fields := strings.Fields(head)
		p := Plugin{Name: fields[0], Version: fields[1]}
		for _, part := range strings.Split(strings.TrimPrefix(line, fields[0]+" "+fields[1]), ";") {
			words := strings.Fields(part)
			if len(words) < 2 {
				continue
			}
			n := manifest.Need{Name: words[1], Version: strings.Join(words[2:], " "), WhenGone: manifest.GoneStop}
			switch words[0] {
			case "requires":
				p.Needs.Requires = append(p.Needs.Requires, n)
			case "wants":
				n.WhenGone = manifest.GoneTell
				p.Needs.Wants = append(p.Needs.Wants, n)
			case "conflicts":
				n.WhenGone = ""
				p.Needs.Conflicts = append(p.Needs.Conflicts, n)
			}
		}
		out = append(out, p)
	}
	return out
}

func names(steps []Step) string {
	var out []string
	for _, s := range steps {
		out = append(out, s.Name)
	}
	return strings.Join(out, " ")
}

func TestStart(t *testing.T) {
	for name, c := range map[string]struct {
		plugins []Plugin
		runs    string
		want    string // the order, or the refusal
	}{
		"alone":                           {plugins("a 1.0.0"), "", "a"},
		"a chain":                         {plugins("a 1.0.0 requires b >=2", "b 2.1.0 requires c", "c 1.0.0"), "", "c b a"},
		"a diamond":                       {plugins("a 1.0.0 requires b; requires c", "b 1.0.0 requires d", "c 1.0.0 requires d", "d 1.0.0"), "", "d b c a"},
		"a want":                          {plugins("a 1.0.0 wants b", "b 1.0.0 wants c", "c 1.0.0"), "", "c b a"},
		"a want gone":                     {plugins("a 1.0.0 wants b; wants c >=2", "c 1.0.0"), "", "a"},
		"wants in circle":                 {plugins("a 1.0.0 wants b", "b 1.0.0 wants a"), "", "b a"},
		"want and require":                {plugins("a 1.0.0 requires b", "b 1.0.0 wants a"), "", "b a"},
		"a want that does not go with it": {plugins("a 1.0.0 requires b; wants c", "b 1.0.0 conflicts c", "c 1.0.0"), "", "b a"},
		"missing":                         {plugins("a 1.0.0 requires b >=2", "b 2.0.0 requires c ^1"), "", "a requires b >=2, which requires c ^1, which is not installed"},
		"mismatch":                        {plugins("a 1.0.0 requires b >=2", "b 1.9.0"), "", "a requires b >=2, but b 1.9.0 is installed"},
		"circle":                          {plugins("a 1.0.0 requires b >=2", "b 2.0.0 requires c", "c 1.0.0 requires a"), "", "a requires b >=2, which requires c, which requires a: a circle"},
		"a circle below":                  {plugins("a 1.0.0 requires b", "b 2.0.0 requires c", "c 1.0.0 requires b"), "", "a requires b, which requires c, which requires b: a circle"},
		"conflict with what runs":         {plugins("a 1.0.0 requires b", "b 1.0.0 conflicts d <2", "d 1.0.0"), "d", "a requires b, which conflicts with d <2, and d 1.0.0 runs"},
		"its own conflict":                {plugins("a 1.0.0 conflicts d", "d 1.0.0"), "d", "a conflicts with d, and d 1.0.0 runs"},
		"no conflict with the idle":       {plugins("a 1.0.0 conflicts d", "d 1.0.0"), "", "a"},
		"no conflict with another":        {plugins("a 1.0.0 conflicts d <1", "d 1.0.0"), "d", "a"},
		"what runs conflicts":             {plugins("a 1.0.0 requires b", "b 1.0.0", "d 1.0.0 conflicts b"), "d", "a requires b; but d, which runs, conflicts with b, and b is 1.0.0"},
		"conflict within":                 {plugins("a 1.0.0 requires b; requires c", "b 1.0.0 conflicts c <2", "c 1.0.0"), "", "a requires b, which conflicts with c <2, and c 1.0.0 is needed too: a requires c"},
		"conflict with the first":         {plugins("a 1.0.0 requires b", "b 1.0.0 conflicts a"), "", "a requires b, which conflicts with a, and a 1.0.0 is to be started with it"},
		"not there":                       {nil, "", "a is not installed"},
		"a version that is none":          {plugins("a 1.0.0 requires b >=1; requires c", "b latest", "c latest"), "", "a requires b >=1, but b latest is installed"},
		"a range that cannot be read":     {plugins("a 1.0.0 requires b damaged", "b 1.0.0"), "", "a requires b damaged, but b 1.0.0 is installed"},
	} {
		t.Run(name, func(t *testing.T) {
			steps, err := New(c.plugins).Start("a", func(n string) bool { return slices.Contains(strings.Fields(c.runs), n) })
			got := names(steps)
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestStartAsksFew: whether others run is asked of those alone with which a start
// could conflict, however many are installed.
func TestStartAsksFew(t *testing.T) {
	lines := []string{"a 1.0.0 requires b; conflicts y", "b 1.0.0", "x 1.0.0 conflicts b", "y 1.0.0", "z 1.0.0 conflicts nobody"}
	for i := range 500 {
		lines = append(lines, fmt.Sprintf("other-%d 1.0.0 requires b", i))
	}
	asked := map[string]bool{}
	if _, err := New(plugins(lines...)).Start("a", func(n string) bool { asked[n] = true; return false }); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x", "y"} {
		if !asked[name] {
			t.Errorf("%s was not asked", name)
		}
	}
	if len(asked) > 4 {
		t.Errorf("%d were asked", len(asked))
	}
}

func TestStop(t *testing.T) {
	g := New(plugins("a 1.0.0 requires b", "b 1.0.0 requires c", "c 1.0.0", "d 1.0.0 requires c", "e 1.0.0 wants c"))
	for name, want := range map[string]string{"c": "a d b c", "b": "a b", "a": "a", "e": "e", "x": ""} {
		if got := names(g.Stop(name)); got != want {
			t.Errorf("stopping %s: %s, want %s", name, got, want)
		}
	}
	g = New(plugins("a 1.0.0 requires b", "b 1.0.0 requires a", "c 1.0.0"))
	if got := names(g.Leave()); got != "c a b" {
		t.Errorf("all leave as %s", got)
	}
}

// random makes a host of few names, so that circles and conflicts are common.
func random(r *rand.Rand) ([]Plugin, []string) {
	all := strings.Fields("a b c d e f g h")[:2+r.IntN(7)]
	ranges := []string{"", "", "*", "^1", ">=2", "<2", "=1.2.0"}
	versions := []string{"1.0.0", "1.2.0", "2.0.0"}
	var out []Plugin
	var runs []string
	calm := 1 + r.IntN(4)
	for _, name := range all {
		if r.IntN(12) == 0 {
			continue
		}
		p := Plugin{Name: name, Version: versions[r.IntN(3)]}
		for _, other := range all {
			n := manifest.Need{Name: other, Version: ranges[r.IntN(len(ranges))], WhenGone: manifest.GoneStop}
			if other == name || r.IntN(calm+2) > 0 {
				continue
			}
			switch r.IntN(6) {
			case 0, 1, 2:
				p.Needs.Requires = append(p.Needs.Requires, n)
			case 3, 4:
				p.Needs.Wants = append(p.Needs.Wants, n)
			default:
				if r.IntN(calm) == 0 {
					p.Needs.Conflicts = append(p.Needs.Conflicts, n)
				}
			}
		}
		out = append(out, p)
		if r.IntN(6) == 0 {
			runs = append(runs, name)
		}
	}
	return out, runs
}

// check holds one host to every promise, and says whether there was a refusal.
func check(t *testing.T, host []Plugin, runs []string, r *rand.Rand) (kind Kind) {
	t.Helper()
	running := func(n string) bool { return slices.Contains(runs, n) }
	steps, err := New(host).Start("a", running)
	shuffled := slices.Clone(host)
	r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	again, err2 := New(shuffled).Start("a", running)
	if !reflect.DeepEqual(steps, again) || fmt.Sprint(err) != fmt.Sprint(err2) {
		t.Fatalf("another order of %+v gives %v %v, not %v %v", host, again, err2, steps, err)
	}
	known := map[string]Plugin{}
	for _, p := range host {
		known[p.Name] = p
	}
	if err != nil {
		var refused *Refusal
		if !errors.As(err, &refused) {
			t.Fatalf("%v is no refusal", err)
		}
		isTrue(t, known, running, refused)
		return refused.Kind
	}
	inOrder(t, known, running, steps)
	return ""
}

func fits(need manifest.Need, p Plugin) bool {
	r, err := manifest.ParseRange(need.Version)
	return err == nil && r.Includes(p.Version)
}

// inOrder: everything required stands before, fits, and conflicts with nothing.
func inOrder(t *testing.T, known map[string]Plugin, running func(string) bool, steps []Step) {
	t.Helper()
	at := map[string]int{}
	for i, s := range steps {
		at[s.Name] = i
		for _, before := range s.After {
			if j, ok := at[before]; !ok || j >= i {
				t.Fatalf("%s stands before %s, which it is after, in %v", s.Name, before, steps)
			}
		}
		for _, need := range known[s.Name].Needs.Requires {
			if _, ok := at[need.Name]; !ok || !fits(need, known[need.Name]) || !slices.Contains(s.After, need.Name) {
				t.Fatalf("%s requires %s %s, and that is not before it in %v", s.Name, need.Name, need.Version, steps)
			}
		}
	}
	if steps[len(steps)-1].Name != "a" && !slices.ContainsFunc(steps, func(s Step) bool { return s.Name == "a" }) {
		t.Fatalf("what was to be started is not in %v", steps)
	}
	for _, p := range known {
		_, in := at[p.Name]
		for _, need := range p.Needs.Conflicts {
			other, there := known[need.Name]
			_, otherIn := at[need.Name]
			if there && fits(need, other) && (in && (otherIn || running(need.Name)) || otherIn && running(p.Name)) {
				t.Fatalf("%s conflicts with %s %s, and both are to run: %v", p.Name, need.Name, need.Version, steps)
			}
		}
	}
}

// isTrue: every link of a refusal is what a manifest says, they hang together,
// and their end is what the refusal says that it is.
func isTrue(t *testing.T, known map[string]Plugin, running func(string) bool, r *Refusal) {
	t.Helper()
	says := func(needs []manifest.Need, l Link) bool {
		return slices.ContainsFunc(needs, func(n manifest.Need) bool { return n.Name == l.To && n.Version == l.Version })
	}
	follow := func(chain []Link) string {
		at := "a"
		for _, l := range chain {
			if l.From != at || !says(known[l.From].Needs.Requires, l) {
				t.Fatalf("%q: no manifest says %+v after %s", r, l, at)
			}
			at = l.To
		}
		return at
	}
	last := follow(r.Chain)
	end, there := known[last]
	switch r.Kind {
	case NotReady:
		t.Fatalf("%q is no refusal of an order", r)
	case Missing:
		if there {
			t.Fatalf("%q: it is installed", r)
		}
	case Mismatch:
		l := r.Chain[len(r.Chain)-1]
		if !there || fits(manifest.Need{Version: l.Version}, end) || end.Version != r.Version {
			t.Fatalf("%q: it fits", r)
		}
	case Circle:
		if !slices.ContainsFunc(r.Chain, func(l Link) bool { return l.From == last }) {
			t.Fatalf("%q: no circle", r)
		}
	case Conflict:
		if !says(known[r.By.From].Needs.Conflicts, r.By) || !fits(manifest.Need{Version: r.By.Version}, known[r.By.To]) || known[r.By.To].Version != r.Version {
			t.Fatalf("%q: no manifest says so", r)
		}
		other := r.By.To
		if last == r.By.To {
			other = r.By.From
		}
		if last != r.By.From && last != r.By.To {
			t.Fatalf("%q: the chain ends at %s", r, last)
		}
		if r.Runs != "" && (r.Runs != other || !running(other)) || r.Runs == "" && follow(r.Other) != other {
			t.Fatalf("%q: %s is not the other", r, other)
		}
	}
}

// TestEveryOrderAndRefusal: random hosts, held to every promise.
func TestEveryOrderAndRefusal(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 11)) // #nosec G404 -- a test's
	seen := map[Kind]int{}
	for range 20000 {
		host, runs := random(r)
		if slices.ContainsFunc(host, func(p Plugin) bool { return p.Name == "a" }) {
			seen[check(t, host, runs, r)]++
		}
	}
	for _, kind := range []Kind{"", Missing, Mismatch, Circle, Conflict} {
		if seen[kind] < 200 {
			t.Errorf("%q came only %d times: %v", kind, seen[kind], seen)
		}
	}
}

// FuzzStart is the same, with hosts that a fuzzer makes.
func FuzzStart(f *testing.F) {
	f.Add([]byte("12345678"))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		var seed [32]byte
		copy(seed[:], data)
		if len(data) > 32 {
			for i, b := range data[32:] {
				seed[i%32] ^= b
			}
		}
		r := rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:16]))) // #nosec G404 -- a test's
		host, runs := random(r)
		if slices.ContainsFunc(host, func(p Plugin) bool { return p.Name == "a" }) {
			check(t, host, runs, r)
		}
		g := New(host)
		if len(g.Leave()) != len(host) {
			t.Errorf("of %d plugins %d leave", len(host), len(g.Leave()))
		}
		for _, p := range host {
			left := map[string]bool{}
			for _, s := range g.Stop(p.Name) {
				for _, before := range s.After {
					if !left[before] {
						t.Fatalf("%s leaves before %s, which needs it", s.Name, before)
					}
				}
				left[s.Name] = true
			}
		}
	})
}
