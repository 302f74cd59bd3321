package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker"
	"github.com/cordonhq/cordon/supervisor/tasks"
)

// The methods by which a plugin leaves work for later; PROTOCOL.md has them.
const (
	methodSubmit = "task.submit"
	methodCancel = "task.cancel"
	noteDropped  = "task.dropped"
	noteLost     = "task.lost"
)

// defaultTaskTime is within which a task is to be done that says nothing of it.
const defaultTaskTime = 30 * time.Second

// taskParams are those of task.submit.
type taskParams struct {
	Method     string          `json:"method"`
	Params     json.RawMessage `json:"params"`
	Priority   int             `json:"priority"`
	DeadlineMS int64           `json:"deadline_ms"`
}

// taskNumber is how a task is called.
type taskNumber struct {
	Task uint64 `json:"task"`
}

// taskDoor answers a plugin's requests about tasks, and leaves the others to the
// broker. Its queue is opened by the first, and closed with the connection.
type taskDoor struct {
	p      *plugin
	bundle *Bundle
	caps   *broker.Session

	mu    sync.Mutex
	queue *tasks.Queue
}

// answering is what answers the requests of a run.
func (p *plugin) answering(bundle *Bundle, caps *broker.Session) ipc.Handler {
	d := &taskDoor{p: p, bundle: bundle, caps: caps}
	return d.handle
}

func (d *taskDoor) handle(ctx context.Context, r *ipc.Request) (any, error) {
	if r.Conn != nil && r.Conn.Protocol() == ipc.ProtocolCordon {
		switch r.Method {
		case methodSubmit:
			return d.submit(r)
		case methodCancel:
			return d.cancel(r)
		}
	}
	if d.caps == nil {
		return nil, &ipc.RPCError{Code: ipc.CodeMethodNotFound, Message: "method not found", Local: true}
	}
	return d.caps.Handle(ctx, r)
}

// submit takes a task. Its parameters are held to the contract now, where the
// plugin can be told of it.
func (d *taskDoor) submit(r *ipc.Request) (any, error) {
	t := taskParams{DeadlineMS: defaultTaskTime.Milliseconds()}
	if err := json.Unmarshal(r.Params, &t); err != nil || t.Method == "" || len(t.Method) > 256 {
		return nil, ipc.Errorf(ipc.CodeInvalidParams, `cannot take this task: expected {"method": ..., "params": ..., "priority": 0 to 9, "deadline_ms": ...}`)
	}
	if p := t.Params; len(p) > 0 && p[0] != '{' && p[0] != '[' && string(p) != "null" {
		return nil, ipc.Errorf(ipc.CodeInvalidParams, "cannot take this task: its params must be an object or an array")
	}
	if t.DeadlineMS < 1 || t.DeadlineMS > tasks.MaxTime.Milliseconds() {
		return nil, ipc.Errorf(ipc.CodeInvalidParams, "cannot take this task: deadline_ms is from 1 to %d", tasks.MaxTime.Milliseconds())
	}
	if err := d.bundle.Contract.Params(t.Method, t.Params); err != nil {
		return nil, ipc.Errorf(ipc.CodeContract, "cannot take this task: its parameters break the contract of %s: %w", t.Method, err)
	}
	number := make(chan uint64, 1)
	trace := trace{Meta: ipc.MetaOf(r.Params)}
	id, err := d.open(r.Conn).Submit(tasks.Task{
		Priority: t.Priority, Within: time.Duration(t.DeadlineMS) * time.Millisecond, Bytes: len(t.Params) + len(t.Method),
		Run: func(ctx context.Context, left time.Duration) { d.run(ctx, left, r.Conn, t, trace) },
		Dropped: func(why string) {
			_ = r.Conn.Notify(noteDropped, map[string]any{"task": <-number, "why": why}) // one that does not read learns nothing
		},
	})
	number <- id
	switch {
	case errors.Is(err, tasks.ErrFull):
		return nil, ipc.Errorf(ipc.CodeOverloaded, "cannot take this task: %w", err)
	case err != nil:
		return nil, ipc.Errorf(ipc.CodeInvalidParams, "cannot take this task: %w", err)
	}
	return taskNumber{id}, nil
}

func (d *taskDoor) cancel(r *ipc.Request) (any, error) {
	var n taskNumber
	if err := json.Unmarshal(r.Params, &n); err != nil {
		return nil, ipc.Errorf(ipc.CodeInvalidParams, `cannot cancel this: expected {"task": NUMBER}`)
	}
	return map[string]bool{"cancelled": d.open(r.Conn).Cancel(n.Task)}, nil
}

// open gives the queue.
func (d *taskDoor) open(c *ipc.Conn) *tasks.Queue {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.queue == nil {
		q := d.p.tasks.Open(c.Limits().MaxInFlight / 4)
		d.queue = q
		go func() {
			<-c.Done()
			q.Close()
		}()
	}
	return d.queue
}

// run is the turn of a task: a call like any other, whose answer is the plugin's
// own affair.
func (d *taskDoor) run(ctx context.Context, left time.Duration, c *ipc.Conn, t taskParams, about trace) {
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	about.Left = left
	if about.RequestID == "" {
		about.RequestID = d.p.names.next()
	}
	note := func(time.Time, error) {}
	if run := d.p.shown.Load().run; run != nil {
		note = run.calls.begin(d.p.clock.Now(), t.Method, t.Params, about.Meta)
		defer run.flight.begin()()
	}
	var params any
	if p := ipc.WithMeta(t.Params, about.Meta); len(p) > 0 {
		params = p
	}
	result, err := c.Call(ctx, t.Method, params)
	if err == nil {
		err = d.bundle.Contract.Result(t.Method, result)
	}
	note(d.p.clock.Now(), err)
}

// forgotTasks tells a plugin whose daemon went that what it had submitted is
// gone: a task that had begun may have been done.
func forgotTasks(c Conn) {
	if conn, ok := c.(interface {
		Protocol() ipc.Protocol
		Notify(method string, params any) error
	}); ok && conn.Protocol() == ipc.ProtocolCordon {
		_ = conn.Notify(noteLost, map[string]any{}) // one that is not there any more needs not know
	}
}
