package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/cordonhq/cordon/supervisor/egress/layout"
)

// nameDesk is an answerer whose listeners are only written down.
type nameDesk struct {
	*answerer
	at      time.Time
	opened  []string
	shut    int
	refused []string
	fail    error
}

func newNameDesk(egress ...string) *nameDesk {
	d := &nameDesk{at: time.Unix(1e9, 0)}
	now := func() time.Time { return d.at }
	d.answerer = &answerer{
		layout: layout.Of(egress), now: now, six: true, names: map[string]*leased{}, said: map[string]time.Time{},
		fresh: newBucket(now, nameRate), few: newBucket(now, attemptRate),
		open: func(wanted []layout.Listener) ([]door, error) {
			for _, w := range wanted {
				d.opened = append(d.opened, w.At.String()+"="+w.To.String())
			}
			return make([]door, len(wanted)), d.fail
		},
		shut:   func([]door) { d.shut++ },
		refuse: func(host string) { d.refused = append(d.refused, host) },
		log:    func(string) {},
	}
	return d
}

// ask puts a question and gives the answer in words.
func (d *nameDesk) ask(t testing.TB, name string, kind dnsmessage.Type) string {
	t.Helper()
	q := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	packed, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(d.reply(packed, make([]byte, 0, maxQuestion))); err != nil {
		t.Fatal(err)
	}
	if m.ID != 7 || !m.Response || len(m.Questions) != 1 || m.Questions[0] != q.Questions[0] {
		t.Fatalf("the answer is to something else: %+v", m)
	}
	said := strings.TrimPrefix(m.RCode.String(), "RCode")
	for _, a := range m.Answers {
		switch body := a.Body.(type) {
		case *dnsmessage.AResource:
			said += " " + netip.AddrFrom4(body.A).String()
		case *dnsmessage.AAAAResource:
			said += " " + netip.AddrFrom16(body.AAAA).String()
		}
	}
	return said
}

func TestAnswers(t *testing.T) {
	d := newNameDesk("a.example:443", "*.wild.example:443", "*.wild.example:80", "udp:*.wild.example:123", "b.wild.example:22")
	for _, c := range []struct {
		name string
		kind dnsmessage.Type
		want string
	}{
		{"a.example.", dnsmessage.TypeA, "Success 127.77.0.1"},
		{"A.Example.", dnsmessage.TypeA, "Success 127.77.0.1"},
		{"a.example.", dnsmessage.TypeAAAA, "Success"},
		{"x.wild.example.", dnsmessage.TypeA, "Success 127.78.0.1"},
		{"x.wild.example.", dnsmessage.TypeAAAA, "Success 100::1"},
		{"x.WILD.example.", dnsmessage.TypeA, "Success 127.78.0.1"},
		{"x.wild.example.", dnsmessage.TypeTXT, "Success"},
		{"x.wild.example.", dnsmessage.TypeHTTPS, "Success"},
		{"b.wild.example.", dnsmessage.TypeA, "Success 127.77.0.2"},
		{"y.x.wild.example.", dnsmessage.TypeA, "Success 127.78.0.2"},
		{"wild.example.", dnsmessage.TypeA, "Refused"},
		{"xwild.example.", dnsmessage.TypeA, "Refused"},
		{"c2VjcmV0.tunnel.example.com.", dnsmessage.TypeTXT, "Refused"},
		{"*.wild.example.", dnsmessage.TypeA, "Refused"},
		{"a b.wild.example.", dnsmessage.TypeA, "Refused"},
		{"a\x00.wild.example.", dnsmessage.TypeA, "Refused"},
		{"1.2.3.4.", dnsmessage.TypeA, "Refused"},
		{".", dnsmessage.TypeNS, "Refused"},
	} {
		if got := d.ask(t, c.name, c.kind); got != c.want {
			t.Errorf("%q %v is answered %q and not %q", c.name, c.kind, got, c.want)
		}
	}
	want := "127.78.0.1:443=x.wild.example:443 [100::1]:443=x.wild.example:443 127.78.0.1:80=x.wild.example:80 [100::1]:80=x.wild.example:80 " +
		"127.78.0.1:123=udp:x.wild.example:123 [100::1]:123=udp:x.wild.example:123"
	if got := strings.Join(d.opened, " "); !strings.HasPrefix(got, want) || len(d.opened) != 12 {
		t.Errorf("opened are %s", got)
	}
	if got := strings.Join(d.refused, " "); !strings.Contains(got, "c2vjcmv0.tunnel.example.com") || strings.Contains(got, "x.wild") {
		t.Errorf("refused are %q", d.refused)
	}
	n := len(d.refused)
	for range 100 {
		d.ask(t, "c2VjcmV0.tunnel.example.com.", dnsmessage.TypeA)
	}
	if len(d.refused) != n {
		t.Errorf("one name is told of %d times", len(d.refused)-n+1)
	}
}

