// Package grant knows what a capability may be granted for, and when one grant
// covers another: the order in which parameters are attenuated. It is plain
// data and pure functions; what serves the capabilities is the broker's.
package grant

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Kind is what the targets of a capability are.
type Kind uint8

// The kinds of targets.
const (
	None     Kind = iota // takes no target
	Path                 // "r:/srv/photos" or "rw:/srv/photos"; without a prefix it is "r:"
	Word                 // a name such as "api-key", or "photos.*" for all that begin so
	Endpoint             // "api.example.com:443", "*.example.org:443", "10.0.0.5:5432", "[2001:db8::1]:53", "udp:ntp.example.com:123"
	Address              // to listen at: "127.0.0.1:8080", "[::]:443"
)

// Spec is one capability as grammar: its name, what its targets are, and a
// sentence for people.
type Spec struct {
	Name string
	Kind Kind
	Text string
}

// Egress is the name under which the places of [network] egress are granted,
// revoked and recorded.
const Egress = "egress"

// Listen is the same for the addresses of [network] listen.
const Listen = "listen"

// Specs are all capabilities, by name. The broker's catalogue serves these and
// no others; a test of it holds the two together.
func Specs() []Spec {
	return []Spec{
		{"data", None, "says how much of its own data directory the plugin uses, and how much it may"},
		{Egress, Endpoint, "what [network] egress grants: places that programs reach by name"},
		{"fs.open", Path, "opens one file beneath a granted directory of the host"},
		{"host.call", Word, "calls a function that an application of the host serves"},
		{"kv", None, "a small transactional store of the plugin's own, kept between starts"},
		{Listen, Address, "what [network] listen grants: addresses of the host at which a plugin is connected to by sockets that it has from its start"},
		{"log", None, "writes structured records to the plugin's log"},
		{"metric", None, "counts and measures, under names of the plugin's own"},
		{"net.dial", Endpoint, "connects to a place and hands the connection over"},
		{"net.listen", Address, "listens at an address of the host and hands the listening socket over"},
		{"secret.read", Word, "reads a secret that the host keeps under a name"},
	}
}

// Names lists every capability, sorted.
func Names() []string {
	specs := Specs()
	out := make([]string, len(specs))
	for i, s := range specs {
		out[i] = s.Name
	}
	return out
}

// Find gives the spec of a name.
func Find(name string) (Spec, bool) {
	for _, s := range Specs() {
		if s.Name == name {
			return s, true
		}
	}
	return Spec{}, false
}

// The bounds of targets.
const (
	maxTarget = 1024 // bytes of one
	maxHost   = 253  // bytes of a host name; RFC 1035, 2.3.4
	maxLabel  = 63
)

// Check says what is wrong with a target of a capability.
func (s Spec) Check(target string) error {
	if len(target) > maxTarget || strings.ContainsFunc(target, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		return fmt.Errorf("expected at most %d bytes without control characters", maxTarget)
	}
	switch s.Kind {
	case None:
		return fmt.Errorf("%s takes no target", s.Name)
	case Path:
		_, _, err := splitPath(target)
		return err
	case Word:
		return checkWord(target)
	case Endpoint:
		_, err := ParseEndpoint(target)
		return err
	case Address:
		_, err := ParseAddress(target)
		return err
	}
	return errors.New("unknown kind of target")
}

// Covers says whether a grant for outer gives everything that one for inner
// does. Targets that Check refuses cover nothing and are covered by nothing.
func (s Spec) Covers(outer, inner string) bool {
	switch s.Kind {
	case Path:
		return coversPath(outer, inner)
	case Word:
		return checkWord(outer) == nil && checkWord(inner) == nil && coversWord(outer, inner)
	case Endpoint:
		o, errO := ParseEndpoint(outer)
		i, errI := ParseEndpoint(inner)
		return errO == nil && errI == nil && o.Covers(i)
	case Address:
		o, errO := ParseAddress(outer)
		i, errI := ParseAddress(inner)
		return errO == nil && errI == nil && o.Addr == i.Addr && (o.Port == 0 || o.Port == i.Port)
	case None:
	}
	return false
}

// SplitPath gives the two parts of a Path target: whether it may be written,
// and the directory or file of the host.
func SplitPath(target string) (write bool, at string, err error) { return splitPath(target) }

func splitPath(target string) (write bool, at string, err error) {
	at = target
	if rights, rest, ok := strings.Cut(target, ":"); ok && !strings.HasPrefix(target, "/") {
		if rights != "r" && rights != "rw" {
			return false, "", fmt.Errorf(`expected a path such as "r:/srv/photos" or "rw:/srv/out", got %q`, clip(target))
		}
		write, at = rights == "rw", rest
	}
	if !strings.HasPrefix(at, "/") || path.Clean(at) != at || at == "/" {
		return false, "", fmt.Errorf("expected an absolute path without '..', and not /, got %q", clip(at))
	}
	return write, at, nil
}

