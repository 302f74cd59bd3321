package egress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/egress/layout"
)

// wait is the end of patience.
const wait = time.Minute

// rights are grants that a test decides about.
type rights struct {
	mu     sync.Mutex
	notes  []string
	denied []string
	cuts   []func()
	left   int64 // bytes; negative is without bound
	no     bool
	noted  chan string
	gate   chan struct{} // if set, no lease is decided before it is closed
}

func newRights() *rights { return &rights{left: -1, noted: make(chan string, 10000)} }

func (r *rights) Lease(string) (Lease, error) {
	if r.gate != nil {
		<-r.gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.no {
		return nil, errors.New("no")
	}
	return r, nil
}

func (r *rights) Denied(target, rule string, _ bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.denied = append(r.denied, target+": "+rule)
}

func (r *rights) Spend(n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left >= 0 {
		if r.left -= n; r.left < 0 {
			r.left = 0
			return errors.New("used up")
		}
	}
	return nil
}

func (r *rights) Hold(cut func()) (func(), error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cuts = append(r.cuts, cut)
	return func() {}, nil
}

func (r *rights) End() {}

func (r *rights) Note(outcome string, _ map[string]any) {
	r.mu.Lock()
	r.notes = append(r.notes, outcome)
	r.mu.Unlock()
	r.noted <- outcome
}

func (r *rights) await(t *testing.T, outcome string) {
	t.Helper()
	for {
		select {
		case got := <-r.noted:
			if got == outcome {
				return
			}
		case <-time.After(wait):
			t.Fatalf("it never came to %q: %v", outcome, r.notes)
		}
	}
}

// echo is a server that gives back what it gets and then ends.
func echo(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// desk is a relay whose listener stands in the test's own namespace.
func desk(t *testing.T, o Options, to grant.Target) (*Relay, *net.TCPConn) {
	t.Helper()
	r := New(o)
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r.work.Go(func() { r.accept(l, to) })
	t.Cleanup(func() {
		_ = l.Close()
		r.Close()
	})
	c, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return r, c
}

func literal(to netip.AddrPort) grant.Target { return grant.Target{Addr: to.Addr(), Port: to.Port()} }

func TestRelayPassesAllAndEndsBothWays(t *testing.T) {
	rights := newRights()
	_, c := desk(t, Options{Grants: rights}, literal(echo(t)))
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("of %d bytes %d came back, %v", len(sent), len(got), err)
	}
	rights.await(t, "ended")
}

func TestBudgetEndsAConnection(t *testing.T) {
	rights := newRights()
	rights.left = 100_000
	_, c := desk(t, Options{Grants: rights}, literal(echo(t)))
	go func() { _, _ = c.Write(make([]byte, 8<<20)) }()
	n, _ := io.Copy(io.Discard, c) // the reset is told to the writer or to the reader, not to both
	if n > 4*chunk {
		t.Fatalf("%d bytes passed", n)
	}
	rights.await(t, "over its budget")
}

func TestRefusedLeaseIsNoConnection(t *testing.T) {
	rights := newRights()
	rights.no, rights.gate = true, make(chan struct{})
	dialled := false
	_, c := desk(t, Options{Grants: rights, Dial: func(context.Context, netip.AddrPort) (*net.TCPConn, error) {
		dialled = true
		return nil, errors.New("no")
	}}, literal(echo(t)))
	close(rights.gate)
	if _, err := c.Read(make([]byte, 1)); err == nil || dialled {
		t.Fatalf("it was relayed: %v, dialled %v", err, dialled)
	}
}

func TestCutIsThereWhenItReturns(t *testing.T) {
	rights := newRights()
	_, c := desk(t, Options{Grants: rights}, literal(echo(t)))
	rights.await(t, "connected")
	rights.mu.Lock()
	cut := rights.cuts[0]
	rights.mu.Unlock()
	cut()
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("after the cut: %v", err)
	}
	rights.await(t, "cut")
}

