package contract

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The bounds of what is pinned.
const (
	maxTools     = 256
	maxToolBytes = 1 << 20
	maxToolName  = 256
)

// Tools are the tools of an MCP server with the schemas that they had when an
// operator pinned them. It never changes. A nil Tools allows everything.
type Tools struct {
	raw   []byte
	tools map[string]pinned
}

// pinned is one tool.
type pinned struct {
	text          string // of its schemas, canonical
	input, output *schema
}

// tool is one of a server's list, as far as it is a contract.
type tool struct {
	Name   string          `json:"name"`
	Input  json.RawMessage `json:"inputSchema"`
	Output json.RawMessage `json:"outputSchema,omitempty"`
}

// PinTools compiles the tools of all pages of a list: results of tools/list.
func PinTools(pages []json.RawMessage) (*Tools, error) {
	var all []tool
	for _, page := range pages {
		list, err := listed(page)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b tool) int { return strings.Compare(a.Name, b.Name) })
	raw, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	return LoadTools(raw)
}

// listed reads one page. Whatever else a tool has is no contract.
func listed(page json.RawMessage) ([]tool, error) {
	var list struct {
		Tools []tool `json:"tools"`
	}
	if err := json.Unmarshal(page, &list); err != nil {
		return nil, errors.New(`expected a result of tools/list: {"tools": [{"name": ..., "inputSchema": ...}]}`)
	}
	return list.Tools, nil
}

// LoadTools compiles what JSON gave.
func LoadTools(raw []byte) (*Tools, error) {
	if len(raw) > maxToolBytes {
		return nil, fmt.Errorf("schemas of more than %d bytes", maxToolBytes)
	}
	var list []tool
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("not a list of tools: %w", err)
	}
	if len(list) > maxTools {
		return nil, fmt.Errorf("%d tools, over %d", len(list), maxTools)
	}
	t := &Tools{raw: bytes.Clone(raw), tools: map[string]pinned{}}
	for _, one := range list {
		p, err := pin(one)
		if err != nil {
			return nil, fmt.Errorf("the tool %.80q: %w", one.Name, err)
		}
		if _, twice := t.tools[one.Name]; twice {
			return nil, fmt.Errorf("the tool %.80q is there twice", one.Name)
		}
		t.tools[one.Name] = p
	}
	return t, nil
}

func pin(one tool) (p pinned, err error) {
	if one.Name == "" || len(one.Name) > maxToolName {
		return p, fmt.Errorf("expected a name of 1 to %d bytes", maxToolName)
	}
	if len(one.Input) == 0 || string(one.Input) == "null" {
		return p, errors.New("it has no inputSchema")
	}
	if p.text, err = one.canonical(); err != nil {
		return p, err
	}
	if p.input, err = compileTool(one.Input); err != nil {
		return p, fmt.Errorf("its inputSchema: %w", err)
	}
	if len(one.Output) > 0 {
		if p.output, err = compileTool(one.Output); err != nil {
			return p, fmt.Errorf("its outputSchema: %w", err)
		}
	}
	return p, nil
}

// draft07 is what most servers' libraries write. Of its keywords two mean nothing
// in 2020-12, and one that it has in another form is refused by the compiler.
const draft07 = "http://json-schema.org/draft-07/schema"

// compileTool is compile for a schema that may be of draft 07.
func compileTool(raw json.RawMessage) (*schema, error) {
	var doc map[string]json.RawMessage
	var draft string
	if json.Unmarshal(raw, &doc) != nil || json.Unmarshal(doc["$schema"], &draft) != nil || strings.TrimSuffix(draft, "#") != draft07 {
		return compile(raw)
	}
	if len(raw) > maxSchema {
		return nil, fmt.Errorf("a schema of more than %d bytes", maxSchema)
	}
	for _, gone := range []string{`"dependencies"`, `"additionalItems"`} {
		if bytes.Contains(raw, []byte(gone)) {
			return nil, fmt.Errorf("%s of draft 07 is not checked: expected a schema without it", gone)
		}
	}
	delete(doc, "$schema")
	plain, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return compile(plain)
}

