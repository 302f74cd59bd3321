package ipc

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// APIVersion is the version of our own protocol that this package speaks, and
// APIOldest the oldest that it still does.
const (
	APIVersion = 1
	APIOldest  = 1
)

// mcpVersion is the revision of MCP that is offered; mcpKnown are those that a
// server may answer with.
const mcpVersion = "2025-11-25"

var mcpKnown = []string{"2024-11-05", "2025-03-26", "2025-06-18", mcpVersion}

// The methods of our own handshake.
const (
	methodHello    = "cordon.hello"
	methodShutdown = "cordon.shutdown"
)

// HostInfo is what a plugin is told about its host and itself.
type HostInfo struct {
	Plugin  string // the plugin's name at this host
	Version string // of the host, "0.1.0"
	// RootURI is the workspace of a language server, "file:///data"; empty for
	// none.
	RootURI string
	// Grease is the name of a member without meaning that every hello carries,
	// so that plugins cannot come to depend on knowing all members. Empty makes
	// a random one.
	Grease string
}

// PluginInfo is what a plugin said about itself. None of it is verified.
type PluginInfo struct {
	Name    string
	Version string
	API     string // "1" of ours, the protocol revision of MCP, empty for LSP
	// Raw is the result of the hello as it came; nil without a hello. A bridge
	// answers its clients' initialize from it.
	Raw json.RawMessage
}

// Hello performs the handshake of the connection's protocol within HelloTimeout
// and ctx, and moves the connection to PhaseReady. ProtocolJSONRPC has none.
func Hello(ctx context.Context, c *Conn, h HostInfo) (PluginInfo, error) {
	switch c.o.Protocol {
	case ProtocolCordon:
		return HelloCordon(ctx, c, h)
	case ProtocolMCP:
		return HelloMCP(ctx, c, h)
	case ProtocolLSP:
		return HelloLSP(ctx, c, h)
	case ProtocolJSONRPC:
		c.advance(PhaseReady)
		return PluginInfo{}, nil
	default:
		return PluginInfo{}, fmt.Errorf("cannot say hello: unknown protocol %q", c.o.Protocol)
	}
}

// HelloCordon sends cordon.hello and checks the answer: {"api": N, "name"?,
// "version"?} with N between the two versions offered. The error is a
// *ProtocolError when the answer makes no sense.
func HelloCordon(ctx context.Context, c *Conn, h HostInfo) (PluginInfo, error) {
	grease := h.Grease
	if grease == "" {
		grease = "grease." + rand.Text()[:8]
	}
	// Right behind its answer the plugin may begin to ask: the reader must know.
	ready := func(raw []byte) {
		if _, ok := spokenAPI(raw); ok {
			c.offered(kindsMember(raw))
			c.advance(PhaseReady)
		}
	}
	raw, err := c.hello(ctx, methodHello, ready, map[string]any{
		"api":     APIVersion,
		"api_min": APIOldest,
		"plugin":  h.Plugin,
		"host":    map[string]string{"name": "cordon", "version": h.Version},
		"limits": map[string]int{
			"max_frame": c.o.Limits.MaxFrame, "max_in_flight": c.o.Limits.MaxInFlight,
			"max_depth": c.o.Limits.MaxDepth, "rate": c.o.Limits.Rate, "max_descriptors": c.box.max,
		},
		grease: true,
	})
	if err != nil {
		return PluginInfo{}, err
	}
	api, ok := spokenAPI(raw)
	if !ok {
		return PluginInfo{}, breach(BreachHello, `the answer to the hello must have "api" between %d and %d`, APIOldest, APIVersion)
	}
	return PluginInfo{Name: stringMember(raw, "name"), Version: stringMember(raw, "version"), API: fmt.Sprint(api), Raw: raw}, nil
}

// kindsMember reads which descriptors the peer takes.
func kindsMember(raw []byte) []DescriptorKind {
	at, ok := lookup(raw, "descriptors")
	if !ok {
		return nil
	}
	var names []DescriptorKind
	if json.Unmarshal(at.of(raw), &names) != nil {
		return nil // it says nothing that this side knows
	}
	return names
}

// spokenAPI reads the version in the answer to a hello.
func spokenAPI(raw []byte) (int64, bool) {
	at, _ := lookup(raw, "api")
	api, ok := parseInt(raw[at.start:at.end])
	return api, ok && api >= APIOldest && api <= APIVersion
}

// HelloMCP performs MCP's initialize and sends notifications/initialized.
func HelloMCP(ctx context.Context, c *Conn, h HostInfo) (PluginInfo, error) {
	raw, err := c.hello(ctx, "initialize", nil, map[string]any{
		"protocolVersion": mcpVersion,
		"capabilities":    struct{}{},
		"clientInfo":      map[string]string{"name": "cordon", "version": orUnknown(h.Version)},
	})
	if err != nil {
		return PluginInfo{}, err
	}
	version := stringMember(raw, "protocolVersion")
	if !slices.Contains(mcpKnown, version) {
		return PluginInfo{}, breach(BreachHello, "unknown MCP revision %.40q", version)
	}
	if err := c.Notify("notifications/initialized", nil); err != nil {
		return PluginInfo{}, fmt.Errorf("cannot say hello: %w", err)
	}
	c.advance(PhaseReady)
	return serverInfo(raw, version), nil
}