func coversPath(outer, inner string) bool {
	ow, op, errO := splitPath(outer)
	iw, ip, errI := splitPath(inner)
	return errO == nil && errI == nil && (ow || !iw) && (ip == op || strings.HasPrefix(ip, op+"/"))
}

func checkWord(s string) error {
	body := strings.TrimSuffix(s, "*")
	ok := s != "" && s == "*" || body != ""
	for _, r := range body {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' || r == '/')
	}
	if !ok || len(s) > 128 {
		return fmt.Errorf("expected a name of letters, digits, '.', '-', '_' and '/', with or without '*' at its end, got %q", clip(s))
	}
	return nil
}

func coversWord(outer, inner string) bool {
	if prefix, ok := strings.CutSuffix(outer, "*"); ok {
		return strings.HasPrefix(strings.TrimSuffix(inner, "*"), prefix)
	}
	return outer == inner
}

// Target is one place that may be reached.
type Target struct {
	UDP bool
	// Host is a name in lower case without its final dot; empty with an Addr.
	// With Wildcard it is what the name must end in: "*.example.org" has
	// "example.org" and covers every name below it but not itself, "*" has "".
	Host     string
	Wildcard bool
	// Addr is a literal address: granted as such, whatever range it is in.
	Addr netip.Addr
	Port uint16 // 0 is every port
}

// ParseEndpoint reads "[udp:]HOST:PORT", a place to connect to. PORT is a number
// or "*".
func ParseEndpoint(s string) (Target, error) {
	t, err := parse(s)
	if err == nil {
		err = t.one()
	}
	return t, err
}

// one refuses an address that no single host has. The unspecified one is the
// trap among them: to listen at it is to listen everywhere, and to connect to it
// is to connect to whatever the host serves to itself.
func (t Target) one() error {
	switch a := t.Addr; {
	case !a.IsValid():
		return nil
	case a.IsUnspecified():
		loopback := "127.0.0.1"
		if a.Is6() {
			loopback = "[::1]"
		}
		return fmt.Errorf("%s is no place to connect to: it would lead to this host's own services; write %s where that is meant", a, loopback)
	case a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is no place to connect to: it stands for many hosts at once", a)
	}
	return nil
}

func parse(s string) (Target, error) {
	var t Target
	rest, udp := strings.CutPrefix(s, "udp:")
	t.UDP = udp
	at := strings.LastIndexByte(rest, ':')
	if at < 0 {
		return t, fmt.Errorf(`expected a host and a port such as "api.example.com:443", got %q`, clip(s))
	}
	host, port := rest[:at], rest[at+1:]
	if port != "*" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || port != strconv.FormatUint(n, 10) {
			return t, fmt.Errorf("expected a port from 1 to 65535 or *, got %q", clip(port))
		}
		t.Port = uint16(n)
	}
	return t, t.host(host)
}

// ParseAddress reads "ADDRESS:PORT", where something may listen: an address of
// the host, or 0.0.0.0 or [::] for all of them. PORT is a number or "*".
func ParseAddress(s string) (Target, error) {
	if strings.HasPrefix(s, "/") || strings.HasPrefix(s, "@") {
		return Target{}, fmt.Errorf("cannot listen at %q: by a unix socket that was handed over whoever connects passes descriptors in, and by one that is relayed a server takes the daemon for its client; "+
			"listen at a loopback address, or let programs of the host call the plugin over the control socket", clip(s))
	}
	t, err := parse(s)
	switch {
	case err == nil && t.UDP:
		err = fmt.Errorf("cannot listen at %q: only TCP is passed on to a plugin", clip(s))
	case err == nil && !t.Addr.IsValid():
		err = fmt.Errorf(`expected an address and a port such as "127.0.0.1:8080" or "[::]:443", got %q`, clip(s))
	case err == nil && t.Addr.IsMulticast():
		err = fmt.Errorf("cannot listen at %q: %s stands for many hosts at once", clip(s), t.Addr)
	}
	return t, err
}

func (t *Target) host(host string) error {
	if literal, ok := strings.CutPrefix(host, "["); ok {
		literal, ok = strings.CutSuffix(literal, "]")
		addr, err := netip.ParseAddr(literal)
		if !ok || err != nil || !addr.Is6() || addr.Zone() != "" || addr.Is4In6() {
			return fmt.Errorf("expected an IPv6 address in brackets, got %q", clip(host))
		}
		t.Addr = addr
		return nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if !addr.Is4() {
			return fmt.Errorf("write the IPv6 address in brackets: [%s]", clip(host))
		}
		t.Addr = addr
		return nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "*" {
		t.Wildcard = true
		return nil
	}
	name, t.Wildcard = strings.CutPrefix(name, "*.")
	t.Host = name
	return checkHost(name)
}

func checkHost(name string) error {
	labels := strings.Split(name, ".")
	ok := name != "" && len(name) <= maxHost
	for _, label := range labels {
		ok = ok && label != "" && len(label) <= maxLabel && label[0] != '-' && label[len(label)-1] != '-'
		for _, r := range label {
			ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		}
	}
	last := labels[len(labels)-1]
	if !ok || strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") { // what inet_aton(3) takes for an address
		return fmt.Errorf("expected a host name, an address or a wildcard such as *.example.org, got %q", clip(name))
	}
	return nil
}

