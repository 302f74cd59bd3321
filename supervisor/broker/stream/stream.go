// Package stream is the byte form of connections that the host hands over: a
// plugin whose SDK takes no descriptors, or that speaks over pipes, sends and
// receives by calls. What it has is an end of the same socket pair that the
// descriptor form hands over, behind the same relay, so that budget, record and
// revocation are the same.
package stream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

// The bounds of streams.
const (
	maxOpen     = 256       // of one plugin, ended ones that it has not closed among them
	maxSend     = 1 << 20   // bytes of one send
	maxReceive  = 256 << 10 // bytes of one answer
	defaultMost = 64 << 10
	maxWait     = 8 * time.Second // for bytes; a call has 10 s
)

// Table has the streams of one capability.
type Table struct {
	capability string
	mu         sync.Mutex
	streams    map[string]*stream
}

// stream is one connection.
type stream struct {
	plugin, target string
	env            *capability.Env // of the run that opened it
	conn           net.Conn        // of a connection
	listener       net.Listener    // of what listens
	reading        sync.Mutex      // one receive at a time
	writing        sync.Mutex
}

// NewTable makes one. The methods of its streams are named after the capability.
func NewTable(name string) *Table { return &Table{capability: name, streams: map[string]*stream{}} }

// Add takes a connection over that a call opened, also when it fails, and gives
// its id. Nobody can guess one.
func (t *Table) Add(c *capability.Call, conn net.Conn) (string, error) {
	return t.add(&stream{plugin: c.Plugin, target: c.Target, env: c.Env, conn: conn})
}

// AddListener is Add for what listens: it is accepted from, and closed.
func (t *Table) AddListener(c *capability.Call, l net.Listener) (string, error) {
	return t.add(&stream{plugin: c.Plugin, target: c.Target, env: c.Env, listener: l})
}

