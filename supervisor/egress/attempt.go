package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/supervisor/egress/layout"
)

// attempt is one first packet.
type attempt struct {
	protocol uint8
	from, to netip.AddrPort // port 0 where the protocol has none
}

// parseAttempt reads a packet from its IP header on. What cannot be read, and
// what the kernel itself sends (neighbour discovery, errors), is none.
func parseAttempt(p []byte) (a attempt, ok bool) {
	var rest []byte
	switch {
	case len(p) >= 20 && p[0]>>4 == 4 && int(p[0]&15)*4 >= 20 && int(p[0]&15)*4 <= len(p):
		a.from, a.to = bare(p[12:16]), bare(p[16:20])
		a.protocol, rest = p[9], p[int(p[0]&15)*4:]
	case len(p) >= 40 && p[0]>>4 == 6:
		a.from, a.to = bare(p[8:24]), bare(p[24:40])
		a.protocol, rest = p[6], p[40:]
	default:
		return a, false
	}
	switch a.protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP:
		if len(rest) < 4 {
			return a, false
		}
		a.from = netip.AddrPortFrom(a.from.Addr(), binary.BigEndian.Uint16(rest))
		a.to = netip.AddrPortFrom(a.to.Addr(), binary.BigEndian.Uint16(rest[2:]))
	case unix.IPPROTO_ICMP:
		return a, len(rest) > 0 && rest[0] == 8 // an echo request
	case unix.IPPROTO_ICMPV6:
		return a, len(rest) > 0 && rest[0] == 128
	case unix.IPPROTO_HOPOPTS: // listener reports of the kernel's own
		return a, false
	}
	return a, true
}

// bare is an address without a port; the slice has the length of one.
func bare(p []byte) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(p)
	return netip.AddrPortFrom(addr, 0)
}

// places are what stands in a plugin's namespace now.
type places interface {
	// Stands says whether a listener of ours stands at an address.
	Stands(udp bool, at netip.AddrPort) bool
	// Host gives the name that an address stands for.
	Host(a netip.Addr) (string, bool)
}

// text is the attempt as a person would write it.
func (a attempt) text(in places) string {
	host := a.to.Addr().String()
	if name, ok := in.Host(a.to.Addr()); ok {
		host = name
	} else if a.to.Addr().Is6() {
		host = "[" + host + "]"
	}
	switch a.protocol {
	case unix.IPPROTO_TCP:
		return fmt.Sprintf("%s:%d", host, a.to.Port())
	case unix.IPPROTO_UDP:
		return fmt.Sprintf("udp:%s:%d", host, a.to.Port())
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "icmp:" + host
	}
	return fmt.Sprintf("protocol-%d:%s", a.protocol, host)
}

// granted says whether an attempt is none: it goes to a listener, is what one
// answers, or stays on the plugin's own loopback. Nothing else in the namespace
// can send from where a listener stands: the place is taken.
func (a attempt) granted(in places) bool {
	_, named := in.Host(a.to.Addr())
	switch {
	case layout.Own(a.to.Addr()), !named && layout.WasLeased(a.to.Addr()): // a name that has lost its address leads nowhere
		return true
	case a.protocol == unix.IPPROTO_TCP:
		return in.Stands(false, a.to)
	case a.protocol == unix.IPPROTO_UDP:
		return in.Stands(true, a.to) || in.Stands(true, a.from)
	}
	return false
}

// The rate at which attempts become violations: the first few at once, then so
// many a second. Of the rest there are enough.
const (
	burst       = 64
	attemptRate = 32
)

// bucket lets so many things pass at once, and then so many a second. It is one
// goroutine's.
type bucket struct {
	now  func() time.Time
	rate float64
	have float64
	at   time.Time
}

func newBucket(now func() time.Time, rate float64) *bucket {
	return &bucket{now: now, rate: rate, have: burst, at: now()}
}

func (b *bucket) take() bool {
	t := b.now()
	b.have, b.at = min(burst, b.have+max(0, t.Sub(b.at).Seconds())*b.rate), t
	if b.have < 1 {
		return false
	}
	b.have--
	return true
}

// watcher reports attempts.
type watcher struct {
	in   places
	told func(target string)
	few  *bucket
}

// watch reports what arrives at f until its deadline is set, then what had
// arrived by then, and closes f. told is called in this goroutine.
func watch(f *os.File, in places, now func() time.Time, told func(target string)) {
	defer func() { _ = f.Close() }()
	w := &watcher{in: in, told: told, few: newBucket(now, attemptRate)}
	buf := make([]byte, seen)
	for {
		n, err := f.Read(buf)
		if err == nil {
			w.packet(buf[:n])
		} else if !errors.Is(err, unix.ENETDOWN) { // lo goes down at the end only
			break
		}
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for range drainMax {
			n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			w.packet(buf[:n])
		}
	})
}

// drainMax bounds what is still read of a plugin that has ended.
const drainMax = 4096

func (w *watcher) packet(p []byte) {
	if a, ok := parseAttempt(p); ok && !a.granted(w.in) && w.few.take() {
		w.told(a.text(w.in))
	}
}
