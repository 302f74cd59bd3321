// Package layout says where in a plugin's network namespace the places are that
// its plan grants: which address stands for which name. It is pure, and the
// same for the files that the plugin sees and for the listeners.
package layout

import (
	"net/netip"
	"slices"

	"github.com/cordonhq/cordon/profiles/grant"
)

// Listener is one place that can be reached.
type Listener struct {
	// At is where the plugin connects to.
	At netip.AddrPort
	// To is where that leads.
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
}

// stand is the network in which addresses stand for names. It is loopback: what
// a program sends there leaves no machine, whatever else fails.
func stand() netip.Prefix { return netip.MustParsePrefix("127.77.0.0/16") }

// perNet is how many addresses of each 256 are used: neither the first nor the
// last few.
const perNet = 250

// Of lays out the places of a plan. A name has one address for all its ports; a
// literal address is itself.
func Of(egress []string) Layout {
	var l Layout
	names := map[string]netip.Addr{}
	sorted := slices.Clone(egress)
	slices.Sort(sorted)
	for _, text := range sorted {
		t, err := grant.ParseEndpoint(text)
		if err != nil || t.Wildcard || t.UDP || t.Port == 0 { // no profile has it
			continue
		}
		at := t.Addr
		if !at.IsValid() {
			if names[t.Host] == (netip.Addr{}) {
				n := len(names)
				names[t.Host] = netip.AddrFrom4([4]byte{127, 77, byte(n / perNet), byte(1 + n%perNet)})
				l.Names = append(l.Names, Name{names[t.Host], t.Host})
			}
			at = names[t.Host]
		}
		l.Listeners = append(l.Listeners, Listener{netip.AddrPortFrom(at, t.Port), t})
	}
	return l
}

// Ports are the TCP ports that can be reached, sorted.
func (l Layout) Ports() []uint16 {
	var out []uint16
	for _, one := range l.Listeners {
		if !slices.Contains(out, one.At.Port()) {
			out = append(out, one.At.Port())
		}
	}
	slices.Sort(out)
	return out
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
func Own(a netip.Addr) bool { return a.IsLoopback() && !stand().Contains(a) }
