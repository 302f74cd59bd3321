// Command capability measures what the broker and the relay cost, each beside
// what the kernel gives bare, in turns. make bench-capability runs it, as root.
// A line for each figure says
//
//	figure NAME VALUE TARGET ok|short
//
// with "-" for a figure that has no target. It ends with 1 if one is short.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/integration/bench/machine"
	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor"
	"github.com/cordonhq/cordon/supervisor/audit"
	"github.com/cordonhq/cordon/supervisor/broker"
	"github.com/cordonhq/cordon/supervisor/broker/kv"
	"github.com/cordonhq/cordon/supervisor/broker/metric"
	"github.com/cordonhq/cordon/supervisor/broker/secret"
	"github.com/cordonhq/cordon/supervisor/egress"
)

// The targets: of ratios, and of milliseconds.
const (
	mostOpen   = 3.0
	leastRelay = 0.7
	mostRevoke = 5.0
)

const openConnections = 1000

func main() {
	rounds := flag.Int("rounds", 31, "transfers each way")
	size := flag.Int64("bytes", 128<<20, "of one transfer")
	calls := flag.Int("calls", 3000, "calls each way")
	flag.Parse()
	b := &bench{rounds: *rounds, size: *size, calls: *calls}
	is, err := end(flag.Args())
	if !is {
		err = b.run()
	}
	if err == nil && b.short {
		os.Exit(1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot measure:", err)
		os.Exit(1)
	}
}

type bench struct {
	rounds int
	size   int64
	calls  int
	short  bool

	dir     string
	server  *net.TCPListener
	pid     int
	session *broker.Session

	source     *helper
	sourceAddr string
}

// figure prints one; good says whether it meets its target.
func (b *bench) figure(name string, value float64, target string, good bool) {
	word := "ok"
	if !good {
		word, b.short = "short", true
	}
	fmt.Printf("figure %s %.3g %s %s\n", name, value, target, word)
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// connections is the session as the relay sees it.
type connections struct{ *broker.Session }

func (c connections) Lease(target string) (egress.Lease, error) {
	l, err := c.Session.Lease(grant.Egress, target)
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (c connections) Denied(string, string, bool) {}

func (b *bench) run() (err error) {
	if b.dir, err = os.MkdirTemp("", "cordon-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.server, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 8)}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.Close()) }()
	if b.source, err = help(0, asSource, fmt.Sprint(b.size)); err != nil {
		return err
	}
	defer b.source.stop()
	if b.sourceAddr, err = b.source.line(); err != nil {
		return err
	}
	child := exec.Command("sleep", "86400")
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // whose end would be the child's
	if err := child.Start(); err != nil {
		return err
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}()
	b.pid = child.Process.Pid
	log, err := audit.Open(filepath.Join(b.dir, "audit.jsonl"), time.Now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	if err := b.open(log); err != nil {
		return err
	}
	defer b.session.Close()
	fmt.Printf("machine: %s; %d transfers of %d MiB, %d calls, each way, in turns; medians\n", machine.Name(), b.rounds, b.size>>20, b.calls)
	began := machine.Now()
	err = errors.Join(b.files(), b.transfers(), b.revocations(), b.many())
	fmt.Println(machine.Now().Since(began))
	return err
}

func (b *bench) open(log *audit.Log) error {
	stores, err := kv.Open(filepath.Join(b.dir, "kv"))
	if err != nil {
		return err
	}
	br, err := broker.New(supervisor.SystemClock{}, log, broker.Catalogue(broker.Host{
		Stores: stores, Metrics: metric.NewStore(), Secrets: func(string) (secret.Source, bool) { return secret.Source{}, false },
	}))
	if err != nil {
		return err
	}
	p := &plan.Plan{
		Network: plan.Network{Egress: []string{b.server.Addr().String(), b.sourceAddr}},
		Capabilities: []plan.Capability{
			{Name: "fs.open", Target: []string{"r:" + b.dir}, Budget: plan.Budget{Rate: 1 << 30, Window: time.Second, Concurrent: 64}},
			{Name: "net.dial", Target: []string{b.server.Addr().String()}, Budget: plan.Budget{Rate: 1 << 30, Window: time.Second, Concurrent: 64}},
		},
		Origins: map[string]string{},
	}
	b.session = br.Session(broker.Options{Plugin: "bench", Plan: p, Policy: func() (broker.Policy, error) { return broker.Policy{Grants: broker.Granted(p)}, nil }})
	relay := egress.New(egress.Options{Network: p.Network, Grants: connections{b.session}})
	if err := relay.Open(b.pid); err != nil {
		return err
	}
	b.session.AtEnd(relay.Close)
	b.session.Open("sha256:bench", nil)
	return nil
}

// inside dials from the namespace of the child.
func (b *bench) inside() (*net.TCPConn, error) {
	type result struct {
		c   *net.TCPConn
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is not used again
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", b.pid))
		if err == nil {
			err = errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close())
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		c, err := net.DialTCP("tcp", nil, b.place())
		done <- result{c, err}
	}()
	r := <-done
	return r.c, r.err
}

func (b *bench) place() *net.TCPAddr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(b.server.Addr().String()))
}

func (b *bench) transfers() error {
	within, err := help(b.pid, asSink, b.sourceAddr)
	if err != nil {
		return err
	}
	defer within.stop()
	outside, err := help(0, asSink, b.sourceAddr)
	if err != nil {
		return err
	}
	defer outside.stop()
	var ratios, relayed, straight []float64
	for range b.rounds {
		d, err := outside.fetch(b.size)
		if err != nil {
			return err
		}
		r, err := within.fetch(b.size)
		if err != nil {
			return err
		}
		ratios, relayed, straight = append(ratios, r/d), append(relayed, r), append(straight, d)
	}
	fmt.Printf("relay %.0f MiB/s, direct loopback %.0f MiB/s; server and client are processes of their own\n", median(relayed), median(straight))
	ratio := median(ratios)
	b.figure("relay-to-direct-throughput", ratio, fmt.Sprint(">=", leastRelay), ratio >= leastRelay)
	return nil
}

// many opens connections that do nothing, and says what one costs this process:
// both ends of both sides are in it, so it is an upper bound.
func (b *bench) many() error {
	memory := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse + m.StackInuse)
	}
	before := memory()
	var open []io.Closer
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for len(open) < 2*openConnections {
		c, s, err := b.connected()
		if err != nil {
			return err
		}
		open = append(open, c, s)
	}
	b.figure("connections-open", openConnections, fmt.Sprint(">=", openConnections), true)
	b.figure("memory-of-a-connection-kib", (memory()-before)/openConnections/1024, "-", true)
	return nil
}

// connected gives both ends of a relayed connection. The grant's budget lets so
// many begin in a second: one that is over it is tried again.
func (b *bench) connected() (c, s *net.TCPConn, err error) {
	for range 10 {
		if c, err = b.inside(); err != nil {
			return nil, nil, err
		}
		if err = b.server.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return nil, nil, err
		}
		if s, err = b.server.AcceptTCP(); err == nil {
			return c, s, b.server.SetDeadline(time.Time{})
		}
		_ = c.Close()
	}
	return nil, nil, err
}

