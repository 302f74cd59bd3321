package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/supervisor/broker"
)

// cuts is how often each kind of thing is revoked.
const cuts = 51

// revocations measures from the operator's word to what the plugin's side sees:
// the end of a transfer that runs, by each door there is, and the first call that
// is refused while the plugin makes one after the other. That anything is served
// after the revocation has returned is an error of its own.
func (b *bench) revocations() error {
	pc, stop, err := b.peer()
	if err != nil {
		return err
	}
	defer stop()
	for _, way := range []struct {
		figure, capability string
		// begin starts something, and gives the channel on which its end is told.
		begin func() (<-chan time.Time, func() error, error)
	}{
		{"revoke-to-effect-ms", grant.Egress, func() (<-chan time.Time, func() error, error) {
			return b.transfer(func() (net.Conn, error) { return b.inside() })
		}},
		{"revoke-to-effect-net-dial-ms", "net.dial", func() (<-chan time.Time, func() error, error) {
			return b.transfer(func() (net.Conn, error) { return b.handed(pc) })
		}},
		{"revoke-to-effect-next-call-ms", "fs.open", func() (<-chan time.Time, func() error, error) { return b.reads(pc) }},
	} {
		var took []float64
		for range cuts {
			ms, err := b.revoked(way.capability, way.begin)
			if err != nil {
				return fmt.Errorf("%s: %w", way.figure, err)
			}
			took = append(took, ms)
		}
		ms := median(took)
		b.figure(way.figure, ms, fmt.Sprint("<=", mostRevoke), ms <= mostRevoke)
	}
	return nil
}

// revoked revokes something that is under way, says how long it then went on,
// and grants it again. after looks for what is served all the same.
func (b *bench) revoked(capability string, begin func() (<-chan time.Time, func() error, error)) (ms float64, err error) {
	ended, after, err := begin()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	b.session.Decide([]broker.Decision{{Capability: capability, Revoked: true, By: "bench"}})
	err = after()
	end := <-ended
	b.session.Decide(nil)
	return float64(end.Sub(began).Microseconds()) / 1000, err
}

// transfer has the server send without end over a new connection to it, and the
// plugin's side read, until it fails.
func (b *bench) transfer(dial func() (net.Conn, error)) (<-chan time.Time, func() error, error) {
	c, err := dial()
	if err != nil {
		return nil, nil, err
	}
	server, err := b.server.AcceptTCP()
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		piece := make([]byte, 64<<10)
		for {
			if _, err := server.Write(piece); err != nil {
				return
			}
		}
	}()
	if _, err := io.CopyN(io.Discard, c, 1<<20); err != nil {
		return nil, nil, err
	}
	ended := make(chan time.Time, 1)
	go func() {
		_, _ = io.Copy(io.Discard, c)
		ended <- time.Now()
		_ = c.Close()
	}()
	return ended, func() error {
		<-sent // the way out of the host is closed
		_ = server.Close()
		next, err := dial()
		if err != nil {
			return nil //nolint:nilerr // it is to be refused
		}
		defer func() { _ = next.Close() }()
		if err := next.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		if _, err := next.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("a connection was served after the revocation")
		}
		return nil
	}, nil
}

// handed is a connection that was handed over.
func (b *bench) handed(pc *ipc.Conn) (net.Conn, error) {
	answer, err := pc.CallFiles(context.Background(), "net.dial", map[string]string{"to": b.server.Addr().String()}, nil, 1)
	if err != nil {
		return nil, err
	}
	defer ipc.CloseDescriptors(answer.Files)
	if len(answer.Files) != 1 {
		return nil, errors.New("no socket came")
	}
	return net.FileConn(answer.Files[0].File)
}

// reads has the plugin read a file again and again, until a read is refused.
func (b *bench) reads(pc *ipc.Conn) (<-chan time.Time, func() error, error) {
	read := func() error {
		_, err := pc.Call(context.Background(), "fs.read", map[string]string{"path": filepath.Join(b.dir, "f")})
		return err
	}
	if err := read(); err != nil {
		return nil, nil, err
	}
	ended := make(chan time.Time, 1)
	go func() {
		for read() == nil {
		}
		ended <- time.Now()
	}()
	return ended, func() error {
		if read() == nil {
			return errors.New("a call was served after the revocation")
		}
		return nil
	}, nil
}

// peer is a plugin's end of a connection to the session, of one that is serving.
func (b *bench) peer() (pc *ipc.Conn, stop func(), err error) {
	host, file, err := ipc.Socketpair()
	if err != nil {
		return nil, nil, err
	}
	plugin, err := ipc.FileTransport(file)
	if err != nil {
		return nil, nil, err
	}
	hc := ipc.NewConn(host, ipc.Options{Handler: b.session.Handle, Limits: ipc.Limits{Rate: 1 << 20}, PeerTakes: []ipc.DescriptorKind{ipc.KindFile, ipc.KindSocket}})
	pc = ipc.NewConn(plugin, ipc.Options{Limits: ipc.Limits{Rate: 1 << 20}})
	go func() { _ = hc.Run(context.Background()) }()
	go func() { _ = pc.Run(context.Background()) }()
	stop = func() { _ = errors.Join(hc.Close(), pc.Close()) }
	if _, err := hc.Call(context.Background(), "none", nil); err == nil { // from the first call on it serves
		stop()
		return nil, nil, errors.New("the bench's plugin answers")
	}
	return pc, stop, nil
}
