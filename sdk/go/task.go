package cordon

import (
	"context"
	"time"
)

// Task is work that a plugin leaves for later: the host calls the plugin's own
// Method when its turn comes.
type Task struct {
	Method string
	// Params become an object or an array; nil for none.
	Params any
	// Priority is 0 to 9; higher ones go first.
	Priority int
	// Within is until when the task is to be done: DefaultTimeout if 0, a day at
	// most. One whose turn does not come by then is dropped, and the notification
	// task.dropped says so.
	Within time.Duration
}

// Submit leaves a task to the host, from a handler, and returns its number. It
// fails with CodeOverloaded where too much waits already.
func Submit(ctx context.Context, t Task) (uint64, error) {
	host := Host(ctx)
	if host == nil {
		return 0, Errorf(CodePeerGone, "cannot submit a task outside of a handler")
	}
	if t.Within == 0 {
		t.Within = DefaultTimeout
	}
	params := map[string]any{"method": t.Method, "priority": t.Priority, "deadline_ms": t.Within.Milliseconds()}
	if t.Params != nil {
		params["params"] = t.Params
	}
	var number struct {
		Task uint64 `json:"task"`
	}
	err := host.Call(ctx, "task.submit", params, &number)
	return number.Task, err
}

// CancelTask ends a task, or keeps it from beginning, and says whether there was
// one.
func CancelTask(ctx context.Context, task uint64) (bool, error) {
	host := Host(ctx)
	if host == nil {
		return false, Errorf(CodePeerGone, "cannot cancel a task outside of a handler")
	}
	var said struct {
		Cancelled bool `json:"cancelled"`
	}
	err := host.Call(ctx, "task.cancel", map[string]any{"task": task}, &said)
	return said.Cancelled, err
}
