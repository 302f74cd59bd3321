package egress

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/supervisor/egress/layout"
)

// The bounds of the answerer. What is asked beyond them is dropped or answered
// with an error that says to try again.
const (
	maxQuestion = 512              // bytes of one message; RFC 1035, 4.2.1
	nameTTL     = 5                // seconds: a name may get another address
	maxNames    = 256              // with listeners at once
	nameRest    = 60 * time.Second // for which a name at least keeps them
	nameRate    = 16               // names that are new to it, a second
	saidAgain   = 10 * time.Second // after which a refused name is told of again
	maxSaid     = 64
)

// leased is a name under a wildcard with the addresses that stand for it.
type leased struct {
	host      string
	four, six netip.Addr // six is invalid where the kernel has no IPv6
	doors     []door
	asked     time.Time
}

// answerer answers a plugin's questions for names. It knows the places that
// the plan grants and nothing else, and asks nobody: what a name leads to is
// looked up when something connects to it, and not before. So a question
// carries nothing out of the namespace, whatever it is.
type answerer struct {
	layout layout.Layout
	now    func() time.Time
	open   func(wanted []layout.Listener) ([]door, error)
	shut   func(doors []door)
	refuse func(host string)
	log    func(text string)
	six    bool

	fresh, few *bucket
	given      int // addresses, which are never given twice
	names      map[string]*leased
	said       map[string]time.Time // refused names, and when that was told
}

func (r *Relay) newAnswerer(six bool) *answerer {
	return &answerer{
		layout: r.layout, now: r.o.Now, open: r.openLater, shut: r.shut, log: r.o.Log, six: six,
		refuse: func(host string) {
			r.o.Grants.Denied("dns:"+host, "nothing in network.egress has that name", false)
		},
		fresh: newBucket(r.o.Now, nameRate), few: newBucket(r.o.Now, attemptRate),
		names: map[string]*leased{}, said: map[string]time.Time{},
	}
}

// serve answers until the socket is closed; pause is for when reading fails.
func (a *answerer) serve(c *net.UDPConn, pause func()) {
	in, out := make([]byte, maxQuestion+1), make([]byte, 0, maxQuestion)
	for {
		n, from, err := c.ReadFromUDPAddrPort(in)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			pause()
			continue
		}
		if n > maxQuestion {
			continue
		}
		if reply := a.reply(in[:n], out); reply != nil {
			_, _ = c.WriteToUDPAddrPort(reply, from) // who asks again is answered again
		}
	}
}

// reply gives the answer to one message, nil for none: to what is no question.
// It is built in buf, which has room for any.
func (a *answerer) reply(msg, buf []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.Response {
		return nil
	}
	head := dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true}
	q, err := p.Question()
	if err == nil {
		if _, more := p.Question(); !errors.Is(more, dnsmessage.ErrSectionDone) {
			err = errors.New("more than one question")
		}
	}
	switch {
	case err != nil:
		head.RCode = dnsmessage.RCodeFormatError
		return build(head, buf, nil, netip.Addr{})
	case h.OpCode != 0:
		head.RCode = dnsmessage.RCodeNotImplemented
		return build(head, buf, &q, netip.Addr{})
	case q.Class != dnsmessage.ClassINET:
		head.RCode = dnsmessage.RCodeRefused
		return build(head, buf, &q, netip.Addr{})
	}
	four, six, code := a.find(q.Name.String())
	head.RCode = code
	switch q.Type { //nolint:exhaustive // of every other type a name has none
	case dnsmessage.TypeA:
		return build(head, buf, &q, four)
	case dnsmessage.TypeAAAA:
		return build(head, buf, &q, six)
	}
	return build(head, buf, &q, netip.Addr{})
}

// build writes an answer with at most one address.
func build(head dnsmessage.Header, buf []byte, q *dnsmessage.Question, a netip.Addr) []byte {
	b := dnsmessage.NewBuilder(buf[:0], head)
	b.EnableCompression()
	var errs []error
	if q != nil {
		errs = append(errs, b.StartQuestions(), b.Question(*q))
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: nameTTL}
		switch {
		case a.Is4():
			errs = append(errs, b.StartAnswers(), b.AResource(h, dnsmessage.AResource{A: a.As4()}))
		case a.Is6():
			errs = append(errs, b.StartAnswers(), b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()}))
		}
	}
	out, err := b.Finish()
	if errors.Join(append(errs, err)...) != nil {
		return nil // a name that cannot be written cannot have been read
	}
	return out
}

// find gives the addresses that stand for a name.
func (a *answerer) find(asked string) (four, six netip.Addr, code dnsmessage.RCode) {
	host := strings.ToLower(strings.TrimSuffix(asked, "."))
	if i := slices.IndexFunc(a.layout.Names, func(n layout.Name) bool { return n.Host == host }); i >= 0 {
		return a.layout.Names[i].Addr, six, dnsmessage.RCodeSuccess
	}
	if have := a.names[host]; have != nil {
		have.asked = a.now()
		return have.four, have.six, dnsmessage.RCodeSuccess
	}
	var under []grant.Target
	if t, err := grant.ParseEndpoint(host + ":1"); err == nil && t.Host == host && !t.Wildcard { // a host name and nothing else
		under = a.layout.Under(host)
	}
	if len(under) == 0 {
		a.refused(host)
		return four, six, dnsmessage.RCodeRefused
	}
	l := a.lease(host, under)
	if l == nil {
		return four, six, dnsmessage.RCodeServerFailure
	}
	return l.four, l.six, dnsmessage.RCodeSuccess
}

// refused tells of a name that nothing grants: not of each question, for a
// program asks for every kind of address, and again.
func (a *answerer) refused(host string) {
	now := a.now()
	if at, ok := a.said[host]; ok && now.Sub(at) < saidAgain {
		return
	}
	if !a.few.take() {
		return
	}
	if len(a.said) >= maxSaid {
		clear(a.said)
	}
	a.said[host] = now
	a.refuse(host)
}

// lease gives a name addresses, with a listener for each of its places; nil if
// there are too many names.
func (a *answerer) lease(host string, under []grant.Target) *leased {
	if a.given >= layout.MaxLeases || !a.room() || !a.fresh.take() {
		return nil
	}
	l := &leased{host: host, asked: a.now()}
	l.four, l.six = layout.Leased(a.given)
	a.given++
	if !a.six {
		l.six = netip.Addr{}
	}
	var wanted []layout.Listener
	for _, t := range under {
		wanted = append(wanted, layout.Listener{At: netip.AddrPortFrom(l.four, t.Port), To: t})
		if l.six.IsValid() {
			wanted = append(wanted, layout.Listener{At: netip.AddrPortFrom(l.six, t.Port), To: t})
		}
	}
	var err error
	if l.doors, err = a.open(wanted); err != nil {
		a.log("cannot open the places of " + host + ": " + err.Error())
		return nil
	}
	a.names[host] = l
	return l
}

// room takes the listeners of the name that nobody has asked for longest, if
// there are too many. What is connected stays so.
func (a *answerer) room() bool {
	if len(a.names) < maxNames {
		return true
	}
	var oldest *leased
	for _, l := range a.names {
		if oldest == nil || l.asked.Before(oldest.asked) {
			oldest = l
		}
	}
	if a.now().Sub(oldest.asked) < nameRest {
		return false
	}
	delete(a.names, oldest.host)
	a.shut(oldest.doors)
	return true
}
