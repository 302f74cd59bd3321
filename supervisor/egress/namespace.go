package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/supervisor/egress/layout"
)

// backlog is how many connections may wait to be taken.
const backlog = 128

// congestion is the congestion control inside. A host's may pace what it sends,
// as BBR does, which costs a fifth of the throughput where nothing is ever lost.
// Every kernel has this one.
const congestion = "reno"

// loopback is the index of lo, the first interface of every namespace.
const loopback = 1

// ports are our ends inside a plugin's network namespace. Sockets belong to the
// namespace in which they were made, whoever holds them.
type ports struct {
	ns    *os.File // the namespace itself, for what is opened later
	six   bool     // it has IPv6
	doors []door
	ask   *net.UDPConn // the answerer's
	watch *os.File     // a packet socket on lo
}

// door is one listener, of one kind or the other.
type door struct {
	layout.Listener
	tcp *net.TCPListener
	udp *net.UDPConn
}

func (d door) close() {
	if d.tcp != nil {
		_ = d.tcp.Close() // only read from
	}
	if d.udp != nil {
		_ = d.udp.Close()
	}
}

// close ends the listeners. The watch, once it is running, sees its deadline,
// reads what is left and closes its socket itself.
func (p *ports) close(watched bool) {
	_ = p.ns.Close() // only looked at
	for _, d := range p.doors {
		d.close()
	}
	if p.ask != nil {
		_ = p.ask.Close()
	}
	if p.watch == nil {
		return
	}
	if !watched || p.watch.SetReadDeadline(time.Unix(1, 0)) != nil {
		_ = p.watch.Close()
	}
}

// openPorts opens what a layout needs inside the network namespace of a
// process, which waits and runs nothing of the plugin yet.
func openPorts(pid int, l layout.Layout) (p *ports, err error) {
	p = &ports{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot open the plugin's network: %w", err)
		}
	}()
	if p.ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
		return nil, err
	}
	if err = another(p.ns); err == nil {
		err = inside(p.ns, func() error { return p.open(l) })
	}
	if err != nil {
		p.close(false)
		return nil, err
	}
	return p, nil
}

// openDoors opens more listeners in a namespace, all or none.
func openDoors(ns *os.File, wanted []layout.Listener) (out []door, err error) {
	err = inside(ns, func() error {
		for _, one := range wanted {
			d, err := listen(one)
			if err != nil {
				return fmt.Errorf("cannot listen for %s: %w", one.To, err)
			}
			out = append(out, d)
		}
		return nil
	})
	if err != nil {
		for _, d := range out {
			d.close()
		}
		return nil, err
	}
	return out, nil
}

// inside runs fn on a thread that has entered a network namespace, and comes
// back. A thread that cannot come back is thrown away.
func inside(there *os.File, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer func() { _ = home.Close() }()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- os.NewSyscallError("setns", err)
			return
		}
		err = fn()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, os.NewSyscallError("setns", back))
			return // still locked: the thread ends with this goroutine
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// another refuses the daemon's own network: what follows would change the
// host's routes.
func another(there *os.File) error {
	var its, ours unix.Stat_t
	if err := errors.Join(unix.Fstat(int(there.Fd()), &its), unix.Stat("/proc/self/ns/net", &ours)); err != nil {
		return err
	}
	if its.Ino == ours.Ino && its.Dev == ours.Dev {
		return errors.New("the plugin is in the host's own network namespace")
	}
	return nil
}

func (p *ports) open(l layout.Layout) error {
	if err := up(); err != nil {
		return fmt.Errorf("cannot bring lo up: %w", err)
	}
	_ = os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte(congestion), 0) // of this namespace, for the plugin's own sockets; where /proc/sys is read-only the host's stays
	if err := routeAll(unix.AF_INET); err != nil {
		return fmt.Errorf("cannot route to lo: %w", err)
	}
	err := routeAll(unix.AF_INET6)
	if p.six = err == nil; !p.six && l.Six() { // a kernel without IPv6 has no way out by it either
		return fmt.Errorf("cannot route IPv6 to lo: %w", err)
	}
	if p.watch, err = watchSocket(); err != nil {
		return fmt.Errorf("cannot watch lo: %w", err)
	}
	for _, one := range l.Listeners {
		d, err := listen(one)
		if err != nil {
			return fmt.Errorf("cannot listen for %s: %w", one.To, err)
		}
		p.doors = append(p.doors, d)
	}
	if p.ask, err = listenUDP(layout.Answerer()); err != nil {
		return fmt.Errorf("cannot listen for questions about names: %w", err)
	}
	return nil
}

// up brings lo up, which gives it 127.0.0.0/8 and ::1; netdevice(7).
func up() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_LOOPBACK | unix.IFF_RUNNING)
	return os.NewSyscallError("ioctl", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req))
}

// routeAll is `ip route add local default dev lo`: every address is this
// namespace's own. So listeners can stand at any address, and an attempt to
// reach any other arrives at lo, where it is seen; rtnetlink(7).
func routeAll(family uint8) error {
	rt := make([]byte, unix.SizeofRtMsg)
	rt[0], rt[4], rt[5], rt[6], rt[7] = family, unix.RT_TABLE_LOCAL, unix.RTPROT_STATIC, unix.RT_SCOPE_HOST, unix.RTN_LOCAL
	lo := binary.NativeEndian.AppendUint32(nil, loopback)
	_, err := ask(unix.RTM_NEWROUTE, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE, attribute(rt, unix.RTA_OIF, lo))
	return err
}

