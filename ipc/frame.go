package ipc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Framing is how messages are told apart in the stream.
type Framing uint8

// The framings. The first byte of each message says whether it is the right
// one.
const (
	// FramingLength: four bytes of length, big-endian, the first of them 0x00.
	FramingLength Framing = iota + 1
	// FramingLines: one message a line, the first byte '{'.
	FramingLines
	// FramingHeaders: a header block with Content-Length, the first byte 'C'.
	FramingHeaders
)

// FramingOf returns the framing that a protocol fixes, and FramingLength for
// one that is not known.
func FramingOf(p Protocol) Framing {
	switch p {
	case ProtocolMCP, ProtocolJSONRPC:
		return FramingLines
	case ProtocolLSP:
		return FramingHeaders
	case ProtocolCordon:
		return FramingLength
	default:
		return FramingLength
	}
}

// Bounds of the framings that are no one's to configure, in bytes.
const (
	frameCeiling  = 1<<24 - 1 // MaxFrame's own maximum: the first length byte stays 0
	lengthHeader  = 4
	maxHeaders    = 16
	maxHeaderLen  = 4096
	maxStray      = 4096 // of one line that is no message
	firstBuffer   = 1024
	steadyBuffer  = 64 << 10 // what a connection keeps while it is idle, at most
	newlineBudget = 2        // "\r\n" after a message of MaxFrame bytes
)

// frameKind is what the stream held next.
type frameKind uint8

const (
	frameMessage frameKind = iota
	frameStray             // a line that is no message (FramingLines)
	frameBlank             // an empty line (FramingLines)
)

// frame is one piece of the stream. Bytes not owned are valid until the next
// call.
type frame struct {
	kind  frameKind
	bytes []byte
	owned bool
}

// frameReader cuts a stream into messages. Its buffer grows by doubling as
// bytes really arrive, so that an announced length costs nothing.
type frameReader struct {
	read    func([]byte) (int, error)
	framing Framing
	max     int
	// partial, if set, is told when a message is left unfinished in the buffer
	// (true) and when it is whole (false).
	partial func(bool)
	armed   bool

	buf  []byte
	r, w int // buf[r:w] is unread
	seen int // FramingLines: no newline in buf[r:r+seen]
	// received and consumed count the stream's bytes: those that were read, and
	// those that were handled.
	received, consumed int64
	err                error
}

// next returns the next piece. At the end of the stream it returns io.EOF,
// inside a message a ProtocolError.
func (f *frameReader) next() (frame, error) {
	for {
		fr, need, err := f.cut()
		if err != nil {
			return frame{}, err
		}
		if need == 0 {
			f.arm(false)
			return fr, nil
		}
		f.arm(f.w > f.r)
		if err := f.fill(need); err != nil {
			return frame{}, f.ended(err)
		}
	}
}

func (f *frameReader) arm(on bool) {
	if f.partial != nil && f.armed != on {
		f.armed = on
		f.partial(on)
	}
}

// ended says what an end of the stream means here.
func (f *frameReader) ended(err error) error {
	if !isGone(err) {
		return err
	}
	if f.r == f.w {
		return io.EOF
	}
	return breach(BreachTruncated, "the stream ended %d bytes into a message", f.w-f.r)
}

// cut takes one whole piece from the buffer, or says how many bytes (header
// included) the piece at its start needs in all, as far as can be known.
func (f *frameReader) cut() (fr frame, need int, err error) {
	if f.r == f.w {
		return frame{}, 1, nil
	}
	switch f.framing {
	case FramingLines:
		return f.cutLine()
	case FramingHeaders:
		return f.cutHeaders()
	case FramingLength:
		return f.cutLength()
	default:
		return frame{}, 0, fmt.Errorf("cannot read: unknown framing %d", f.framing)
	}
}

func (f *frameReader) cutLength() (frame, int, error) {
	b := f.buf[f.r:f.w]
	if b[0] != 0 {
		return frame{}, 0, breach(BreachFraming, "first byte %#02x is not 0x00 of a 4-byte length", b[0])
	}
	if len(b) < lengthHeader {
		return frame{}, lengthHeader, nil
	}
	return f.cutBody(lengthHeader, int(binary.BigEndian.Uint32(b)))
}

// cutBody cuts a message of n bytes that starts at byte at of the buffer.
func (f *frameReader) cutBody(at, n int) (frame, int, error) {
	if n == 0 {
		return frame{}, 0, breach(BreachFraming, "an empty message")
	}
	if n > f.max {
		return frame{}, 0, breach(BreachTooLarge, "a message of %d bytes, over the limit of %d", n, f.max)
	}
	if f.w-f.r < at+n {
		return frame{}, at + n, nil
	}
	return f.take(frameMessage, at, n, at+n), 0, nil
}