// TestWhatIsCheckedIsDialled: each answer of the resolver is judged by itself,
// and nothing else is ever dialled, also when the name is bound anew.
func TestWhatIsCheckedIsDialled(t *testing.T) {
	answers := map[string][]string{}
	var dialled []string
	rights := newRights()
	r := New(Options{
		Grants: rights, Network: plan.Network{Addresses: []string{"10.1.0.0/16"}},
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			var out []netip.Addr
			for _, a := range answers[host] {
				out = append(out, netip.MustParseAddr(a))
			}
			return out, nil
		},
		Dial: func(_ context.Context, to netip.AddrPort) (*net.TCPConn, error) {
			dialled = append(dialled, to.String())
			return nil, errors.New("nobody is there")
		},
	})
	defer r.Close()
	r.dialer.own = func(a netip.Addr) (bool, error) {
		return a == netip.MustParseAddr("9.9.9.9") || a == netip.MustParseAddr("10.1.2.4"), nil
	}
	to := grant.Target{Host: "a.example", Port: 443}
	for _, c := range []struct {
		found string
		want  string
	}{
		{"8.8.8.8", "8.8.8.8:443"},
		{"127.0.0.1", ""},
		{"169.254.169.254", ""},
		{"::1", ""},
		{"::ffff:127.0.0.1", ""},
		{"::ffff:8.8.4.4", "8.8.4.4:443"},
		{"fe80::1%1", ""},
		{"10.1.2.3", "10.1.2.3:443"},
		{"10.2.2.3", ""},
		{"0.0.0.0", ""},
		{"168.63.129.16", ""},
		{"64:ff9b::7f00:1", ""},
		{"2002:7f00:1::1", ""},
		{"::7f00:1", ""},
		{"9.9.9.9", ""}, // the host's own
		{"::ffff:9.9.9.9", ""},
		{"9.9.9.9 8.8.8.8", "8.8.8.8:443"},
		{"10.1.2.4", "10.1.2.4:443"}, // the host's own, and granted
		{"127.0.0.1 8.8.8.8 10.0.0.1", "8.8.8.8:443"},
		{"8.8.8.8 2606:4700::1111 1.1.1.1", "[2606:4700::1111]:443 8.8.8.8:443 1.1.1.1:443"},
		{"", ""},
	} {
		answers["a.example"], dialled = strings.Fields(c.found), nil
		_, err := r.dialer.TCP(t.Context(), to)
		if err == nil || strings.Join(dialled, " ") != c.want {
			t.Errorf("%q is dialled as %q, %v", c.found, dialled, err)
		}
		rights.denied = nil
		r.failed(rights, to, err)
		if refused := c.want == "" && c.found != ""; refused != (len(rights.denied) == 1) {
			t.Errorf("%q: denied are %q", c.found, rights.denied)
		}
	}
}