// files compares a file through the broker, over the real connection with
// contracts and audit, as a descriptor and as bytes, with openat2 and a
// descriptor passed over a bare socket.
func (b *bench) files() error {
	if err := os.WriteFile(filepath.Join(b.dir, "f"), make([]byte, 64), 0o600); err != nil {
		return err
	}
	host, file, err := ipc.Socketpair()
	if err != nil {
		return err
	}
	plugin, err := ipc.FileTransport(file)
	if err != nil {
		return err
	}
	hc := ipc.NewConn(host, ipc.Options{Handler: b.session.Handle, Limits: ipc.Limits{Rate: 1 << 20}, PeerTakes: []ipc.DescriptorKind{ipc.KindFile}})
	pc := ipc.NewConn(plugin, ipc.Options{Limits: ipc.Limits{Rate: 1 << 20}})
	go func() { _ = hc.Run(context.Background()) }()
	go func() { _ = pc.Run(context.Background()) }()
	defer func() { _ = errors.Join(hc.Close(), pc.Close()) }()
	params := map[string]string{"path": filepath.Join(b.dir, "f")}
	// A plugin is serving once the host has called it.
	if _, err := hc.Call(context.Background(), "none", nil); err == nil {
		return errors.New("the bench's plugin answers")
	}
	bare, stop, err := b.bareOpener()
	if err != nil {
		return err
	}
	defer stop()
	ways := []func() error{
		func() error {
			answer, err := pc.CallFiles(context.Background(), "fs.open", params, nil, 1)
			if err == nil && len(answer.Files) != 1 {
				err = errors.New("no descriptor came")
			}
			ipc.CloseDescriptors(answer.Files)
			return err
		},
		func() error {
			_, err := pc.Call(context.Background(), "fs.read", params)
			return err
		},
		bare,
	}
	took := make([][]float64, len(ways))
	for range b.calls {
		for i, way := range ways {
			began := time.Now()
			if err := way(); err != nil {
				return err
			}
			took[i] = append(took[i], float64(time.Since(began).Nanoseconds())/1000)
		}
	}
	opened, read, least := median(took[0]), median(took[1]), median(took[2])
	fmt.Printf("fs.open through the broker %.1f us, fs.read %.1f us, bare openat2 and descriptor passing %.1f us\n", opened, read, least)
	b.figure("fs-open-to-bare-open-and-pass", opened/least, fmt.Sprint("<=", mostOpen), opened/least <= mostOpen)
	b.figure("fs-read-to-bare-open-and-pass", read/least, "-", true)
	return nil
}

// bareOpener is a goroutine that opens a file for each byte that it gets, and
// passes the descriptor back.
func (b *bench) bareOpener() (call func() error, stop func(), err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ends := [2]*net.UnixConn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "bare")
		c, err := net.FileConn(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, nil, err
		}
		ends[i] = c.(*net.UnixConn) //nolint:forcetypeassert // a unix socket
	}
	dir, err := unix.Open(b.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	go func() {
		buf := make([]byte, 1)
		for {
			if _, err := ends[1].Read(buf); err != nil {
				return
			}
			fd, err := unix.Openat2(dir, "f", &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
			if err != nil {
				return
			}
			_, _, err = ends[1].WriteMsgUnix(buf, unix.UnixRights(fd), nil)
			if errors.Join(err, unix.Close(fd)) != nil {
				return
			}
		}
	}()
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	call = func() error {
		if _, err := ends[0].Write(buf); err != nil {
			return err
		}
		_, n, _, _, err := ends[0].ReadMsgUnix(buf, oob)
		if err != nil {
			return err
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil {
			return err
		}
		got, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			return err
		}
		return unix.Close(got[0])
	}
	return call, func() { _, _, _ = ends[0].Close(), ends[1].Close(), unix.Close(dir) }, nil
}