func (f *frameReader) cutHeaders() (frame, int, error) {
	b := f.buf[f.r:f.w]
	if b[0] != 'C' {
		return frame{}, 0, breach(BreachFraming, "first byte %#02x is not the C of Content-Length", b[0])
	}
	end := bytes.Index(b[:min(len(b), maxHeaderLen)], []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) >= maxHeaderLen {
			return frame{}, 0, breach(BreachFraming, "a header block over %d bytes", maxHeaderLen)
		}
		return frame{}, len(b) + 1, nil
	}
	n, err := contentLength(string(b[:end]))
	if err != nil {
		return frame{}, 0, err
	}
	return f.cutBody(end+4, n)
}

// contentLength reads a header block without its final empty line: lines end
// in CRLF, Content-Length stands exactly once in plain decimal.
func contentLength(block string) (int, error) {
	lines := strings.Split(block, "\r\n")
	if len(lines) > maxHeaders {
		return 0, breach(BreachFraming, "more than %d headers", maxHeaders)
	}
	length := -1
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) || !isFieldValue(value) {
			return 0, breach(BreachFraming, "a malformed header line")
		}
		value = strings.Trim(value, " \t")
		switch {
		case strings.EqualFold(name, "Content-Type"):
			if err := checkContentType(value); err != nil {
				return 0, err
			}
		case !strings.EqualFold(name, "Content-Length"):
		case length >= 0:
			return 0, breach(BreachFraming, "Content-Length twice")
		default:
			n, ok := decimal(value)
			if !ok {
				return 0, breach(BreachFraming, "Content-Length %.20q is not a plain decimal number", value)
			}
			length = n
		}
	}
	if length < 0 {
		return 0, breach(BreachFraming, "no Content-Length")
	}
	return length, nil
}

// checkContentType refuses a charset that is not UTF-8; the Language Server
// Protocol wants utf8 accepted as well.
func checkContentType(value string) error {
	_, charset, ok := strings.Cut(strings.ToLower(value), "charset=")
	if !ok {
		return nil
	}
	if c := strings.Trim(charset, `"; `); c != "utf-8" && c != "utf8" {
		return breach(BreachFraming, "charset %.20q is not utf-8", charset)
	}
	return nil
}

// isToken is a header's name: RFC 9110, section 5.6.2, as far as names go.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

func isFieldValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// decimal reads 0 or a number of up to eight digits without sign and leading
// zeros.
func decimal(s string) (int, bool) {
	if s == "" || len(s) > 8 || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, true
}

// cutLine cuts one line. A line whose first byte is not '{' is stray output,
// except for '[', which can only be a batch and is left to the scanner.
func (f *frameReader) cutLine() (frame, int, error) {
	b := f.buf[f.r:f.w]
	limit, kind := f.max+newlineBudget, frameMessage
	if c := b[0]; c != '{' && c != '[' && c != ' ' && c != '\t' {
		limit, kind = maxStray, frameStray
	}
	i := bytes.IndexByte(b[f.seen:], '\n')
	if i < 0 {
		f.seen = len(b)
		if len(b) > limit {
			return frame{}, 0, overlong(b, limit)
		}
		return frame{}, len(b) + 1, nil
	}
	end := f.seen + i
	line := bytes.TrimRight(b[:end], "\r")
	f.seen = 0
	if blank := bytes.TrimLeft(line, " \t"); len(blank) == 0 {
		kind = frameBlank
	} else if blank[0] != '{' && blank[0] != '[' {
		kind = frameStray
	}
	if len(line) > f.max || kind == frameStray && len(line) > maxStray {
		return frame{}, 0, overlong(b, limit)
	}
	return f.take(kind, 0, len(line), end+1), 0, nil
}

// overlong names what is wrong with a line over limit by its first limit+1
// bytes, which are there however the line came.
func overlong(line []byte, limit int) error {
	start := bytes.TrimLeft(line[:min(len(line), limit+1)], " \t")
	if len(start) > 0 && start[0] != '{' && start[0] != '[' {
		return breach(BreachStray, "a line of over %d bytes that is no message", maxStray)
	}
	return breach(BreachTooLarge, "a line of more than %d bytes", limit)
}

