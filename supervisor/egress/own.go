package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

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
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer func() { err = errors.Join(err, os.NewSyscallError("close", unix.Close(fd))) }()
	family, bits := uint8(unix.AF_INET), uint8(a.BitLen())
	if a.Is6() {
		family = unix.AF_INET6
	}
	to, order := a.AsSlice(), binary.NativeEndian
	msg := make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg+unix.SizeofRtAttr+len(to))
	order.PutUint32(msg, uint32(len(msg))) // #nosec G115 -- some forty bytes
	order.PutUint16(msg[4:], unix.RTM_GETROUTE)
	order.PutUint16(msg[6:], unix.NLM_F_REQUEST)
	order.PutUint32(msg[8:], 1)
	rt := msg[unix.SizeofNlMsghdr:]
	rt[0], rt[1] = family, bits
	attr := rt[unix.SizeofRtMsg:]
	order.PutUint16(attr, uint16(unix.SizeofRtAttr+len(to))) // #nosec G115 -- twenty bytes
	order.PutUint16(attr[2:], unix.RTA_DST)
	copy(attr[unix.SizeofRtAttr:], to)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return 0, os.NewSyscallError("recvfrom", err)
	}
	switch {
	case n >= unix.SizeofNlMsghdr+4 && order.Uint16(answer[4:]) == unix.NLMSG_ERROR: // there is no way to it
		return unix.RTN_UNSPEC, nil
	case n >= unix.SizeofNlMsghdr+unix.SizeofRtMsg && order.Uint16(answer[4:]) == unix.RTM_NEWROUTE:
		return answer[unix.SizeofNlMsghdr+7], nil
	}
	return 0, errors.New("the kernel's answer makes no sense")
}
