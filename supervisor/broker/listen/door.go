package listen

import (
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/grant"
)

// doors are the addresses of the host at which plugins listen.
type doors struct {
	dir  string
	mu   sync.Mutex
	open map[string]*door // by plugin and address
}

// door is one socket of the host. While a plugin is swapped two processes of it
// may listen there, and who connects is passed to the one that takes the calls.
type door struct {
	all    *doors
	key    string
	out    *net.TCPListener
	places chan struct{}
	inside []*server // oldest first; all.mu guards it
}

// enter has a server listen, at a door of its own or at that of another process
// of its plugin.
func (a *doors) enter(at grant.Target, s *server) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := s.c.Plugin + " " + at.String()
	if d := a.open[key]; d != nil && !slices.ContainsFunc(d.inside, func(other *server) bool { return other.c.Env == s.c.Env }) {
		d.inside, s.door = append(d.inside, s), d
		return nil
	}
	family := "tcp4" // 0.0.0.0 is not [::], nor the reverse
	if at.Addr.Is6() {
		family = "tcp6"
	}
	out, err := net.ListenTCP(family, &net.TCPAddr{IP: at.Addr.AsSlice(), Port: int(at.Port)})
	if err != nil {
		return ipc.Errorf(ipc.CodeConflict, "cannot listen at %s: %w", at, err)
	}
	d := &door{all: a, key: key, out: out, places: make(chan struct{}, maxOpen), inside: []*server{s}}
	s.door, a.open[key] = d, d
	go d.run()
	return nil
}

// leave takes a server off its door, which the last one closes.
func (s *server) leave() {
	d := s.door
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	d.inside = slices.DeleteFunc(d.inside, func(other *server) bool { return other == s })
	if len(d.inside) == 0 && d.all.open[d.key] == d {
		delete(d.all.open, d.key)
		_ = d.out.Close()
	}
}

// next is who takes what connects now, with work begun that is to be ended; nil
// for nobody.
func (d *door) next() *server {
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	if len(d.inside) == 0 {
		return nil
	}
	s := d.inside[0]
	for _, other := range d.inside {
		if standby := other.c.Env.Standby; standby == nil || !standby() {
			s = other
			break
		}
	}
	s.work.Add(1)
	return s
}

// run accepts until nobody listens any more: every grant has gone, or each
// process has closed its socket.
func (d *door) run() {
	for {
		d.places <- struct{}{}
		conn, err := d.out.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptors are left
			<-d.places
			<-time.After(pause)
			continue
		}
		s := d.next()
		if s == nil {
			<-d.places
			_ = conn.Close()
			continue
		}
		go func() {
			defer func() { s.work.Done(); <-d.places }()
			s.pass(conn)
		}()
	}
}
