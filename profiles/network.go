package profiles

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/profiles/strict"
	"github.com/cordonhq/cordon/seccomp"
)

// maxEgress bounds the places of one profile, and maxTargets those of one grant.
const (
	maxEgress  = 256
	maxTargets = 256
)

// maxSocketName bounds the name of a listening socket, and ownSocket is that of
// the socket to the host, which comes before them.
const (
	maxSocketName = 64
	ownSocket     = "cordon"
)

// The budget of a grant that says nothing.
const (
	defaultRate       = 1000 // a second
	defaultConcurrent = 64
	maxConcurrent     = 65536
)

func (c *checker) network(doc *document) {
	if len(doc.Network.Egress) > maxEgress || len(doc.Network.Addresses) > maxEgress {
		c.fail("network", "", "too many entries: at most %d", maxEgress)
		return
	}
	for i, target := range append(slices.Clone(doc.Network.Egress), doc.Network.Remove...) {
		key := index("network.egress", i)
		if i >= len(doc.Network.Egress) {
			key = index("network.remove", i-len(doc.Network.Egress))
		}
		t, err := grant.ParseEndpoint(target)
		if _, listens := grant.ParseAddress(target); err != nil && listens == nil && i >= len(doc.Network.Egress) {
			continue // what an inherited profile listens at
		}
		if err != nil {
			c.fail(key, "", "%v", err)
		} else if t.Port == 0 {
			c.fail(key, "", "expected one port: a listener is opened for each, got %q", clip(target))
		}
	}
	c.listening(doc.Network.Listen)
	for i, network := range doc.Network.Addresses {
		p, err := netip.ParsePrefix(network)
		if err != nil || p.Masked() != p || p.Bits() == 0 {
			c.fail(index("network.addresses", i), "", "expected a network such as \"10.0.0.0/8\", got %q", clip(network))
		}
	}
}

// listening checks the listening sockets of one file.
func (c *checker) listening(list []string) {
	if len(list) > plan.MaxListen {
		c.fail("network.listen", "", "too many entries: a plugin starts with at most %d listening sockets", plan.MaxListen)
		return
	}
	at, name := map[string]bool{}, map[string]bool{}
	for i, text := range list {
		s, err := parseSocket(text)
		switch {
		case err != nil:
			c.fail(index("network.listen", i), "", "%v", err)
		case at[s.At]:
			c.fail(index("network.listen", i), "", "%s is there twice", s.At)
		case name[s.Name]:
			c.fail(index("network.listen", i), `write NAME=ADDRESS:PORT`, "the name %q is there twice", s.Name)
		}
		at[s.At], name[s.Name] = true, true
	}
}

// parseSocket reads "[NAME=]ADDRESS:PORT". Without a name it has that of its
// port. The characters of a name are those that LISTEN_FDNAMES and any shell
// take as they are.
func parseSocket(text string) (plan.Socket, error) {
	name, at, named := strings.Cut(text, "=")
	if !named {
		name, at = "", text
	}
	t, err := grant.ParseAddress(at)
	switch {
	case err != nil:
		return plan.Socket{}, err
	case t.Port == 0:
		return plan.Socket{}, fmt.Errorf("expected one port: a socket listens there from the start, got %q", clip(at))
	case !named:
		name = strconv.Itoa(int(t.Port))
	}
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	}
	if name == "" || len(name) > maxSocketName || name == ownSocket || strings.ContainsFunc(name, bad) {
		return plan.Socket{}, fmt.Errorf("expected a name of at most %d letters, digits, '.', '_' and '-' before the =, and not %q, got %q", maxSocketName, ownSocket, clip(name))
	}
	return plan.Socket{Name: name, At: t.String()}, nil
}

func (c *checker) capabilities(doc *document) {
	for i := range doc.Capability {
		c.capability(index("capability", i), &doc.Capability[i])
	}
}

