//go:build walltest

package escape

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles/plan"
)

// service is a service of the host; it keeps what it hears.
type service struct {
	port int
	mu   sync.Mutex
	data []byte
}

func (s *service) add(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = append(s.data, b...)
}

func (s *service) has(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(string(s.data), token)
}

// serve accepts what comes.
func (t *trial) serve(network, address string) *service {
	t.Helper()
	l, err := net.Listen(network, address)
	t.must(err)
	s := &service{}
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		s.port = a.Port
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				data, _ := io.ReadAll(io.LimitReader(c, 4096))
				s.add(data)
				_ = c.Close()
			})
		}
	})
	t.cleanup(func() {
		_ = l.Close()
		t.end()
		all.Wait()
	})
	t.host = s
	return s
}

// receive takes datagrams.
func (t *trial) receive(network, address string) *service {
	t.Helper()
	c, err := net.ListenPacket(network, address)
	t.must(err)
	s := &service{}
	if a, ok := c.LocalAddr().(*net.UDPAddr); ok {
		s.port = a.Port
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			s.add(buf[:n])
		}
	})
	t.cleanup(func() {
		_ = c.Close()
		reader.Wait()
	})
	t.host = s
	return s
}

// heard: the service of the host got the token. What was sent before the attack
// said that it is done is there, or on its way: the attack's end is its end.
func heard(t *trial) string {
	s := t.host.(*service)
	if !connected(t) {
		return ""
	}
	t.end() // and with it its connection
	if eventually(func() bool { return s.has(t.token) }) {
		return "a service of the host heard it"
	}
	return ""
}

// connected: nothing that the attack tried was refused, so what it sent is
// under way; the host's word is still what counts.
func connected(t *trial) bool {
	out := t.output()
	return strings.HasPrefix(out, "ready") || strings.Count(out, "sendto:")+strings.Count(out, "sendmsg:") == 1
}

func networkCases() []escape {
	port := func(t *trial) string { return fmt.Sprint(t.host.(*service).port) }
	return inCategory("network", []escape{
		{
			name: "a TCP service of the host", walls: []string{"seccomp", "net namespace", "landlock"}, lacks: landlockFrom(4), reports: "seccomp socket",
			prepare: func(t *trial) { t.serve("tcp", "127.0.0.1:0") },
			args:    func(t *trial) []string { return []string{"tcp", port(t), t.token} }, escaped: heard,
		},
		{
			name: "a UDP service of the host", walls: []string{"seccomp", "net namespace"}, reports: "seccomp socket",
			prepare: func(t *trial) { t.receive("udp", "127.0.0.1:0") },
			args:    func(t *trial) []string { return []string{"udp", port(t), t.token} }, escaped: heard,
		},
		{
			name: "an abstract socket of the host", after: "CVE-2020-15257", walls: []string{"net namespace", "landlock"}, with: []string{"keeper"}, lacks: landlockFrom(6),
			prepare: func(t *trial) { t.serve("unix", "@"+t.mark()) },
			args:    func(t *trial) []string { return []string{"unix", "@" + t.mark(), t.token} }, escaped: heard,
		},
		{
			name: "a socket of the host that was not granted", walls: []string{"mount namespace"},
			prepare: func(t *trial) {
				t.serve("unix", t.fileIn("s"))
				t.must(os.Chmod(t.fileIn("s"), 0o777))
			},
			args: func(t *trial) []string { return []string{"unix", t.fileIn("s"), t.token} }, escaped: heard,
		},
		{
			name: "a socket of the host in a granted directory", walls: []string{unowned},
			prepare: func(t *trial) {
				t.folder("in")
				t.serve("unix", t.fileIn("in/s"))
				t.must(os.Chmod(t.fileIn("in/s"), 0o777))
			},
			grants: one("in", reading),
			args:   func(t *trial) []string { return []string{"unix", t.fileIn("in/s"), t.token} }, escaped: heard,
		},
		{
			name: "a datagram socket of the host in a granted directory", after: "/dev/log", walls: []string{unowned},
			prepare: func(t *trial) {
				t.folder("in")
				t.receive("unixgram", t.fileIn("in/log"))
				t.must(os.Chmod(t.fileIn("in/log"), 0o777))
			},
			grants: one("in", reading),
			args:   func(t *trial) []string { return []string{"unix-datagram", t.fileIn("in/log"), t.token} }, escaped: heard,
		},
		{
			name: "a service of its own on the host", walls: []string{"seccomp", "net namespace", "landlock"}, lacks: landlockFrom(4), reports: "seccomp socket",
			prepare: func(t *trial) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				t.must(err)
				t.host = l.Addr().(*net.TCPAddr)
				t.must(l.Close())
			},
			args: func(t *trial) []string { return []string{"serve", fmt.Sprint(t.host.(*net.TCPAddr).Port), t.token} },
			escaped: func(t *trial) string {
				c, err := net.Dial("tcp", t.host.(*net.TCPAddr).String())
				if err != nil {
					return ""
				}
				defer c.Close()
				data, _ := io.ReadAll(io.LimitReader(c, int64(len(t.token))))
				if string(data) == t.token {
					return "it serves the host's port"
				}
				return ""
			},
		},
		{
			name: "listen to the host's network", walls: []string{"seccomp", privileged, "net namespace", "keeper"}, reports: "seccomp socket",
			args: func(*trial) []string { return []string{"sniff"} },
			escaped: func(t *trial) string {
				c, err := net.Dial("udp", "127.0.0.1:9")
				t.must(err)
				defer c.Close()
				if !strings.HasPrefix(t.output(), "ready") {
					return ""
				}
				heardIt := false
				for range 50 { // it hears the first that it is fast enough for, or none
					if _, err := c.Write([]byte(t.token)); err != nil {
						continue
					}
					if heardIt = leaked(t) != ""; heardIt {
						break
					}
				}
				if t.isOff("net namespace") && t.isOff("seccomp") && t.isOff("identity") {
					heardIt = eventually(func() bool { return leaked(t) != "" })
				}
				if heardIt {
					return "it heard what others sent"
				}
				return ""
			},
		},
		{
			name: "address families that nobody asks for", walls: []string{"seccomp"}, reports: "seccomp socket",
			args: func(*trial) []string {
				return []string{"family", fmt.Sprint(unix.AF_NETLINK), fmt.Sprint(unix.AF_ALG), fmt.Sprint(unix.AF_VSOCK), fmt.Sprint(unix.AF_KEY), fmt.Sprint(unix.AF_TIPC), fmt.Sprint(unix.AF_CAN), fmt.Sprint(unix.AF_INET6)}
			},
			change:  func(_ *trial, p *plan.Plan) { p.Violation["seccomp"] = plan.Response{Action: "deny"} },
			escaped: holds("socket:"),
		},
	})
}
