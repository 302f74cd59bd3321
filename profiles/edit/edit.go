// Package edit changes and formats the text of a TOML file without losing what
// a person wrote around it: comments, the order of lines, how lists are broken.
// It reads what package strict has accepted, and knows the shape of the
// language only; what keys mean is for package profiles.
//
// Source: https://toml.io/en/v1.1.0 for the language.
package edit

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cordonhq/cordon/profiles/strict"
)

// File is a TOML file as written: its statements, line by line. It is not safe
// for concurrent use.
type File struct {
	nodes []*node
}

// kind is what a statement is.
type kind int

const (
	blank kind = iota
	comment
	header // [table] or [[array]]
	pair   // key = value
)

// node is one statement.
type node struct {
	kind kind
	text string   // of a comment, or a key as written
	path []string // of a header or a key
	list bool     // a header of an array of tables
	val  value
	note string // the comment behind it; may be empty
}

// value is what stands behind a '='.
type value struct {
	raw   string // a scalar as written
	open  byte   // '[' or '{', 0 for a scalar
	parts []part
}

// partKind is what stands in a list or an inline table.
type partKind int

const (
	element partKind = iota
	remark           // a comment
	newline
)

// part is one thing in a list or an inline table.
type part struct {
	kind partKind
	text string   // of a remark, or an inline table's key as written
	path []string // of an inline table's key
	val  value
}

// Parse reads a file's text. The error is about a text that package strict
// would not accept either; name is for its words.
func Parse(name string, data []byte) (*File, error) {
	if _, err := strict.Tree(name, data); err != nil {
		return nil, err
	}
	p := &parser{s: strings.ReplaceAll(string(data), "\r\n", "\n")}
	f := &File{}
	for p.i < len(p.s) {
		n, err := p.statement()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		f.nodes = append(f.nodes, n)
	}
	return f, nil
}

// parser walks a text that is known to be valid.
type parser struct {
	s string
	i int
}

// errShape is a text whose shape this reader does not know; strict knows it.
var errShape = errors.New("cannot follow the text")

func (p *parser) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

func (p *parser) blanks() {
	for p.peek() == ' ' || p.peek() == '\t' {
		p.i++
	}
}

// rest takes what is left of a line that is a comment, without blanks at its end.
func (p *parser) rest() string {
	end := strings.IndexByte(p.s[p.i:], '\n')
	if end < 0 {
		end = len(p.s) - p.i
	}
	text := p.s[p.i : p.i+end]
	p.i += end
	return strings.TrimRight(text, " \t\r")
}

func (p *parser) statement() (*node, error) {
	p.blanks()
	n := &node{}
	switch p.peek() {
	case '\n', 0:
	case '#':
		n.kind, n.text = comment, p.rest()
	case '[':
		n.kind = header
		p.i++
		if n.list = p.peek() == '['; n.list {
			p.i++
		}
		n.text, n.path = p.key()
		for p.blanks(); p.peek() == ']'; p.blanks() {
			p.i++
		}
	default:
		n.kind = pair
		n.text, n.path = p.key()
		if p.blanks(); p.peek() != '=' {
			return nil, errShape
		}
		p.i++
		p.blanks()
		if err := p.value(&n.val); err != nil {
			return nil, err
		}
	}
	if p.blanks(); p.peek() == '#' {
		n.note = p.rest()
	}
	if p.i < len(p.s) && p.peek() != '\n' {
		return nil, errShape
	}
	p.i++
	return n, nil
}

// key reads a dotted key: as it is written without blanks, and its parts.
func (p *parser) key() (text string, path []string) {
	var parts []string
	for {
		p.blanks()
		start := p.i
		if c := p.peek(); c == '"' || c == '\'' {
			end := strings.IndexByte(p.s[p.i+1:], c)
			if end < 0 {
				return "", nil
			}
			p.i += end + 2
			path = append(path, p.s[start+1:p.i-1])
		} else {
			for p.i < len(p.s) && !strings.ContainsRune(" \t.=]\n", rune(p.s[p.i])) {
				p.i++
			}
			path = append(path, p.s[start:p.i])
		}
		parts = append(parts, p.s[start:p.i])
		if p.blanks(); p.peek() != '.' {
			return strings.Join(parts, "."), path
		}
		p.i++
	}
}

func (p *parser) value(v *value) error {
	switch c := p.peek(); c {
	case '[', '{':
		v.open = c
		return p.container(v, map[byte]byte{'[': ']', '{': '}'}[c])
	case '"', '\'':
		return p.quoted(v, c)
	}
	start := p.i
	for p.i < len(p.s) && !strings.ContainsRune(",]}#\n", rune(p.s[p.i])) {
		p.i++
	}
	v.raw = strings.TrimRight(p.s[start:p.i], " \t")
	p.i = start + len(v.raw)
	if v.raw == "" {
		return errShape
	}
	return nil
}

