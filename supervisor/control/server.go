package control

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// The bounds of the control socket, in connections. Root has places of its own,
// so that nobody else can lock it out.
const (
	maxPerUID = 16
	maxOthers = 64
	maxRoot   = 64
)

// acceptPause is how long accepting waits after an error.
const acceptPause = 50 * time.Millisecond

// verb is one method: who may call it, which plugin it is about (nil where it is
// root's, or shows each caller its own), and what does it.
type verb struct {
	least role
	about func(params json.RawMessage) (string, error)
	serve func(ctx context.Context, s *session, params json.RawMessage) (any, error)
}

// verbs is the authorisation table of the control socket, all of it. A method
// that is not in it does not exist.
func verbs() map[string]verb {
	return map[string]verb{
		MethodInstall: {owner, nil, by(Service.Install)},
		MethodRemove:  {owner, nil, by(removed)},
		MethodStart:   {admin, named[NameParams], by(Service.Start)},
		MethodStop:    {admin, named[NameParams], by(Service.Stop)},
		MethodRestart: {admin, named[NameParams], by(Service.Restart)},
		MethodSwap:    {admin, named[SwapParams], swapped},
		MethodEnable:  {admin, named[NameParams], by(Service.Enable)},
		MethodDisable: {admin, named[NameParams], by(Service.Disable)},
		MethodPin:     {owner, nil, by(Service.Pin)},
		MethodRelease: {admin, named[ReleaseParams], by(Service.Release)},
		MethodList:    {observer, nil, listed},
		MethodInspect: {observer, named[NameParams], of(Service.Inspect)},
		MethodCall:    {user, named[CallParams], called},
		MethodWhy:     {observer, named[NameParams], of(Service.Why)},
		MethodLogs:    {observer, named[LogsParams], followLogs},
		MethodEvents:  {observer, named[EventsParams], followEvents},
		MethodAttach:  {user, named[NameParams], attach},

		MethodCapabilities: {observer, named[NameParams], of(Service.Capabilities)},
		MethodGrant:        {owner, nil, by(Service.Grant)},
		MethodRevoke:       {owner, nil, by(Service.Revoke)},
		MethodServe:        {owner, nil, serveFunctions},
		MethodFlags:        {observer, nil, flagsListed},
		MethodFlag:         {owner, nil, by(Service.SetFlag)},

		MethodAuditCheckpoint: {owner, nil, checkpointed},
		MethodEvidenceList:    {observer, named[NameParams], of(Service.EvidenceList)},
		MethodEvidenceShow:    {owner, nil, of(Service.EvidenceShow)},
		MethodReload:          {owner, nil, reloaded},
		MethodUpgrade:         {owner, nil, upgraded},
	}
}

// by adapts a method of Service that records who asked.
func by[P, R any](fn func(Service, context.Context, Caller, P) (R, error)) func(context.Context, *session, json.RawMessage) (any, error) {
	return func(ctx context.Context, s *session, raw json.RawMessage) (any, error) {
		p, err := decode[P](raw)
		if err != nil {
			return nil, err
		}
		return fn(s.server.service, ctx, s.caller, p)
	}
}

// of adapts a method of Service that only looks.
func of[P, R any](fn func(Service, context.Context, P) (R, error)) func(context.Context, *session, json.RawMessage) (any, error) {
	return func(ctx context.Context, s *session, raw json.RawMessage) (any, error) {
		p, err := decode[P](raw)
		if err != nil {
			return nil, err
		}
		return fn(s.server.service, ctx, p)
	}
}

func removed(s Service, ctx context.Context, c Caller, p NameParams) (struct{}, error) {
	return struct{}{}, s.Remove(ctx, c, p)
}

// swapped lets only those replace a plugin by something else who may install it.
func swapped(ctx context.Context, s *session, raw json.RawMessage) (any, error) {
	p, err := decode[SwapParams](raw)
	if err != nil {
		return nil, err
	}
	if (p.Dir != "" || p.Profile != "") && s.server.roleOf(s.caller, p.Name) < owner {
		return nil, Errorf(ipc.CodeDenied, "", "cannot swap %s for another bundle or profile: only root may, as with install", violation.Escape(p.Name, 64))
	}
	return s.server.service.Swap(ctx, s.caller, p)
}

func checkpointed(ctx context.Context, s *session, _ json.RawMessage) (any, error) {
	return s.server.service.AuditCheckpoint(ctx)
}

func reloaded(ctx context.Context, s *session, _ json.RawMessage) (any, error) {
	return s.server.service.Reload(ctx, s.caller)
}

func flagsListed(ctx context.Context, s *session, _ json.RawMessage) (any, error) {
	return s.server.service.Flags(ctx)
}

