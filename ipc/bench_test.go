package ipc

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// socketpair returns both ends of a unix stream socket.
func socketpair(tb testing.TB) (a, b *net.UnixConn) {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return unixConn(tb, fds[0]), unixConn(tb, fds[1])
}

func unixConn(tb testing.TB, fd int) *net.UnixConn {
	tb.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	c, err := net.FileConn(f)
	if err != nil {
		tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c.(*net.UnixConn)
}

// bareEcho answers each length-prefixed message with itself, and nothing else.
func bareEcho(c net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := readBare(c, buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// readBare reads one length-prefixed message, header included, as a program
// without limits would.
func readBare(c net.Conn, buf []byte) (int, error) {
	n, err := io.ReadAtLeast(c, buf, 4)
	if err != nil {
		return 0, err
	}
	whole := 4 + int(binary.BigEndian.Uint32(buf))
	_, err = io.ReadFull(c, buf[n:max(n, whole)])
	return whole, err
}

// peerVariable names the echo that a second process of the test binary runs on
// its descriptor 3, in place of tests.
const peerVariable = "CORDON_TEST_PEER"

func TestMain(m *testing.M) {
	echoes := map[string]func(net.Conn){"bare": bareEcho, "rpc": bareRPCEcho, "conn": connEcho}
	if echo, ok := echoes[os.Getenv(peerVariable)]; ok {
		c, err := net.FileConn(os.NewFile(3, "socket"))
		if err != nil {
			os.Exit(1)
		}
		echo(c)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// peerProcess starts an echo in a process of its own, as a plugin is, and
// returns the host's end of its socket.
func peerProcess(b *testing.B, echo string) *net.UnixConn {
	b.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "socket")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), peerVariable+"="+echo)
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	_ = theirs.Close()
	host := unixConn(b, fds[0])
	b.Cleanup(func() {
		_ = host.Close()
		_ = cmd.Wait()
	})
	return host
}

// BenchmarkBare64B is the floor: a length-prefixed ping-pong in Go over the
// same kind of socket, without JSON, limits and concurrency.
func BenchmarkBare64B(b *testing.B) {
	host := peerProcess(b, "bare")
	msg := binary.BigEndian.AppendUint32(nil, 124)
	msg = append(msg, strings.Repeat("x", 124)...)
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := host.Write(msg); err != nil {
			b.Fatal(err)
		}
		if _, err := readBare(host, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// bareRPCEcho answers each request by a reply with the same id and params, on a
// bare loop: the allocations counted are then the host's own.
func bareRPCEcho(c net.Conn) {
	buf := make([]byte, 64<<10)
	var out []byte
	for {
		n, err := readBare(c, buf)
		if err != nil {
			return
		}
		msg := buf[4:n]
		id, _ := lookup(msg, "id")
		params, _ := lookup(msg, "params")
		out = appendFrame(out[:0], FramingLength, replyHead, id.of(msg), []byte(`,"result":`), params.of(msg), closeBrace)
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

var payload64 = json.RawMessage(`{"data":"` + strings.Repeat("x", 64) + `"}`)

// connEcho is a plugin built on Conn itself, with a goroutine for each request.
func connEcho(c net.Conn) {
	handler := func(_ context.Context, r *Request) (any, error) { return r.Params, nil }
	_ = NewConn(SocketTransport(c.(*net.UnixConn)), Options{Limits: Limits{Rate: 1e9}, Handler: handler}).Run(context.Background())
}

// BenchmarkCall64B is one call with 64 bytes of payload each way, every limit
// on, against a plugin that does the least possible.
func BenchmarkCall64B(b *testing.B) { benchmarkCalls(b, "rpc") }

// BenchmarkCall64BBothEnds has a Conn on the plugin's side as well.
func BenchmarkCall64BBothEnds(b *testing.B) { benchmarkCalls(b, "conn") }

// BenchmarkAgainstBare takes turns, one bare exchange and one call with every
// limit on, over sockets to two processes, and reports both medians and their
// ratio: on a noisy machine only that means something.
func BenchmarkAgainstBare(b *testing.B) {
	for name, size := range map[string]int{"64B": 64, "4KiB": 4096} {
		b.Run(name, func(b *testing.B) { benchmarkAgainstBare(b, size) })
	}
}

func benchmarkAgainstBare(b *testing.B, size int) {
	payload := json.RawMessage(`{"data":"` + strings.Repeat("x", size) + `"}`)
	msg := binary.BigEndian.AppendUint32(nil, uint32(size+60)) // as large as the call
	msg = append(msg, strings.Repeat("x", size+60)...)
	bare, buf := peerProcess(b, "bare"), make([]byte, 64<<10)
	c := NewConn(SocketTransport(peerProcess(b, "rpc")), Options{Limits: Limits{Rate: 1e9}})
	ended := make(chan error, 1)
	go func() { ended <- c.Run(context.Background()) }()
	var bares, calls []time.Duration
	for b.Loop() {
		began := time.Now()
		if _, err := bare.Write(msg); err != nil {
			b.Fatal(err)
		}
		if _, err := readBare(bare, buf); err != nil {
			b.Fatal(err)
		}
		turn := time.Now()
		if _, err := c.Call(context.Background(), "echo", payload); err != nil {
			b.Fatal(err)
		}
		bares, calls = append(bares, turn.Sub(began)), append(calls, time.Since(turn))
	}
	_ = c.Close()
	<-ended
	slices.Sort(bares)
	slices.Sort(calls)
	m, p := len(calls)/2, len(calls)*99/100
	b.ReportMetric(float64(bares[m]), "bare-p50-ns")
	b.ReportMetric(float64(calls[m]), "cordon-p50-ns")
	b.ReportMetric(float64(calls[p]), "cordon-p99-ns")
	b.ReportMetric(float64(calls[m])/float64(bares[m]), "cordon/bare")
	b.ReportMetric(0, "ns/op") // of both: means nothing
}

func benchmarkCalls(b *testing.B, echo string) {
	b.Helper()
	c := NewConn(SocketTransport(peerProcess(b, echo)), Options{Limits: Limits{Rate: 1e9}})
	ended := make(chan error, 1)
	go func() { ended <- c.Run(context.Background()) }()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Call(ctx, "echo", payload64); err != nil {
			b.Fatal(err)
		}
	}
	_ = c.Close()
	<-ended
}
