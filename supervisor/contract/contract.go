// Package contract checks calls against the JSON Schemas of a plugin's
// manifest: parameters before the plugin sees them, results before the caller
// does. Schemas come from strangers: they load nothing, and what checking can
// cost is known before anything is checked.
package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/cordonhq/cordon/manifest"
)

// Contract holds the compiled schemas of one plugin. It never changes. A nil
// Contract allows everything.
type Contract struct {
	methods map[string]method
}

type method struct {
	params, result *schema
	examples       []Example
}

// schema is a compiled schema and what one value costs it at most.
type schema struct {
	compiled *jsonschema.Schema
	cost     int
	quick    *quick // nil where the schema is not of the plain kind
}

// Error says what in a document breaks the contract.
type Error struct {
	// Path is a JSON pointer (RFC 6901) into the document, "" for all of it.
	Path string
	// Msg may quote the document; it is at most maxMessage bytes.
	Msg string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Path == "" {
		return e.Msg
	}
	return "at " + e.Path + ": " + e.Msg
}

// maxMessage bounds the words on one document, in bytes.
const maxMessage = 512

// Load compiles the schemas that a manifest names, which are files of the
// bundle in dir. Without any the result is nil.
func Load(dir string, methods []manifest.Method) (*Contract, error) {
	if len(methods) == 0 {
		return nil, nil //nolint:nilnil // nil is the contract that allows everything
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the contract: %w", err)
	}
	c := &Contract{methods: map[string]method{}}
	for _, m := range methods {
		params, errParams := load(root, m.Params)
		result, errResult := load(root, m.Result)
		made := method{params: params, result: result}
		err := errors.Join(errParams, errResult)
		if err == nil {
			made.examples, err = loadExamples(root, m, made)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot use the contract of method %s: %w", m.Name, err), root.Close())
		}
		c.methods[m.Name] = made
	}
	if n := len(c.Examples()); n > maxAllExamples {
		return nil, errors.Join(fmt.Errorf("cannot use the contract: %d examples, over %d", n, maxAllExamples), root.Close())
	}
	return c, root.Close()
}

// load compiles one file; none is no schema.
func load(root *os.Root, path string) (*schema, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // nil is the schema that allows everything
	}
	data, err := read(root, path)
	if err != nil {
		return nil, err
	}
	s, err := compile(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// read reads a file of the bundle, or a byte more than a schema may have.
func read(root *os.Root, path string) ([]byte, error) {
	f, err := root.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSchema+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return data, nil
}

// denyLoader loads nothing: a schema that refers to a file would read it as
// root, and quote it in its errors.
type denyLoader struct{}

func (denyLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("nothing is loaded from outside the schema: %.100q", url)
}

func compile(data []byte) (*schema, error) {
	if len(data) > maxSchema {
		return nil, fmt.Errorf("a schema of more than %d bytes", maxSchema)
	}
	doc, _, err := decode(data)
	if err != nil {
		return nil, err
	}
	cost, err := costOf(doc)
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(denyLoader{})
	const name = "cordon:contract"
	if err := c.AddResource(name, doc); err != nil {
		return nil, err
	}
	compiled, err := c.Compile(name)
	if err != nil {
		return nil, err
	}
	s := &schema{compiled: compiled, cost: cost}
	if q, ok := quicken(doc); ok {
		s.quick = q
	}
	return s, nil
}

// Params checks a call's parameters; none are checked as null.
func (c *Contract) Params(name string, doc json.RawMessage) error {
	if c == nil {
		return nil
	}
	return c.methods[name].params.check(doc)
}

// Result checks a call's result.
func (c *Contract) Result(name string, doc json.RawMessage) error {
	if c == nil {
		return nil
	}
	return c.methods[name].result.check(doc)
}

func (s *schema) check(raw json.RawMessage) error {
	if s == nil {
		return nil
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		raw = json.RawMessage("null")
	}
	if s.quick != nil && s.quick.accepts(raw) {
		return nil
	}
	doc, nodes, err := decode(raw)
	if err != nil {
		return &Error{Msg: err.Error()}
	}
	if nodes*s.cost > maxWork {
		return &Error{Msg: fmt.Sprintf("%d values are more than this schema can be checked with", nodes)}
	}
	err = s.compiled.Validate(doc)
	var broken *jsonschema.ValidationError
	if errors.As(err, &broken) {
		return explain(broken)
	}
	return err
}

// explain finds the first cause that has none of its own: the most particular.
func explain(e *jsonschema.ValidationError) *Error {
	for len(e.Causes) > 0 {
		e = e.Causes[0]
	}
	path := ""
	for _, part := range e.InstanceLocation {
		path += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(part)
	}
	msg := e.ErrorKind.LocalizedString(message.NewPrinter(language.English))
	return &Error{Path: clip(path), Msg: clip(msg)}
}

// clip bounds text that may quote a document; escaping is the printer's.
func clip(s string) string {
	if len(s) > maxMessage {
		return strings.ToValidUTF8(s[:maxMessage], "") + "..."
	}
	return s
}

// Of compiles the schemas of one method that the host itself serves.
func Of(name, params, result string) (*Contract, error) {
	p, err := compile([]byte(params))
	if err != nil {
		return nil, fmt.Errorf("its parameters: %w", err)
	}
	r, err := compile([]byte(result))
	if err != nil {
		return nil, fmt.Errorf("its result: %w", err)
	}
	return &Contract{methods: map[string]method{name: {params: p, result: r}}}, nil
}
