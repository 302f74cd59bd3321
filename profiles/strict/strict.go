// Package strict is the one reader of TOML in this project. A file may come
// from a stranger, and the TOML library behind it can be made to use minutes
// and gigabytes by a small one, so a scan with hard bounds runs first. What is
// left is decoded into a struct whose `toml` tags declare every key: exact
// case, nothing unknown, finite numbers, and every error of the file at once,
// each with its line and column.
//
// Source: https://toml.io/en/v1.1.0 for the language.
package strict

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// The bounds of a file. They are far above what a person writes and far below
// what hurts: the largest accepted file decodes in a few milliseconds.
const (
	MaxFile  = 64 << 10 // bytes
	MaxDepth = 16       // nested arrays and inline tables
	MaxKey   = 128      // bytes of one key between dots
	MaxParts = 8        // keys between dots in one dotted key
	MaxKeys  = 4096     // keys and array elements in the file
)

// Error is one thing wrong in a file. Line and Column count from 1, Column in
// characters; both are 0 where the error is about the file as a whole.
type Error struct {
	File         string
	Line, Column int
	// Key is the full key, such as "files[2].path"; empty if there is none.
	Key string
	// Msg says what is wrong and what was expected.
	Msg string
	// Hint says what to write instead; may be empty.
	Hint string
}

// Error gives the error as file:line:column: key: message; hint.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Msg)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Errors is everything wrong in a file, in the order of the file.
type Errors []*Error

// Error gives one line for each error.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives each error to errors.As and errors.Is.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, one := range e {
		out[i] = one
	}
	return out
}