// special are the ranges that are not the public internet although
// netip.Addr's own predicates do not say so; the IANA special-purpose address
// registries (RFC 6890), and what of IPv6 leads back to an IPv4 address.
func special() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", // with the broadcast address
		"168.63.129.16/32", // a public address by its number, and in one cloud what 169.254.169.254 is in the others
		"::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Public says whether an address is one of the public internet: not private,
// loopback, link-local (where clouds keep their metadata), multicast or set
// aside for something else.
func Public(a netip.Addr) bool {
	if a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return false
	}
	return !slices.ContainsFunc(special(), func(p netip.Prefix) bool { return p.Contains(a) })
}

// Covers says whether everything that inner reaches is reached by t. A wildcard
// never covers an address that is not public: that is granted by itself.
func (t Target) Covers(inner Target) bool {
	if t.UDP != inner.UDP || t.Port != 0 && t.Port != inner.Port {
		return false
	}
	switch {
	case t.Addr.IsValid() || inner.Addr.IsValid():
		return t.Addr == inner.Addr || t.Wildcard && t.Host == "" && inner.Addr.IsValid() && Public(inner.Addr)
	case t.Wildcard:
		return t.Host == "" || strings.HasSuffix(inner.Host, "."+t.Host) || inner.Wildcard && inner.Host == t.Host
	default:
		return !inner.Wildcard && t.Host == inner.Host
	}
}

// String is the target as ParseEndpoint reads it.
func (t Target) String() string {
	host := t.Host
	switch {
	case t.Addr.Is6():
		host = "[" + t.Addr.String() + "]"
	case t.Addr.IsValid():
		host = t.Addr.String()
	case t.Wildcard && t.Host == "":
		host = "*"
	case t.Wildcard:
		host = "*." + t.Host
	}
	port := "*"
	if t.Port != 0 {
		port = strconv.Itoa(int(t.Port))
	}
	if t.UDP {
		return "udp:" + host + ":" + port
	}
	return host + ":" + port
}

// Meet attenuates: of two lists of targets it gives what both allow, sorted and
// without what another entry covers.
func (s Spec) Meet(a, b []string) []string {
	var out []string
	add := func(t string) {
		if slices.ContainsFunc(out, func(have string) bool { return s.Covers(have, t) }) {
			return
		}
		out = slices.DeleteFunc(out, func(have string) bool { return s.Covers(t, have) })
		out = append(out, t)
	}
	for _, x := range a {
		for _, y := range b {
			if both, ok := s.both(x, y); ok {
				add(both)
			}
		}
	}
	slices.Sort(out)
	return out
}

// both is what two targets have in common: the narrower of them, or for
// targets with two sides the narrower of each.
func (s Spec) both(x, y string) (string, bool) {
	switch {
	case s.Covers(x, y):
		return y, true
	case s.Covers(y, x):
		return x, true
	case s.Kind == Path:
		return bothPaths(x, y)
	case s.Kind == Endpoint:
		return bothPlaces(x, y)
	}
	return "", false
}

// bothPaths is for "rw:/a/b" and "r:/a", where neither covers the other.
func bothPaths(x, y string) (string, bool) {
	_, xp, errX := splitPath(x)
	_, yp, errY := splitPath(y)
	switch {
	case errX != nil || errY != nil:
		return "", false
	case coversPath("r:"+xp, "r:"+yp):
		return "r:" + yp, true
	case coversPath("r:"+yp, "r:"+xp):
		return "r:" + xp, true
	}
	return "", false
}

// bothPlaces is for "*.example.org:443" and "a.example.org:*".
func bothPlaces(x, y string) (string, bool) {
	a, errA := ParseEndpoint(x)
	b, errB := ParseEndpoint(y)
	if errA != nil || errB != nil || a.UDP != b.UDP || a.Port != 0 && b.Port != 0 && a.Port != b.Port {
		return "", false
	}
	port := max(a.Port, b.Port)
	a.Port, b.Port = port, port
	switch {
	case a.Covers(b):
		return b.String(), true
	case b.Covers(a):
		return a.String(), true
	}
	return "", false
}

func clip(s string) string {
	if r := []rune(s); len(r) > 80 {
		return string(r[:80]) + "..."
	}
	return s
}