// HelloLSP performs the Language Server Protocol's initialize and sends
// initialized.
func HelloLSP(ctx context.Context, c *Conn, h HostInfo) (PluginInfo, error) {
	params := map[string]any{
		"processId":    nil, // the host's pid means nothing inside
		"rootUri":      nil,
		"capabilities": struct{}{},
		"clientInfo":   map[string]string{"name": "cordon", "version": orUnknown(h.Version)},
	}
	if h.RootURI != "" {
		params["rootUri"] = h.RootURI
	}
	raw, err := c.hello(ctx, "initialize", nil, params)
	if err != nil {
		return PluginInfo{}, err
	}
	if at, ok := lookup(raw, "capabilities"); !ok || raw[at.start] != '{' {
		return PluginInfo{}, breach(BreachHello, "the answer to initialize has no capabilities")
	}
	if err := c.Notify("initialized", struct{}{}); err != nil {
		return PluginInfo{}, fmt.Errorf("cannot say hello: %w", err)
	}
	c.advance(PhaseReady)
	return serverInfo(raw, ""), nil
}

func orUnknown(version string) string {
	if version == "" {
		return "0"
	}
	return version
}

// serverInfo reads what MCP and LSP call serverInfo.
func serverInfo(raw json.RawMessage, api string) PluginInfo {
	info := PluginInfo{API: api, Raw: raw}
	if at, ok := lookup(raw, "serverInfo"); ok {
		server := at.of(raw)
		info.Name, info.Version = stringMember(server, "name"), stringMember(server, "version")
	}
	return info
}

// stringMember returns a string member of a validated object, or "".
func stringMember(raw []byte, name string) string {
	at, ok := lookup(raw, name)
	if !ok || raw[at.start] != '"' {
		return ""
	}
	return text(at.of(raw))
}

// helloMethod is the method that ends PhaseHello.
func helloMethod(p Protocol) string {
	if p == ProtocolCordon {
		return methodHello
	}
	return "initialize"
}

// hello makes the first call, which has a timeout of its own.
func (c *Conn) hello(ctx context.Context, method string, early func([]byte), params any) (json.RawMessage, error) {
	body, err := marshalParams(params)
	if err != nil {
		return nil, fmt.Errorf("cannot say hello: %w", err)
	}
	p := &patience{ctx: ctx}
	p.bound(c.o.Clock, c.o.Limits.HelloTimeout)
	defer p.end()
	r, err := c.exchange(p, method, body, expected{early: early})
	raw := r.result
	if err != nil {
		return nil, fmt.Errorf("cannot say hello: %w", c.callError(err, p, method))
	}
	if len(raw) == 0 || raw[0] != '{' {
		return nil, breach(BreachHello, "the answer to %s is no object", method)
	}
	return raw, nil
}

// Goodbye asks the plugin to end, in the way of its protocol, and lets nothing
// new begin: cordon.shutdown is answered before the end; MCP and plain JSON-RPC
// close the plugin's standard input; LSP gets shutdown and exit. It returns when
// that is done, not when the plugin has gone: the caller waits for Run to
// return, and kills after its own timeout. A plugin that does not know
// cordon.shutdown is no error.
func Goodbye(ctx context.Context, c *Conn) error {
	hasServed := c.Phase() > PhaseHello
	c.advance(PhaseDraining)
	switch {
	case c.o.Protocol == ProtocolCordon && hasServed:
		return c.farewellCall(ctx, methodShutdown)
	case c.o.Protocol == ProtocolLSP:
		err := c.farewellCall(ctx, "shutdown")
		return errors.Join(err, c.Notify("exit", nil), c.Flush(ctx))
	case c.o.Protocol == ProtocolMCP || c.o.Protocol == ProtocolJSONRPC:
		if err := c.Flush(ctx); err != nil {
			return err
		}
		if any(c.t.R) != any(c.t.W) {
			return c.t.W.Close()
		}
	}
	return nil
}

func (c *Conn) farewellCall(ctx context.Context, method string) error {
	p := &patience{ctx: ctx}
	p.bound(c.o.Clock, c.o.Limits.CallTimeout)
	defer p.end()
	_, err := c.exchange(p, method, nil, expected{})
	var e *RPCError
	if err == nil || errors.Is(err, ErrClosed) || errors.As(err, &e) && !e.Local {
		return nil
	}
	return fmt.Errorf("cannot say goodbye: %w", c.callError(err, p, method))
}