// Join merges two results into one, in the order of the file. An err that is
// no Errors stands first, without a position.
func Join(file string, err error, more Errors) error {
	var all Errors
	if err != nil && !errors.As(err, &all) {
		all = Errors{{File: file, Msg: err.Error()}}
	}
	all = append(append(Errors{}, all...), more...)
	if len(all) == 0 {
		return nil
	}
	sort.SliceStable(all, func(i, j int) bool {
		a, b := all[i], all[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
	return all
}

// Decode reads a TOML file's content into the struct that into points to. The
// name file is only for messages. The error is an Errors. On an error, what
// could be read stands in into all the same, so that a caller can add its own
// findings; it must not be used otherwise.
func Decode(file string, data []byte, into any) error {
	_, err := DecodePositions(file, data, into)
	return err
}

// DecodePositions is Decode, and gives the place of every key, which is never
// nil: after a syntax error it knows no key.
func DecodePositions(file string, data []byte, into any) (*Positions, error) {
	pos := &Positions{file: file}
	tree, err := pos.tree(data)
	if err != nil {
		return pos, err
	}
	d := &decoder{pos: pos}
	d.root(into, tree)
	return pos, Join(file, nil, d.errs)
}

// Tree reads a TOML file's content within the same bounds and gives it as it
// is, with none of its keys known. The error is an Errors.
func Tree(file string, data []byte) (map[string]any, error) {
	pos := &Positions{file: file}
	return pos.tree(data)
}

// tree reads a file's content, and learns where its keys stand.
func (p *Positions) tree(data []byte) (map[string]any, error) {
	if err := checkBytes(p.file, data); err != nil {
		return nil, Errors{err}
	}
	p.index(data)
	found, tree, errs := scan(p, p.text)
	if len(errs) > 0 {
		return nil, Join(p.file, nil, errs)
	}
	p.places = found
	if tree != nil {
		return tree, nil
	}
	tree = map[string]any{}
	if _, err := toml.Decode(p.text, &tree); err != nil {
		return nil, Errors{syntaxError(p.file, err)}
	}
	return tree, nil
}

func checkBytes(file string, data []byte) *Error {
	switch {
	case len(data) > MaxFile:
		return &Error{File: file, Msg: fmt.Sprintf("cannot read: %d bytes, a file may have at most %d", len(data), MaxFile)}
	case !utf8.Valid(data):
		return &Error{File: file, Msg: "cannot read: not UTF-8 text"}
	case bytes.HasPrefix(data, []byte("\ufeff")):
		return &Error{File: file, Line: 1, Column: 1, Msg: "cannot read: starts with a byte order mark", Hint: "save it as UTF-8 without one"}
	case bytes.IndexByte(data, 0) >= 0:
		return &Error{File: file, Msg: "cannot read: contains a NUL byte, so it is not a text file"}
	}
	return nil
}

// syntaxError takes place and sentence from the library's error.
func syntaxError(file string, err error) *Error {
	var pe toml.ParseError
	if errors.As(err, &pe) {
		return &Error{
			File: file, Line: pe.Position.Line, Column: max(pe.Position.Col, 1),
			Msg: "cannot read: " + pe.Message,
		}
	}
	return &Error{File: file, Msg: "cannot read: " + err.Error()}
}

// Positions knows where each key of a file stands.
type Positions struct {
	file  string
	whole bool // there are no lines to speak of
	text  string
	lines []int // byte offset of each line's first byte
	places
}

// places are where the keys of a file stand, by their paths, and the elements of
// each list, which are too many to have a path each.
type places struct {
	at       map[string]mark
	elements map[string][]int32
}

// mark is the byte offsets of a key and of its value, and whether it was given
// one. A file is far smaller than what an int32 counts.
type mark struct {
	key, value int32
	set        bool
}

// exactly looks a key up.
func (p places) exactly(key string) (mark, bool) {
	if m, ok := p.at[key]; ok {
		return m, true
	}
	cut := strings.LastIndexByte(key, '[')
	if cut < 0 || key[len(key)-1] != ']' {
		return mark{}, false
	}
	n, err := strconv.Atoi(key[cut+1 : len(key)-1])
	if list := p.elements[key[:cut]]; err == nil && n >= 0 && n < len(list) {
		return mark{key: list[n], value: list[n], set: true}, true
	}
	return mark{}, false
}

// Whole makes the source one thing without lines, such as a word of a command
// line: places are its name alone from now on.
func (p *Positions) Whole() { p.whole = true }

func (p *Positions) index(data []byte) {
	p.text = string(data)
	p.lines = append(make([]int, 0, 1+strings.Count(p.text, "\n")), 0)
	for at := 0; ; {
		n := strings.IndexByte(p.text[at:], '\n')
		if n < 0 {
			return
		}
		at += n + 1
		p.lines = append(p.lines, at)
	}
}

// place turns a byte offset into line and column.
func (p *Positions) place(offset int) (line, column int) {
	if len(p.lines) == 0 {
		return 0, 0
	}
	line = p.line(offset)
	start := p.lines[line-1]
	return line, utf8.RuneCountInString(p.text[start:min(offset, len(p.text))]) + 1
}

// line is the number of the line that a byte offset is in.
func (p *Positions) line(offset int) int {
	return sort.Search(len(p.lines), func(i int) bool { return p.lines[i] > offset })
}

// find looks key up, then what is around it: "a.b[1].c" is about "a.b[1]" or
// "a.b" if that is all that the file has.
func (p *Positions) find(key string) (mark, bool) {
	for key != "" {
		if m, ok := p.exactly(key); ok {
			return m, true
		}
		cut := strings.LastIndexAny(key, ".[")
		if cut < 0 {
			break
		}
		key = key[:cut]
	}
	return mark{}, false
}

// Has says whether the file sets exactly this key.
func (p *Positions) Has(key string) bool {
	_, ok := p.exactly(key)
	return ok
}

// Keys are the keys, lists' elements and tables that the file has, sorted.
func (p *Positions) Keys() []string {
	out := make([]string, 0, len(p.at))
	for key := range p.at {
		out = append(out, key)
	}
	for list, offsets := range p.elements {
		for i := range offsets {
			if _, table := p.at[element(list, i)]; !table {
				out = append(out, element(list, i))
			}
		}
	}
	sort.Strings(out)
	return out
}

// Of gives "file:line" of a key such as "files[2].path", or of the nearest
// thing around it; only the file's name if the file has nothing of it.
func (p *Positions) Of(key string) string {
	m, ok := p.find(key)
	if !ok || p.whole {
		return p.file
	}
	return p.file + ":" + strconv.Itoa(p.line(int(m.key)))
}

// OfElement is Of for an element of a list.
func (p *Positions) OfElement(list string, i int) string {
	if offsets := p.elements[list]; i < len(offsets) && !p.whole {
		return p.file + ":" + strconv.Itoa(p.line(int(offsets[i])))
	}
	return p.Of(element(list, i))
}

// Errorf makes an Error about the value of a key. The hint may be empty.
func (p *Positions) Errorf(key, hint, format string, args ...any) *Error {
	e := &Error{File: p.file, Key: key, Msg: fmt.Sprintf(format, args...), Hint: hint}
	if m, ok := p.find(key); ok && !p.whole {
		e.Line, e.Column = p.place(int(m.value))
	}
	return e
}
