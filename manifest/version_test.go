package manifest

import (
	"slices"
	"strings"
	"testing"
)

// TestVersionOrder is the chain of semver.org, 11, with a few of ours.
func TestVersionOrder(t *testing.T) {
	chain := []string{
		"0.0.0", "0.9.9", "1.0.0-0", "1.0.0-9", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2",
		"1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0", "10.0.0",
	}
	for i, a := range chain {
		for j, b := range chain {
			va, _, err := parseVersion(a)
			vb, _, err2 := parseVersion(b + "+build.7")
			if err != nil || err2 != nil {
				t.Fatal(a, err, b, err2)
			}
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := va.compare(vb); got != want {
				t.Errorf("%s and %s: %d, want %d", a, b, got, want)
			}
		}
	}
	for _, bad := range []string{"", "1.", ".1", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2-a", "v1.2.3", "1.2.x", "-1.2.3", "1.2.3+", "1.2.3+a b", "4294967296.0.0", strings.Repeat("1", 65)} {
		if _, _, err := parseVersion(bad); err == nil {
			t.Errorf("%q is a version", bad)
		}
	}
}

func TestRange(t *testing.T) {
	for text, c := range map[string]struct{ in, out []string }{
		"*":             {[]string{"0.0.0", "7.1.2", "1.0.0-a", "whatever_1"}, nil},
		"":              {[]string{"whatever_1"}, nil},
		">=1.2, <2":     {[]string{"1.2.0", "1.99.0", "1.2.0+b"}, []string{"1.1.9", "2.0.0", "2.0.0-a", "1.3.0-a", "1.2", "whatever"}},
		">1":            {[]string{"2.0.0"}, []string{"1.0.0", "1.9.9"}},
		">1.2.3":        {[]string{"1.2.4"}, []string{"1.2.3"}},
		"<=1":           {[]string{"1.9.9", "0.1.0"}, []string{"2.0.0"}},
		"<=1.2.3":       {[]string{"1.2.3"}, []string{"1.2.4"}},
		"=1.2":          {[]string{"1.2.0", "1.2.9"}, []string{"1.3.0", "1.1.9"}},
		"=1.2.3":        {[]string{"1.2.3"}, []string{"1.2.4", "1.2.2"}},
		"^1.2.3":        {[]string{"1.2.3", "1.9.0"}, []string{"1.2.2", "2.0.0", "2.0.0-a"}},
		"^0.2.3":        {[]string{"0.2.3", "0.2.9"}, []string{"0.3.0", "1.0.0"}},
		"^0.0.3":        {[]string{"0.0.3"}, []string{"0.0.4", "0.0.2"}},
		"^0.0":          {[]string{"0.0.9"}, []string{"0.1.0"}},
		"^0":            {[]string{"0.9.0"}, []string{"1.0.0"}},
		"~1.2.3":        {[]string{"1.2.3", "1.2.9"}, []string{"1.3.0", "1.2.2"}},
		"~1":            {[]string{"1.0.0", "1.9.0"}, []string{"2.0.0"}},
		">=1.2.3-rc.1":  {[]string{"1.2.3-rc.2", "1.2.3", "1.4.0"}, []string{"1.2.3-beta", "1.4.0-a"}},
		"^1.2, <1.4.1 ": {[]string{"1.4.0"}, []string{"1.4.1", "1.1.0"}},
	} {
		r, err := ParseRange(text)
		if err != nil {
			t.Fatal(text, err)
		}
		for _, v := range c.in {
			if !r.Includes(v) {
				t.Errorf("%q does not include %s", text, v)
			}
		}
		for _, v := range c.out {
			if r.Includes(v) {
				t.Errorf("%q includes %s", text, v)
			}
		}
	}
	for _, bad := range []string{"1.2", "1", "=>1", "==1", "^", "^a", ">=1,", ",", ">=1 <2", "1 - 2", "1.x", "^1 || ^2", ">=01", strings.Repeat(">=1,", 9) + ">=1", ">=" + strings.Repeat("1", 300)} {
		if _, err := ParseRange(bad); err == nil {
			t.Errorf("%q is a range", bad)
		}
	}
}

// FuzzRange: nothing makes the reader panic; what is read reads the same again
// from its own words, and agrees with itself about whatever version.
func FuzzRange(f *testing.F) {
	f.Add(">=1.2, <2", "1.4.0")
	f.Add("^0.2.3-rc.1", "0.2.3-rc.2+b")
	f.Add("~1, =1.0", "1.0.0")
	f.Add("*", "x")
	f.Fuzz(func(t *testing.T, text, v string) {
		r, err := ParseRange(text)
		if err != nil {
			return
		}
		again, err := ParseRange(r.String())
		if err != nil || again.String() != r.String() {
			t.Fatalf("%q became %q: %v", text, r.String(), err)
		}
		if r.Includes(v) != again.Includes(v) {
			t.Errorf("%q and %q differ about %q", text, r.String(), v)
		}
		one, parts, err := parseVersion(v)
		if err != nil || parts != 3 {
			if len(r.terms) > 0 && r.Includes(v) {
				t.Errorf("%q includes %q, which is no version", text, v)
			}
			return
		}
		if one.compare(one) != 0 {
			t.Errorf("%q is not itself", v)
		}
		for _, x := range r.terms {
			if r.Includes(v) && slices.Contains([]string{">=", "=", "^", "~"}, x.op) && one.compare(x.v) < 0 {
				t.Errorf("%q includes %q, which is below", text, v)
			}
		}
	})
}

func TestNeeds(t *testing.T) {
	m, err := Parse("plugin.toml", []byte(sixLines+`
[[requires]]
name = "acme.store"
version = ">=2,<3"
why = "thumbs are kept there"
[[requires]]
name = "b"
when_gone = "drain"
why = "b"
[[wants]]
name = "c"
why = "c"
[[conflicts]]
name = "d"
version = "<2"
why = "d"
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Need{
		{"acme.store", ">=2, <3", GoneStop, "thumbs are kept there", "plugin.toml:8"},
		{"b", "", GoneDrain, "b", "plugin.toml:12"},
		{"c", "", GoneTell, "c", "plugin.toml:16"},
		{"d", "<2", "", "d", "plugin.toml:19"},
	}
	if got := slices.Concat(m.Needs.Requires, m.Needs.Wants, m.Needs.Conflicts); !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
}
