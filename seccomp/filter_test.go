package seccomp

import (
	"slices"
	"strings"
	"testing"
)

func allow(names ...string) Rule { return Rule{Names: names, Action: ActAllow} }

func when(r Rule, conds ...Condition) Rule {
	r.Args = conds
	return r
}

func eq(i uint, v uint64) Condition { return Condition{Index: i, Op: OpEqual, Value: v} }

func TestMistakesAreNamed(t *testing.T) {
	many := make([]Condition, MaxConditions+1)
	for name, c := range map[string]struct {
		filter Filter
		want   []string
	}{
		"unknown call":      {Filter{Rules: []Rule{allow("opne")}}, []string{"rule 1", `"opne"`, `nearest name is "open"`}},
		"unknown group":     {Filter{Rules: []Rule{allow("@procss")}}, []string{`"@process"`}},
		"no call":           {Filter{Rules: []Rule{{Action: ActAllow}}}, []string{"names no call"}},
		"unknown action":    {Filter{Rules: []Rule{{Names: []string{"open"}, Action: "ALLOW"}}}, []string{`"ALLOW"`, "SCMP_ACT_ALLOW"}},
		"unknown errno":     {Filter{Rules: []Rule{{Names: []string{"open"}, Action: ActErrno, Errno: "EPREM"}}}, []string{`"EPREM"`}},
		"no errno":          {Filter{Rules: []Rule{{Names: []string{"open"}, Action: ActErrno}}}, []string{"unknown errno"}},
		"errno of an allow": {Filter{Rules: []Rule{{Names: []string{"open"}, Action: ActAllow, Errno: "EPERM"}}}, []string{"only for SCMP_ACT_ERRNO"}},
		"argument 6":        {Filter{Rules: []Rule{when(allow("mmap"), eq(6, 0))}}, []string{"no argument 6"}},
		"argument of none":  {Filter{Rules: []Rule{when(allow("socket"), eq(3, 0))}}, []string{"socket has no argument 3", "it has 3"}},
		"unknown operator":  {Filter{Rules: []Rule{when(allow("socket"), Condition{Op: "EQ"})}}, []string{`"EQ"`, "SCMP_CMP_EQ"}},
		"needless value":    {Filter{Rules: []Rule{when(allow("socket"), Condition{Op: OpEqual, ValueTwo: 1})}}, []string{"valueTwo"}},
		"too wide a value":  {Filter{Rules: []Rule{when(allow("socket"), eq(0, 1<<32))}}, []string{"32 bits", "socket"}},
		"impossible mask":   {Filter{Rules: []Rule{when(allow("mmap"), Condition{Index: 2, Op: OpMaskedEqual, Value: 4, ValueTwo: 6})}}, []string{"can never equal"}},
		"mask of nothing":   {Filter{Rules: []Rule{when(allow("socket"), Condition{Op: OpMaskedEqual, Value: 1 << 40})}}, []string{"selects nothing"}},
		"many conditions":   {Filter{Rules: []Rule{when(allow("mmap"), many...)}}, []string{"at most 8"}},
		"many rules":        {Filter{Rules: make([]Rule, MaxRules+1)}, []string{"at most 1024"}},
		"execve refused":    {Filter{Rules: []Rule{{Names: []string{"execve"}, Action: ActKillProcess}}}, []string{"execve is always allowed"}},
		"read guarded":      {Filter{Rules: []Rule{when(allow("read"), eq(0, 0))}}, []string{"read is always allowed"}},
		"watch unknown":     {Filter{Watch: []string{"opne"}}, []string{"cannot watch", `"open"`}},
		"watch not allowed": {Filter{Watch: []string{"openat"}}, []string{"cannot watch openat"}},
		"watch always":      {Filter{Watch: []string{"execve"}}, []string{"cannot watch execve"}},
		"two mistakes":      {Filter{Rules: []Rule{allow("opne"), allow("read"), allow("raed")}}, []string{"rule 1", "rule 3"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.filter.Validate()
			if err == nil {
				t.Fatal("Validate found nothing")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("Validate = %q; want %q in it", err, w)
				}
			}
			if calls, err := c.filter.Calls(); err == nil {
				t.Errorf("Calls = %v of an invalid filter", calls)
			}
		})
	}
}

