package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// largest is the most bytes a peer takes in one message.
const largest = 80 << 20

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "an unknown kernel"
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}

// versions names the peers' releases as they were built in.
func versions() string {
	var out []string
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			switch m.Path {
			case "github.com/containerd/ttrpc", "google.golang.org/grpc", "github.com/hashicorp/go-plugin":
				out = append(out, m.Path+" "+m.Version)
			}
		}
	}
	return strings.Join(out, ", ")
}

func serve(what string) {
	switch what {
	case "cordon":
		serveCordon()
	case "bare":
		serveBare(socketOf())
	case "bare-large":
		serveBareLarge(socketOf())
	case "net/rpc":
		serveNetRPC(socketOf())
	case "ttrpc":
		serveTTRPC(socketOf())
	case "grpc":
		serveGRPC(socketOf())
	}
}

// process starts this program as the server of what, and returns its socket.
func process(what string) (net.Conn, func(), error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	host, theirs := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "server")
	c, err := net.FileConn(host)
	if err = errors.Join(err, host.Close()); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	cmd := exec.Command(os.Args[0], "serve", what)
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs}, os.Stderr
	err = cmd.Start()
	if err = errors.Join(err, theirs.Close()); err != nil {
		return nil, nil, err
	}
	return c, func() { _ = c.Close(); _ = cmd.Wait() }, nil
}

// --- bare ------------------------------------------------------------------

type bare struct {
	c    net.Conn
	end  func()
	out  []byte
	back []byte
}

func newBare() (caller, error) {
	c, end, err := process("bare")
	return &bare{c: c, end: end, back: make([]byte, 4096)}, err
}

// envelope is what a call's message has beside its payload, so that as many
// bytes go over the socket.
const envelope = 60

func (b *bare) call(payload []byte) error {
	b.out = binary.BigEndian.AppendUint32(b.out[:0], uint32(len(payload)+envelope))
	b.out = append(append(b.out, payload...), make([]byte, envelope)...)
	if _, err := b.c.Write(b.out); err != nil {
		return err
	}
	back, err := readBare(b.c, b.back)
	b.back = back
	return err
}

func (b *bare) close() { b.end() }

// readBare reads one message into buf, which it returns, larger if need be.
func readBare(c net.Conn, buf []byte) ([]byte, error) {
	n, err := io.ReadAtLeast(c, buf, 4)
	if err != nil {
		return buf, err
	}
	whole := 4 + int(binary.BigEndian.Uint32(buf))
	if whole > len(buf) {
		buf = append(buf, make([]byte, whole-len(buf))...)
	}
	if n < whole {
		_, err = io.ReadFull(c, buf[n:whole])
	}
	return buf, err
}

func serveBare(c net.Conn) {
	buf := make([]byte, 4096)
	for {
		var err error
		if buf, err = readBare(c, buf); err != nil {
			return
		}
		if _, err := c.Write(buf[:4+binary.BigEndian.Uint32(buf)]); err != nil {
			return
		}
	}
}

// --- net/rpc ---------------------------------------------------------------

// Echo is the service of net/rpc.
type Echo struct{}

// Call answers what it got.
func (Echo) Call(in []byte, out *[]byte) error {
	*out = in
	return nil
}

type netRPC struct {
	c   *rpc.Client
	end func()
}

func newNetRPC() (caller, error) {
	c, end, err := process("net/rpc")
	if err != nil {
		return nil, err
	}
	return &netRPC{rpc.NewClient(c), end}, nil
}

func (n *netRPC) call(payload []byte) error {
	var out []byte
	return n.c.Call("Echo.Call", payload, &out)
}

func (n *netRPC) close() { _ = n.c.Close(); n.end() }

func serveNetRPC(c net.Conn) {
	if err := rpc.Register(Echo{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	rpc.ServeConn(c)
}

// --- ttrpc -----------------------------------------------------------------

type ttrpcCaller struct {
	c   *ttrpc.Client
	end func()
}

func newTTRPC() (caller, error) {
	c, end, err := process("ttrpc")
	if err != nil {
		return nil, err
	}
	return &ttrpcCaller{ttrpc.NewClient(c), end}, nil
}

func (t *ttrpcCaller) call(payload []byte) error {
	var out wrapperspb.BytesValue
	return t.c.Call(context.Background(), "echo", "Call", &wrapperspb.BytesValue{Value: payload}, &out)
}

func (t *ttrpcCaller) close() { _ = t.c.Close(); t.end() }

func serveTTRPC(c net.Conn) {
	s, err := ttrpc.NewServer()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	s.RegisterService("echo", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Call": func(_ context.Context, unmarshal func(any) error) (any, error) {
			var in wrapperspb.BytesValue
			return &in, unmarshal(&in)
		},
	}})
	_ = s.Serve(context.Background(), &oneListener{conn: c}) // ends with the connection
}

