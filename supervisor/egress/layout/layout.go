// Package layout says where in a plugin's network namespace the places are that
// its plan grants: which address stands for which name. It is pure, and the
// same for the files that the plugin sees and for the listeners.
package layout

import (
	"net/netip"
	"slices"

	"github.com/cordonhq/cordon/profiles/grant"
)

// Listener is one place that can be reached, by TCP or UDP as To says.
type Listener struct {
	// At is where the plugin connects to.
	At netip.AddrPort
	// To is where that leads: never a wildcard.
	To grant.Target
}

// Name is one line of the plugin's hosts file.
type Name struct {
	Addr netip.Addr
	Host string
}

// Layout is all of it.
type Layout struct {
	Listeners []Listener
	Names     []Name
	// Wild are the wildcards. A name that one of them covers gets an address,
	// and listeners, when the plugin asks the answerer for it.
	Wild []grant.Target
}

// Answerer is where questions for names are answered, by UDP alone.
func Answerer() netip.AddrPort { return netip.MustParseAddrPort("127.77.255.53:53") }

// stand is the network in which addresses stand for names. It is loopback: what
// a program sends there leaves no machine, whatever else fails.
func stand() netip.Prefix { return netip.MustParsePrefix("127.77.0.0/16") }

// leased are the networks from which names under a wildcard get their
// addresses: loopback again, and of IPv6, which has one loopback address only,
// the range that every router discards; RFC 6666.
func leased() (four, six netip.Prefix) {
	return netip.MustParsePrefix("127.78.0.0/16"), netip.MustParsePrefix("100::/64")
}

// perNet is how many addresses of each 256 are used: neither the first nor the
// last few.
const perNet = 250

// MaxLeases is how many names under wildcards get an address in one run: an
// address never stands for a second name.
const MaxLeases = 255 * perNet

// Leased gives the addresses of the name that is the nth, from 0, to get some.
func Leased(n int) (four, six netip.Addr) {
	four4, six6 := leased()
	a, b := four4.Addr().As4(), six6.Addr().As16()
	a[2], a[3] = byte(n/perNet), byte(1+n%perNet)
	b[14], b[15] = a[2], a[3]
	return netip.AddrFrom4(a), netip.AddrFrom16(b)
}

// Of lays out the places of a plan. A name has one address for all its ports; a
// literal address is itself.
func Of(egress []string) Layout {
	var l Layout
	var exact []grant.Target
	sorted := slices.Clone(egress)
	slices.Sort(sorted)
	for _, text := range sorted {
		t, err := grant.ParseEndpoint(text)
		switch {
		case err != nil || t.Port == 0: // no profile has it
		case t.Wildcard:
			l.Wild = append(l.Wild, t)
		default:
			exact = append(exact, t)
		}
	}
	names := map[string]netip.Addr{}
	for _, t := range exact {
		if t.Addr.IsValid() {
			l.add(t.Addr, t)
			continue
		}
		if _, ok := names[t.Host]; !ok {
			n := len(names)
			names[t.Host] = netip.AddrFrom4([4]byte{127, 77, byte(n / perNet), byte(1 + n%perNet)})
			l.Names = append(l.Names, Name{names[t.Host], t.Host})
			for _, under := range l.Under(t.Host) { // its wildcard's ports are its own, too
				l.add(names[t.Host], under)
			}
		}
		l.add(names[t.Host], t)
	}
	return l
}

// add adds a listener, unless it is there.
func (l *Layout) add(at netip.Addr, to grant.Target) {
	one := Listener{netip.AddrPortFrom(at, to.Port), to}
	if !slices.Contains(l.Listeners, one) {
		l.Listeners = append(l.Listeners, one)
	}
}

// Under gives what the wildcards let a name be reached by, empty where none
// covers it. The name is in lower case and without its final dot.
func (l Layout) Under(host string) []grant.Target {
	var out []grant.Target
	for _, w := range l.Wild {
		t := grant.Target{UDP: w.UDP, Host: host, Port: w.Port}
		if w.Covers(t) && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

// Six says whether a listener stands at an IPv6 address.
func (l Layout) Six() bool {
	return slices.ContainsFunc(l.Listeners, func(one Listener) bool { return one.At.Addr().Is6() })
}

// Ports are the TCP ports that can be reached, sorted.
func (l Layout) Ports() []uint16 {
	var out []uint16
	for _, one := range l.Listeners {
		if !one.To.UDP {
			out = append(out, one.At.Port())
		}
	}
	for _, w := range l.Wild {
		if !w.UDP {
			out = append(out, w.Port)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Host gives the name that an address stands for.
func (l Layout) Host(a netip.Addr) (string, bool) {
	for _, n := range l.Names {
		if n.Addr == a {
			return n.Host, true
		}
	}
	return "", false
}

// Own says whether an address is the plugin's own loopback, which is nobody
// else's business.
func Own(a netip.Addr) bool { return a.IsLoopback() && !stand().Contains(a) && !WasLeased(a) }

// WasLeased says whether an address is one that names under wildcards get.
func WasLeased(a netip.Addr) bool {
	four, six := leased()
	return four.Contains(a) || six.Contains(a)
}
