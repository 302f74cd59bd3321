package ipc

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"strings"
	"testing"

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

// BenchmarkBare64B is the floor: a length-prefixed ping-pong in Go over the
// same kind of socket, without JSON, limits and concurrency.
func BenchmarkBare64B(b *testing.B) {
	host, plugin := socketpair(b)
	go bareEcho(plugin)
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

// BenchmarkCall64B is one call with 64 bytes of payload each way, every limit
// on, against a plugin that does the least possible.
func BenchmarkCall64B(b *testing.B) {
	hostEnd, plugin := socketpair(b)
	go bareRPCEcho(plugin)
	c := NewConn(SocketTransport(hostEnd), Options{Limits: Limits{Rate: 1e9}})
	ended := make(chan error, 1)
	go func() { ended <- c.Run(context.Background()) }()
	benchmarkCalls(b, c)
	_ = c.Close()
	<-ended
}

// BenchmarkCall64BBothEnds has a Conn on the plugin's side as well, with a
// goroutine for each request.
func BenchmarkCall64BBothEnds(b *testing.B) {
	hostEnd, pluginEnd := socketpair(b)
	limits := Limits{Rate: 1e9}
	c := NewConn(SocketTransport(hostEnd), Options{Limits: limits})
	p := NewConn(SocketTransport(pluginEnd), Options{
		Limits:  limits,
		Handler: func(_ context.Context, r *Request) (any, error) { return r.Params, nil },
	})
	ended := make(chan error, 2)
	go func() { ended <- c.Run(context.Background()) }()
	go func() { ended <- p.Run(context.Background()) }()
	benchmarkCalls(b, c)
	_ = c.Close()
	<-ended
	<-ended
}

func benchmarkCalls(b *testing.B, c *Conn) {
	b.Helper()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Call(ctx, "echo", payload64); err != nil {
			b.Fatal(err)
		}
	}
}
