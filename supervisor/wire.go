package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/contract"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/launch"
)

// WithLauncher makes a Launcher of the real one.
func WithLauncher(l *launch.Launcher) Launcher { return realLauncher{l} }

type realLauncher struct{ *launch.Launcher }

// Adopt implements keeper.
func (l realLauncher) Adopt(k *launch.Left, r launch.Request) (Process, error) {
	p, err := l.Launcher.Adopt(k, r)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Start marks the errors that another try will not mend.
func (l realLauncher) Start(ctx context.Context, r launch.Request) (Process, error) {
	p, err := l.Launcher.Start(ctx, r)
	if err == nil {
		return p, nil
	}
	var exec *launch.ExecError
	var wall *launch.MissingWallError
	var pin *launch.PinError
	if errors.As(err, &pin) {
		err = fmt.Errorf("%w; if it is an upgrade of the host's, cordon pin --interpreter %s has it run by what is there now", err, r.Name)
	}
	if errors.As(err, &exec) || errors.As(err, &wall) || pin != nil {
		err = &PermanentError{err}
	}
	return nil, err
}

// Bundles is the Source that keeps sealed bundles in one directory and reads
// profiles from another, each time anew: what they say is worked out again when
// they say something else.
type Bundles struct {
	dir      string
	profiles string
	mu       sync.RWMutex
	ceiling  *profiles.Ceiling
	followed *profiles.Ceiling // where its own paths led when it was read
	said     sayings
	known    plans
}

// NewBundles makes the directory of the sealed bundles (0700) if it is not
// there. What a killed daemon left half-sealed in it is removed.
func NewBundles(dir, profilesDir string, ceiling *profiles.Ceiling) (*Bundles, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of bundles: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the directory of bundles: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".tmp-") {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("cannot clear the directory of bundles: %w", err)
		}
	}
	b := &Bundles{dir: dir, profiles: profilesDir}
	b.SetCeiling(ceiling)
	return b, nil
}

// SetCeiling changes what holds for plans resolved from now on.
func (b *Bundles) SetCeiling(c *profiles.Ceiling) {
	followed := c.Followed(filepath.EvalSymlinks)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ceiling, b.followed = c, followed
}

// Refuses is launch.Config's: what the ceiling says of where a grant leads.
func (b *Bundles) Refuses(real string, access []string) string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.followed.Refuses(real, access)
}

// Ceiling is what holds now.
func (b *Bundles) Ceiling() *profiles.Ceiling {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.ceiling
}

// isDigest says whether name is that of a whole sealed bundle.
func isDigest(name string) bool {
	return len(name) == 64 && strings.Trim(name, "0123456789abcdef") == ""
}

// pathOf is where the sealed copy of a digest lies.
func (b *Bundles) pathOf(digest string) (string, error) {
	name, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || !isDigest(name) {
		return "", fmt.Errorf("%q is no digest of a bundle", digest)
	}
	return filepath.Join(b.dir, name), nil
}

// Seal implements Source.
func (b *Bundles) Seal(dir string) (*Bundle, error) {
	opened, err := manifest.Open(dir)
	if err != nil {
		return nil, err
	}
	sealed, err := opened.Seal(b.dir)
	if err := errors.Join(err, opened.Close()); err != nil {
		return nil, err
	}
	return bundleOf(sealed)
}

// Open implements Source.
func (b *Bundles) Open(digest string) (*Bundle, error) {
	path, err := b.pathOf(digest)
	if err != nil {
		return nil, err
	}
	sealed, err := manifest.OpenSealed(path, digest)
	if err != nil {
		return nil, err
	}
	return bundleOf(sealed)
}

// bundleOf reads what else a sealed bundle has: its contract.
func bundleOf(s *manifest.Sealed) (*Bundle, error) {
	m := s.Manifest
	c, err := contract.Load(s.Path, m.Methods)
	if err != nil {
		return nil, err
	}
	return &Bundle{
		Path: s.Path, Digest: s.Digest, Name: m.Name, Version: m.Version, Protocol: m.Protocol, Manifest: m, Contract: c,
	}, nil
}

// Resolve implements Source.
func (b *Bundles) Resolve(bundle *Bundle, profile string) (*plan.Plan, error) {
	ceiling := b.Ceiling()
	key := planKey{bundle.Digest, profile, ceiling}
	if pl := b.known.find(key, b.profiles); pl != nil {
		return pl, nil
	}
	p, err := profiles.Find(profile, b.profiles)
	if err != nil {
		return nil, err
	}
	resolved, err := profiles.Resolve(profiles.Input{Profile: p, Manifest: bundle.Manifest, Ceiling: ceiling})
	if err == nil {
		b.said.share(resolved)
		resolved.Settle()
		b.known.add(key, p, resolved)
	}
	return resolved, err
}