// attribute appends one to a request; rtnetlink(7).
func attribute(body []byte, kind uint16, value []byte) []byte {
	order := binary.NativeEndian
	body = order.AppendUint16(body, uint16(unix.SizeofRtAttr+len(value))) // #nosec G115 -- an address at most
	return append(order.AppendUint16(body, kind), value...)
}

// ask makes one request to the kernel's routing and gives its answer, header and
// all, at least as long as an RTM_NEWROUTE without attributes; empty if that is only
// that it was done. What the kernel refuses is its errno; netlink(7).
func ask(kind, flags uint16, body []byte) (answer []byte, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing is lost with it
	order := binary.NativeEndian
	msg := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	order.PutUint32(msg, uint32(cap(msg))) // #nosec G115 -- some forty bytes
	order.PutUint16(msg[4:], kind)
	order.PutUint16(msg[6:], unix.NLM_F_REQUEST|flags)
	order.PutUint32(msg[8:], 1)
	if err := unix.Sendto(fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	answer = make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return nil, os.NewSyscallError("recvfrom", err)
	}
	switch answer = answer[:max(n, 0)]; {
	case n >= unix.SizeofNlMsghdr+4 && order.Uint16(answer[4:]) == unix.NLMSG_ERROR:
		if code := int32(order.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
			return nil, syscall.Errno(-code)
		}
		return nil, nil
	case n >= unix.SizeofNlMsghdr+unix.SizeofRtMsg:
		return answer, nil
	}
	return nil, errNoSense
}

var errNoSense = errors.New("the kernel's answer makes no sense")

// listen opens one listener.
func listen(l layout.Listener) (d door, err error) {
	d.Listener = l
	if l.To.UDP {
		d.udp, err = listenUDP(l.At)
	} else {
		d.tcp, err = listenTCP(l.At)
	}
	return d, err
}

func listenTCP(at netip.AddrPort) (_ *net.TCPListener, err error) {
	f, err := bound(at, unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_ = unix.SetsockoptString(int(f.Fd()), unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion) // #nosec G115 -- as below; without it the host's own holds
	if err := unix.Listen(int(f.Fd()), backlog); err != nil {                                 // #nosec G115 -- a descriptor
		return nil, os.NewSyscallError("listen", err)
	}
	made, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	listener, ok := made.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(errors.New("it is no TCP listener"), made.Close())
	}
	return listener, nil
}

func listenUDP(at netip.AddrPort) (_ *net.UDPConn, err error) {
	f, err := bound(at, unix.SOCK_DGRAM)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	made, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	c, ok := made.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(errors.New("it is no UDP socket"), made.Close())
	}
	return c, nil
}

// bound makes a socket of a kind at an address. IP_FREEBIND lets it stand at one
// that is the namespace's by the route alone; ip(7).
func bound(addr netip.AddrPort, kind int) (*os.File, error) {
	family, level, option := unix.AF_INET, unix.IPPROTO_IP, unix.IP_FREEBIND
	var at unix.Sockaddr
	if addr.Addr().Is6() {
		family, level, option = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
		at = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	} else {
		at = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "listener") // #nosec G115 -- a descriptor
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return nil, errors.Join(os.NewSyscallError("setsockopt", err), f.Close())
	}
	if kind == unix.SOCK_STREAM {
		// Connections of an earlier daemon may still be in TIME-WAIT. A place where
		// somebody listens stays taken; socket(7).
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return nil, errors.Join(os.NewSyscallError("setsockopt", err), f.Close())
		}
	}
	if err := unix.Bind(fd, at); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), f.Close())
	}
	return f, nil
}

// watchSocket is a packet socket on lo that gets the first packet of every TCP
// connection and all that is not TCP, each cut short; packet(7).
func watchSocket() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // gets nothing before bind
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "watch")
	filter := firstPackets()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	err = errors.Join(
		os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)),
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)),
		os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: loopback})),
	)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func networkOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16([]byte{byte(n >> 8), byte(n)})
}

// seen is how much of a packet is looked at.
const seen = 128

// firstPackets is a classic filter over packets that begin with their IP
// header: of TCP only those with SYN and without ACK, so that what a connection
// carries costs nothing here.
func firstPackets() []unix.SockFilter {
	const (
		loadByte  = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		loadAtX   = unix.BPF_LD | unix.BPF_B | unix.BPF_IND
		headerLen = unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH
		equal     = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		and       = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		answer    = unix.BPF_RET | unix.BPF_K
	)
	return []unix.SockFilter{
		{Code: loadByte, K: 0},
		{Code: and, K: 0xf0},
		{Code: equal, K: 0x60, Jt: 5}, // IPv6: at 8
		{Code: loadByte, K: 9},
		{Code: equal, K: unix.IPPROTO_TCP, Jf: 9}, // else keep, at 14
		{Code: headerLen, K: 0},
		{Code: loadAtX, K: 13},
		{Code: unix.BPF_JMP | unix.BPF_JA, K: 3}, // flags, at 11
		{Code: loadByte, K: 6},
		{Code: equal, K: unix.IPPROTO_TCP, Jf: 4}, // else keep, at 14
		{Code: loadByte, K: 40 + 13},
		{Code: and, K: 0x12},
		{Code: equal, K: 0x02, Jt: 1},
		{Code: answer, K: 0},
		{Code: answer, K: seen},
	}
}
