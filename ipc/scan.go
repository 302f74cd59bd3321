package ipc

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"runtime"
	"slices"
	"unicode/utf8"
)

// maxIDLen and maxMethodLen bound, in bytes, what this side keeps of a peer's
// message beyond the handling of it.
const (
	maxIDLen     = 256
	maxMethodLen = 256
	maxSafeInt   = 1 << 53 // RFC 8259, section 6: integers that survive everywhere
)

// span is a part of a message; the zero span is absent, since no member of an
// object starts at byte 0.
type span struct{ start, end int }

func (s span) present() bool { return s.end != 0 }

func (s span) of(msg []byte) []byte { return msg[s.start:s.end:s.end] }

// kind is what a message is.
type kind uint8

const (
	kindRequest kind = iota + 1
	kindNotification
	kindResult
	kindError
)

// envelope is one validated message: what it is, and where its members are.
// Spans of strings include the quotes.
type envelope struct {
	kind                      kind
	id, method                span
	params, result, errorSpan span
	version, fds              span
}

// key is one member name of an object that is still open: 32 bits of its hash,
// above 32 of where it stands in the message, without quotes. Small, since a
// message can have a million of them: hashes that two names share by chance are
// told apart by the names.
type key uint64

func keyOf(hash uint64, at int) key { return key(hash&^(1<<hashBits-1) | uint64(at)) }

// hashBits of a key are below its hash; a message has fewer bytes than they count.
const hashBits = 32

func (k key) at() int { return int(k & (1<<hashBits - 1)) }

// alike says whether two may be of one name.
func (k key) alike(other key) bool { return (k^other)>>hashBits == 0 }

// scanner validates a message in one pass and finds the members of its
// envelope without building anything. It accepts less than encoding/json:
// no duplicate keys in any object, no invalid UTF-8, no lone surrogates,
// nothing deeper than maxDepth. One goroutine at a time.
type scanner struct {
	maxDepth int
	seed     maphash.Seed // secret, so that a peer cannot choose colliding keys
	data     []byte
	pos      int
	values   uint   // scanned so far, of all messages
	keys     []key  // of all open objects, innermost last
	decoded  []byte // scratch for names with escapes
	other    []byte // scratch to compare two of them
	env      envelope
}

func newScanner(maxDepth int) *scanner {
	return &scanner{maxDepth: maxDepth, seed: maphash.MakeSeed()}
}

// message validates one whole message. The envelope is valid until data
// changes.
func (s *scanner) message(data []byte) (envelope, *ProtocolError) {
	s.data, s.pos, s.keys, s.env = data, 0, s.keys[:0], envelope{}
	defer s.trim()
	s.space()
	if s.peek() == '[' {
		return envelope{}, breach(BreachEnvelope, "batches are not accepted")
	}
	if s.peek() != '{' {
		return envelope{}, s.syntax("an object")
	}
	if err := s.object(1); err != nil {
		return envelope{}, err
	}
	s.space()
	if s.pos != len(data) {
		return envelope{}, s.syntax("the end of the message")
	}
	env := s.env
	if err := env.classify(data); err != nil {
		return envelope{}, err
	}
	return env, nil
}

// trim gives back what one large message made the scratch space grow to.
func (s *scanner) trim() {
	const keep = 4096
	s.data = nil
	if cap(s.keys) > keep {
		s.keys = nil
	}
	if cap(s.decoded) > keep {
		s.decoded, s.other = nil, nil
	}
}

func (s *scanner) syntax(want string) *ProtocolError {
	return breach(BreachSyntax, "invalid JSON at byte %d: expected %s", s.pos, want)
}

// peek returns the next byte, 0 at the end (which no rule of JSON accepts).
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

// valuesAtOnce is how many values are scanned, in a tenth of a millisecond or so,
// before whatever else the process has to do is let in: of a message of megabytes
// it would wait for milliseconds, and the runtime lets nothing else in for ten.
const valuesAtOnce = 2048

// value scans any value. depth is that of the value itself.
func (s *scanner) value(depth int) *ProtocolError {
	if s.values++; s.values%valuesAtOnce == 0 {
		runtime.Gosched()
	}
	switch c := s.peek(); {
	case c == '"':
		_, err := s.str()
		return err
	case c == '{':
		return s.object(depth)
	case c == '[':
		return s.array(depth)
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		return s.literal("null")
	default:
		return s.syntax("a value")
	}
}