func TestRightFiltersPass(t *testing.T) {
	for name, f := range map[string]Filter{
		"empty":          {},
		"group":          {Rules: []Rule{allow("@system-service")}},
		"negative int":   {Rules: []Rule{when(allow("openat"), eq(0, 0xffffffffffffff9c))}},
		"unsigned int":   {Rules: []Rule{when(allow("openat"), eq(0, 0xffffff9c))}},
		"wide mask":      {Rules: []Rule{when(allow("socket"), Condition{Op: OpMaskedEqual, Value: 1<<64 - 1, ValueTwo: 1})}},
		"watched":        {Rules: []Rule{allow("openat")}, Watch: []string{"openat"}},
		"always allowed": {Rules: []Rule{allow(AlwaysAllowed()...)}},
		"never was one":  {Rules: []Rule{when(Rule{Names: []string{"tuxcall"}, Action: ActErrno, Errno: "ENOSYS"}, eq(5, 1<<63))}},
	} {
		if err := f.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDigestIsOfTheMeaning(t *testing.T) {
	base := Filter{Rules: []Rule{
		allow("open", "close"), when(allow("socket"), eq(0, 1)), {Names: []string{"clone3"}, Action: ActErrno, Errno: "ENOSYS"},
	}}
	for name, f := range map[string]Filter{
		"rules in another order": {Rules: []Rule{base.Rules[2], base.Rules[1], base.Rules[0]}},
		"rules split":            {Rules: []Rule{allow("open"), allow("close"), base.Rules[1], base.Rules[2]}},
		"always allowed said":    {Rules: append(slices.Clone(base.Rules), allow("read"))},
		"said twice":             {Rules: append(slices.Clone(base.Rules), base.Rules...)},
		"bits nobody reads":      {Rules: append([]Rule{when(allow("socket"), eq(0, 0x1))}, base.Rules...)},
		"the default said":       {Rules: append([]Rule{{Names: []string{"mount"}, Action: ActNotify}}, base.Rules...)},
		"shadowed":               {Rules: append([]Rule{when(allow("open"), eq(1, 0))}, base.Rules...)},
	} {
		if f.Digest() != base.Digest() {
			t.Errorf("%s: the digest differs", name)
		}
	}
	seen := map[string]string{base.Digest(): "base"}
	for name, f := range map[string]Filter{
		"empty":         {},
		"more":          {Rules: append(slices.Clone(base.Rules), allow("dup"))},
		"other errno":   {Rules: append(slices.Clone(base.Rules[:2]), Rule{Names: []string{"clone3"}, Action: ActErrno, Errno: "EPERM"})},
		"other value":   {Rules: []Rule{base.Rules[0], when(allow("socket"), eq(0, 2)), base.Rules[2]}},
		"other index":   {Rules: []Rule{base.Rules[0], when(allow("socket"), eq(1, 1)), base.Rules[2]}},
		"unconditional": {Rules: []Rule{base.Rules[0], allow("socket"), base.Rules[2]}},
		"watched":       {Rules: base.Rules, Watch: []string{"open"}},
		"not allowed":   {Rules: append([]Rule{{Names: []string{"open"}, Action: ActNotify}}, base.Rules...)},
		"invalid":       {Rules: append(slices.Clone(base.Rules), allow("opne"))},
		"invalid also":  {Rules: append(slices.Clone(base.Rules), allow("raed"))},
	} {
		d := f.Digest()
		if other, ok := seen[d]; ok {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[d] = name
		if len(d) != 71 || !strings.HasPrefix(d, "sha256:") {
			t.Errorf("Digest = %q", d)
		}
	}
}

func TestPrecedence(t *testing.T) {
	errno := func(e string, conds ...Condition) Rule {
		return Rule{Names: []string{"socket"}, Action: ActErrno, Errno: e, Args: conds}
	}
	for name, c := range map[string]struct {
		rules []Rule
		want  []Arm
	}{
		"a condition is an exception": {
			[]Rule{allow("socket"), errno("EPERM", eq(0, 1))},
			[]Arm{{Args: []Condition{eq(0, 1)}, Action: ActErrno, Errno: "EPERM"}, {Action: ActAllow}},
		},
		"the other way too": {
			[]Rule{errno("EPERM"), when(allow("socket"), eq(0, 1))},
			[]Arm{{Args: []Condition{eq(0, 1)}, Action: ActAllow}, {Action: ActErrno, Errno: "EPERM"}},
		},
		"the strictest of equals": {
			[]Rule{allow("socket"), errno("EPERM"), errno("EACCES")},
			[]Arm{{Action: ActErrno, Errno: "EACCES"}},
		},
		"two conditions before one": {
			[]Rule{errno("EPERM", eq(0, 1)), when(allow("socket"), eq(0, 1), eq(1, 2))},
			[]Arm{{Args: []Condition{eq(0, 1), eq(1, 2)}, Action: ActAllow}, {Args: []Condition{eq(0, 1)}, Action: ActErrno, Errno: "EPERM"}},
		},
		"notify takes an allow back": {
			[]Rule{allow("socket"), {Names: []string{"socket"}, Action: ActNotify}, when(allow("socket"), eq(0, 1))},
			[]Arm{{Args: []Condition{eq(0, 1)}, Action: ActAllow}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			calls, err := Filter{Rules: c.rules}.Calls()
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(calls, func(c Call) bool { return c.Name == "socket" })
			if i < 0 {
				t.Fatal("socket is not decided")
			}
			equal := slices.EqualFunc(calls[i].Arms, c.want, func(a, b Arm) bool { return a.same(b) && slices.Equal(a.Args, b.Args) })
			if !equal {
				t.Errorf("arms %+v; want %+v", calls[i].Arms, c.want)
			}
		})
	}
}

func TestAllows(t *testing.T) {
	f := Filter{
		Rules: []Rule{allow("open", "openat", "dup"), when(allow("socket"), eq(0, 1)), {Names: []string{"dup"}, Action: ActErrno, Errno: "EPERM"}},
		Watch: []string{"openat"},
	}
	for call, want := range map[string]bool{"open": true, "openat": true, "read": true, "socket": false, "dup": false, "mount": false, "nothing": false} {
		if got := f.Allows(call); got != want {
			t.Errorf("Allows(%q) = %v", call, got)
		}
	}
}

// TestObserved: of a watched call with conditions the listener lets through
// what the filter does, by the bits that the kernel reads.
func TestObserved(t *testing.T) {
	refusal := when(Rule{Names: []string{"openat"}, Action: ActErrno, Errno: "EACCES"}, eq(2, 3))
	f := Filter{Rules: []Rule{when(allow("openat"), eq(2, 0)), refusal, allow("open")}, Watch: []string{"open", "openat"}}
	calls, err := f.Calls()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if c.Name == "open" || c.Name == "openat" && (len(c.Arms) != 1 || c.Arms[0].Action != ActErrno) {
			t.Errorf("%s is %v; want what is let through at the listener and the rest as it was", c.Name, c.Arms)
		}
	}
	o, err := f.Observed()
	if err != nil {
		t.Fatal(err)
	}
	openat, _ := Number("openat")
	open, _ := Number("open")
	for _, c := range []struct {
		nr   int
		flag uint64
		want bool
	}{{openat, 0, true}, {openat, 1 << 32, true}, {openat, 1, false}, {openat, 3, false}, {open, 7, true}, {0, 0, false}} {
		if got := o.Passes(Notification{NR: c.nr, Args: [6]uint64{2: c.flag}}); got != c.want {
			t.Errorf("call %d with %#x passes: %v, want %v", c.nr, c.flag, got, c.want)
		}
	}
}