// take consumes n bytes and returns the message at buf[r+at : r+at+size]. When
// the buffer grew for this message it is handed over with it.
func (f *frameReader) take(kind frameKind, at, size, n int) frame {
	fr := frame{kind: kind, bytes: f.buf[f.r+at : f.r+at+size : f.r+at+size]}
	f.r += n
	f.consumed += int64(n)
	rest := f.w - f.r
	if cap(f.buf) > steadyBuffer && rest <= size {
		fr.owned = true
		fresh := make([]byte, max(firstBuffer, rest))
		copy(fresh, f.buf[f.r:f.w])
		f.buf, f.r, f.w = fresh, 0, rest
	}
	return fr
}

// fill reads more, making room first. need is how much the piece at the start
// of the buffer takes in all; it bounds how far the buffer may grow.
func (f *frameReader) fill(need int) error {
	if f.err != nil { // what came with the error has been cut by now
		return f.err
	}
	f.room(need)
	n, err := f.read(f.buf[f.w:])
	f.w += n
	f.received += int64(n)
	if err != nil && n > 0 {
		f.err, err = err, nil
	}
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// room makes the buffer have at least one free byte.
func (f *frameReader) room(need int) {
	if f.r == f.w {
		f.r, f.w = 0, 0
		if cap(f.buf) > steadyBuffer {
			f.buf = nil
		}
	}
	if f.buf == nil {
		f.buf = make([]byte, firstBuffer)
	}
	size := len(f.buf)
	switch {
	case f.w-f.r == size: // it is full of what really arrived
		size = f.grown(need)
	case f.w < size && (f.r == 0 || f.r+need <= size):
		return
	}
	fresh := f.buf
	if size != len(f.buf) {
		fresh = make([]byte, size)
	}
	copy(fresh, f.buf[f.r:f.w])
	f.buf, f.r, f.w = fresh, 0, f.w-f.r
}

// grown is the next size of a full buffer: twice, but beyond steadyBuffer no
// more than the piece at its start can take.
func (f *frameReader) grown(need int) int {
	size := 2 * len(f.buf)
	if size <= steadyBuffer {
		return size
	}
	return max(steadyBuffer, min(size, f.bound(need)))
}

// bound is what a buffer need not exceed: the piece where its size is known,
// otherwise the largest line.
func (f *frameReader) bound(need int) int {
	if f.framing == FramingLines {
		return f.max + newlineBudget + 1
	}
	return need
}

// appendFrame appends one message, given in parts, in its frame.
func appendFrame(dst []byte, f Framing, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	switch f {
	case FramingLines:
		at := len(dst)
		dst = appendAll(dst, parts)
		flatten(dst[at:])
		return append(dst, '\n')
	case FramingHeaders:
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, int64(n), 10)
		return appendAll(append(dst, "\r\n\r\n"...), parts)
	case FramingLength:
		return appendAll(binary.BigEndian.AppendUint32(dst, uint32(n)), parts)
	default:
		return dst
	}
}

func appendAll(dst []byte, parts [][]byte) []byte {
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// flatten turns line ends into spaces: in JSON they stand between tokens only.
func flatten(b []byte) {
	for i, c := range b {
		if c == '\n' || c == '\r' {
			b[i] = ' '
		}
	}
}

// MessageReader reads messages from a plain stream, such as the standard input
// of cordon attach: framed and validated like a connection's, but without
// deadlines and rate. One goroutine at a time.
type MessageReader struct {
	frames frameReader
	scan   *scanner
}

// NewMessageReader returns a reader of r with the limits MaxFrame and MaxDepth
// of l.
func NewMessageReader(r io.Reader, f Framing, l Limits) *MessageReader {
	l = l.WithDefaults()
	return &MessageReader{
		frames: frameReader{read: r.Read, framing: f, max: l.MaxFrame},
		scan:   newScanner(l.MaxDepth),
	}
}

// Next returns the next message, valid until the next call. It returns io.EOF
// at the end, a *ProtocolError when the stream or the message is not valid.
// Blank lines are skipped, other lines that are no message are not.
func (m *MessageReader) Next() ([]byte, error) {
	for {
		fr, err := m.frames.next()
		if err != nil {
			return nil, err
		}
		switch fr.kind {
		case frameBlank:
			continue
		case frameStray:
			return nil, breach(BreachStray, "a line that is no message")
		case frameMessage:
		}
		if _, err := m.scan.message(fr.bytes); err != nil {
			return nil, err
		}
		return fr.bytes, nil
	}
}

// errTooLarge is for messages of this side.
var errTooLarge = errors.New("message over the frame limit")

// AppendFrame appends one whole message in its frame to dst. It fails when the
// message is over MaxFrame of l.
func AppendFrame(dst []byte, f Framing, l Limits, msg []byte) ([]byte, error) {
	if len(msg) > l.WithDefaults().MaxFrame {
		return dst, errTooLarge
	}
	return appendFrame(dst, f, msg), nil
}
