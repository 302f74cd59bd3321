package score

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/compare"
	"github.com/cordonhq/cordon/profiles/plan"
)

func resolve(t *testing.T, text string) *plan.Plan {
	t.Helper()
	p, err := profiles.ParseProfile("t.toml", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	pl, err := profiles.Resolve(profiles.Input{Profile: p, Argv: []string{"/x"}})
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return pl
}

// random is a profile of random lines.
func random(r *rand.Rand) string {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	var b strings.Builder
	fmt.Fprintf(&b, "extends = [%q]\n", pick(profiles.BuiltinNames()...))
	var allow, deny []string
	for _, call := range []string{"mount", "ptrace", "bpf", "unshare", "keyctl", "memfd_create", "shmget", "reboot", "mmap", "socket", "clone", "mlock", "@clock"} {
		switch r.IntN(5) {
		case 0:
			allow = append(allow, fmt.Sprintf("%q", call))
		case 1:
			deny = append(deny, fmt.Sprintf("%q", call))
		}
	}
	fmt.Fprintf(&b, "[seccomp]\nallow = [%s]\ndeny = [%s]\n", strings.Join(allow, ", "), strings.Join(deny, ", "))
	for _, rule := range []string{"mmap", "mprotect", "personality", "socket", "ioctl", "prctl"} {
		if r.IntN(5) == 0 {
			fmt.Fprintf(&b, "[[seccomp.rule]]\nnames = [%q]\naction = \"SCMP_ACT_ALLOW\"\n", rule)
			if r.IntN(2) == 0 {
				fmt.Fprintf(&b, "args = [{ index = 0, op = \"SCMP_CMP_LT\", value = %d }]\n", 1+r.IntN(30))
			}
		}
	}
	for range r.IntN(5) {
		path := pick("/srv", "/srv/a", "/srv/a/b", "/srv/a/c", "/opt", "/opt/x", "/etc/ssl", "/home/u", "/var/lib/x")
		fmt.Fprintf(&b, "[[files]]\npath = %q\naccess = %q\n", path, pick("r", "rw", "rx"))
	}
	fmt.Fprintf(&b, "[proc]\nmode = %q\n[tmp]\nsize = \"%dM\"\n[shm]\nsize = \"%dM\"\n[data]\npersistent = %v\n", pick("none", "pid", "full"), 1+r.IntN(99), r.IntN(3), r.IntN(2) == 0)
	fmt.Fprintf(&b, "[resources]\nmemory.max = %q\npids.max = %d\ncpu.max = %q\nrlimit.nofile = %d\n", pick("64M", "1G", "4G"), 1+r.IntN(500), pick("10%", "300%", "max"), 10+r.IntN(9999))
	if r.IntN(2) == 0 {
		b.WriteString("time.wall = \"1h\"\n")
	}
	fmt.Fprintf(&b, "[require]\nlandlock = %q\ncpu = %q\n", pick("hard", "best_effort"), pick("hard", "best_effort"))
	fmt.Fprintf(&b, "[violation]\nseccomp = %q\nmemory = %q\nfiles = { action = \"deny\", budget = \"%d/h\", then = %q }\n", pick("deny", "kill", "quarantine", "log"), pick("log", "kill"), 1+r.IntN(99), pick("kill", "quarantine"))
	if r.IntN(2) == 0 {
		b.WriteString("watch = [\"files\"]\n")
	}
	return b.String()
}

// changes are single lines that are said on top of a profile.
var changes = []string{
	"seccomp.deny=mount", "seccomp.deny=@process", "seccomp.deny=mmap", "seccomp.deny=socket", "seccomp.allow=mount", "seccomp.allow=ptrace", "seccomp.allow=mlock",
	"resources.memory.max=32M", "resources.memory.max=8G", "resources.pids.max=1", "resources.cpu.max=max", "resources.time.wall=1s",
	"proc.mode=none", "proc.mode=full", "data.persistent=true", "violation.seccomp=quarantine", "violation.seccomp=log", "violation.files=kill",
	"require.landlock=best_effort", "require.landlock=hard", "devices.remove=full", "tmp.size=1M", "violation.watch=files", "resources.rlimit.nofile=9",
	"seccomp.execve=once", "seccomp.execve=any", "resources.io.max.wbps=1M", "resources.hugetlb.2MB.max=0", "require.io=best_effort",
	"ipc.rate=5", "ipc.max_frame=1M", "violation.watchdog=log", "violation.watchdog=quarantine", "environment.pass=TOKEN", "runtime.eval=false", "runtime.eval=true",
	"network.listen=127.0.0.1:80", "network.listen=127.0.0.1:80,127.0.0.1:81", "network.egress=a.example.com:443", "network.egress=c.example.com:8443", "network.egress=a.example.com:443,b.example.com:443",
	`files=[{ path = "/srv", access = "r" }]`, `files=[{ path = "/srv/a", access = "r" }]`, `files=[{ path = "/srv/a", remove = true }]`, `files=[{ path = "/srv", access = "rw" }]`,
}

// TestAStrongerProfileNeverScoresLower: where one of two plans allows nothing
// that the other does not, by the judgement of profile diff, it scores at least
// as much. Plans differ by anything, or by one line.
func TestAStrongerProfileNeverScoresLower(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	judged, better := 0, 0
	check := func(a, b *plan.Plan, what string) {
		d := compare.Plans(a, b)
		x, y := Of(a), Of(b)
		switch {
		case len(d.More) == 0 && len(d.Less) == 0:
			judged++
			if x.Score != y.Score {
				t.Errorf("%s: nothing differs, and the scores are %v and %v", what, x.Score, y.Score)
			}
		case len(d.More) == 0:
			judged++
			if y.Score > x.Score {
				better++
			}
			if y.Score < x.Score-1e-9 {
				t.Errorf("%s: the second allows less (%v) and scores %v, not at least %v\n%s", what, d.Less, y.Score, x.Score, explain(x, y))
			}
		case len(d.Less) == 0:
			judged++
			if y.Score > x.Score+1e-9 {
				t.Errorf("%s: the second allows more (%v) and scores %v, above %v\n%s", what, d.More, y.Score, x.Score, explain(x, y))
			}
		}
	}
	for range 25 {
		text := random(r)
		p, err := profiles.ParseProfile("t.toml", []byte(text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		a := resolve(t, text)
		for _, change := range changes {
			with, err := p.With([]string{change})
			if err != nil {
				t.Fatal(err)
			}
			b, err := profiles.Resolve(profiles.Input{Profile: with, Argv: []string{"/x"}})
			if err != nil {
				t.Fatal(err)
			}
			check(a, b, text+"\n"+change)
		}
	}
	if judged < 400 || better < 80 {
		t.Errorf("%d pairs could be judged, in %d the stronger scores more", judged, better)
	}
}

func explain(x, y Score) string {
	var b strings.Builder
	for i := range x.Points {
		if x.Points[i].Open != y.Points[i].Open {
			fmt.Fprintf(&b, "%s %s: %v and %v\n", x.Points[i].Wall, x.Points[i].Name, x.Points[i].Open, y.Points[i].Open)
		}
	}
	return b.String()
}

// TestBuiltinsInOrder: the built-in profiles score in the order of what they
// open, and everything that a profile can do otherwise costs something.
func TestBuiltinsInOrder(t *testing.T) {
	last := 101.0
	for _, name := range []string{"strict", "static", "go", "node"} {
		s := Of(resolve(t, fmt.Sprintf("extends = [%q]\n", name)))
		if s.Score >= last || s.Score < 30 {
			t.Errorf("%s scores %.1f after %.1f", name, s.Score, last)
		}
		last = s.Score
		cost, most := 0.0, 0.0
		for _, wall := range s.Walls() {
			c, m := s.Cost(wall)
			cost, most = cost+c, most+m
		}
		if cost+s.Score < 99.999 || cost+s.Score > 100.001 || most < 99.999 || most > 100.001 {
			t.Errorf("%s: the walls cost %v of %v, the score is %v", name, cost, most, s.Score)
		}
		for _, pt := range s.Points {
			if pt.Weight < 1 || pt.Weight > 10 || pt.Why == "" || (pt.Open > 0) != (pt.Text != "") {
				t.Errorf("%s: %+v", name, pt)
			}
		}
	}
}
