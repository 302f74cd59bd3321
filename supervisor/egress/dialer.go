package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cordonhq/cordon/profiles/grant"
)

// The times of one connection.
const (
	resolveTime = 5 * time.Second
	dialTime    = 10 * time.Second
	eyeballs    = 250 * time.Millisecond // before the next address is tried beside the first; RFC 8305
	maxTries    = 8                      // addresses of one name
)

// RefusedError says that a name leads where it must not.
type RefusedError struct {
	Host string
	Addr netip.Addr
	// Own says that the address is public, and this host's.
	Own bool
}

// Error implements error.
func (e *RefusedError) Error() string {
	what := "no public address"
	if e.Own {
		what = "an address of this host"
	}
	return fmt.Sprintf("%s leads to %s, which is %s, and network.addresses does not have it", e.Host, e.Addr, what)
}

// Dialer connects to places: it looks a name up, checks where it leads, and
// dials just what it has checked.
type Dialer struct {
	addresses []netip.Prefix // that are not public or this host's, and that a name may lead to
	own       func(a netip.Addr) (bool, error)
	resolve   func(ctx context.Context, host string) ([]netip.Addr, error)
	dial      func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error)
}

// NewDialer makes one of the networks, such as "10.0.0.0/8", that a name may
// lead to besides the public ones.
func NewDialer(networks []string) *Dialer {
	d := &Dialer{own: own, resolve: resolve, dial: dial}
	for _, text := range networks {
		if p, err := netip.ParsePrefix(text); err == nil { // checked when the profile was read
			d.addresses = append(d.addresses, p)
		}
	}
	return d
}

// TCP connects to a place. A *RefusedError says that its name leads where it
// must not. The caller closes the connection.
func (d *Dialer) TCP(ctx context.Context, to grant.Target) (*net.TCPConn, error) {
	addrs, err := d.find(ctx, to)
	if err != nil {
		return nil, err
	}
	return d.race(ctx, addrs, to.Port)
}

// UDP gives a socket that reaches a place, and that only it reaches. The caller
// closes it.
func (d *Dialer) UDP(ctx context.Context, to grant.Target) (*net.UDPConn, error) {
	addrs, err := d.find(ctx, to)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range addrs {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, to.Port)))
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// find gives the addresses of a place that may be dialled: one that is
// granted as an address, or those that its name now has, as far as they pass.
func (d *Dialer) find(ctx context.Context, to grant.Target) ([]netip.Addr, error) {
	if to.Addr.IsValid() {
		return []netip.Addr{to.Addr}, nil
	}
	look, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	found, err := d.resolve(look, to.Host)
	if err != nil {
		return nil, fmt.Errorf("cannot look up %s: %w", to.Host, err)
	}
	allowed, refused := d.check(to.Host, found)
	if len(allowed) == 0 {
		if refused == nil {
			return nil, fmt.Errorf("cannot look up %s: it has no address", to.Host)
		}
		return nil, refused
	}
	return allowed, nil
}

// check keeps the addresses that may be dialled, IPv6 and IPv4 in turn.
func (d *Dialer) check(host string, found []netip.Addr) (allowed []netip.Addr, refused error) {
	var six, four []netip.Addr
	for _, a := range found {
		a = a.Unmap()
		wrong := d.may(host, a)
		switch {
		case wrong != nil:
			refused = wrong
		case a.Is4():
			four = append(four, a)
		default:
			six = append(six, a)
		}
	}
	for i := range max(len(six), len(four)) {
		allowed = append(append(allowed, six[min(i, len(six)):min(i+1, len(six))]...), four[min(i, len(four)):min(i+1, len(four))]...)
	}
	return allowed[:min(len(allowed), maxTries)], refused
}

// may says why a name must not lead to an address, nil if it may.
func (d *Dialer) may(host string, a netip.Addr) error {
	switch {
	case a.Zone() == "" && slices.ContainsFunc(d.addresses, func(p netip.Prefix) bool { return p.Contains(a) }):
		return nil
	case !grant.Public(a):
		return &RefusedError{Host: host, Addr: a}
	}
	its, err := d.own(a)
	if err == nil && its {
		err = &RefusedError{Host: host, Addr: a, Own: true}
	}
	return err
}

// race dials addresses, each a little after the one before or as soon as that
// has failed, and takes the first that answers.
func (d *Dialer) race(ctx context.Context, addrs []netip.Addr, port uint16) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	type result struct {
		c   *net.TCPConn
		err error
	}
	results := make(chan result, len(addrs))
	var errs []string
	begun, ended := 0, 0
	for {
		if begun < len(addrs) {
			to := netip.AddrPortFrom(addrs[begun], port)
			go func() {
				c, err := d.dial(ctx, to)
				results <- result{c, err}
			}()
			begun++
		}
		var next <-chan time.Time
		if begun < len(addrs) {
			next = time.After(eyeballs)
		}
		select {
		case got := <-results:
			ended++
			if got.err == nil {
				go func(rest int) { // the slower ones are not wanted
					for range rest {
						if late := <-results; late.c != nil {
							_ = late.c.Close()
						}
					}
				}(begun - ended)
				return got.c, nil
			}
			errs = append(errs, got.err.Error())
			if ended == len(addrs) {
				return nil, errors.New(strings.Join(errs, "; "))
			}
		case <-next:
		}
	}
}

func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host+".") // rooted: no search domain is tried
}

func dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	c, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(errors.New("not a TCP connection"), c.Close())
	}
	return tcp, nil
}