// canonical is the schemas of a tool with keys in order and without spaces, so
// that another way to write them is no change.
func (t tool) canonical() (string, error) {
	out := ""
	for _, raw := range []json.RawMessage{t.Input, t.Output} {
		if len(raw) > maxSchema {
			return "", fmt.Errorf("a schema of more than %d bytes", maxSchema)
		}
		if len(raw) > 0 {
			doc, _, err := decode(raw)
			if err != nil {
				return "", err
			}
			text, err := json.Marshal(doc)
			if err != nil {
				return "", err
			}
			out += string(text)
		}
		out += "\n"
	}
	return out, nil
}

// JSON is what LoadTools reads.
func (t *Tools) JSON() []byte { return t.raw }

// Names lists the tools, sorted.
func (t *Tools) Names() []string {
	names := make([]string, 0, len(t.tools))
	for name := range t.tools {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Digest is of the names and schemas, however they are written.
func (t *Tools) Digest() string {
	h := sha256.New()
	for _, name := range t.Names() {
		_, _ = fmt.Fprintf(h, "%q\n%s", name, t.tools[name].text) // a hash never fails
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// ChangedError says that a server's tools are not those that were pinned.
type ChangedError struct{ Tool, What string }

// Error implements error.
func (e *ChangedError) Error() string { return fmt.Sprintf("the tool %.80q %s", e.Tool, e.What) }

// Same says how a page of the server's list differs from what was pinned: a
// *ChangedError for a tool with other schemas, or one that is new. One that is
// gone is no danger.
func (t *Tools) Same(page json.RawMessage) error {
	list, err := listed(page)
	if err != nil {
		return &Error{Msg: err.Error()}
	}
	for _, one := range list {
		p, known := t.tools[one.Name]
		if !known {
			return &ChangedError{one.Name, "is not among those that were pinned"}
		}
		if text, err := one.canonical(); err != nil || text != p.text {
			return &ChangedError{one.Name, "has other schemas than those that were pinned"}
		}
	}
	return nil
}

// call is the params of tools/call.
type call struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}

// Params checks those of tools/call.
func (t *Tools) Params(params json.RawMessage) error {
	c, p, err := t.of(params)
	if err != nil {
		return err
	}
	if len(c.Arguments) == 0 {
		c.Arguments = json.RawMessage("{}")
	}
	return below("/arguments", p.input.check(c.Arguments))
}

func (t *Tools) of(params json.RawMessage) (call, pinned, error) {
	var c call
	if len(params) == 0 || json.Unmarshal(params, &c) != nil {
		return c, pinned{}, &Error{Msg: `expected {"name": ..., "arguments": ...}`}
	}
	p, known := t.tools[c.Name]
	if !known {
		return c, p, &Error{Path: "/name", Msg: fmt.Sprintf("the tool %.80q is not among those that were pinned", c.Name)}
	}
	return c, p, nil
}

// Result checks what tools/call with these params was answered.
func (t *Tools) Result(params, result json.RawMessage) error {
	_, p, err := t.of(params)
	if err != nil || p.output == nil {
		return err
	}
	var said struct {
		IsError    bool            `json:"isError"`
		Structured json.RawMessage `json:"structuredContent"`
	}
	if err := json.Unmarshal(result, &said); err != nil {
		return &Error{Msg: "expected an object"}
	}
	if said.IsError {
		return nil
	}
	if len(said.Structured) == 0 {
		return &Error{Path: "/structuredContent", Msg: "it is missing, and the tool has an outputSchema"}
	}
	return below("/structuredContent", p.output.check(said.Structured))
}

// below puts the path of an error beneath another.
func below(path string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return &Error{Path: clip(path + e.Path), Msg: e.Msg}
	}
	return err
}