// TestNamesAreBounded: a plugin that asks for ever new names gets only so many,
// and none of them the address of another.
func TestNamesAreBounded(t *testing.T) {
	d := newNameDesk("*.wild.example:443")
	given := map[string]bool{}
	for i := range 5000 {
		said := d.ask(t, fmt.Sprintf("n%d.wild.example.", i), dnsmessage.TypeA)
		addr, ok := strings.CutPrefix(said, "Success ")
		if ok && given[addr] || !ok && said != "ServerFailure" {
			t.Fatalf("the %dth name is answered %q", i, said)
		}
		given[addr] = ok
		d.at = d.at.Add(time.Second / 10)
		if len(d.names) > maxNames {
			t.Fatalf("%d names have listeners", len(d.names))
		}
	}
	if d.shut == 0 || len(given) < maxNames*2 {
		t.Errorf("of %d names %d lost their listeners", len(given), d.shut)
	}
	for range maxNames + burst {
		d.ask(t, fmt.Sprintf("m%d.wild.example.", d.given), dnsmessage.TypeA)
	}
	if got := d.ask(t, "flood.wild.example.", dnsmessage.TypeA); got != "ServerFailure" {
		t.Errorf("after a flood: %q", got)
	}
	d.at, d.fail = d.at.Add(time.Hour), errors.New("no descriptors are left")
	if got := d.ask(t, "broken.wild.example.", dnsmessage.TypeA); got != "ServerFailure" || d.names["broken.wild.example"] != nil {
		t.Errorf("without listeners: %q", got)
	}
	d.given, d.fail = layout.MaxLeases, nil
	if got := d.ask(t, "last.wild.example.", dnsmessage.TypeA); got != "ServerFailure" {
		t.Errorf("after the last address: %q", got)
	}
}

func FuzzReply(f *testing.F) {
	for _, m := range []dnsmessage.Message{
		{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("x.wild.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}},
		{Header: dnsmessage.Header{OpCode: 5}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("x.wild.example."), Type: dnsmessage.TypeSOA, Class: dnsmessage.ClassINET}}},
		{Questions: []dnsmessage.Question{
			{Name: dnsmessage.MustNewName("x.wild.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
			{Name: dnsmessage.MustNewName("a.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassCHAOS},
		}},
		{Header: dnsmessage.Header{Response: true}},
	} {
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01")) // a name that points to itself
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > maxQuestion {
			return // is dropped before
		}
		d := newNameDesk("a.example:443", "*.wild.example:443")
		out := d.reply(msg, make([]byte, 0, maxQuestion))
		if out == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil || !m.Response || len(out) > maxQuestion || len(m.Answers) > 1 {
			t.Fatalf("%x is answered %x: %v", msg, out, err)
		}
		for _, a := range m.Answers {
			host := strings.ToLower(strings.TrimSuffix(a.Header.Name.String(), "."))
			if host != "a.example" && !strings.HasSuffix(host, ".wild.example") {
				t.Fatalf("an answer about %q", host)
			}
		}
		for _, o := range d.opened {
			if !strings.HasSuffix(o, ".wild.example:443") {
				t.Fatalf("a listener for %s", o)
			}
		}
	})
}