func (c *checker) capability(at string, t *capabilityTable) {
	spec, ok := grant.Find(t.Name)
	if !ok {
		hint := "known are " + strings.Join(grant.Names(), ", ")
		if near := strict.Nearest(t.Name, grant.Names()); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		c.fail(at+".name", hint, "unknown capability %q", clip(t.Name))
		return
	}
	if t.Name == grant.Egress || t.Name == grant.Listen {
		c.fail(at+".name", "", "write it as network.%s", t.Name)
		return
	}
	remove := t.Remove != nil && *t.Remove
	if spec.Kind != grant.None && len(t.Target) == 0 && !remove {
		c.fail(at+".target", "", "say what %s is granted for: it takes targets", t.Name)
	}
	if len(t.Target) > maxTargets {
		c.fail(at+".target", "", "too many targets: at most %d", maxTargets)
		return
	}
	for j, target := range t.Target {
		if err := spec.Check(target); err != nil {
			c.fail(index(at+".target", j), "", "%v", err)
		}
	}
	if t.Concurrent != nil && (*t.Concurrent < 1 || *t.Concurrent > maxConcurrent) {
		c.fail(at+".concurrent", "", "expected 1 to %d, got %d", maxConcurrent, *t.Concurrent)
	}
}

// network applies the places of one file.
func (b *builder) network(l *layer) {
	n := &l.doc.Network
	for _, target := range n.Remove {
		delete(b.egress, canonical(target))
		b.listen = slices.DeleteFunc(b.listen, func(s plan.Socket) bool { return s.At == canonical(target) })
	}
	for i, text := range n.Listen {
		b.socket(l, i, text)
	}
	for i, target := range n.Egress {
		t := canonical(target)
		b.egress[t] = true
		b.plan.Origins["network.egress."+t] = l.pos.Of(index("network.egress", i))
	}
	b.list(l, "network.addresses", b.addresses, n.Addresses, nil)
	b.origin(l, "network.egress", "network.listen")
}

// socket adds one listening socket: behind those that are there, or in the place
// of the one for the same address.
func (b *builder) socket(l *layer, i int, text string) {
	s, err := parseSocket(text)
	if err != nil { // it was checked when the file was read
		return
	}
	b.plan.Origins["network.listen."+s.At] = l.pos.Of(index("network.listen", i))
	if at := slices.IndexFunc(b.listen, func(have plan.Socket) bool { return have.At == s.At }); at >= 0 {
		b.listen[at] = s
		return
	}
	b.listen = append(b.listen, s)
}

// canonical is one spelling for each place; it was checked when the file was
// read.
func canonical(target string) string {
	t, err := grant.ParseEndpoint(target)
	if err != nil {
		t, err = grant.ParseAddress(target)
	}
	if err != nil {
		return target
	}
	return t.String()
}

// capabilities applies the grants of one file: they add up.
func (b *builder) capabilities(l *layer) {
	for i := range l.doc.Capability {
		t := &l.doc.Capability[i]
		if t.Remove != nil && *t.Remove {
			b.offers = slices.DeleteFunc(b.offers, func(c plan.Capability) bool { return c.Name == t.Name })
			continue
		}
		c := plan.Capability{Name: t.Name, Target: slices.Clone(t.Target), Budget: DefaultBudget(), Origin: l.pos.Of(index("capability", i))}
		slices.Sort(c.Target)
		if t.Rate != nil {
			c.Budget.Rate, c.Budget.Window = t.Rate.Count, t.Rate.Window
		}
		if t.Bytes != nil && *t.Bytes != strict.Unlimited {
			c.Budget.Bytes = int64(*t.Bytes)
		}
		set(&c.Budget.Concurrent, t.Concurrent)
		b.offers = append(b.offers, c)
	}
	b.origin(l, "capability")
}

// DefaultBudget is that of a grant that says nothing.
func DefaultBudget() plan.Budget {
	return plan.Budget{Rate: defaultRate, Window: time.Second, Concurrent: defaultConcurrent}
}

// capNetwork takes away what is above the ceiling.
func (b *builder) capNetwork() {
	for _, to := range sortedKeys(b.egress) {
		if !b.in.Ceiling.reaches(to) {
			b.refuse(plan.Refusal{
				Ask: "egress " + to, Why: "granted by " + b.plan.Origins["network.egress."+to], By: "ceiling",
				Hint: "no entry of ceiling.egress has it",
			})
			delete(b.egress, to)
		}
	}
	b.listen = slices.DeleteFunc(b.listen, func(s plan.Socket) bool {
		if b.in.Ceiling.listens(s.At) {
			return false
		}
		b.refuse(plan.Refusal{
			Ask: "listen " + s.At, Why: "granted by " + b.plan.Origins["network.listen."+s.At], By: "ceiling",
			Hint: "ceiling.listen or ceiling.capabilities does not have it",
		})
		return true
	})
	kept := b.offers[:0:0]
	for _, c := range b.offers {
		attenuated, lost := b.in.Ceiling.Attenuate(c)
		for _, what := range lost {
			b.refuse(plan.Refusal{Ask: strings.TrimSpace("capability " + c.Name + " " + what), Why: "granted by " + c.Origin, By: "ceiling", Hint: "the ceiling refuses it"})
		}
		if attenuated != nil {
			kept = append(kept, *attenuated)
		}
	}
	b.offers = kept
}

