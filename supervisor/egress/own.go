package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// own says whether an address is one of this host's, or of all hosts of a network
// of its own. What serves there takes who comes that way for a neighbour, and what
// filters packets from outside does not see them. The kernel is asked where it
// would send a packet; rtnetlink(7), RTM_GETROUTE.
func own(a netip.Addr) (bool, error) {
	kind, err := routeTo(a)
	if err != nil {
		return false, fmt.Errorf("cannot tell whether %s is this host's: %w", a, err)
	}
	return kind != unix.RTN_UNICAST && kind != unix.RTN_UNSPEC, nil
}

// routeTo gives the type of the route to an address, RTN_UNSPEC where there is none.
func routeTo(a netip.Addr) (kind uint8, err error) {
	rt := make([]byte, unix.SizeofRtMsg)
	rt[0], rt[1] = unix.AF_INET, uint8(a.BitLen())
	if a.Is6() {
		rt[0] = unix.AF_INET6
	}
	answer, err := ask(unix.RTM_GETROUTE, 0, attribute(rt, unix.RTA_DST, a.AsSlice()))
	switch {
	case noRoute(err):
		return unix.RTN_UNSPEC, nil
	case err != nil:
		return 0, err
	case len(answer) == 0 || binary.NativeEndian.Uint16(answer[4:]) != unix.RTM_NEWROUTE:
		return 0, errNoSense
	}
	return answer[unix.SizeofNlMsghdr+7], nil
}

// noRoute tells the answers by which connect(2) would fail as well (there is none,
// or one that is unreachable or prohibited; ip-route(8)) from a kernel that cannot say.
func noRoute(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES)
}