// upgraded asks on a connection that stays when the others end, to be told if it
// failed.
func upgraded(ctx context.Context, s *session, raw json.RawMessage) (any, error) {
	p, err := decode[UpgradeParams](raw)
	if err != nil {
		return nil, err
	}
	s.stays.Store(true)
	defer s.stays.Store(false)
	return struct{}{}, s.server.service.Upgrade(ctx, s.caller, p)
}

func listed(ctx context.Context, s *session, _ json.RawMessage) (any, error) {
	all, err := s.server.service.List(ctx)
	return slices.DeleteFunc(all, func(one Status) bool { return s.server.roleOf(s.caller, one.Name) < observer }), err
}

// Server serves the control socket.
type Server struct {
	service Service
	group   int // of those who call every plugin; -1 is none
	logger  *slog.Logger
	table   map[string]verb

	mu       sync.Mutex
	rules    []Rule
	sessions map[*session]struct{}
	closed   bool
	wait     sync.WaitGroup
	// listener is what Serve accepts from; paused, if not nil, is closed when it
	// may go on, and halted when it has stopped for that.
	listener       *net.UnixListener
	paused, halted chan struct{}
}

// NewServer makes a server of service. Members of the group with this gid may
// look and call; -1 is no group. logger may be nil.
func NewServer(service Service, group int, logger *slog.Logger) *Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Server{service: service, group: group, logger: logger, table: verbs(), sessions: map[*session]struct{}{}}
}

// Serve accepts connections from l until l is closed. An error of accept is
// logged and waited out; when no descriptors are left, who connects is turned
// away at once.
func (s *Server) Serve(l *net.UnixListener) {
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	spare := newSpare()
	defer spare.close()
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.halt()
			continue
		}
		if err != nil {
			s.logger.Error("cannot accept on the control socket", "turned_away", spare.turnAway(l), "err", err)
			<-time.After(acceptPause)
			continue
		}
		caller, err := peerOf(c)
		if err != nil {
			s.logger.Warn("cannot tell who connects", "err", err)
			_ = c.Close()
			continue
		}
		s.admit(c, caller)
	}
}

// admit serves one connection, or closes it when there are too many.
func (s *Server) admit(c *net.UnixConn, caller Caller) {
	ss := &session{server: s, caller: caller}
	ss.ctx, ss.cancel = context.WithCancel(context.Background())
	ss.conn = ipc.NewConn(ipc.SocketTransport(c), ipc.Options{
		Limits: wireLimits(), Handler: ss.handle, AcceptFiles: acceptFiles, PeerTakes: clientTakes(), OnNotify: ss.noted, Log: func(text string) { s.logger.Warn(text, "uid", caller.UID) },
	})
	if !s.enter(ss) {
		_ = ss.conn.Close()
		ss.cancel()
		return
	}
	go func() {
		defer s.leave(ss)
		if err := ss.conn.Run(ss.ctx); err != nil && !errors.Is(err, ipc.ErrClosed) && !errors.Is(err, context.Canceled) {
			s.logger.Info("a control connection was ended", "uid", caller.UID, "err", err)
		}
	}()
}

// enter counts a connection against the limits of its uid and says whether
// there is a place for it.
func (s *Server) enter(ss *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	root, others, same := 0, 0, 0
	for other := range s.sessions {
		if other.caller.UID == ss.caller.UID {
			same++
		}
		if other.caller.UID == 0 {
			root++
		} else {
			others++
		}
	}
	full := (others >= maxOthers || same >= maxPerUID) && !switchedOff("places")
	if ss.caller.UID == 0 {
		full = root >= maxRoot
	}
	if full || s.closed {
		s.logger.Warn("a control connection was refused: too many", "uid", ss.caller.UID)
		return false
	}
	s.sessions[ss] = struct{}{}
	s.wait.Add(1)
	return true
}

func (s *Server) leave(ss *session) {
	ss.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, ss)
	s.wait.Done()
}

// Close ends every connection and waits until all are gone. The caller closes
// the listener first.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for ss := range s.sessions {
		_ = ss.conn.Close()
	}
	s.mu.Unlock()
	s.wait.Wait()
}

// session is one connection.
type session struct {
	server *Server
	caller Caller
	conn   *ipc.Conn
	ctx    context.Context //nolint:containedctx // of the connection's own life
	cancel context.CancelFunc

	stays atomic.Bool // while the others are ended for an upgrade

	mu     sync.Mutex
	taken  bool // it carries a stream or a bridge
	bridge Bridge
	wait   sync.WaitGroup
}

