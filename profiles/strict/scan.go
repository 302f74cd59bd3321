package strict

import (
	"fmt"
	"strconv"
	"strings"
)

// scanner walks a TOML text once, before the library sees it, to hold its
// bounds and to learn where each key stands. It knows the language's shape
// (tables, keys, strings, arrays) and leaves the scalars to the library. What
// it cannot follow it refuses, so nothing reaches the library unbounded.
type scanner struct {
	pos    *Positions
	s      string
	i      int
	prefix string         // path of the current table
	table  map[string]any // and itself
	// arrays counts the elements of each [[array of tables]].
	arrays map[string]int
	marks  map[string]mark
	lists  map[string][]int32
	keys   int
	errs   Errors
	parts  []string // the key that was read last
	plain  plain
}

// bytesPerKey is about how much of a file goes with one key.
const bytesPerKey = 48

// giveUp unwinds the scan after an error that leaves nothing to go on from.
type giveUp struct{}

// scan gives the places of a file's keys and, where all of it is plain, its
// tree; otherwise nil, for the library to make.
func scan(pos *Positions, text string) (found places, tree map[string]any, errs Errors) {
	s := &scanner{
		pos: pos, s: text, table: map[string]any{}, arrays: map[string]int{},
		marks: make(map[string]mark, min(len(text)/bytesPerKey, MaxKeys)), lists: map[string][]int32{},
	}
	tree = s.table
	s.plain.begin(tree, text)
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(giveUp); !ok {
				panic(r)
			}
		}
		found, errs = places{s.marks, s.lists}, s.errs
		if s.plain.not || len(errs) > 0 {
			tree = nil
		}
	}()
	s.file()
	return found, tree, errs
}

func (s *scanner) fail(at int, key, hint, format string, args ...any) {
	line, column := s.pos.place(at)
	s.errs = append(s.errs, &Error{
		File: s.pos.file, Line: line, Column: column, Key: key,
		Msg: fmt.Sprintf(format, args...), Hint: hint,
	})
}

func (s *scanner) stop(at int, format string, args ...any) {
	s.fail(at, "", "", format, args...)
	panic(giveUp{})
}

// peek gives the next byte, 0 at the end (a NUL was refused before).
func (s *scanner) peek() byte {
	if s.i < len(s.s) {
		return s.s[s.i]
	}
	return 0
}

func (s *scanner) blanks() {
	for s.peek() == ' ' || s.peek() == '\t' {
		s.i++
	}
}

// comment skips to the end of the line, without it.
func (s *scanner) comment() {
	if s.peek() != '#' {
		return
	}
	if n := strings.IndexByte(s.s[s.i:], '\n'); n >= 0 {
		s.i += n
		return
	}
	s.i = len(s.s)
}

// lines skips blanks, comments and newlines.
func (s *scanner) lines() {
	for {
		s.blanks()
		s.comment()
		if s.peek() == '\r' && strings.HasPrefix(s.s[s.i:], "\r\n") {
			s.i++
		}
		if s.peek() != '\n' {
			return
		}
		s.i++
	}
}

func (s *scanner) endOfLine() {
	s.blanks()
	s.comment()
	if strings.HasPrefix(s.s[s.i:], "\r\n") {
		s.i++
	}
	if s.i < len(s.s) && s.peek() != '\n' {
		s.stop(s.i, "expected the end of the line, found %q", s.s[s.i:s.i+1])
	}
}

func (s *scanner) file() {
	for s.lines(); s.i < len(s.s); s.lines() {
		if s.peek() == '[' {
			s.header()
		} else {
			s.pair(s.prefix, s.table, 0)
		}
		s.endOfLine()
	}
}

// header reads [table] or [[array of tables]].
func (s *scanner) header() {
	start := s.i
	s.i++
	array := s.peek() == '['
	if array {
		s.i++
	}
	parts := s.key()
	s.expect(']')
	if array {
		s.plain.unless(s.peek() == ']')
		s.expect(']')
	}
	path := ""
	table := s.plain.root
	for n, part := range parts {
		path = join(path, part)
		_, known := s.marks[path]
		s.note(path, start, start)
		if last := n == len(parts)-1; !last || !array {
			path = s.lastElement(path)
			table = s.plain.header(table, path, part, known, last)
			continue
		}
		count := s.arrays[path]
		at := element(path, count)
		s.arrays[path]++
		s.note(at, start, start)
		table = s.plain.element(table, at, part, known, count)
		path = at
	}
	s.prefix, s.table = path, table
}

