package grant

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestEndpoints(t *testing.T) {
	for _, good := range []string{
		"api.example.com:443", "*.example.org:443", "*:443", "10.0.0.5:5432", "[2001:db8::1]:53", "udp:ntp.example.com:123", "a_b.example:*", "xn--bcher-kva.example:1",
	} {
		e, err := ParseEndpoint(good)
		if err != nil || e.String() != good {
			t.Errorf("%q is read as %q, %v", good, e.String(), err)
		}
	}
	if e, err := ParseEndpoint("API.Example.com.:443"); err != nil || e.String() != "api.example.com:443" {
		t.Errorf("case and final dot: %q, %v", e.String(), err)
	}
	for _, bad := range []string{
		"", ":", "a", "a:", "a:0", "a:65536", "a:080", "a:+1", ":443", "a..b:1", "-a.b:1", "a-.b:1", "a b:1", "a/b:1", "a.*.b:1", "*a.b:1",
		"2001:db8::1:53", "[10.0.0.1]:1", "[::ffff:10.0.0.1]:1", "[fe80::1%lo]:1", "127.1:80", "0x7f000001:80", "2130706433:80", "a.0x7f:1", "1.2.3.4.5:1", "udp:udp:a:1", "ä.example:1", "a\x00b:1",
		"0.0.0.0:80", "[::]:80", "udp:0.0.0.0:53", "224.0.0.1:80", "[ff02::1]:80", "255.255.255.255:80",
	} {
		if e, err := ParseEndpoint(bad); err == nil {
			t.Errorf("%q is taken, as %+v", bad, e)
		}
	}
}

// TestAddresses: what may be listened at, and why the rest may not.
func TestAddresses(t *testing.T) {
	for _, good := range []string{"0.0.0.0:80", "[::]:443", "127.0.0.1:*", "192.0.2.7:8080"} {
		if _, err := ParseAddress(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for bad, why := range map[string]string{
		"/run/app.sock": "a unix socket", "@app": "a unix socket", "udp:127.0.0.1:53": "only TCP", "224.0.0.1:80": "many hosts", "a.example:80": "expected an address",
	} {
		if _, err := ParseAddress(bad); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestCovers(t *testing.T) {
	place, at, word := Spec{Kind: Endpoint}, Spec{Kind: Path}, Spec{Kind: Word}
	for _, c := range []struct {
		spec         Spec
		outer, inner string
		want         bool
	}{
		{place, "a.example:443", "a.example:443", true},
		{place, "a.example:443", "a.example:80", false},
		{place, "a.example:*", "a.example:80", true},
		{place, "a.example:80", "a.example:*", false},
		{place, "*.example:1", "a.b.example:1", true},
		{place, "*.example:1", "example:1", false},
		{place, "*.example:1", "badexample:1", false},
		{place, "*.example:1", "*.b.example:1", true},
		{place, "*.b.example:1", "*.example:1", false},
		{place, "*:1", "a.example:1", true},
		{place, "*:1", "8.8.8.8:1", true},
		{place, "*:1", "10.0.0.1:1", false},
		{place, "*:1", "169.254.169.254:1", false},
		{place, "a.example:1", "udp:a.example:1", false},
		{place, "10.0.0.1:1", "10.0.0.1:1", true},
		{at, "/srv", "r:/srv/a", true},
		{at, "/srv", "rw:/srv/a", false},
		{at, "rw:/srv", "r:/srv/a", true},
		{at, "r:/srv", "r:/srvx", false},
		{at, "r:/srv", "r:/srv/../etc", false},
		{word, "photos.*", "photos.list", true},
		{word, "photos.*", "photos", false},
		{word, "*", "x*", true},
		{word, "x", "x*", false},
		{word, "x*", "a b", false},
	} {
		if got := c.spec.Covers(c.outer, c.inner); got != c.want {
			t.Errorf("%q covers %q: %v", c.outer, c.inner, got)
		}
	}
}

// TestMeetIsWhatBothCover: a target is covered by the meet of two lists just if
// both cover it.
func TestMeetIsWhatBothCover(t *testing.T) {
	for _, c := range []struct {
		spec Spec
		all  []string
	}{
		{Spec{Kind: Path}, []string{"r:/a", "rw:/a", "r:/a/b", "rw:/a/b", "r:/a/b/c", "rw:/ab", "/ab/c"}},
		{Spec{Kind: Word}, []string{"x", "x.y", "x.*", "*", "y*", "yz"}},
		{Spec{Kind: Endpoint}, []string{"a.x:1", "a.x:*", "*.x:1", "*.x:*", "*.a.x:2", "b.a.x:2", "*:1", "*:*", "10.0.0.1:1", "8.8.8.8:*", "udp:a.x:1", "udp:*:*"}},
	} {
		for _, x := range c.all {
			for _, y := range c.all {
				met := c.spec.Meet([]string{x}, []string{y})
				for _, z := range c.all {
					want := c.spec.Covers(x, z) && c.spec.Covers(y, z)
					if got := slices.ContainsFunc(met, func(m string) bool { return c.spec.Covers(m, z) }); got != want {
						t.Errorf("the meet of %q and %q is %q, which covers %q: %v", x, y, met, z, got)
					}
				}
			}
		}
	}
}

func TestPublic(t *testing.T) {
	for _, no := range []string{
		"0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1", "192.168.0.1", "192.0.0.170", "198.18.0.1",
		"224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::",
		"168.63.129.16", "::ffff:0:7f00:1", "::ffff:168.63.129.16", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2001:0:7f00:1::1", "fe80::1%eth0",
		"fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "2001::1", "100::1",
	} {
		if Public(netip.MustParseAddr(no)) {
			t.Errorf("%s is taken for public", no)
		}
	}
	for _, yes := range []string{"8.8.8.8", "1.1.1.1", "168.63.129.17", "172.32.0.1", "::ffff:8.8.8.8", "2606:4700::1111", "2a00:1450:4001::1"} {
		if !Public(netip.MustParseAddr(yes)) {
			t.Errorf("%s is not taken for public", yes)
		}
	}
	if Public(netip.Addr{}) {
		t.Error("no address is taken for public")
	}
}

func FuzzTargets(f *testing.F) {
	f.Add("api.example.com:443", "*.example.com:*")
	f.Add("r:/srv/photos", "rw:/srv")
	f.Add("photos.*", "photos.list")
	f.Add("[2001:db8::1]:53", "udp:a:1")
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, spec := range []Spec{{Kind: Path}, {Kind: Word}, {Kind: Endpoint}} {
			okA, okB := spec.Check(a) == nil, spec.Check(b) == nil
			if spec.Covers(a, b) && (!okA && spec.Kind != Endpoint || !okB && spec.Kind != Endpoint) {
				t.Fatalf("%q covers %q, and one of them is no target", a, b)
			}
			if okA && !spec.Covers(a, a) && a != "" {
				t.Fatalf("%q does not cover itself", a)
			}
			for _, m := range spec.Meet([]string{a}, []string{b}) {
				if okA && okB && (!spec.Covers(a, m) || !spec.Covers(b, m)) {
					t.Fatalf("%q is more than %q and %q both have", m, a, b)
				}
			}
		}
	})
}
