//go:build walltest

package escape

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/launch"
)

// peer is the host's end of a plugin's connection, and what it took.
type peer struct {
	conn             *ipc.Conn
	notes, requests  atomic.Int64
	longest, deepest atomic.Int64
	done             chan error
}

// bound is one of the connection, which where its wall is off lies
// far above what the attack does.
func (t *trial) bound(wall string, on, off int) int {
	if t.isOff(wall) {
		return off
	}
	return on
}

// stopped is a clock that stands still: what has to wait, waits.
type stopped struct{ at time.Time }

func (s stopped) Now() time.Time { return s.at }

func (stopped) After(time.Duration) (<-chan time.Time, func()) { return nil, func() {} }

// connect gives the plugin a connection as the supervisor does.
func connect(t *trial, r *launch.Request) {
	transport, end, err := ipc.Socketpair()
	t.must(err)
	p := &peer{done: make(chan error, 1)}
	p.conn = ipc.NewConn(transport, ipc.Options{
		Clock: stopped{time.Now()},
		Limits: ipc.Limits{
			MaxFrame:    t.bound("ipc.max_frame", 64<<10, 8<<20),
			MaxInFlight: t.bound("ipc.max_in_flight", 8, 1000),
			MaxDepth:    t.bound("ipc.max_depth", 64, 1000),
			Rate:        t.bound("ipc.rate", 50, 1<<30),
		},
		OnNotify: func(_ string, params json.RawMessage) {
			p.notes.Add(1)
			p.longest.Store(max(p.longest.Load(), int64(len(params))))
			p.deepest.Store(max(p.deepest.Load(), int64(strings.Count(string(params), "["))))
		},
		Handler: func(ctx context.Context, _ *ipc.Request) (any, error) {
			p.requests.Add(1)
			<-ctx.Done() // as one that takes its time
			return nil, ctx.Err()
		},
	})
	r.Socket = end
	go func() { p.done <- p.conn.Run(context.Background()) }()
	t.cleanup(func() {
		_ = p.conn.Close()
		<-p.done
		_ = end.Close()
	})
	t.host = p
}

func (t *trial) peer() *peer { return t.host.(*peer) }

// took: the host took what it should not have, or ended the connection.
func took(bad func(*peer) string) func(*trial) string {
	return func(t *trial) string {
		got := ""
		eventually(func() bool {
			over := t.peer().settled(t)
			select {
			case <-t.peer().conn.Done():
				over = true
			default:
			}
			got = bad(t.peer()) // whatever came before it was over
			return got != "" || over
		})
		return got
	}
}

// settled: the attack has said what it had to say, and the host has read it.
func (p *peer) settled(t *trial) bool {
	s := p.conn.Stats()
	return strings.Contains(t.output(), "ready") && s.Overloaded > 0
}

func ipcCases() []escape {
	call := func(args ...string) func(*trial) []string { return func(*trial) []string { return args } }
	return inCategory("ipc", []escape{
		{
			name: "a message larger than it may send", walls: []string{"ipc.max_frame"}, request: connect, args: call("big", "1000000"),
			escaped: took(func(p *peer) string {
				if n := p.longest.Load(); n > 64<<10 {
					return fmt.Sprintf("the host took %d bytes", n)
				}
				return ""
			}),
		},
		{
			name: "more messages than it may send", after: "flood", walls: []string{"ipc.rate"}, request: connect, args: call("flood", "3000"),
			escaped: func(t *trial) string {
				p := t.peer()
				if !eventually(func() bool { return p.notes.Load() >= 3000 || p.conn.Stats().Slowed > 0 }) {
					t.Error("the flood neither went through nor was held back")
				}
				if n := p.notes.Load(); n >= 3000 {
					return fmt.Sprintf("the host took %d at once", n)
				}
				return ""
			},
		},
		{
			name: "a message deeper than it may be", walls: []string{"ipc.max_depth"}, request: connect, args: call("deep", "500"),
			escaped: took(func(p *peer) string {
				if n := p.deepest.Load(); n > 64 {
					return fmt.Sprintf("the host took %d levels", n)
				}
				return ""
			}),
		},
		{
			name: "more requests at once than it may", walls: []string{"ipc.max_in_flight"}, request: connect, args: call("in-flight", "40"),
			escaped: took(func(p *peer) string {
				if n := p.requests.Load(); n > 8 {
					return fmt.Sprintf("the host works on %d", n)
				}
				return ""
			}),
		},
		{
			name: "descriptors that nobody asked for", walls: []string{"descriptors of peers"}, request: connect,
			args: func(t *trial) []string { return []string{"send-descriptors", "/tmp/" + t.token} },
			escaped: took(func(p *peer) string {
				return openHere("/tmp/token-")
			}),
			prepare: func(t *trial) { t.cleanup(func() { closeHere("/tmp/token-") }) },
		},
	})
}

// openHere: the host itself has a file open.
func openHere(name string) string {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if link, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.Contains(link, name) {
			return "the host has " + link + " open"
		}
	}
	return ""
}

// closeHere gives back what a control run left.
func closeHere(name string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		link, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && strings.Contains(link, name) {
			_ = unix.Close(fd)
		}
	}
}