// Discard implements Source.
func (b *Bundles) Discard(digest string) error {
	path, err := b.pathOf(digest)
	if err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// IPC is the Connector that speaks the real protocols.
type IPC struct {
	// Version is the host's, told to plugins.
	Version string
	Logger  *slog.Logger
}

// Connect implements Connector.
func (c IPC) Connect(t ipc.Transport, name string, p *plan.Plan, handler ipc.Handler) (Conn, error) {
	return c.ConnectKept(t, name, p, handler, KeptConn{})
}

// ConnectKept is Connect for a connection that another process may go on with,
// or goes on with.
func (c IPC) ConnectKept(t ipc.Transport, name string, p *plan.Plan, handler ipc.Handler, k KeptConn) (Conn, error) {
	log := func(text string) { c.Logger.Info(text, "plugin", name) }
	return &ipcConn{
		Conn: ipc.NewConn(t, ipc.Options{
			Protocol: p.Protocol, Limits: p.IPC, Hello: p.Protocol != ipc.ProtocolJSONRPC && !k.Resume, Log: log,
			Handler: handler, Journal: k.Journal, Resume: k.Resume,
		}),
		host:  ipc.HostInfo{Plugin: name, Version: c.Version, RootURI: "file:///data"},
		hello: k.Hello,
	}, nil
}

// ipcConn is a connection with its bridge, made at the first attach.
type ipcConn struct {
	*ipc.Conn
	host ipc.HostInfo

	mu     sync.Mutex
	hello  json.RawMessage
	bridge *ipc.Bridge
	screen ipc.Screen
}

// Hello implements Conn.
func (c *ipcConn) Hello(ctx context.Context) (json.RawMessage, error) {
	info, err := ipc.Hello(ctx, c.Conn, c.host)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hello = info.Raw
	return info.Raw, nil
}

// Call implements Conn.
func (c *ipcConn) Call(ctx context.Context, method string, params json.RawMessage) (json.RawMessage, error) {
	a, err := c.CallWith(ctx, method, params, nil, 0)
	return a.Result, err
}

// CallWith is Call with descriptors; see ipc.Conn.CallFiles.
func (c *ipcConn) CallWith(ctx context.Context, method string, params json.RawMessage, files []*os.File, accept int) (ipc.Answer, error) {
	switch t := traceOf(ctx); c.Protocol() {
	case ipc.ProtocolCordon:
		t.Left = c.left(ctx)
		params = ipc.WithMeta(params, t.Meta)
	case ipc.ProtocolMCP: // whose _meta has a place for a trace, and for nothing else of ours
		if t.asked {
			params = ipc.WithMeta(params, ipc.Meta{Traceparent: t.Traceparent})
		}
	case ipc.ProtocolLSP, ipc.ProtocolJSONRPC:
	}
	if len(params) == 0 {
		return c.CallFiles(ctx, method, nil, files, accept)
	}
	return c.CallFiles(ctx, method, params, files, accept)
}

// left is how long a caller goes on waiting.
func (c *ipcConn) left(ctx context.Context) time.Duration {
	if at, ok := ctx.Deadline(); ok {
		return time.Until(at)
	}
	return c.Limits().CallTimeout
}

// Goodbye implements Conn. On our own protocol the end of the stream follows
// the plugin's answer.
func (c *ipcConn) Goodbye(ctx context.Context) error {
	err := ipc.Goodbye(ctx, c.Conn)
	if c.Protocol() == ipc.ProtocolCordon {
		err = errors.Join(err, c.Close())
	}
	return err
}

// Attach implements Conn.
func (c *ipcConn) Attach(deliver func(json.RawMessage) error) (control.Bridge, error) {
	bridge, err := c.theBridge()
	if err != nil {
		return nil, err
	}
	client, err := bridge.Attach(func(msg []byte) error { return deliver(msg) })
	if err != nil {
		return nil, err
	}
	return bridgeClient{client}, nil
}

// Screened has s look at what attached clients ask. Call it before the first
// Attach.
func (c *ipcConn) Screened(s ipc.Screen) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.screen = s
}

func (c *ipcConn) theBridge() (*ipc.Bridge, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bridge != nil {
		return c.bridge, nil
	}
	var err error
	if c.bridge, err = ipc.NewBridge(c.Conn, c.hello); err == nil {
		c.bridge.Screen(c.screen)
	}
	return c.bridge, err
}

// bridgeClient is one client of a bridge, in the words of the control socket.
type bridgeClient struct{ *ipc.Client }

// Send implements control.Bridge.
func (b bridgeClient) Send(ctx context.Context, message json.RawMessage) error {
	return b.Receive(ctx, message)
}

// Close implements control.Bridge.
func (b bridgeClient) Close() { b.Detach() }
