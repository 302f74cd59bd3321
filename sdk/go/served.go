package cordon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// What the host serves, as Go has it. Each needs a grant, and fails with an
// *Error of CodeDenied without one. What they give outlives the request, and is
// the caller's to close.

// File says how OpenFile opens.
type File struct {
	Path string
	// Write is for reading and writing; Create and Truncate go with it.
	Write, Create, Truncate bool
}

// Open opens a file of the host for reading, by its path there.
func (c *Conn) Open(ctx context.Context, path string) (*os.File, error) {
	return c.OpenFile(ctx, File{Path: path})
}

// OpenFile opens a file of the host.
func (c *Conn) OpenFile(ctx context.Context, f File) (*os.File, error) {
	params := map[string]any{"path": f.Path}
	if f.Write {
		params["access"], params["create"], params["truncate"] = "rw", f.Create, f.Truncate
	}
	return c.one(ctx, "fs.open", params)
}

// Dial connects to a granted "host:port". It fits http.Transport.DialContext,
// which gives a network that is not looked at.
func (c *Conn) Dial(ctx context.Context, to string) (net.Conn, error) {
	f, err := c.one(ctx, "net.dial", map[string]any{"to": to})
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(f)
	return conn, errors.Join(err, f.Close())
}

// Listen listens at a granted "address:port" of the host.
func (c *Conn) Listen(ctx context.Context, at string) (net.Listener, error) {
	f, err := c.one(ctx, "net.listen", map[string]any{"at": at})
	if err != nil {
		return nil, err
	}
	l, err := net.FileListener(f)
	return l, errors.Join(err, f.Close())
}

// Secret reads a secret that the host keeps under a name.
func (c *Conn) Secret(ctx context.Context, name string) ([]byte, error) {
	f, err := c.one(ctx, "secret.open", map[string]any{"name": name})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
}

// one is a call that is answered by one descriptor.
func (c *Conn) one(ctx context.Context, method string, params any) (*os.File, error) {
	files, err := c.CallFiles(ctx, method, params, nil, nil)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		closeFiles(files)
		return nil, fmt.Errorf("%s was answered by %d descriptors", method, len(files))
	}
	return files[0], nil
}

// Get reads a key of the plugin's own store; nil for none.
func (c *Conn) Get(ctx context.Context, key string) (value *string, err error) {
	return value, c.Call(ctx, "kv.get", map[string]any{"key": key}, &value)
}

// Put sets keys of the plugin's own store in one transaction; nil takes one away.
func (c *Conn) Put(ctx context.Context, set map[string]*string) error {
	return c.Call(ctx, "kv.put", map[string]any{"set": set}, nil)
}

// PutIf is Put if the store has what when says; CodeConflict otherwise.
func (c *Conn) PutIf(ctx context.Context, when, set map[string]*string) error {
	return c.Call(ctx, "kv.put", map[string]any{"set": set, "if": when}, nil)
}

// Keys lists up to 1000 keys of the plugin's own store that begin with prefix and
// come after a key, and says whether there are more.
func (c *Conn) Keys(ctx context.Context, prefix, after string) (keys []string, more bool, err error) {
	var answer struct {
		Keys []string `json:"keys"`
		More bool     `json:"more"`
	}
	err = c.Call(ctx, "kv.list", map[string]any{"prefix": prefix, "after": after}, &answer)
	return answer.Keys, answer.More, err
}

// Record writes a structured record to the plugin's log, at "debug", "info",
// "warn" or "error". Fields are texts, numbers and booleans.
func (c *Conn) Record(ctx context.Context, level, message string, fields map[string]any) error {
	params := map[string]any{"level": level, "message": message}
	if len(fields) > 0 {
		params["fields"] = fields
	}
	return c.Call(ctx, "log", params, nil)
}

// AddMetric adds to a counter, SetMetric sets a gauge.
func (c *Conn) AddMetric(ctx context.Context, name string, value float64) error {
	return c.Call(ctx, "metric.add", map[string]any{"name": name, "value": value}, nil)
}

// SetMetric sets a gauge.
func (c *Conn) SetMetric(ctx context.Context, name string, value float64) error {
	return c.Call(ctx, "metric.set", map[string]any{"name": name, "value": value}, nil)
}

// DataUsage is how much of its data directory a plugin uses.
type DataUsage struct {
	Bytes      int64 `json:"bytes"`
	Files      int64 `json:"files"`
	Max        int64 `json:"max_bytes"`
	Persistent bool  `json:"persistent"`
	Incomplete bool  `json:"incomplete"` // there were too many files to count
}

// Data says how much of its data directory the plugin uses.
func (c *Conn) Data(ctx context.Context) (u DataUsage, err error) {
	return u, c.Call(ctx, "data.usage", nil, &u)
}

// HostCall calls a function that an application of the host serves.
func (c *Conn) HostCall(ctx context.Context, name string, params, result any) error {
	return c.Call(ctx, "host.call", map[string]any{"function": name, "params": params}, result)
}