// oneListener accepts one connection, and nothing more until it is closed.
type oneListener struct {
	conn net.Conn
	gave bool
}

func (l *oneListener) Accept() (net.Conn, error) {
	if l.gave {
		select {} // the process ends with its peer
	}
	l.gave = true
	return &dyingConn{l.conn}, nil
}

func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return l.conn.LocalAddr() }

// dyingConn ends the process at the end of its stream.
type dyingConn struct{ net.Conn }

func (d *dyingConn) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		os.Exit(0)
	}
	return n, err
}

// --- gRPC ------------------------------------------------------------------

type grpcCaller struct {
	c   *grpc.ClientConn
	end func()
}

func newGRPC() (caller, error) {
	c, end, err := process("grpc")
	if err != nil {
		return nil, err
	}
	cc, err := grpc.NewClient("passthrough:///socket", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return c, nil }), grpcSizes())
	return &grpcCaller{cc, end}, err
}

func grpcSizes() grpc.DialOption {
	return grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largest), grpc.MaxCallSendMsgSize(largest))
}

func (g *grpcCaller) call(payload []byte) error { return grpcCall(g.c, payload) }

func grpcCall(c grpc.ClientConnInterface, payload []byte) error {
	var out wrapperspb.BytesValue
	return c.Invoke(context.Background(), "/echo.Echo/Call", &wrapperspb.BytesValue{Value: payload}, &out)
}

func (g *grpcCaller) close() { _ = g.c.Close(); g.end() }

func serveGRPC(c net.Conn) {
	s := grpc.NewServer(grpc.MaxRecvMsgSize(largest), grpc.MaxSendMsgSize(largest))
	s.RegisterService(&echoService, Echo{})
	_ = s.Serve(&oneListener{conn: c})
}

// echoService is what a generator would have made of echo.proto.
var echoService = grpc.ServiceDesc{
	ServiceName: "echo.Echo", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Call",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.BytesValue)
			return in, decode(in)
		},
	}, {MethodName: "Make", Handler: makeUnary}},
	Streams: []grpc.StreamDesc{{StreamName: "Stream", Handler: makeStream, ServerStreams: true}},
}

// --- go-plugin -------------------------------------------------------------

const goPluginCookie = "CORDON_BENCH_GO_PLUGIN"

var handshake = goplugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: goPluginCookie, MagicCookieValue: "echo"}

// echoPlugin is a go-plugin over gRPC with the same service.
type echoPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
}

func (echoPlugin) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	s.RegisterService(&echoService, Echo{})
	return nil
}

func (echoPlugin) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return c, nil
}

func plugins() map[string]goplugin.Plugin { return map[string]goplugin.Plugin{"echo": echoPlugin{}} }

func serveGoPlugin() {
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: handshake, Plugins: plugins(),
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, grpc.MaxRecvMsgSize(largest), grpc.MaxSendMsgSize(largest))...)
		},
		Logger: hclog.NewNullLogger(),
	})
}

type goPluginCaller struct {
	client *goplugin.Client
	c      *grpc.ClientConn
}

func newGoPlugin() (caller, error) {
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: handshake, Plugins: plugins(), Cmd: exec.Command(os.Args[0]),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		GRPCDialOptions:  []grpc.DialOption{grpcSizes()},
		Logger:           hclog.NewNullLogger(),
	})
	rpcs, err := client.Client()
	if err != nil {
		return nil, err
	}
	raw, err := rpcs.Dispense("echo")
	if err != nil {
		return nil, err
	}
	c, ok := raw.(*grpc.ClientConn)
	if !ok {
		return nil, errors.New("no connection")
	}
	return &goPluginCaller{client, c}, nil
}

func (g *goPluginCaller) call(payload []byte) error { return grpcCall(g.c, payload) }
func (g *goPluginCaller) close()                    { g.client.Kill() }