// reaches says whether the ceiling lets a place be reached.
func (c *Ceiling) reaches(target string) bool {
	if c.Egress == nil {
		return true
	}
	spec := grant.Spec{Kind: grant.Endpoint}
	return slices.ContainsFunc(c.Egress, func(most string) bool { return spec.Covers(most, target) })
}

// listens says whether the ceiling lets an address be listened at from the start.
func (c *Ceiling) listens(at string) bool {
	return (c.Capabilities == nil || slices.Contains(c.Capabilities, grant.Listen)) &&
		c.under(grant.Spec{Kind: grant.Address}, at)
}

// Attenuate gives what of a grant is under the ceiling, nil for nothing, and
// what is lost.
func (c *Ceiling) Attenuate(g plan.Capability) (under *plan.Capability, lost []string) {
	if c.Capabilities != nil && !slices.Contains(c.Capabilities, g.Name) {
		return nil, []string{strings.Join(g.Target, " ")}
	}
	spec, ok := grant.Find(g.Name)
	if !ok {
		return nil, []string{strings.Join(g.Target, " ")}
	}
	if spec.Kind == grant.None {
		return &g, nil
	}
	var kept []string
	for _, target := range g.Target {
		if c.under(spec, target) {
			kept = append(kept, target)
		} else {
			lost = append(lost, target)
		}
	}
	if len(kept) == 0 {
		return nil, lost
	}
	g.Target = kept
	return &g, lost
}

func (c *Ceiling) under(spec grant.Spec, target string) bool {
	switch spec.Kind {
	case grant.Path:
		write, at, err := grant.SplitPath(target)
		access := []string{"read_file"}
		if write {
			access = append(access, "write_file")
		}
		return err == nil && c.refuses(at, access) == ""
	case grant.Endpoint:
		return c.reaches(target)
	case grant.Address:
		return c.Listen == nil || slices.ContainsFunc(c.Listen, func(most string) bool { return spec.Covers(most, target) })
	case grant.None, grant.Word:
	}
	return true
}

// askCapability decides one ask: it gets what it asks for and the profile has
// both, and never more.
func (b *builder) askCapability(c manifest.Capability) {
	ask := strings.TrimSpace("capability " + c.Name + " " + strings.Join(c.Target, " "))
	spec, ok := grant.Find(c.Name)
	if !ok {
		b.refused(plan.Refusal{Ask: ask, Why: c.Why, By: "host"}, "refused by the host: it serves no such capability")
		return
	}
	for _, target := range c.Target {
		if err := spec.Check(target); err != nil {
			b.refused(plan.Refusal{Ask: ask, Why: c.Why, By: "host"}, "refused by the host: %v", err)
			return
		}
	}
	if c.Name == grant.Egress {
		b.askPlaces(spec, c, ask, sortedKeys(b.egress))
		return
	}
	if c.Name == grant.Listen {
		var at []string
		for _, s := range b.listen {
			at = append(at, s.At)
		}
		b.askPlaces(spec, c, ask, at)
		return
	}
	given := b.meet(spec, c)
	missing := slices.DeleteFunc(slices.Clone(c.Target), func(t string) bool {
		return slices.ContainsFunc(given, func(g plan.Capability) bool {
			return slices.ContainsFunc(g.Target, func(have string) bool { return spec.Covers(have, t) })
		})
	})
	b.plan.Capabilities = append(b.plan.Capabilities, given...)
	if len(given) > 0 && len(missing) == 0 {
		b.granted(ask, c.Why, "granted by %s", given[0].Origin)
		return
	}
	rest := plan.Refusal{Ask: strings.TrimSpace("capability " + c.Name + " " + strings.Join(missing, " ")), Why: c.Why, By: "profile", Hint: hintOf(c.Name, missing)}
	if len(given) > 0 {
		b.refused(rest, "granted in part, by %s: profile %s does not have %s", given[0].Origin, b.plan.Profile, strings.Join(missing, " "))
		return
	}
	b.refused(rest, "refused: profile %s has no such grant", b.plan.Profile)
}

