package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/cordonhq/cordon/ipc"
	cordon "github.com/cordonhq/cordon/sdk/go"
)

// large is how many bytes a plugin makes and hands to the host.
const large = 64 << 20

// fetcher has its plugin make large bytes, and looks at all of them.
type fetcher struct {
	name  string
	fetch func() error
	close func()
}

// pattern is what plugins fill their bytes with, a piece at a time.
var pattern = bytes.Repeat([]byte("0123456789abcdef"), 1<<16)

func fill(b []byte) {
	for len(b) > 0 {
		b = b[copy(b, pattern):]
	}
}

// looked is what look found, so that the looking is not left out.
var looked byte

// look touches each line of the processor's cache once.
func look(b []byte) {
	sum := byte(0) // to add in memory would take longer than to look
	for i := 0; i < len(b); i += 64 {
		sum += b[i]
	}
	looked += sum
}

// expect checks that all has come.
func expect(n int) error {
	if n != large {
		return fmt.Errorf("%d bytes came of %d", n, large)
	}
	return nil
}

func files(f *os.File) []*os.File { return []*os.File{f} }

func fetchers() ([]fetcher, error) {
	var all []fetcher
	for _, make := range []func() ([]fetcher, error){floorFetcher, bareFetcher, cordonFetchers, netRPCFetcher, grpcFetchers} {
		some, err := make()
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// measureLarge has all take turns, and returns the best half's middle of each.
func measureLarge(rounds int) (map[string]time.Duration, error) {
	all, err := fetchers()
	if err != nil {
		return nil, err
	}
	took := map[string][]time.Duration{}
	for round := range rounds + 1 { // the first is not counted
		for _, f := range all {
			began := time.Now()
			if err := f.fetch(); err != nil {
				return nil, fmt.Errorf("%s, 64MiB: %w", f.name, err)
			}
			if round > 0 {
				took[f.name] = append(took[f.name], time.Since(began))
			}
		}
	}
	found := map[string]time.Duration{}
	fmt.Printf("\n%-16s %10s %10s %10s   64MiB from the plugin, %d calls each\n", "", "p50 ms", "p99 ms", "MiB/s", rounds)
	for _, f := range all {
		f.close()
		t := took[f.name]
		slices.Sort(t)
		p50 := t[len(t)/2]
		found[f.name] = p50
		fmt.Printf("%-16s %10.1f %10.1f %10.0f\n", f.name, micros(p50)/1000, micros(t[len(t)*99/100])/1000, 64/p50.Seconds())
	}
	return found, nil
}

// largeFigures prints what was promised beside what was found. gRPC has the
// faster of its two ways.
func largeFigures(found map[string]time.Duration) {
	peer := min(found["grpc"], found["grpc-stream"])
	for _, f := range []struct {
		name  string
		took  time.Duration
		least float64
	}{
		{"ipc-64MiB-streamed*grpc", found["cordon-stream"], 6},
		{"ipc-64MiB-in-place*grpc", found["cordon-in-place"], 20},
	} {
		verdict, times := "ok", float64(peer)/float64(f.took)
		if times < f.least {
			verdict = "short"
		}
		fmt.Printf("figure %s %.2f >=%g %s\n", f.name, times, f.least, verdict)
	}
	fmt.Printf("figure ipc-64MiB-floor*grpc %.2f - ok\n", float64(peer)/float64(found["floor"]))
}

// --- floor -----------------------------------------------------------------

// floorFetcher has two threads of one process hand the bytes over in memory, by
// counters that both look at all the time: what it takes to bring them from one
// processor to the other, without a system call or another copy.
func floorFetcher() ([]fetcher, error) {
	const chunk = 256 << 10
	ring := make([]byte, 4<<20)
	piece := func(at int64) []byte { return ring[at%int64(len(ring)):][:chunk] }
	return []fetcher{{"floor", func() error {
		var made, seen atomic.Int64
		go func() {
			for at := int64(0); at < large; {
				if at-seen.Load() < int64(len(ring)) {
					fill(piece(at))
					at += chunk
					made.Store(at)
				}
			}
		}()
		for at := int64(0); at < large; {
			if made.Load() > at {
				look(piece(at))
				at += chunk
				seen.Store(at)
			}
		}
		return nil
	}, func() {}}}, nil
}

// --- bare ------------------------------------------------------------------

func bareFetcher() ([]fetcher, error) {
	c, end, err := process("bare-large")
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 256<<10)
	return []fetcher{{"bare", func() error {
		if _, err := c.Write([]byte{1}); err != nil {
			return err
		}
		got := 0
		for got < large {
			n, err := c.Read(buf)
			if err != nil {
				return err
			}
			look(buf[:n])
			got += n
		}
		return expect(got)
	}, end}}, nil
}

func serveBareLarge(c net.Conn) {
	buf, ask := make([]byte, 256<<10), make([]byte, 1)
	for {
		if _, err := c.Read(ask); err != nil {
			return
		}
		for range large / len(buf) {
			fill(buf)
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}
}

// --- cordon ----------------------------------------------------------------

// serveLarge are the methods of the plugin in Go.
func serveLarge(p *cordon.Plugin) {
	cordon.Handle(p, "stream", func(ctx context.Context, _ json.RawMessage) (int, error) {
		s, err := cordon.TakeStream(ctx)
		if err != nil {
			return 0, err
		}
		defer func() { _ = s.Close() }()
		buf := make([]byte, 256<<10)
		for range large / len(buf) {
			fill(buf)
			if _, err := s.Write(buf); err != nil {
				return 0, err
			}
		}
		return large, s.End()
	})
	var kept *cordon.Stream // requests of the benchmark come one behind the other
	cordon.Handle(p, "keep", func(ctx context.Context, _ json.RawMessage) (_ int, err error) {
		kept, err = cordon.TakeStream(ctx)
		return 0, err
	})
	cordon.Handle(p, "place", func(context.Context, json.RawMessage) (int, error) {
		for left := large; left > 0; {
			room, err := kept.Reserve(min(left, 256<<10))
			if err != nil {
				return 0, err
			}
			fill(room)
			if err := kept.Commit(len(room)); err != nil {
				return 0, err
			}
			left -= len(room)
		}
		return large, kept.End()
	})
	cordon.Handle(p, "memfd", func(context.Context, json.RawMessage) (cordon.WithFiles, error) {
		m, err := cordon.NewMemory(large)
		if err != nil {
			return cordon.WithFiles{}, err
		}
		fill(m.Bytes())
		f, err := m.Seal()
		return cordon.WithFiles{Result: large, Files: files(f)}, err
	})
}

func cordonFetchers() ([]fetcher, error) {
	made, err := newCordon("go", false)
	if err != nil {
		return nil, err
	}
	c, ok := made.(*cordonCaller)
	if !ok {
		return nil, errors.New("no connection")
	}
	kept, err := c.keep()
	if err != nil {
		return nil, err
	}
	return []fetcher{
		{"cordon-socket", c.fetchSocket, func() {}},
		{"cordon-stream", c.fetchStream, func() {}},
		{"cordon-in-place", func() error { return c.fetchInPlace(kept) }, func() { _ = kept.Close() }},
		{"cordon-memfd", c.fetchMemory, c.close},
	}, nil
}

// fetchSocket has the bytes go through the stream's socket, as with a plugin
// that maps nothing.
func (c *cordonCaller) fetchSocket() error {
	ours, theirs, err := ipc.NewStream()
	if err != nil {
		return err
	}
	return errors.Join(c.fetch("stream", files(theirs), copied(ours)), ours.Close())
}

// fetchStream has them written and read, each into a buffer of its own, by
// whichever way the two ends take.
func (c *cordonCaller) fetchStream() error {
	ours, theirs, err := c.conn.NewStream()
	if err != nil {
		return err
	}
	return errors.Join(c.fetch("stream", theirs, copied(ours)), ours.Close())
}

// keep makes the stream that both sides keep.
func (c *cordonCaller) keep() (*ipc.Stream, error) {
	ours, theirs, err := c.conn.NewStream()
	if err != nil {
		return nil, err
	}
	_, err = c.conn.CallFiles(context.Background(), "keep", nil, theirs, 0)
	return ours, err
}

// fetchInPlace has them filled in and looked at where both sides have them, in
// memory that both keep.
func (c *cordonCaller) fetchInPlace(kept *ipc.Stream) error {
	return errors.Join(c.fetch("place", nil, kept.Next), kept.Again())
}

// copied reads a stream into a buffer.
func copied(s *ipc.Stream) func() ([]byte, error) {
	buf := make([]byte, 256<<10)
	return func() ([]byte, error) {
		n, err := s.Read(buf)
		return buf[:n], err
	}
}

// fetch has a method fill a stream, and looks at all that comes.
func (c *cordonCaller) fetch(method string, theirs []*os.File, next func() ([]byte, error)) error {
	answered := make(chan error, 1)
	go func() {
		_, err := c.conn.CallFiles(context.Background(), method, nil, theirs, 0)
		answered <- err
	}()
	for got := 0; ; {
		b, err := next()
		look(b)
		got += len(b)
		if errors.Is(err, io.EOF) {
			return errors.Join(<-answered, expect(got))
		}
		if err != nil {
			return err
		}
	}
}

func (c *cordonCaller) fetchMemory() error {
	a, err := c.conn.CallFiles(context.Background(), "memfd", nil, nil, 1)
	if err != nil {
		return err
	}
	if len(a.Files) != 1 {
		return errors.New("no memory came")
	}
	m, err := ipc.Map(a.Files[0], large)
	if err != nil {
		return err
	}
	look(m.Bytes())
	return errors.Join(expect(len(m.Bytes())), m.Close())
}

// --- net/rpc ---------------------------------------------------------------

// Make answers large bytes.
func (Echo) Make(_ int, out *[]byte) error {
	*out = make([]byte, large)
	fill(*out)
	return nil
}

func netRPCFetcher() ([]fetcher, error) {
	made, err := newNetRPC()
	if err != nil {
		return nil, err
	}
	c, ok := made.(*netRPC)
	if !ok {
		return nil, errors.New("no client")
	}
	return []fetcher{{"net/rpc", func() error {
		var out []byte
		if err := c.c.Call("Echo.Make", 0, &out); err != nil {
			return err
		}
		look(out)
		return expect(len(out))
	}, c.close}}, nil
}

// --- gRPC ------------------------------------------------------------------

// makeUnary answers large bytes in one message.
func makeUnary(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	out := &wrapperspb.BytesValue{Value: make([]byte, large)}
	fill(out.Value)
	return out, decode(new(wrapperspb.BytesValue))
}

// makeStream answers them in as many messages as cordon's stream has chunks.
func makeStream(_ any, s grpc.ServerStream) error {
	if err := s.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
		return err
	}
	out := &wrapperspb.BytesValue{Value: make([]byte, 256<<10)}
	for range large / len(out.Value) {
		fill(out.Value)
		if err := s.SendMsg(out); err != nil {
			return err
		}
	}
	return nil
}

func grpcFetchers() ([]fetcher, error) {
	made, err := newGRPC()
	if err != nil {
		return nil, err
	}
	c, ok := made.(*grpcCaller)
	if !ok {
		return nil, errors.New("no client")
	}
	unary := func() error {
		var out wrapperspb.BytesValue
		if err := c.c.Invoke(context.Background(), "/echo.Echo/Make", &wrapperspb.BytesValue{}, &out); err != nil {
			return err
		}
		look(out.Value)
		return expect(len(out.Value))
	}
	return []fetcher{{"grpc", unary, func() {}}, {"grpc-stream", func() error { return grpcStream(c.c) }, c.close}}, nil
}

func grpcStream(c *grpc.ClientConn) error {
	s, err := c.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true}, "/echo.Echo/Stream")
	if err != nil {
		return err
	}
	if err := errors.Join(s.SendMsg(&wrapperspb.BytesValue{}), s.CloseSend()); err != nil {
		return err
	}
	for got := 0; ; {
		var out wrapperspb.BytesValue
		err := s.RecvMsg(&out)
		if errors.Is(err, io.EOF) {
			return expect(got)
		}
		if err != nil {
			return err
		}
		look(out.Value)
		got += len(out.Value)
	}
}
