package cordon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// Call asks the host and puts its answer into result, unless that is nil.
// params become an object or an array; nil for none. It ends with ctx, or after
// DefaultTimeout where ctx has no deadline; the host is then told to cancel.
// Errors are *Error.
func (c *Conn) Call(ctx context.Context, method string, params, result any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	a, err := c.call(ctx, method, params, nil)
	if err != nil {
		return c.callError(method, err)
	}
	closeFiles(a.files)
	raw := a.result
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return Errorf(CodeInternal, "cannot use the answer to %s: %v", method, err)
	}
	return nil
}

// Notify tells the host something that it does not answer.
func (c *Conn) Notify(method string, params any) error {
	if err := c.send(method, nil, params, nil); err != nil {
		return c.callError(method, err)
	}
	return nil
}

func (c *Conn) callError(method string, err error) error {
	var e *Error
	code := CodePeerGone
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, errTooLarge):
		code = CodeTooLarge
	case errors.Is(err, context.DeadlineExceeded):
		code = CodeDeadline
	case errors.Is(err, context.Canceled):
		code = CodeCancelled
	}
	return &Error{Code: code, Message: fmt.Sprintf("cannot call %s: %v", method, err), cause: err}
}

var errGone = errors.New("the connection has ended")

func (c *Conn) call(ctx context.Context, method string, params any, files []*os.File) (answer, error) {
	defer closeFiles(files)
	c.leaveReading()
	select {
	case c.places <- struct{}{}:
		defer func() { <-c.places }()
	case <-ctx.Done():
		return answer{}, ctx.Err()
	case <-c.closed:
		return answer{}, errGone
	}
	id, reply := c.begin()
	if err := c.sendIn(TraceOf(ctx), method, strconv.AppendUint(nil, id, 10), params, files); err != nil {
		c.forget(id, false)
		return answer{}, err
	}
	select {
	case a := <-reply:
		return a, a.err
	case <-c.closed:
		return answer{}, errGone
	case <-ctx.Done():
	}
	if !c.forget(id, true) { // the answer was faster
		a := <-reply
		return a, a.err
	}
	_ = c.send("$/cancelRequest", nil, map[string]uint64{"id": id}, nil)
	return answer{}, ctx.Err()
}

func (c *Conn) begin() (uint64, chan answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	reply := make(chan answer, 1)
	c.calls[c.last] = reply
	return c.last, reply
}

// forget removes a call and says whether it was still open. late says that its
// answer may still come.
func (c *Conn) forget(id uint64, late bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.calls[id]; !ok {
		return false
	}
	delete(c.calls, id)
	if late {
		c.late[id] = true
	}
	return true
}

// send writes a request, or without an id a notification.
func (c *Conn) send(method string, id []byte, params any, files []*os.File) error {
	return c.sendIn(Trace{}, method, id, params, files)
}

// sendIn is send of what belongs to a trace.
func (c *Conn) sendIn(t Trace, method string, id []byte, params any, files []*os.File) error {
	name, err := json.Marshal(method)
	if err != nil {
		return err
	}
	parts := [][]byte{[]byte(`{"jsonrpc":"2.0"`)}
	if id != nil {
		parts = append(parts, []byte(`,"id":`), id)
	}
	parts = append(parts, []byte(`,"method":`), name)
	body, err := json.Marshal(params)
	if err == nil {
		body = t.within(body)
	}
	switch {
	case err != nil:
		return Errorf(CodeInvalidParams, "cannot send %s: %v", method, err)
	case string(body) == "null" || len(body) == 0:
	case body[0] != '{' && body[0] != '[':
		return Errorf(CodeInvalidParams, "cannot send %s: params must be an object or an array", method)
	default:
		parts = append(parts, []byte(`,"params":`), body)
	}
	if len(files) == 0 {
		return c.write(nil, append(parts, []byte("}"))...)
	}
	member, fds, err := announce(files)
	if err != nil {
		return Errorf(CodeInvalidParams, "cannot send %s: %v", method, err)
	}
	return c.write(fds, append(parts, member, []byte("}"))...)
}

// answered hands an answer to whoever asked.
func (c *Conn) answered(env envelope, msg []byte, files []*os.File) (err error) {
	taken := false
	defer func() {
		if !taken {
			closeFiles(files)
		}
	}()
	if string(env.id.of(msg)) == "null" {
		return breach(BreachRefused, "the host could not read this plugin: %.200q", env.errorSpan.of(msg))
	}
	id, ok := parseInt(env.id.of(msg))
	if !ok || id <= 0 {
		return breach(BreachUnasked, "a reply to an id that was never used")
	}
	c.mu.Lock()
	reply, open := c.calls[uint64(id)]
	late := c.late[uint64(id)]
	delete(c.calls, uint64(id))
	delete(c.late, uint64(id))
	c.mu.Unlock()
	switch {
	case late:
		return nil
	case !open:
		return breach(BreachUnasked, "a reply to %d, which nobody waits for", id)
	case env.kind == kindResult:
		taken = true
		reply <- answer{result: env.result.of(msg), files: files}
		return nil
	}
	e, err := parseError(env.errorSpan.of(msg))
	if err != nil {
		return err
	}
	reply <- answer{err: e}
	return nil
}

// parseError reads the error object of a reply.
func parseError(raw []byte) (*Error, error) {
	code, ok := lookup(raw, "code")
	if !ok {
		return nil, breach(BreachEnvelope, "an error without a code")
	}
	n, ok := parseInt(code.of(raw))
	if !ok {
		return nil, breach(BreachEnvelope, "an error whose code is no integer")
	}
	msg, ok := lookup(raw, "message")
	if !ok || raw[msg.start] != '"' {
		return nil, breach(BreachEnvelope, "an error without a message")
	}
	e := &Error{Code: int(n), Message: text(msg.of(raw))}
	if data, ok := lookup(raw, "data"); ok {
		e.Data = append(json.RawMessage(nil), data.of(raw)...)
	}
	return e, nil
}