func (s *scanner) lastElement(path string) string {
	if n := s.arrays[path]; n > 0 {
		return element(path, n-1)
	}
	return path
}

func (s *scanner) expect(c byte) {
	s.blanks()
	switch {
	case s.peek() == c:
	case c == '=' && s.peek() == ':':
		s.stop(s.i, "expected \"=\" here: this is TOML, key = value")
	default:
		s.stop(s.i, "expected %q here", string(c))
	}
	s.i++
}

// note remembers the first place of a path and bounds how many there are.
func (s *scanner) note(path string, key, value int) {
	if _, ok := s.marks[path]; ok {
		return
	}
	s.count(key)
	s.marks[path] = mark{key: int32(key), value: int32(value)}
}

// count is one key or element more.
func (s *scanner) count(at int) {
	if s.keys++; s.keys > MaxKeys {
		s.stop(at, "too many keys: a file may have at most %d keys and array elements", MaxKeys)
	}
}

// pair reads key = value within the table at prefix.
func (s *scanner) pair(prefix string, table map[string]any, depth int) {
	start := s.i
	parts := s.key()
	s.expect('=')
	s.blanks()
	path := prefix
	for n, part := range parts {
		path = join(path, part)
		_, known := s.marks[path]
		if n < len(parts)-1 {
			s.note(path, start, start)
			table = s.plain.dotted(table, path, part, known)
			continue
		}
		s.plain.unless(!known)
	}
	last := parts[len(parts)-1]
	s.give(path, start)
	table[last] = s.value(path, depth)
}

// give remembers that the key at start is given the value that comes next.
func (s *scanner) give(path string, start int) {
	m, known := s.marks[path]
	switch {
	case !known:
		s.count(start)
		m.key, m.value = int32(start), int32(s.i)
	case m.set:
		line, _ := s.pos.place(int(m.key))
		s.fail(start, path, "remove one of the two", "is set twice, first on line %d", line)
	}
	m.set = true
	s.marks[path] = m
}

// key reads a dotted key and gives its parts, until the next one is read.
func (s *scanner) key() []string {
	parts := s.parts[:0]
	defer func() { s.parts = parts }()
	for {
		s.blanks()
		start := s.i
		part := s.keyPart()
		if len(part) > MaxKey {
			s.stop(start, "key of %d bytes: a key may have at most %d", len(part), MaxKey)
		}
		if parts = append(parts, part); len(parts) > MaxParts {
			s.stop(start, "too many dots: a dotted key may have at most %d parts", MaxParts)
		}
		s.blanks()
		if s.peek() != '.' {
			return parts
		}
		s.i++
	}
}

func (s *scanner) keyPart() string {
	start := s.i
	if c := s.peek(); c == '"' || c == '\'' {
		s.i++
		end := strings.IndexAny(s.s[s.i:], string(c)+"\\\n")
		if end < 0 || s.s[s.i+end] != c {
			s.stop(start, "a quoted key must end on its line and may not contain a backslash")
		}
		part := s.s[s.i : s.i+end]
		s.i += end + 1
		return part
	}
	for s.i < len(s.s) && isBare(s.s[s.i]) {
		s.i++
	}
	if s.i == start && s.peek() == '{' {
		s.stop(start, "expected a key: this is TOML, key = value, and not JSON")
	}
	if s.i == start {
		s.stop(start, "expected a key (letters, digits, '-' and '_')")
	}
	return s.s[start:s.i]
}

func isBare(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// Path joins a table's path and a key in it, as Positions knows them.
func Path(table, key string) string { return join(table, key) }

// join adds a key to a path; one that could not stand bare is quoted, so that
// "memory.max" in quotes and memory.max are two things.
func join(path, part string) string {
	bare := part != ""
	for i := 0; bare && i < len(part); i++ {
		bare = isBare(part[i])
	}
	if !bare {
		part = quoted(part)
	}
	if path == "" {
		return part
	}
	return path + "." + part
}

// quoted is strconv.Quote, which looks at nothing where there is nothing to
// escape.
func quoted(s string) string {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return strconv.Quote(s)
		}
	}
	return `"` + s + `"`
}

