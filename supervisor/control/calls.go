package control

import (
	"context"
	"encoding/json"

	"github.com/cordonhq/cordon/supervisor/violation"
)

// The typed requests. Each returns what Call does.

// Install installs a bundle.
func (c *Client) Install(ctx context.Context, p InstallParams) (r InstallResult, err error) {
	err = c.Call(ctx, MethodInstall, p, &r)
	return r, err
}

// Remove removes a stopped plugin with its data.
func (c *Client) Remove(ctx context.Context, name string) error {
	return c.Call(ctx, MethodRemove, NameParams{Name: name}, nil)
}

// Start starts a plugin and waits until it is ready or has failed.
func (c *Client) Start(ctx context.Context, name string) (Status, error) {
	return c.status(ctx, MethodStart, NameParams{Name: name})
}

// Stop stops a plugin and waits until it has gone.
func (c *Client) Stop(ctx context.Context, name string) (Status, error) {
	return c.status(ctx, MethodStop, NameParams{Name: name})
}

// Restart is Stop and Start.
func (c *Client) Restart(ctx context.Context, name string) (Status, error) {
	return c.status(ctx, MethodRestart, NameParams{Name: name})
}

// Swap replaces a running plugin's process by another and waits until the one
// before has ended.
func (c *Client) Swap(ctx context.Context, p SwapParams) (Status, error) {
	return c.status(ctx, MethodSwap, p)
}

// Enable lets a plugin start with the daemon.
func (c *Client) Enable(ctx context.Context, name string) (Status, error) {
	return c.status(ctx, MethodEnable, NameParams{Name: name})
}

// Disable takes that back.
func (c *Client) Disable(ctx context.Context, name string) (Status, error) {
	return c.status(ctx, MethodDisable, NameParams{Name: name})
}

// Release ends a quarantine.
func (c *Client) Release(ctx context.Context, p ReleaseParams) (Status, error) {
	return c.status(ctx, MethodRelease, p)
}

func (c *Client) status(ctx context.Context, method string, params any) (s Status, err error) {
	err = c.Call(ctx, method, params, &s)
	return s, err
}

// List lists every plugin, by name.
func (c *Client) List(ctx context.Context) (list []Status, err error) {
	err = c.Call(ctx, MethodList, nil, &list)
	return list, err
}

// Inspect tells everything about one plugin.
func (c *Client) Inspect(ctx context.Context, name string) (in Inspection, err error) {
	err = c.Call(ctx, MethodInspect, NameParams{Name: name}, &in)
	return in, err
}

// CallPlugin calls a method of a running plugin. An *Error with FromPlugin set
// is the plugin's own answer.
func (c *Client) CallPlugin(ctx context.Context, p CallParams) (result json.RawMessage, err error) {
	err = c.Call(ctx, MethodCall, p, &result)
	return result, err
}

// Why lists the newest violations of a plugin, the newest last.
func (c *Client) Why(ctx context.Context, name string) (vs []violation.Violation, err error) {
	err = c.Call(ctx, MethodWhy, NameParams{Name: name}, &vs)
	return vs, err
}