// askPlaces decides an ask for places: what [network] egress and listen have
// holds for every program, asked for or not.
func (b *builder) askPlaces(spec grant.Spec, c manifest.Capability, ask string, places []string) {
	key := "network." + c.Name
	var missing []string
	for _, t := range c.Target {
		if !slices.ContainsFunc(places, func(have string) bool { return spec.Covers(have, t) }) {
			missing = append(missing, fmt.Sprintf("%q", canonical(t)))
		}
	}
	if len(missing) == 0 && len(places) > 0 {
		b.granted(ask, c.Why, "granted by %s", b.plan.Origins[key])
		return
	}
	b.refused(plan.Refusal{
		Ask: ask, Why: c.Why, By: "profile", Hint: "[network]\n" + c.Name + " = [" + strings.Join(missing, ", ") + "]\n",
	}, "refused: %s of profile %s does not have it", key, b.plan.Profile)
}

// hintOf is the TOML that would grant it.
func hintOf(name string, targets []string) string {
	hint := fmt.Sprintf("[[capability]]\nname = %q\n", name)
	if len(targets) > 0 {
		quoted := make([]string, len(targets))
		for i, t := range targets {
			quoted[i] = fmt.Sprintf("%q", t)
		}
		hint += "target = [" + strings.Join(quoted, ", ") + "]\n"
	}
	return hint
}

// meet gives, for each of the profile's grants, what it and an ask agree on.
// An ask without targets takes what there is.
func (b *builder) meet(spec grant.Spec, c manifest.Capability) []plan.Capability {
	var out []plan.Capability
	for _, offer := range b.offers {
		if offer.Name != c.Name {
			continue
		}
		offer.Why = c.Why
		if len(c.Target) > 0 {
			offer.Target = spec.Meet(offer.Target, c.Target)
		}
		if spec.Kind == grant.None || len(offer.Target) > 0 {
			out = append(out, offer)
		}
	}
	return out
}

// sockets checks what the files together have to listen at.
func (b *builder) sockets() error {
	if len(b.listen) > plan.MaxListen {
		return fmt.Errorf("network.listen: %d addresses in all, and a plugin starts with at most %d listening sockets", len(b.listen), plan.MaxListen)
	}
	for i, s := range b.listen {
		for _, other := range b.listen[:i] {
			if other.Name == s.Name {
				return fmt.Errorf("network.listen: the name %q is that of %s (%s) and of %s (%s): write NAME=ADDRESS:PORT",
					s.Name, other.At, b.plan.Origins["network.listen."+other.At], s.At, b.plan.Origins["network.listen."+s.At])
			}
		}
	}
	return nil
}

// finishNetwork writes the places down, and opens the calls that reach them.
func (b *builder) finishNetwork() {
	n := &b.plan.Network
	n.Egress = sortedKeys(b.egress)
	if len(n.Egress) == 0 {
		n.Egress = nil
	}
	n.Listen = b.listen
	dials := b.has("net.dial")
	if len(b.addresses) > 0 && (n.Egress != nil || dials) {
		n.Addresses = sortedKeys(b.addresses)
	}
	if n.Egress != nil {
		b.socketCalls()
	}
	if listens := n.Listen != nil || b.has("net.listen"); dials || listens {
		b.handedCalls(listens)
	}
}

// has says whether a capability was granted, whatever for.
func (b *builder) has(name string) bool {
	return slices.ContainsFunc(b.plan.Capabilities, func(c plan.Capability) bool { return c.Name == name })
}

// handedCalls are what a program needs to use a socket that it was handed, and
// none that makes one. Programs call listen on a socket that listens already.
func (b *builder) handedCalls(listens bool) {
	origin := b.plan.Origins["capability"]
	if b.plan.Network.Listen != nil {
		origin = b.plan.Origins["network.listen"]
	}
	names := []string{
		"accept", "accept4", "getpeername", "getsockname", "getsockopt", "poll", "ppoll", "recvfrom", "recvmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
	}
	if listens {
		names = append(names, "listen")
	}
	for _, name := range names {
		if b.removed[name] == "" && !b.calls.may(name) {
			one := allowed(name, origin)
			b.calls.say(name, &one)
		}
	}
}