// element is the path of a list's element.
func element(path string, n int) string { return path + "[" + strconv.Itoa(n) + "]" }

// value reads a value, and gives it where it is plain.
func (s *scanner) value(path string, depth int) any {
	if depth > MaxDepth {
		s.stop(s.i, "nested too deep: arrays and inline tables may nest %d deep", MaxDepth)
	}
	start := s.i
	switch s.peek() {
	case '"', '\'':
		s.str()
		return s.plain.str(s.s[start:s.i])
	case '[':
		return s.array(path, depth)
	case '{':
		return s.inline(path, depth)
	default:
		s.scalar()
		return s.plain.scalar(s.s[start:s.i])
	}
}

// scalar skips a number, boolean or date; the library judges it.
func (s *scanner) scalar() {
	start := s.i
	end := strings.IndexAny(s.s[s.i:], ",]}#\r\n\"'=[{")
	if end < 0 {
		end = len(s.s) - s.i
	}
	s.i += len(strings.TrimRight(s.s[s.i:s.i+end], " \t"))
	if s.i == start {
		s.stop(start, "expected a value")
	}
}

func (s *scanner) str() {
	quote := s.s[s.i : s.i+1]
	if strings.HasPrefix(s.s[s.i:], strings.Repeat(quote, 3)) {
		s.multiline(quote)
		return
	}
	start := s.i
	for s.i++; s.i < len(s.s) && s.s[s.i] != '\n'; s.i++ {
		switch {
		case s.s[s.i] == quote[0]:
			s.i++
			return
		case s.s[s.i] == '\\' && quote == `"`:
			s.i++
		}
	}
	s.stop(start, "the string does not end on its line")
}

// multiline skips a """string""", whose end may follow up to two more quotes.
func (s *scanner) multiline(quote string) {
	start := s.i
	end := strings.Repeat(quote, 3)
	for s.i += 3; s.i < len(s.s); s.i++ {
		if strings.HasPrefix(s.s[s.i:], end) {
			s.i += 3
			for n := 0; n < 2 && s.i < len(s.s) && s.s[s.i] == quote[0]; n++ {
				s.i++
			}
			return
		}
		if s.s[s.i] == '\\' && quote == `"` {
			s.i++
		}
	}
	s.stop(start, "the string does not end")
}

func (s *scanner) array(path string, depth int) []any {
	start := s.i
	s.i++
	list, places := []any{}, s.lists[path][:0]
	defer func() { s.lists[path] = places }()
	for n := 0; ; n++ {
		s.lines()
		if s.peek() == ']' {
			s.i++
			return list
		}
		s.count(s.i)
		places = append(places, int32(s.i))
		at := ""
		if c := s.peek(); c == '[' || c == '{' { // others have no use for their path
			at = element(path, n)
		}
		list = append(list, s.value(at, depth+1))
		if !s.comma(start, ']', "array") {
			return list
		}
	}
}

func (s *scanner) inline(path string, depth int) map[string]any {
	start := s.i
	s.i++
	table := map[string]any{}
	for {
		s.lines()
		if s.peek() == '}' {
			s.i++
			s.plain.unless(len(table) == 0) // a comma stands before the end
			return table
		}
		s.pair(path, table, depth+1)
		if !s.comma(start, '}', "inline table") {
			s.plain.unless(!strings.ContainsAny(s.s[start:s.i], "\n#"))
			return table
		}
	}
}

// comma reads what follows an element: a comma (true) or the end (false).
func (s *scanner) comma(start int, end byte, what string) bool {
	s.lines()
	switch s.peek() {
	case ',':
		s.i++
		return true
	case end:
		s.i++
		return false
	case 0:
		s.stop(start, "the %s does not end", what)
	}
	s.stop(s.i, "expected ',' or %q in the %s", string(end), what)
	return false
}
