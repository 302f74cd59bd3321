package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/egress/layout"
)

// room is a network namespace with a relay in it.
type room struct {
	*Relay
	rights *rights
	ns     *os.File

	pid int // of a process in it

	mu    sync.Mutex
	asked []string // names that the host's resolver was asked for
}

// newRoom gives a relay for places that all lead to 127.0.0.1.
func newRoom(t *testing.T, egress ...string) *room {
	t.Helper()
	return newRoomIdle(t, flowIdle, egress...)
}

// newRoomIdle is one whose flows end when nothing passes for so long.
func newRoomIdle(t *testing.T, idle time.Duration, egress ...string) *room {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	child := exec.Command("sleep", "86400")
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = child.Process.Kill(), child.Wait() })
	m := &room{rights: newRights(), pid: child.Process.Pid}
	m.Relay = New(Options{
		Grants: m.rights, Network: plan.Network{Egress: egress, Addresses: []string{"127.0.0.1/32"}}, Log: func(s string) { t.Log(s) },
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.asked = append(m.asked, host)
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		},
	})
	m.idle = idle
	if err := m.Open(child.Process.Pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	m.ns = m.ports.ns
	return m
}

// lookups are the names that the host's resolver was asked for so far.
func (m *room) lookups() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.asked)
}

// dial connects from inside, as the plugin would.
func (m *room) dial(t *testing.T, network string, to netip.AddrPort) (c net.Conn, err error) {
	t.Helper()
	if failed := inside(m.ns, func() error {
		c, err = rawDial(network, to)
		return nil
	}); failed != nil {
		t.Fatal(failed)
	}
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
		if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
	}
	return c, err
}

// rawDial is net.Dial on this very thread.
func rawDial(network string, to netip.AddrPort) (net.Conn, error) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	var at unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port())}
	if to.Addr().Is6() {
		family, at = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	} else if four, ok := at.(*unix.SockaddrInet4); ok {
		four.Addr = to.Addr().As4()
	}
	if network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "dialled")
	defer func() { _ = f.Close() }()
	if err := unix.Connect(fd, at); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// resolve asks the answerer.
func (m *room) resolve(t *testing.T, name string, kind dnsmessage.Type) (netip.Addr, dnsmessage.RCode) {
	t.Helper()
	c, err := m.dial(t, "udp", layout.Answerer())
	if err != nil {
		t.Fatal(err)
	}
	q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
	packed, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(packed); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 600)
	n, err := c.Read(buf)
	var a dnsmessage.Message
	if err := errors.Join(err, a.Unpack(buf[:n])); err != nil {
		t.Fatal(err)
	}
	for _, one := range a.Answers {
		switch body := one.Body.(type) {
		case *dnsmessage.AResource:
			return netip.AddrFrom4(body.A), a.RCode
		case *dnsmessage.AAAAResource:
			return netip.AddrFrom16(body.AAAA), a.RCode
		}
	}
	return netip.Addr{}, a.RCode
}

// echoUDP gives back each datagram, with who sent it before it.
func echoUDP(t *testing.T) uint16 {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// TestWildcard: a name under a wildcard is answered with an address of the
// namespace's own, of both families, which leads to what the host finds under
// the name when something connects, and not before.
func TestWildcard(t *testing.T) {
	port := echo(t).Port()
	m := newRoom(t, fmt.Sprintf("*.wild.example:%d", port))
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		if kind == dnsmessage.TypeAAAA && !m.ports.six {
			t.Log("this kernel has no IPv6")
			continue
		}
		addr, code := m.resolve(t, "deep.er.wild.example.", kind)
		if code != dnsmessage.RCodeSuccess || !layout.WasLeased(addr) {
			t.Fatalf("%v: %v, %v", kind, addr, code)
		}
		if asked := m.lookups(); kind == dnsmessage.TypeA && len(asked) != 0 {
			t.Fatalf("the host's resolver was asked for %q", asked)
		}
		c, err := m.dial(t, "tcp", netip.AddrPortFrom(addr, port))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
		if c, err := m.dial(t, "tcp", netip.AddrPortFrom(addr, port-1)); err == nil {
			t.Fatalf("another port answers: %v", c.RemoteAddr())
		}
	}
	for _, name := range []string{"wild.example.", "secret.tunnel.example.com.", "deep.er.wild.example.com."} {
		if addr, code := m.resolve(t, name, dnsmessage.TypeA); code != dnsmessage.RCodeRefused {
			t.Errorf("%s: %v, %v", name, addr, code)
		}
	}
	if c, err := m.dial(t, "tcp", netip.AddrPortFrom(netip.MustParseAddr("127.78.0.2"), port)); err == nil {
		t.Errorf("an address that no name has answers: %v", c.RemoteAddr())
	}
	m.Close()
	if asked := m.lookups(); slices.ContainsFunc(asked, func(host string) bool { return host != "deep.er.wild.example" }) {
		t.Errorf("the host's resolver was asked for %q", asked)
	}
	for _, d := range m.rights.denied {
		if bytes.Contains([]byte(d), []byte("deep.er.wild.example: ")) || bytes.HasPrefix([]byte(d), []byte("udp:")) {
			t.Errorf("denied: %s", d)
		}
	}
}

