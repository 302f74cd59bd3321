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
	to       netip.AddrPort // port 0 where the protocol has none
}

// parseAttempt reads a packet from its IP header on. What cannot be read, and
// what the kernel itself sends (neighbour discovery, errors), is none.
func parseAttempt(p []byte) (a attempt, ok bool) {
	var rest []byte
	switch {
	case len(p) >= 20 && p[0]>>4 == 4 && int(p[0]&15)*4 >= 20 && int(p[0]&15)*4 <= len(p):
		addr, _ := netip.AddrFromSlice(p[16:20])
		a.protocol, a.to, rest = p[9], netip.AddrPortFrom(addr, 0), p[int(p[0]&15)*4:]
	case len(p) >= 40 && p[0]>>4 == 6:
		addr, _ := netip.AddrFromSlice(p[24:40])
		a.protocol, a.to, rest = p[6], netip.AddrPortFrom(addr, 0), p[40:]
	default:
		return a, false
	}
	switch a.protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP:
		if len(rest) < 4 {
			return a, false
		}
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

// String is the attempt as a person would write it.
func (a attempt) text(l layout.Layout) string {
	host := a.to.Addr().String()
	if name, ok := l.Host(a.to.Addr()); ok {
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

// granted says whether an attempt is none: it goes to a listener, or stays on
// the plugin's own loopback.
func (a attempt) granted(l layout.Layout) bool {
	if layout.Own(a.to.Addr()) {
		return true
	}
	for _, one := range l.Listeners {
		if a.protocol == unix.IPPROTO_TCP && one.At == a.to {
			return true
		}
	}
	return false
}

// The rate at which attempts become violations: the first few at once, then so
// many a second. Of the rest there are enough.
const (
	attemptBurst = 64
	attemptRate  = 32
)

// watcher reports attempts.
type watcher struct {
	layout layout.Layout
	now    func() time.Time
	told   func(target string)
	have   float64
	at     time.Time
}

// watch reports what arrives at f until its deadline is set, then what had
// arrived by then, and closes f. told is called in this goroutine.
func watch(f *os.File, l layout.Layout, now func() time.Time, told func(target string)) {
	defer func() { _ = f.Close() }()
	w := &watcher{layout: l, now: now, told: told, have: attemptBurst, at: now()}
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
	a, ok := parseAttempt(p)
	if !ok || a.granted(w.layout) {
		return
	}
	t := w.now()
	w.have, w.at = min(attemptBurst, w.have+max(0, t.Sub(w.at).Seconds())*attemptRate), t
	if w.have < 1 {
		return
	}
	w.have--
	w.told(a.text(w.layout))
}