func (s *scanner) literal(word string) *ProtocolError {
	if len(s.data)-s.pos < len(word) || string(s.data[s.pos:s.pos+len(word)]) != word {
		return s.syntax(word)
	}
	s.pos += len(word)
	return nil
}

func (s *scanner) digits() bool {
	from := s.pos
	for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > from
}

func (s *scanner) number() *ProtocolError {
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' {
		s.pos++
	} else if !s.digits() {
		return s.syntax("a digit")
	}
	if s.peek() == '.' {
		s.pos++
		if !s.digits() {
			return s.syntax("a digit")
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		if !s.digits() {
			return s.syntax("a digit")
		}
	}
	return nil
}

// str scans a string and says whether it has escapes.
func (s *scanner) str() (escaped bool, err *ProtocolError) {
	s.pos++ // the quote
	for s.pos < len(s.data) {
		s.plain()
		if s.pos == len(s.data) {
			break
		}
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return escaped, nil
		case c == '\\':
			escaped = true
			if err := s.escape(); err != nil {
				return true, err
			}
		case c < ' ':
			return escaped, s.syntax("no control character in a string")
		case c < utf8.RuneSelf:
			s.pos++
		default:
			r, n := utf8.DecodeRune(s.data[s.pos:])
			if r == utf8.RuneError && n == 1 {
				return escaped, breach(BreachEncoding, "invalid UTF-8 at byte %d", s.pos)
			}
			s.pos += n
		}
	}
	return escaped, s.syntax("the end of a string")
}

// plain skips, eight at a time, bytes that a string holds as they are: ASCII but
// for quotes, backslashes and control characters. It may stop before one, and does so
// within the last eight bytes.
func (s *scanner) plain() {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for s.pos+8 <= len(s.data) {
		w := binary.LittleEndian.Uint64(s.data[s.pos:])
		quote, slash := w^(ones*'"'), w^(ones*'\\')
		// The high bit of a byte is set where it is below 0x20, equal, or high itself.
		if other := ((w - ones*' ') | (quote - ones) | (slash - ones) | w) & highs; other != 0 {
			s.pos += bits.TrailingZeros64(other) / 8 // the first is exact
			return
		}
		s.pos += 8
	}
}

// escape scans one escape, or the two that make a surrogate pair.
func (s *scanner) escape() *ProtocolError {
	if s.pos+1 >= len(s.data) {
		return s.syntax("an escape")
	}
	switch s.data[s.pos+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos += 2
		return nil
	case 'u':
	default:
		return s.syntax("an escape")
	}
	r, ok := hex4(s.data[s.pos:])
	if !ok {
		return s.syntax("four hex digits")
	}
	if r < 0xd800 || r > 0xdfff {
		s.pos += 6
		return nil
	}
	low, ok := hex4(s.data[s.pos+6:])
	if r > 0xdbff || !ok || low < 0xdc00 || low > 0xdfff {
		return breach(BreachEncoding, "lone surrogate at byte %d", s.pos)
	}
	s.pos += 12
	return nil
}

// hex4 reads \uXXXX at the start of b.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func (s *scanner) array(depth int) *ProtocolError {
	if depth > s.maxDepth {
		return s.tooDeep()
	}
	s.pos++
	s.space()
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for {
		s.space()
		if err := s.value(depth + 1); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return s.syntax("a comma or ]")
		}
	}
}

func (s *scanner) tooDeep() *ProtocolError {
	return breach(BreachDepth, "nested deeper than %d at byte %d", s.maxDepth, s.pos)
}

func (s *scanner) object(depth int) *ProtocolError {
	if depth > s.maxDepth {
		return s.tooDeep()
	}
	base := len(s.keys)
	s.pos++
	s.space()
	if s.peek() == '}' {
		s.pos++
		return nil
	}
	for {
		s.space()
		if err := s.member(base, depth); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return s.closeObject(base)
		default:
			return s.syntax("a comma or }")
		}
	}
}

// member scans one name and its value.
func (s *scanner) member(base, depth int) *ProtocolError {
	if s.peek() != '"' {
		return s.syntax("a member name")
	}
	start := s.pos + 1
	escaped, err := s.str()
	if err != nil {
		return err
	}
	name := span{start, s.pos - 1}
	if err := s.addKey(base, name, escaped); err != nil {
		return err
	}
	s.space()
	if s.peek() != ':' {
		return s.syntax("a colon")
	}
	s.pos++
	s.space()
	at := s.pos
	if err := s.value(depth + 1); err != nil {
		return err
	}
	if depth == 1 {
		s.env.note(s.name(name, escaped), span{at, s.pos})
	}
	return nil
}

