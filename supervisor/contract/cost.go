package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// The bounds of what a stranger's schema may be, and of what checking may cost.
const (
	maxSchema = 64 << 10 // bytes of one file
	maxDepth  = 64       // of nesting, references followed
	maxCost   = 5000     // schema nodes, each reference counted as what it leads to
	maxWork   = 2 << 20  // schema nodes times values: about a second, measured
)

// decode reads JSON for the validator, which computes with numbers exactly: a
// short text such as 1e999999999 would fill the memory.
func decode(data []byte) (doc any, nodes int, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		return nil, 0, fmt.Errorf("invalid JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, 0, errors.New("invalid JSON: more than one value")
	}
	nodes, err = count(doc)
	return doc, nodes, err
}

func count(doc any) (nodes int, err error) {
	nodes = 1
	switch v := doc.(type) {
	case json.Number:
		return 1, checkNumber(string(v))
	case []any:
		for _, x := range v {
			n, err := count(x)
			if err != nil {
				return 0, err
			}
			nodes += n
		}
	case map[string]any:
		for _, x := range v {
			n, err := count(x)
			if err != nil {
				return 0, err
			}
			nodes += n
		}
	}
	return nodes, nil
}

// checkNumber bounds what a number costs in exact arithmetic: 400 digits before
// or behind the point, more than any double has.
func checkNumber(text string) error {
	mantissa, exponent := text, "0"
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		mantissa, exponent = text[:i], text[i+1:]
	}
	if n, err := strconv.Atoi(exponent); err != nil || n > 400 || n < -400 || len(mantissa) > 400 {
		return errors.New("a number of more than 400 digits")
	}
	return nil
}

// costOf is how many schema nodes one value can meet: each reference counts as
// all that it leads to, so that a short schema of references to references
// cannot hide an exponential one. A schema that leads back to itself has no
// such bound and is refused.
func costOf(doc any) (int, error) {
	c := &coster{root: doc, known: map[string]int{}, open: map[string]bool{}}
	cost, err := c.cost(doc, 1)
	if err == nil && cost > maxCost {
		err = fmt.Errorf("a schema too complex: more than %d parts once its references are followed", maxCost)
	}
	return cost, err
}

type coster struct {
	root  any
	known map[string]int
	open  map[string]bool
}

func (c *coster) cost(node any, depth int) (sum int, err error) {
	if depth > maxDepth {
		return 0, fmt.Errorf("a schema nested deeper than %d, references followed", maxDepth)
	}
	sum = 1
	add := func(n int, e error) {
		sum, err = min(sum+n, maxCost+1), errors.Join(err, e)
	}
	switch v := node.(type) {
	case []any:
		for _, x := range v {
			add(c.cost(x, depth+1))
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) { // in order, so that the same is always said first
			x := v[key]
			text, isText := x.(string)
			switch {
			case key == "$ref" && isText:
				add(c.reference(text, depth))
			case isText && (key == "$dynamicRef" || key == "$recursiveRef" || key == "$id" || key == "$anchor" || key == "$dynamicAnchor"):
				err = errors.Join(err, fmt.Errorf("%s is not supported: refer by \"#/$defs/NAME\"", key))
			case key == "$schema" && text != "https://json-schema.org/draft/2020-12/schema":
				err = errors.Join(err, fmt.Errorf("expected \"$schema\": \"https://json-schema.org/draft/2020-12/schema\", got %.100q", fmt.Sprint(x)))
			default:
				add(c.cost(x, depth+1))
			}
			if err != nil {
				return 0, err
			}
		}
	}
	return sum, err
}

// reference is the cost of what a reference leads to.
func (c *coster) reference(ref string, depth int) (int, error) {
	if n, ok := c.known[ref]; ok {
		return n, nil
	}
	if c.open[ref] {
		return 0, fmt.Errorf("the schema leads back to itself by %.100q: what checking costs would have no bound", ref)
	}
	target, err := c.resolve(ref)
	if err != nil {
		return 0, err
	}
	c.open[ref] = true
	n, err := c.cost(target, depth+1)
	delete(c.open, ref)
	c.known[ref] = n
	return n, err
}

// resolve follows a JSON pointer within the schema.
func (c *coster) resolve(ref string) (any, error) {
	pointer, ok := strings.CutPrefix(ref, "#/")
	if !ok || strings.Contains(ref, "%") {
		return nil, fmt.Errorf("a reference must be \"#/...\", within the schema, got %.100q", ref)
	}
	node := c.root
	for _, part := range strings.Split(pointer, "/") {
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		switch v := node.(type) {
		case map[string]any:
			node, ok = v[part]
		case []any:
			i, err := strconv.Atoi(part)
			if ok = err == nil && i >= 0 && i < len(v); ok {
				node = v[i]
			}
		default:
			ok = false
		}
		if !ok {
			return nil, fmt.Errorf("a reference to what is not there: %.100q", ref)
		}
	}
	return node, nil
}
