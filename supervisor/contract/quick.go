package contract

import (
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// quick is a schema of the plain kind that most methods have, compiled to be
// checked on the bytes of a document, without building it. It only ever says
// yes: what it does not know, or does not like, is checked by the library, which
// also finds the words for what is wrong.
type quick struct {
	types      kinds // none is any
	names      map[string]int
	members    []*quick // of names; nil is any
	required   uint64   // bits of names
	additional *quick   // of other members; nil is any
	closed     bool     // no other members
	items      *quick   // nil is any
	length     bounds   // of strings, in characters
	count      bounds   // of arrays
	value      bounds   // of integers
	words      map[string]bool
}

// kinds is a set of JSON types.
type kinds uint8

const (
	kindObject kinds = 1 << iota
	kindArray
	kindString
	kindInteger
	kindNumber // that is no integer, as far as its text tells
	kindBoolean
	kindNull
)

var kindNames = map[string]kinds{
	"object": kindObject, "array": kindArray, "string": kindString, "integer": kindInteger,
	"number": kindInteger | kindNumber, "boolean": kindBoolean, "null": kindNull,
}

// bounds are inclusive; none is set where has is false.
type bounds struct {
	hasLow, hasHigh bool
	low, high       int64
}

func (b bounds) hold(n int64) bool { return (!b.hasLow || n >= b.low) && (!b.hasHigh || n <= b.high) }

// The bounds of what the quick check takes on.
const (
	quickDepth   = 64 // of values
	quickMembers = 64 // named by one schema
	quickDigits  = 15 // of an integer: exact in any arithmetic
)

// quicken compiles a schema, or returns false where it says more than quick can.
func quicken(node any) (*quick, bool) {
	if node == true {
		return nil, true
	}
	schema, ok := node.(map[string]any)
	if !ok {
		return nil, false
	}
	q := &quick{names: map[string]int{}}
	for keyword, value := range schema {
		if !q.keyword(keyword, value) {
			return nil, false
		}
	}
	return q, q.needs(schema["required"])
}

func (q *quick) keyword(keyword string, value any) bool {
	var ok bool
	switch keyword {
	case "$schema", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly":
		return true
	case "required": // when all names are known
		return true
	case "type":
		return q.kind(value)
	case "properties":
		return q.properties(value)
	case "additionalProperties":
		if q.closed = value == false; q.closed {
			return true
		}
		q.additional, ok = quicken(value)
		return ok
	case "items":
		q.items, ok = quicken(value)
		return ok
	case "enum":
		return q.enum(value)
	case "const":
		return q.enum([]any{value})
	case "minLength":
		q.length.low, q.length.hasLow = whole(value)
		return q.length.hasLow
	case "maxLength":
		q.length.high, q.length.hasHigh = whole(value)
		return q.length.hasHigh
	case "minItems":
		q.count.low, q.count.hasLow = whole(value)
		return q.count.hasLow
	case "maxItems":
		q.count.high, q.count.hasHigh = whole(value)
		return q.count.hasHigh
	case "minimum":
		q.value.low, q.value.hasLow = whole(value)
		return q.value.hasLow
	case "maximum":
		q.value.high, q.value.hasHigh = whole(value)
		return q.value.hasHigh
	}
	return false
}

// whole reads an integer as a schema writes it.
func whole(value any) (int64, bool) {
	n, ok := value.(json.Number)
	if !ok || len(n) > quickDigits {
		return 0, false
	}
	i, err := strconv.ParseInt(string(n), 10, 64)
	return i, err == nil
}

func (q *quick) kind(value any) bool {
	list, isList := value.([]any)
	if !isList {
		list = []any{value}
	}
	for _, x := range list {
		name, _ := x.(string)
		if kindNames[name] == 0 {
			return false
		}
		q.types |= kindNames[name]
	}
	return len(list) > 0
}

func (q *quick) properties(value any) bool {
	members, ok := value.(map[string]any)
	for name, node := range members {
		member, plain := quicken(node)
		if !plain || len(q.members) == quickMembers {
			return false
		}
		q.names[name] = len(q.members)
		q.members = append(q.members, member)
	}
	return ok
}

// needs notes the required members. One that properties does not name would
// need its own place: the library checks such a schema.
func (q *quick) needs(value any) bool {
	if value == nil {
		return true
	}
	list, ok := value.([]any)
	for _, x := range list {
		name, _ := x.(string)
		i, known := q.names[name]
		if !known {
			return false
		}
		q.required |= 1 << i
	}
	return ok
}

func (q *quick) enum(value any) bool {
	list, ok := value.([]any)
	if !ok || q.words != nil {
		return false
	}
	q.words = map[string]bool{}
	for _, x := range list {
		word, ok := x.(string)
		if !ok {
			return false
		}
		q.words[word] = true
	}
	return true
}

// accepts says that doc is one JSON value that the schema allows. False means
// nothing but that it is not sure.
func (q *quick) accepts(doc []byte) bool {
	c := cursor{data: doc}
	c.space()
	if !c.value(q, 1) {
		return false
	}
	c.space()
	return c.pos == len(doc)
}

// cursor reads a document. Its methods return false for what is not JSON, and
// for what they leave to the library.
type cursor struct {
	data []byte
	pos  int
}

func (c *cursor) peek() byte {
	if c.pos < len(c.data) {
		return c.data[c.pos]
	}
	return 0
}

func (c *cursor) space() {
	for c.pos < len(c.data) {
		switch c.data[c.pos] {
		case ' ', '\t', '\n', '\r':
			c.pos++
		default:
			return
		}
	}
}

func (c *cursor) take(b byte) bool {
	if c.peek() != b {
		return false
	}
	c.pos++
	return true
}

func (c *cursor) value(q *quick, depth int) bool {
	if depth > quickDepth {
		return false
	}
	if q == nil {
		q = &anything
	}
	switch b := c.peek(); {
	case b == '{':
		return q.allows(kindObject) && q.words == nil && c.object(q, depth)
	case b == '[':
		return q.allows(kindArray) && q.words == nil && c.array(q, depth)
	case b == '"':
		return q.allows(kindString) && c.text(q)
	case b == '-' || b >= '0' && b <= '9':
		return q.words == nil && c.number(q)
	case b == 't':
		return q.allows(kindBoolean) && q.words == nil && c.literal("true")
	case b == 'f':
		return q.allows(kindBoolean) && q.words == nil && c.literal("false")
	case b == 'n':
		return q.allows(kindNull) && q.words == nil && c.literal("null")
	}
	return false
}

var anything quick

func (q *quick) allows(k kinds) bool { return q.types == 0 || q.types&k != 0 }

func (c *cursor) literal(word string) bool {
	end := c.pos + len(word)
	if end > len(c.data) || string(c.data[c.pos:end]) != word {
		return false
	}
	c.pos = end
	return true
}

func (c *cursor) object(q *quick, depth int) bool {
	var seen uint64
	c.pos++
	c.space()
	if c.take('}') {
		return q.required == 0
	}
	for {
		c.space()
		name, ok := c.plain()
		c.space()
		if !ok || !c.take(':') {
			return false
		}
		c.space()
		member := q.additional
		if i, known := q.names[string(name)]; known {
			if seen&(1<<i) != 0 { // twice
				return false
			}
			seen |= 1 << i
			member = q.members[i]
		} else if q.closed {
			return false
		}
		if !c.value(member, depth+1) {
			return false
		}
		c.space()
		switch {
		case c.take('}'):
			return seen&q.required == q.required
		case !c.take(','):
			return false
		}
	}
}

func (c *cursor) array(q *quick, depth int) bool {
	c.pos++
	c.space()
	if c.take(']') {
		return q.count.hold(0)
	}
	for n := int64(1); ; n++ {
		c.space()
		if !c.value(q.items, depth+1) {
			return false
		}
		c.space()
		switch {
		case c.take(']'):
			return q.count.hold(n)
		case !c.take(','):
			return false
		}
	}
}

// plain reads a string without escapes.
func (c *cursor) plain() ([]byte, bool) {
	if !c.take('"') {
		return nil, false
	}
	for i := c.pos; i < len(c.data); i++ {
		switch b := c.data[i]; {
		case b == '"':
			text := c.data[c.pos:i]
			c.pos = i + 1
			return text, true
		case b == '\\' || b < ' ':
			return nil, false
		}
	}
	return nil, false
}

func (c *cursor) text(q *quick) bool {
	text, ok := c.plain()
	if !ok || q.words != nil && !q.words[string(text)] {
		return false
	}
	if q.length.hasLow || q.length.hasHigh {
		return utf8.Valid(text) && q.length.hold(int64(utf8.RuneCount(text)))
	}
	return utf8.Valid(text)
}

// number takes integers of few digits, and plain fractions where anything goes.
func (c *cursor) number(q *quick) bool {
	start := c.pos
	c.take('-')
	first := c.pos
	for c.peek() >= '0' && c.peek() <= '9' {
		c.pos++
	}
	digits := c.pos - first
	if digits == 0 || digits > quickDigits || digits > 1 && c.data[first] == '0' {
		return false
	}
	if c.peek() == '.' {
		return q.allows(kindNumber) && !q.value.hasLow && !q.value.hasHigh && c.fraction()
	}
	if b := c.peek(); b == 'e' || b == 'E' || !q.allows(kindInteger) {
		return false
	}
	n, err := strconv.ParseInt(string(c.data[start:c.pos]), 10, 64)
	return err == nil && q.value.hold(n)
}

func (c *cursor) fraction() bool {
	c.pos++
	first := c.pos
	for c.peek() >= '0' && c.peek() <= '9' {
		c.pos++
	}
	b := c.peek()
	return c.pos > first && c.pos-first <= quickDigits && b != 'e' && b != 'E'
}