// name returns a member name as it reads once escapes are resolved. It is
// valid until the next call.
func (s *scanner) name(n span, escaped bool) []byte {
	if !escaped {
		return n.of(s.data)
	}
	s.decoded = unescape(s.decoded[:0], n.of(s.data))
	return s.decoded
}

// few is up to how many members an object's names are compared one by one.
// Larger objects are sorted when they close: the cost grows as their number does.
const few = 16

// addKey notes a name of the object whose names start at base.
func (s *scanner) addKey(base int, name span, escaped bool) *ProtocolError {
	k := keyOf(maphash.Bytes(s.seed, s.name(name, escaped)), name.start)
	if len(s.keys)-base < few {
		for _, other := range s.keys[base:] {
			if k.alike(other) && s.same(k, other) {
				return s.duplicate(k)
			}
		}
	}
	s.keys = append(s.keys, k)
	return nil
}

// closeObject forgets the names of an object, after the last check of a large
// one.
func (s *scanner) closeObject(base int) *ProtocolError {
	names := s.keys[base:]
	s.keys = s.keys[:base]
	if len(names) <= few {
		return nil
	}
	sortByHash(names, topByte)
	for i := 1; i < len(names); i++ {
		if !names[i].alike(names[i-1]) {
			continue
		}
		if err := s.unlike(names, i); err != nil {
			return err
		}
	}
	return nil
}

// unlike compares names[i] with those before it that are like it: mostly one, and
// the more of them there are by chance the less likely they are.
func (s *scanner) unlike(names []key, i int) *ProtocolError {
	for j := i - 1; j >= 0 && names[i].alike(names[j]); j-- {
		if s.same(names[i], names[j]) {
			return s.duplicate(names[i])
		}
	}
	return nil
}

// topByte is the shift to a hash's first byte.
const topByte = 56

// sortByHash sorts names by what their hashes are from the byte at shift on. Hashes
// are as good as random, so each pass puts names where their byte belongs, in
// place: a comparing sort takes several times as long for the names of one message.
func sortByHash(names []key, shift int) {
	if len(names) <= 8*few || shift < hashBits {
		slices.Sort(names)
		return
	}
	var at, end [256]int
	for _, k := range names {
		end[byte(k>>shift)]++
	}
	for b, sum := 0, 0; b < len(end); b++ {
		at[b] = sum
		sum += end[b]
		end[b] = sum
	}
	for b := range at {
		for at[b] < end[b] {
			k := names[at[b]]
			for to := byte(k >> shift); int(to) != b; to = byte(k >> shift) {
				names[at[to]], k = k, names[at[to]]
				at[to]++
			}
			names[at[b]] = k
			at[b]++
		}
	}
	start := 0
	for _, e := range end {
		sortByHash(names[start:e], shift-8)
		if start/valuesAtOnce != e/valuesAtOnce {
			runtime.Gosched()
		}
		start = e
	}
}

func (s *scanner) duplicate(name key) *ProtocolError {
	return breach(BreachDuplicate, "one key twice in one object, at byte %d", name.at())
}

// same compares two names as they read once escapes are resolved.
func (s *scanner) same(a, b key) bool {
	s.decoded = unescape(s.decoded[:0], s.text(a))
	s.other = unescape(s.other[:0], s.text(b))
	return bytes.Equal(s.decoded, s.other)
}

// text is a name as it was written. It was scanned before, so its quote is there.
func (s *scanner) text(k key) []byte {
	start := k.at()
	end := start
	for s.data[end] != '"' {
		if s.data[end] == '\\' {
			end++
		}
		end++
	}
	return s.data[start:end:end]
}

// unescape appends the text of a validated string, given without its quotes.
func unescape(dst, raw []byte) []byte {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return append(dst, raw...)
		}
		dst = append(dst, raw[:i]...)
		raw = raw[i:]
		if raw[1] != 'u' {
			dst = append(dst, simpleEscape(raw[1]))
			raw = raw[2:]
			continue
		}
		r, _ := hex4(raw)
		raw = raw[6:]
		if r >= 0xd800 && r <= 0xdbff {
			low, _ := hex4(raw)
			raw = raw[6:]
			r = (r-0xd800)<<10 + (low - 0xdc00) + 0x10000
		}
		dst = utf8.AppendRune(dst, r)
	}
}

