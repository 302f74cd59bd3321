package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cordonhq/cordon/manifest"
)

// maxExamples bounds the examples of one method, and of a whole contract.
const (
	maxExamples    = 32
	maxAllExamples = 128
)

// Example is one call with what its author says will come of it.
type Example struct {
	Method string
	Number int // in its file, from 0
	Params json.RawMessage
	// Result is compared by value; without one any that keeps the contract will do.
	Result json.RawMessage
	// Error, if not nil, is the code of the error that is to come instead.
	Error *int
}

// loadExamples reads the examples of a method, which must keep its contract.
func loadExamples(root *os.Root, m manifest.Method, with method) ([]Example, error) {
	if m.Examples == "" {
		return nil, nil
	}
	data, err := read(root, m.Examples)
	if err != nil {
		return nil, err
	}
	examples, err := parseExamples(data, m.Name, with)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Examples, err)
	}
	return examples, nil
}

// exampleKeys are what an example may have.
var exampleKeys = []string{"params", "result", "error"}

func parseExamples(data []byte, name string, with method) ([]Example, error) {
	if len(data) > maxSchema {
		return nil, fmt.Errorf("examples of more than %d bytes", maxSchema)
	}
	if _, _, err := decode(data); err != nil {
		return nil, err
	}
	var raw []map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, errors.New(`expected a list of objects with "params" and "result", or "error"`)
	}
	if len(raw) > maxExamples {
		return nil, fmt.Errorf("%d examples, over %d", len(raw), maxExamples)
	}
	var out []Example
	for i, one := range raw {
		e, err := parseExample(one, with)
		if err != nil {
			return nil, fmt.Errorf("at /%d: %w", i, err)
		}
		e.Method, e.Number = name, i
		out = append(out, e)
	}
	return out, nil
}

func parseExample(one map[string]json.RawMessage, with method) (Example, error) {
	e := Example{Params: one["params"], Result: one["result"]}
	for key := range one {
		if !slices.Contains(exampleKeys, key) {
			return e, fmt.Errorf("an example has no %.40q: expected %s", key, strings.Join(exampleKeys, ", "))
		}
	}
	if code, ok := one["error"]; ok {
		if err := json.Unmarshal(code, &e.Error); err != nil || e.Error == nil || e.Result != nil {
			return e, errors.New(`"error" is the code of an error, in place of "result"`)
		}
	}
	if p := strings.TrimSpace(string(e.Params)); p != "" && p[0] != '{' && p[0] != '[' {
		return e, errors.New(`"params" are an object or an array`)
	}
	if err := with.params.check(e.Params); err != nil {
		return e, fmt.Errorf("its params break the contract: %w", err)
	}
	if e.Result == nil {
		return e, nil
	}
	if err := with.result.check(e.Result); err != nil {
		return e, fmt.Errorf("its result breaks the contract: %w", err)
	}
	return e, nil
}

// Examples are those of all methods, by name and number.
func (c *Contract) Examples() []Example {
	if c == nil {
		return nil
	}
	var out []Example
	for _, m := range c.methods {
		out = append(out, m.examples...)
	}
	slices.SortFunc(out, func(a, b Example) int {
		if a.Method != b.Method {
			return strings.Compare(a.Method, b.Method)
		}
		return a.Number - b.Number
	})
	return out
}

// Failed says what is wrong where an example was answered by an error.
func (e Example) Failed(code int, message string) error {
	if e.Error != nil && *e.Error == code {
		return nil
	}
	want := "a result"
	if e.Error != nil {
		want = fmt.Sprintf("the error %d", *e.Error)
	}
	return &Error{Msg: clip(fmt.Sprintf("expected %s, got the error %d: %s", want, code, message))}
}

// Came says what is wrong with the result of an example, and where in it.
func (c *Contract) Came(e Example, result json.RawMessage) error {
	if e.Error != nil {
		return &Error{Msg: clip(fmt.Sprintf("expected the error %d, got the result %s", *e.Error, result))}
	}
	if err := c.Result(e.Method, result); err != nil {
		return fmt.Errorf("its result breaks the contract: %w", err)
	}
	if e.Result == nil {
		return nil
	}
	want, _, err := decode(e.Result)
	if err != nil {
		return err
	}
	got, _, err := decode(result)
	if err != nil {
		return err
	}
	return differ("", want, got)
}

// differ finds the first place where two documents are not the same, by value.
func differ(path string, want, got any) error {
	switch w := want.(type) {
	case map[string]any:
		if g, ok := got.(map[string]any); ok {
			return differInside(path, w, g)
		}
	case []any:
		if g, ok := got.([]any); ok && len(w) == len(g) {
			for i := range w {
				if err := differ(path+"/"+strconv.Itoa(i), w[i], g[i]); err != nil {
					return err
				}
			}
			return nil
		}
	case json.Number:
		if g, ok := got.(json.Number); ok && same(w, g) {
			return nil
		}
	default:
		if want == got {
			return nil
		}
	}
	return &Error{Path: clip(path), Msg: fmt.Sprintf("expected %s, got %s", shown(want), shown(got))}
}

func differInside(path string, want, got map[string]any) error {
	for _, key := range sortedKeys(want, got) {
		at := path + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
		w, inWant := want[key]
		g, inGot := got[key]
		switch {
		case !inGot:
			return &Error{Path: clip(at), Msg: "it is missing: expected " + shown(w)}
		case !inWant:
			return &Error{Path: clip(at), Msg: "nothing was expected, got " + shown(g)}
		}
		if err := differ(at, w, g); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys(a, b map[string]any) []string {
	var keys []string
	for key := range a {
		keys = append(keys, key)
	}
	for key := range b {
		if _, both := a[key]; !both {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// same compares numbers by value; decode has bounded their exponents.
func same(a, b json.Number) bool {
	if a == b {
		return true
	}
	x, okX := new(big.Rat).SetString(string(a))
	y, okY := new(big.Rat).SetString(string(b))
	return okX && okY && x.Cmp(y) == 0
}

// shown is a value in few words.
func shown(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("a %T", v)
	}
	if len(raw) > 120 {
		return strings.ToValidUTF8(string(raw[:120]), "") + "..."
	}
	return string(raw)
}