func (t *Table) add(s *stream) (string, error) {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	name := hex.EncodeToString(id[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-s.env.Done: // Left has been called, or waits for the lock
		return "", errors.Join(errors.New("the run has ended"), s.close())
	default:
	}
	have := 0
	for _, other := range t.streams {
		if other.plugin == s.plugin {
			have++
		}
	}
	if have >= maxOpen {
		return "", errors.Join(ipc.Errorf(ipc.CodeOverloaded, "%d streams of %s are open, which is the most: close those that have ended", have, t.capability), s.close())
	}
	t.streams[name] = s
	return name, nil
}

// close closes it; it may be closed already.
func (s *stream) close() error {
	var end io.Closer = s.listener
	if s.conn != nil {
		end = s.conn
	}
	if err := end.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// find gives a stream.
func (t *Table) find(id string) (*stream, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.streams[id]; s != nil {
		return s, nil
	}
	return nil, errors.New("there is no such stream: it was closed, or never opened")
}

// Left ends all streams of a run.
func (t *Table) Left(env *capability.Env) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for id, s := range t.streams {
		if s.env == env {
			errs = append(errs, s.close())
			delete(t.streams, id)
		}
	}
	return errors.Join(errs...)
}

const idSchema = `"stream": {"type": "string", "minLength": 32, "maxLength": 32}, "_meta": {"type": "object"}`

// Methods are send, receive and close.
func (t *Table) Methods() []capability.Method {
	return []capability.Method{
		{
			Name: t.capability + ".send", Text: "sends up to 1 MiB of base64 into a stream, and answers how much of it was taken, which is all unless the other side does not read; with end nothing follows what was sent whole",
			Params: `{"type": "object", "properties": {` + idSchema + `, "data": {"type": "string", "maxLength": 1398104}, "end": {"type": "boolean"}}, "required": ["stream"], "additionalProperties": false}`,
			Result: `{"type": "object"}`, Target: t.target, Serve: t.send, Summed: true,
		},
		{
			Name: t.capability + ".receive", Text: "gives what a stream has, as base64, at most `most` bytes; waits for some up to `wait_ms`, and then gives none; `end` says that nothing follows",
			Params: `{"type": "object", "properties": {` + idSchema + `, "most": {"type": "integer", "minimum": 1, "maximum": 262144}, "wait_ms": {"type": "integer", "minimum": 0, "maximum": 8000}}, "required": ["stream"], "additionalProperties": false}`,
			Result: `{"type": "object"}`, Target: t.target, Serve: t.receive, Summed: true,
		},
		{
			Name: t.capability + ".close", Text: "closes a stream, both ways",
			Params: `{"type": "object", "properties": {` + idSchema + `}, "required": ["stream"], "additionalProperties": false}`,
			Result: `{"type": "object"}`, Target: t.target, Serve: t.close, Summed: true,
		},
	}
}

type request struct {
	Stream string `json:"stream"`
	Data   []byte `json:"data"`
	End    bool   `json:"end"`
	Most   int    `json:"most"`
	WaitMS *int   `json:"wait_ms"`
}

// target is what a stream was opened for: its grant is looked for at every call.
func (t *Table) target(params json.RawMessage) (string, error) {
	var r request
	if err := json.Unmarshal(params, &r); err != nil {
		return "", err
	}
	s, err := t.find(r.Stream)
	if err != nil {
		return "", err
	}
	return s.target, nil
}

// own gives a connection of the calling plugin.
func (t *Table) own(c *capability.Call) (r request, s *stream, err error) {
	if r, s, err = t.any(c); err == nil && s.conn == nil {
		return r, nil, ipc.Errorf(ipc.CodeConflict, "cannot use the stream: it listens")
	}
	return r, s, err
}

// any gives what the calling plugin has under an id.
func (t *Table) any(c *capability.Call) (r request, s *stream, err error) {
	if err = json.Unmarshal(c.Params, &r); err != nil {
		return r, nil, err
	}
	if s, err = t.find(r.Stream); err == nil && s.plugin != c.Plugin {
		err = errors.New("it is another plugin's")
	}
	if err != nil {
		return r, nil, ipc.Errorf(ipc.CodeNotFound, "cannot use the stream: %w", err)
	}
	return r, s, nil
}

func (t *Table) send(_ context.Context, c *capability.Call) (any, error) {
	r, s, err := t.own(c)
	if err != nil {
		return nil, err
	}
	if len(r.Data) > maxSend {
		return nil, ipc.Errorf(ipc.CodeInvalidParams, "cannot send %d bytes at once: at most %d", len(r.Data), maxSend)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.conn.SetWriteDeadline(time.Now().Add(maxWait)); err != nil {
		return nil, gone(err)
	}
	n, err := s.conn.Write(r.Data)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, gone(err)
	}
	if half, ok := s.conn.(interface{ CloseWrite() error }); r.End && ok && n == len(r.Data) {
		if err := half.CloseWrite(); err != nil {
			return nil, gone(err)
		}
	}
	return struct {
		Sent int `json:"sent"`
	}{n}, nil
}

func (t *Table) receive(ctx context.Context, c *capability.Call) (any, error) {
	r, s, err := t.own(c)
	if err != nil {
		return nil, err
	}
	if !s.reading.TryLock() {
		return nil, ipc.Errorf(ipc.CodeConflict, "cannot receive twice at once from one stream")
	}
	defer s.reading.Unlock()
	if r.Most == 0 {
		r.Most = defaultMost
	}
	if err := s.conn.SetReadDeadline(time.Now().Add(r.wait())); err != nil {
		return nil, gone(err)
	}
	defer context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, min(r.Most, maxReceive))
	n, err := s.conn.Read(buf)
	type answer struct {
		Data []byte `json:"data"`
		End  bool   `json:"end,omitempty"`
	}
	switch {
	case n > 0 || err == nil:
		return answer{Data: buf[:n]}, nil
	case errors.Is(err, io.EOF):
		return answer{Data: []byte{}, End: true}, nil
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil:
		return answer{Data: []byte{}}, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, gone(err)
}

func (t *Table) close(_ context.Context, c *capability.Call) (any, error) {
	r, s, err := t.any(c)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	delete(t.streams, r.Stream)
	t.mu.Unlock()
	if err := s.close(); err != nil {
		return nil, err
	}
	return struct{}{}, nil
}

// Accept is one more method, of what listens.
func (t *Table) Accept() capability.Method {
	return capability.Method{
		Name: t.capability + ".accept", Text: "gives the next connection as a stream; waits for one up to `wait_ms`, and then gives null",
		Params: `{"type": "object", "properties": {` + idSchema + `, "wait_ms": {"type": "integer", "minimum": 0, "maximum": 8000}}, "required": ["stream"], "additionalProperties": false}`,
		Result: `{"type": "object"}`, Target: t.target, Serve: t.accept, Summed: true,
	}
}

func (t *Table) accept(ctx context.Context, c *capability.Call) (any, error) {
	r, s, err := t.any(c)
	if err != nil {
		return nil, err
	}
	l, ok := s.listener.(interface{ SetDeadline(t time.Time) error })
	if !ok {
		return nil, ipc.Errorf(ipc.CodeConflict, "cannot accept from the stream: it does not listen")
	}
	if !s.reading.TryLock() {
		return nil, ipc.Errorf(ipc.CodeConflict, "cannot accept twice at once")
	}
	defer s.reading.Unlock()
	if err := l.SetDeadline(time.Now().Add(r.wait())); err != nil {
		return nil, gone(err)
	}
	defer context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })()
	conn, err := s.listener.Accept()
	type answer struct {
		Stream *string `json:"stream"`
	}
	switch {
	case err == nil:
		id, err := t.add(&stream{plugin: s.plugin, target: s.target, env: s.env, conn: conn})
		if err != nil {
			return nil, err
		}
		return answer{&id}, nil
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil:
		return answer{}, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, gone(err)
}

// wait is how long a call may wait. What is there is taken however short it is:
// a deadline that has passed would not let it.
func (r request) wait() time.Duration {
	wait := maxWait
	if r.WaitMS != nil {
		wait = min(wait, time.Duration(*r.WaitMS)*time.Millisecond)
	}
	return max(wait, time.Millisecond)
}

// gone is an end that the plugin is told of.
func gone(err error) error {
	return ipc.Errorf(ipc.CodeNotFound, "cannot use the stream: its connection has ended: %w", err)
}
