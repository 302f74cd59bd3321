package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
)

// noteLeaving tells a client that its connection is about to end and that it
// may come again at once: what it asked and got no answer to was never begun.
const noteLeaving = "daemon.leaving"

// halt stops accepting until Unpause.
func (s *Server) halt() {
	s.mu.Lock()
	paused := s.paused
	if paused != nil {
		close(s.halted)
	}
	s.mu.Unlock()
	if paused != nil {
		<-paused
	}
}

// Pause lets nothing new begin: who connects waits to be accepted, everything
// that was asked is answered, and every connection is ended, its client told to
// come again; but for one that asks for an upgrade. Streams and bridges end. On
// an error the server goes on.
func (s *Server) Pause(ctx context.Context) error {
	s.mu.Lock()
	if s.paused != nil || s.listener == nil {
		s.mu.Unlock()
		return errors.New("cannot pause the control socket: it is not served")
	}
	s.paused, s.halted = make(chan struct{}), make(chan struct{})
	halted, l := s.halted, s.listener
	s.mu.Unlock()
	err := l.SetDeadline(time.Unix(1, 0))
	if err == nil {
		select {
		case <-halted:
			err = s.drain(ctx)
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		s.Unpause()
		return fmt.Errorf("cannot pause the control socket: %w", err)
	}
	return nil
}

// Unpause ends a Pause.
func (s *Server) Unpause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused == nil {
		return
	}
	_ = s.listener.SetDeadline(time.Time{}) // fails only when it is closed
	close(s.paused)
	s.paused = nil
}

// drain ends the connections, each when all that it asked is answered. One that
// is not by then ends later, and is not told anything worse.
func (s *Server) drain(ctx context.Context) error {
	s.mu.Lock()
	var leaving []*session
	for ss := range s.sessions {
		if !ss.stays.Load() {
			leaving = append(leaving, ss)
		}
	}
	s.mu.Unlock()
	var wait sync.WaitGroup
	var mu sync.Mutex
	busy := 0
	for _, ss := range leaving {
		wait.Go(func() {
			_ = ss.conn.Notify(noteLeaving, nil)               // one that does not read is one that asked nothing
			if ss.conn.Drain(ctx) == nil || ctx.Err() == nil { // else its client has left
				_ = ss.conn.Close()
				return
			}
			mu.Lock()
			busy++
			mu.Unlock()
			go func() {
				_ = ss.conn.Drain(ss.ctx)
				_ = ss.conn.Close()
			}()
		})
	}
	wait.Wait()
	if busy > 0 {
		return fmt.Errorf("%d clients still wait for an answer: %w", busy, ctx.Err())
	}
	return nil
}

// Handover gives copies of the listening socket and of its lock, which an exec
// leaves open; see Inherit. Nothing of the socket changes.
func (s *Socket) Handover() (listener, lock int, err error) {
	if listener, err = inheritable(s.UnixListener); err != nil {
		return -1, -1, err
	}
	if lock, err = inheritable(s.lock); err != nil {
		return -1, -1, errors.Join(err, unix.Close(listener))
	}
	return listener, lock, nil
}

func inheritable(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	failed := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD, 3) })
	if err = errors.Join(failed, err); err != nil {
		return -1, fmt.Errorf("cannot hand the control socket over: %w", err)
	}
	return fd, nil
}

// Inherit takes over what another program of this process handed over: the
// socket that listens at path, and its lock. It owns both descriptors.
func Inherit(path string, listener, lock int) (*Socket, error) {
	f := os.NewFile(uintptr(listener), path)
	held := os.NewFile(uintptr(lock), path+".lock")
	if f == nil || held == nil {
		return nil, errors.New("cannot take over the control socket: no descriptors")
	}
	unix.CloseOnExec(lock)
	l, err := net.FileListener(f)
	err = errors.Join(err, f.Close())
	u, ok := l.(*net.UnixListener)
	switch {
	case err != nil:
	case !ok || u.Addr().String() != path:
		err = fmt.Errorf("what was handed over does not listen at %s", path)
	case !sameFile(held, path+".lock"):
		err = fmt.Errorf("what was handed over is not the lock of %s", path)
	}
	if err != nil {
		if l != nil {
			err = errors.Join(err, l.Close())
		}
		return nil, errors.Join(fmt.Errorf("cannot take over the control socket: %w", err), held.Close())
	}
	u.SetUnlinkOnClose(true)
	return &Socket{UnixListener: u, lock: held}, nil
}

// again says whether a call that failed so was never begun, and may be made of
// the daemon's next program.
func (c *link) again(err error) bool {
	var e *ipc.RPCError
	if !c.leaving.Load() || !errors.As(err, &e) {
		return false
	}
	if e.Local {
		return e.Code == ipc.CodePluginGone
	}
	var data wireData // a plugin can answer with any code, and then it was called
	return e.Code == ipc.CodeShuttingDown && (len(e.Data) == 0 || json.Unmarshal(e.Data, &data) == nil && !data.Plugin)
}

// Patience with a daemon that becomes another program, where ctx has none.
const (
	comeAgain      = 30 * time.Second
	comeAgainPause = 20 * time.Millisecond
)

// reconnect replaces a link that was left.
func (c *Client) reconnect(ctx context.Context, old *link) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != old || c.closed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, comeAgain)
	defer cancel()
	for {
		u, err := dial(ctx, c.path)
		if err == nil {
			_ = old.conn.Close()
			c.link = newLink(u, c.handle)
			return nil
		}
		select {
		case <-time.After(comeAgainPause):
		case <-ctx.Done():
			return err
		}
	}
}