// quoted takes a string, of one line or several, as it is written.
func (p *parser) quoted(v *value, quote byte) error {
	start, end := p.i, string(quote)
	if long := strings.Repeat(end, 3); strings.HasPrefix(p.s[p.i:], long) {
		end = long
	}
	for p.i += len(end); p.i < len(p.s); p.i++ {
		if p.s[p.i] == '\\' && quote == '"' {
			p.i++
			continue
		}
		if !strings.HasPrefix(p.s[p.i:], end) {
			continue
		}
		p.i += len(end)
		for n := 0; n < 2 && len(end) == 3 && p.peek() == quote; n++ { // """a"""""
			p.i++
		}
		v.raw = p.s[start:p.i]
		return nil
	}
	return errShape
}

// container reads a list or an inline table up to its end.
func (p *parser) container(v *value, end byte) error {
	for p.i++; p.i < len(p.s); {
		switch c := p.peek(); c {
		case ' ', '\t', ',':
			p.i++
		case '\n':
			p.i++
			v.parts = append(v.parts, part{kind: newline})
		case '#':
			v.parts = append(v.parts, part{kind: remark, text: p.rest()})
		case end:
			p.i++
			return nil
		default:
			one := part{}
			if v.open == '{' {
				one.text, one.path = p.key()
				if p.blanks(); p.peek() != '=' {
					return errShape
				}
				p.i++
				p.blanks()
			}
			if err := p.value(&one.val); err != nil {
				return err
			}
			v.parts = append(v.parts, one)
		}
	}
	return errShape
}

// word gives a scalar's text if it is a string of one line, and "" if not.
func (v *value) word() string {
	switch {
	case len(v.raw) >= 2 && v.raw[0] == '\'' && !strings.HasPrefix(v.raw, "'''"):
		return v.raw[1 : len(v.raw)-1]
	case len(v.raw) >= 2 && v.raw[0] == '"' && !strings.HasPrefix(v.raw, `"""`):
		if text, err := strconv.Unquote(v.raw); err == nil {
			return text
		}
		return v.raw[1 : len(v.raw)-1]
	}
	return ""
}

// same says whether two scalars are the same word, or are written alike.
func same(a, b value) bool {
	if a.open != 0 || b.open != 0 {
		return a.open == b.open && a.flat() == b.flat()
	}
	return a.raw == b.raw || a.word() != "" && a.word() == b.word()
}

// full is the path of a key in a table.
func full(table, key []string) []string { return append(slices.Clone(table), key...) }

// table is a run of statements that belong to one header.
type table struct {
	path  []string
	list  bool
	first int // its first statement after the header
	end   int // the first that is not its
}

// tables gives the file's tables in order; the first is what stands above any
// header.
func (f *File) tables() []table {
	out := []table{{}}
	for i, n := range f.nodes {
		if n.kind == header {
			out[len(out)-1].end = i
			out = append(out, table{path: n.path, list: n.list, first: i + 1})
		}
	}
	out[len(out)-1].end = len(f.nodes)
	return out
}

// find gives the value at a path, as a key or in an inline table; nil if the
// file has none. Tables of an array are not looked into.
func (f *File) find(path []string) *value {
	for _, t := range f.tables() {
		if t.list || len(t.path) > 0 && f.inList(t) {
			continue
		}
		for _, n := range f.nodes[t.first:t.end] {
			if n.kind != pair {
				continue
			}
			if v := n.val.at(full(t.path, n.path), path); v != nil {
				return v
			}
		}
	}
	return nil
}

// inList says whether a table is one of an array's tables' own.
func (f *File) inList(t table) bool {
	for _, n := range f.nodes {
		if n.kind == header && n.list && len(t.path) > len(n.path) && slices.Equal(t.path[:len(n.path)], n.path) {
			return true
		}
	}
	return false
}

// at gives this value, which stands at here, or one in it, if path leads there.
func (v *value) at(here, path []string) *value {
	if slices.Equal(here, path) {
		return v
	}
	if v.open != '{' || len(here) >= len(path) || !slices.Equal(here, path[:len(here)]) {
		return nil
	}
	for i := range v.parts {
		one := &v.parts[i]
		if one.kind != element {
			continue
		}
		if found := one.val.at(full(here, one.path), path); found != nil {
			return found
		}
	}
	return nil
}

// List gives the words of the list at a path.
func (f *File) List(path ...string) []string {
	v := f.find(path)
	if v == nil || v.open != '[' {
		return nil
	}
	var out []string
	for _, one := range v.parts {
		if one.kind == element {
			out = append(out, one.val.word())
		}
	}
	return out
}

// Drop takes a word out of the list at a path, and puts others in its place.
func (f *File) Drop(word string, instead []string, path ...string) {
	v := f.find(path)
	if v == nil || v.open != '[' {
		return
	}
	var out []part
	for _, one := range v.parts {
		if one.kind != element || one.val.word() != word {
			out = append(out, one)
			continue
		}
		for _, w := range instead {
			out = append(out, part{val: value{raw: strconv.Quote(w)}})
		}
	}
	v.parts = out
}

// Delete takes away the key at a path, where it stands on lines of its own.
func (f *File) Delete(path ...string) {
	for _, t := range f.tables() {
		for i := t.first; i < t.end && !t.list; i++ {
			if n := f.nodes[i]; n.kind == pair && slices.Equal(full(t.path, n.path), path) {
				f.nodes = slices.Delete(f.nodes, i, i+1)
				return
			}
		}
	}
}