// TestDatagrams: a granted UDP place answers, each socket of the plugin is a
// flow of its own, a revocation ends it, and another port is a violation.
func TestDatagrams(t *testing.T) {
	port := echoUDP(t)
	m := newRoom(t, fmt.Sprintf("udp:time.example:%d", port), fmt.Sprintf("udp:10.9.8.7:%d", port), fmt.Sprintf("udp:*.wild.example:%d", port))
	wild, _ := m.resolve(t, "a.wild.example.", dnsmessage.TypeA)
	for _, addr := range []netip.Addr{netip.MustParseAddr("127.77.0.1"), wild} {
		for range 3 {
			c, err := m.dial(t, "udp", netip.AddrPortFrom(addr, port))
			if err != nil {
				t.Fatal(err)
			}
			for i := range 5 {
				sent := bytes.Repeat([]byte{byte('a' + i)}, 1000*i+1)
				if _, err := c.Write(sent); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, 1<<16)
				if n, err := c.Read(got); err != nil || !bytes.Equal(got[:n], sent) {
					t.Fatalf("%d bytes, %v", n, err)
				}
			}
		}
	}
	if n := m.flows.Load(); n != 6 {
		t.Errorf("%d flows for 6 sockets", n)
	}
	m.rights.mu.Lock()
	m.rights.no = true
	cuts := m.rights.cuts
	m.rights.mu.Unlock()
	for _, cut := range cuts {
		cut()
	}
	for range cuts {
		m.rights.await(t, "cut")
	}
	other, err := m.dial(t, "udp", netip.AddrPortFrom(netip.MustParseAddr("192.0.2.7"), 53))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if got := m.rights.denied; len(got) != 1 || got[0] != "udp:192.0.2.7:53: nothing in network.egress leads there" {
		t.Errorf("denied are %q", got)
	}
}

// TestAnotherRelayTakesThePlace: a plugin outlives its daemon, whose connections
// the kernel still remembers.
func TestAnotherRelayTakesThePlace(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
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
			_ = c.Close() // the relay then closes before the plugin, and remembers
		}
	}()
	m := newRoom(t, l.Addr().String())
	at := netip.MustParseAddrPort(l.Addr().String())
	end := func() {
		t.Helper()
		c, err := m.dial(t, "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("%d bytes, %v", n, err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	end()
	m.Close()
	next := New(m.o)
	t.Cleanup(next.Close)
	if err := next.Open(m.pid); err != nil {
		t.Fatal(err)
	}
	m.ns = next.ports.ns
	end()
}

// TestFlowsAreBounded and end when nothing passes.
func TestFlowsAreBounded(t *testing.T) {
	port := echoUDP(t)
	m := newRoomIdle(t, time.Millisecond, fmt.Sprintf("udp:127.0.0.1:%d", port))
	at := netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", port))
	for range 200 {
		c, err := m.dial(t, "udp", at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if n := m.flows.Load(); n > maxFlows+1 { // one may be about to be refused
			t.Fatalf("%d flows", n)
		}
		_ = c.Close()
	}
	for end := time.Now().Add(wait); m.flows.Load() > 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d idle flows never end", m.flows.Load())
		}
	}
}