// handle is the only way in: the table decides, then the service answers.
func (ss *session) handle(ctx context.Context, r *ipc.Request) (any, error) {
	if ss.server.mostOf(ss.caller) == nobody {
		return nil, toWire(Errorf(ipc.CodeDenied, "use sudo, or let root add you to the group "+Group, "%s may not use this socket: it is for root and the group %s", ss.caller, Group))
	}
	v, ok := ss.server.table[r.Method]
	if !ok {
		return nil, ipc.Errorf(ipc.CodeMethodNotFound, "there is no method %s", violation.Escape(r.Method, 64))
	}
	if err := ss.may(v, r); err != nil {
		return nil, toWire(err)
	}
	if r.Method == MethodCall {
		ctx = context.WithValue(ctx, requestKey{}, r)
	}
	result, err := v.serve(ctx, ss, r.Params)
	if err != nil {
		return nil, toWire(err)
	}
	return result, nil
}

// may says why the caller may not do this.
func (ss *session) may(v verb, r *ipc.Request) error {
	have, plugin := ss.server.mostOf(ss.caller), ""
	if v.about != nil {
		var err error
		if plugin, err = v.about(r.Params); err != nil {
			return err
		}
		have = ss.server.roleOf(ss.caller, plugin)
	}
	switch {
	case have >= v.least:
		return nil
	case v.least == owner || v.least == admin && ss.server.mostOf(ss.caller) < admin:
		return Errorf(ipc.CodeDenied, "use sudo", "%s may not use %s: it is for root", ss.caller, r.Method)
	case plugin == "":
		return Errorf(ipc.CodeDenied, "name one plugin", "%s may not use %s for all plugins: its role is for some", ss.caller, r.Method)
	}
	return Errorf(ipc.CodeDenied, "let root add a [[role]] to cordond.toml", "%s may not use %s for the plugin %s", ss.caller, r.Method, violation.Escape(plugin, 64))
}

// end gives back what the session holds.
func (ss *session) end() {
	ss.cancel()
	ss.mu.Lock()
	bridge := ss.bridge
	ss.mu.Unlock()
	if bridge != nil {
		bridge.Close()
	}
	ss.wait.Wait()
}

// take makes this connection that of one stream or bridge.
func (ss *session) take() error {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.taken {
		return Errorf(ipc.CodeConflict, "use another connection", "this connection carries a stream already")
	}
	ss.taken = true
	return nil
}

func followLogs(ctx context.Context, s *session, raw json.RawMessage) (any, error) {
	p, err := decode[LogsParams](raw)
	if err != nil {
		return nil, err
	}
	return follow(s, noteLog, p.Follow, func() ([]LogLine, Stream[LogLine], error) { return s.server.service.Logs(ctx, p) })
}

func followEvents(ctx context.Context, s *session, raw json.RawMessage) (any, error) {
	p, err := decode[EventsParams](raw)
	if err != nil {
		return nil, err
	}
	return follow(s, noteEvent, p.Follow, func() ([]Event, Stream[Event], error) { return s.server.service.Events(ctx, p) })
}

// follow answers with the past and, if asked for, begins to send what comes.
func follow[T any](s *session, method string, more bool, begin func() ([]T, Stream[T], error)) (any, error) {
	if more {
		if err := s.take(); err != nil {
			return nil, err
		}
	}
	past, stream, err := begin()
	if err != nil || stream == nil {
		return past, err
	}
	s.wait.Go(func() { pump(s, method, stream) })
	return past, nil
}

// pump sends a stream until either side ends. It waits for a slow client, and
// is then itself too slow for the stream, which drops it.
func pump[T any](s *session, method string, stream Stream[T]) {
	defer stream.Close()
	for {
		select {
		case <-s.ctx.Done():
			return
		case v, ok := <-stream.C():
			if !ok {
				_ = s.conn.NotifyWait(s.ctx, noteEnd, streamEnd{Lost: stream.Lost()})
				return
			}
			if s.conn.NotifyWait(s.ctx, method, v) != nil {
				return
			}
		}
	}
}

// attach makes the connection a bridge.
func attach(ctx context.Context, s *session, raw json.RawMessage) (any, error) {
	p, err := decode[NameParams](raw)
	if err != nil {
		return nil, err
	}
	if err := s.take(); err != nil {
		return nil, err
	}
	deliver := func(message json.RawMessage) error { return s.conn.Notify(noteAttach, message) }
	result, bridge, err := s.server.service.Attach(ctx, p, deliver)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.bridge = bridge
	s.mu.Unlock()
	s.wait.Go(func() {
		select {
		case <-bridge.Done():
			_ = s.conn.NotifyWait(s.ctx, noteEnd, streamEnd{})
		case <-s.ctx.Done():
			bridge.Close()
		}
	})
	return result, nil
}

// noted takes a client's messages for a bridge; all else is ignored. It runs in
// the reader: while the plugin takes nothing, nothing more is read.
func (ss *session) noted(method string, params json.RawMessage) {
	if method != noteAttach {
		return
	}
	ss.mu.Lock()
	bridge := ss.bridge
	ss.mu.Unlock()
	if bridge != nil && bridge.Send(ss.ctx, params) != nil {
		bridge.Close()
	}
}