// TestOwnAddresses: where every address is the host's, as in a hall, every name
// leads to it; an address that the host has, and one that it has not.
func TestOwnAddresses(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	hall, err := Hall()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hall.Close() }()
	if err := Within(hall, func() error {
		for _, a := range []string{"8.8.8.8", "2606:4700::1111"} {
			if its, err := own(netip.MustParseAddr(a)); !its || err != nil {
				t.Errorf("%s is not taken for the host's own: %v", a, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if its, err := own(p.Addr()); !its || err != nil {
			t.Errorf("%s is not taken for the host's own: %v", p.Addr(), err)
		}
	}
	for _, a := range []string{"8.8.8.8", "2606:4700::1111"} { // whether there is a way to it or not
		if its, err := own(netip.MustParseAddr(a)); its || err != nil {
			t.Errorf("%s is taken for the host's own: %v", a, err)
		}
	}
}

// TestHostsNetworkIsLeftAlone: a process without a network of its own is
// refused before anything is changed.
func TestHostsNetworkIsLeftAlone(t *testing.T) {
	r := New(Options{Grants: newRights(), Network: plan.Network{Egress: []string{"a.example:1"}}})
	defer r.Close()
	if err := r.Open(os.Getpid()); err == nil || !strings.Contains(err.Error(), "the host's own network") {
		t.Fatalf("in the host's network: %v", err)
	}
}

func TestLayout(t *testing.T) {
	l := layout.Of([]string{"b.example:443", "a.example:80", "a.example:443", "10.0.0.5:5432", "[2001:db8::5]:443", "*.example:1", "udp:a.example:1"})
	var out []string
	for _, one := range l.Listeners {
		out = append(out, one.At.String()+"="+one.To.String())
	}
	want := "10.0.0.5:5432=10.0.0.5:5432 [2001:db8::5]:443=[2001:db8::5]:443 127.77.0.1:1=a.example:1 127.77.0.1:443=a.example:443 127.77.0.1:80=a.example:80 " +
		"127.77.0.2:1=b.example:1 127.77.0.2:443=b.example:443 127.77.0.1:1=udp:a.example:1"
	if got := strings.Join(out, " "); got != want || len(l.Names) != 2 {
		t.Errorf("listeners are\n%s\nand not\n%s\nnames %v", got, want, l.Names)
	}
	var many []string
	for i := range 600 {
		many = append(many, "h"+strings.Repeat("x", i%60)+string(rune('a'+i/60))+".example:1")
	}
	seen := map[netip.AddrPort]bool{}
	for n := range 600 {
		four, six := layout.Leased(n * (layout.MaxLeases / 600))
		many = append(many, four.String()+":1", "["+six.String()+"]:1")
	}
	for _, one := range layout.Of(many).Listeners {
		if seen[one.At] || layout.Own(one.At.Addr()) {
			t.Fatalf("%v stands for two names, or is the plugin's own", one.At)
		}
		seen[one.At] = true
	}
}

// fixed is a namespace in which nothing is added.
type fixed struct{ layout.Layout }

func (f fixed) Stands(udp bool, at netip.AddrPort) bool {
	return slices.ContainsFunc(f.Listeners, func(l layout.Listener) bool { return l.To.UDP == udp && l.At == at })
}

func FuzzAttempt(f *testing.F) {
	f.Add([]byte("\x45\x00\x00\x28\x00\x00\x00\x00\x40\x06\x00\x00\x7f\x00\x00\x01\x08\x08\x08\x08\x04\xd2\x01\xbb\x00\x00\x00\x00\x00\x00\x00\x00\x50\x02"))
	f.Add([]byte("\x60\x00\x00\x00\x00\x08\x11\x40aaaaaaaaaaaaaaaa\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x04\xd2\x00\x35"))
	f.Add([]byte("\x4f\x00"))
	f.Fuzz(func(t *testing.T, p []byte) {
		a, ok := parseAttempt(p)
		if ok && !a.to.Addr().IsValid() {
			t.Fatalf("an attempt at no address: %+v", a)
		}
		if text := a.text(fixed{}); ok && (text == "" || len(text) > 100) {
			t.Fatalf("an attempt in the words %q", text)
		}
	})
}

func TestAttempts(t *testing.T) {
	l := fixed{layout.Of([]string{"a.example:443", "udp:a.example:123"})}
	four := func(protocol byte, to string, port byte) []byte {
		a := netip.MustParseAddr(to).As4()
		p := append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 127, 0, 0, 1}, a[:]...)
		return append(p, 0, 1, 0, port, 8, 0)
	}
	for _, c := range []struct {
		packet []byte
		want   string
	}{
		{four(6, "8.8.8.8", 53), "8.8.8.8:53"},
		{four(6, "127.77.0.1", 80), "a.example:80"},
		{four(17, "127.77.0.1", 53), "udp:a.example:53"},
		{four(17, "127.77.0.1", 123), ""},
		{four(6, "127.77.0.1", 123), "a.example:123"},
		{four(6, "127.78.0.1", 80), ""}, // no name has that address
		{four(6, "127.0.0.1", 80), ""},
		{four(132, "8.8.8.8", 80), "protocol-132:8.8.8.8"},
		{four(1, "8.8.8.8", 80), ""}, // an error of the kernel's: its first byte is no request
	} {
		a, ok := parseAttempt(c.packet)
		got := ""
		if ok && !a.granted(l) {
			got = a.text(l)
		}
		if got != c.want {
			t.Errorf("%x is %q and not %q", c.packet, got, c.want)
		}
	}
}