func simpleEscape(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	default: // quote, backslash, slash
		return c
	}
}

// note remembers a member of the message itself. Unknown ones are ignored:
// peers send them on purpose, so that nobody comes to depend on their absence.
func (e *envelope) note(name []byte, at span) {
	switch string(name) {
	case "jsonrpc":
		e.version = at
	case "id":
		e.id = at
	case "method":
		e.method = at
	case "params":
		e.params = at
	case "result":
		e.result = at
	case "error":
		e.errorSpan = at
	case "fds":
		e.fds = at
	}
}

// classify says what the message is, or why it is nothing.
func (e *envelope) classify(msg []byte) *ProtocolError {
	if !e.version.present() || string(e.version.of(msg)) != `"2.0"` {
		return breach(BreachEnvelope, `member "jsonrpc" must be "2.0"`)
	}
	if e.method.present() {
		return e.classifyCall(msg)
	}
	return e.classifyReply(msg)
}

func (e *envelope) classifyCall(msg []byte) *ProtocolError {
	if e.result.present() || e.errorSpan.present() {
		return breach(BreachEnvelope, "a message with a method and a result or error")
	}
	if err := checkMethod(e.method.of(msg)); err != nil {
		return err
	}
	if err := e.checkParams(msg); err != nil {
		return err
	}
	if !e.id.present() {
		e.kind = kindNotification
		return nil
	}
	e.kind = kindRequest
	return checkID(e.id.of(msg))
}

// checkParams accepts an object, an array, nothing, and null for nothing,
// which some programs write.
func (e *envelope) checkParams(msg []byte) *ProtocolError {
	if !e.params.present() {
		return nil
	}
	switch msg[e.params.start] {
	case '{', '[':
		return nil
	case 'n':
		e.params = span{}
		return nil
	default:
		return breach(BreachEnvelope, "params must be an object or an array")
	}
}

// classifyReply accepts a null beside the member that counts, which programs
// of JSON-RPC 1.0 descent write.
func (e *envelope) classifyReply(msg []byte) *ProtocolError {
	if !e.id.present() || e.params.present() {
		return breach(BreachEnvelope, "neither a request nor a reply")
	}
	failed := e.errorSpan.present() && msg[e.errorSpan.start] != 'n'
	switch {
	case failed && e.result.present() && msg[e.result.start] != 'n':
		return breach(BreachEnvelope, "a reply with a result and an error")
	case failed:
		e.kind = kindError
		if string(e.id.of(msg)) == "null" { // the peer could not read our id
			return nil
		}
	case e.result.present():
		e.kind = kindResult
	default:
		return breach(BreachEnvelope, "a reply without result and error")
	}
	return checkID(e.id.of(msg))
}

func checkMethod(raw []byte) *ProtocolError {
	if raw[0] != '"' || len(raw) < 3 || len(raw) > maxMethodLen+2 {
		return breach(BreachEnvelope, "method must be a string of 1 to %d bytes", maxMethodLen)
	}
	name := raw[1 : len(raw)-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		name = unescape(nil, name)
	}
	for _, c := range name {
		if c < ' ' || c == 0x7f {
			return breach(BreachEnvelope, "method has a control character")
		}
	}
	return nil
}

// checkID accepts a string of at most maxIDLen bytes, or an integer within
// 2^53 without sign tricks, fraction or exponent.
func checkID(raw []byte) *ProtocolError {
	if raw[0] == '"' {
		if len(raw) > maxIDLen+2 {
			return breach(BreachID, "an id of more than %d bytes", maxIDLen)
		}
		return nil
	}
	if _, ok := parseInt(raw); !ok {
		return breach(BreachID, "an id must be a string or an integer within 2^53")
	}
	return nil
}

// parseInt reads an integer within 2^53 as JSON writes it; -0 is none.
func parseInt(raw []byte) (int64, bool) {
	digits, negative := raw, false
	if len(raw) > 0 && raw[0] == '-' {
		digits, negative = raw[1:], true
	}
	if len(digits) == 0 || len(digits) > 16 || digits[0] == '0' && (len(digits) > 1 || negative) {
		return 0, false
	}
	var n int64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if n > maxSafeInt {
		return 0, false
	}
	if negative {
		n = -n
	}
	return n, true
}

// text returns the value of a validated string, given with its quotes.
func text(raw []byte) string {
	raw = raw[1 : len(raw)-1]
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	return string(unescape(nil, raw))
}