// socketCalls are what a program needs to use a network: stream and datagram
// sockets of the internet families, and asking for the interfaces, which name
// look-ups do. What they reach is the namespace's to bound. A call that a
// profile denies by name stays denied.
func (b *builder) socketCalls() {
	origin := b.plan.Origins["network.egress"]
	for _, name := range []string{
		"bind", "connect", "getpeername", "getsockname", "getsockopt", "poll", "ppoll", "recvfrom", "recvmsg", "sendmmsg", "sendmsg", "sendto",
		"setsockopt", "shutdown", "socket",
	} {
		if b.removed[name] == "" && !b.calls.may(name) {
			one := allowed(name, origin)
			b.calls.say(name, &one)
		}
	}
	socket := b.calls.of("socket")
	if socket == nil || b.calls.open("socket") {
		return
	}
	opened := &call{guarded: socket.guarded, origin: socket.origin, key: socket.key}
	for _, r := range socket.rules {
		if !aboutInternet(r) {
			opened.rules = append(opened.rules, r)
		}
	}
	for _, family := range []uint64{unix.AF_INET, unix.AF_INET6} {
		for _, one := range [][2]uint64{{unix.SOCK_STREAM, 0}, {unix.SOCK_STREAM, unix.IPPROTO_TCP}, {unix.SOCK_DGRAM, 0}, {unix.SOCK_DGRAM, unix.IPPROTO_UDP}} {
			opened.rules = append(opened.rules, allowIf(eq(0, family), masked(1, 0xf, one[0]), eq(2, one[1])))
		}
		// Landlock knows TCP and nothing of Multipath TCP; programs that try that
		// first, as Go does, go on without.
		opened.rules = append(opened.rules, seccomp.Rule{Args: []seccomp.Condition{eq(0, family), eq(2, unix.IPPROTO_MPTCP)}, Action: seccomp.ActErrno, Errno: "EPROTONOSUPPORT"})
	}
	if !slices.ContainsFunc(opened.rules, func(r seccomp.Rule) bool { return hasArg(r, 0, unix.AF_NETLINK) }) {
		opened.rules = append(opened.rules, allowIf(eq(0, unix.AF_NETLINK), eq(2, unix.NETLINK_ROUTE)))
	}
	b.calls.say("socket", opened)
}

// aboutInternet says whether a rule is about a family that egress opens.
func aboutInternet(r seccomp.Rule) bool {
	return hasArg(r, 0, unix.AF_INET) || hasArg(r, 0, unix.AF_INET6)
}

func hasArg(r seccomp.Rule, at uint, value uint64) bool {
	return slices.ContainsFunc(r.Args, func(c seccomp.Condition) bool {
		return c.Index == at && c.Op == seccomp.OpEqual && c.Value == value
	})
}

func (s *shower) network() {
	if len(s.b.egress) > 0 { // in the table that mode began
		s.scalar("network.egress", "egress", quotes(sortedKeys(s.b.egress)))
	}
	if len(s.b.listen) > 0 {
		var list []string
		for _, one := range s.b.listen {
			list = append(list, one.Name+"="+one.At)
		}
		s.scalar("network.listen", "listen", quotes(list))
	}
	if len(s.b.addresses) > 0 {
		s.scalar("network.addresses", "addresses", quotes(sortedKeys(s.b.addresses)))
	}
	for _, c := range s.b.offers {
		s.heading = "[[capability]]"
		s.line("name = "+quote(c.Name), c.Origin)
		if len(c.Target) > 0 {
			s.line("target = "+quotes(c.Target), c.Origin)
		}
		s.line(fmt.Sprintf("rate = %q", rateText(c.Budget)), c.Origin)
		if c.Budget.Bytes > 0 {
			s.line(fmt.Sprintf("bytes = %d", c.Budget.Bytes), c.Origin)
		}
		s.line(fmt.Sprintf("concurrent = %d", c.Budget.Concurrent), c.Origin)
	}
}

func rateText(b plan.Budget) string {
	unit := map[time.Duration]string{time.Second: "s", time.Minute: "min", time.Hour: "h", 24 * time.Hour: "d"}[b.Window]
	return fmt.Sprintf("%d/%s", b.Rate, unit)
}
