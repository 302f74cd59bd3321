package ipc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

var framings = map[string]Framing{"length": FramingLength, "lines": FramingLines, "headers": FramingHeaders}

func length(n uint32, body string) string {
	return string(binary.BigEndian.AppendUint32(nil, n)) + body
}

func newFrames(r io.Reader, f Framing, limit int) *frameReader {
	return &frameReader{read: r.Read, framing: f, max: limit}
}

// all reads every piece until the error that ends it.
func all(f *frameReader) (pieces []string, err error) {
	for {
		fr, err := f.next()
		if err != nil {
			return pieces, err
		}
		pieces = append(pieces, fmt.Sprint(fr.kind, string(fr.bytes)))
	}
}

// code returns the breach of an error, "" for none, "eof" for a clean end.
func code(err error) Breach {
	var p *ProtocolError
	switch {
	case errors.As(err, &p):
		return p.Code
	case errors.Is(err, io.EOF):
		return "eof"
	case err == nil:
		return ""
	default:
		return Breach(err.Error())
	}
}

func TestFramingBadInput(t *testing.T) {
	const limit = 100
	headers := func(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }
	for _, tt := range []struct {
		name string
		f    Framing
		in   string
		want Breach
	}{
		{"first byte of lines", FramingLength, `{"jsonrpc":"2.0"}`, BreachFraming},
		{"first byte of headers", FramingLength, "Content-Length: 2\r\n\r\n{}", BreachFraming},
		{"negative", FramingLength, length(0xffffffff, ""), BreachFraming},
		{"most negative", FramingLength, length(0x80000000, ""), BreachFraming},
		{"16 MiB", FramingLength, length(1<<24, ""), BreachFraming},
		{"zero", FramingLength, length(0, ""), BreachFraming},
		{"one over", FramingLength, length(limit+1, ""), BreachTooLarge},
		{"as large as can be written", FramingLength, length(frameCeiling, ""), BreachTooLarge},
		{"second message wrong", FramingLength, length(2, "{}") + "x", BreachFraming},

		{"line one over", FramingLines, "{" + strings.Repeat(" ", limit) + "\n", BreachTooLarge},
		{"line without end", FramingLines, "{" + strings.Repeat(" ", 4*limit), BreachTooLarge},
		{"blanks without end", FramingLines, strings.Repeat(" ", 4*limit), BreachTooLarge},
		{"stray one over", FramingLines, strings.Repeat("x", maxStray+1) + "\n", BreachStray},
		{"stray without end", FramingLines, strings.Repeat("x", 2*maxStray), BreachStray},
		{"stray behind blanks", FramingLines, "  " + strings.Repeat("x", limit) + "\n", BreachStray},

		{"first byte", FramingHeaders, `{"jsonrpc":"2.0"}`, BreachFraming},
		{"another header first", FramingHeaders, headers("X-A: 1", "Content-Length: 2") + "{}", BreachFraming},
		{"no length", FramingHeaders, headers("Content-Type: a"), BreachFraming},
		{"empty length", FramingHeaders, headers("Content-Length:"), BreachFraming},
		{"zero length", FramingHeaders, headers("Content-Length: 0"), BreachFraming},
		{"negative length", FramingHeaders, headers("Content-Length: -1"), BreachFraming},
		{"signed length", FramingHeaders, headers("Content-Length: +2") + "{}", BreachFraming},
		{"padded length", FramingHeaders, headers("Content-Length: 02") + "{}", BreachFraming},
		{"hex length", FramingHeaders, headers("Content-Length: 0x2") + "{}", BreachFraming},
		{"two lengths in one", FramingHeaders, headers("Content-Length: 2, 2") + "{}", BreachFraming},
		{"length twice", FramingHeaders, headers("Content-Length: 2", "content-length: 2") + "{}", BreachFraming},
		{"length overflows", FramingHeaders, headers("Content-Length: 18446744073709551618") + "{}", BreachFraming},
		{"length one over", FramingHeaders, headers("Content-Length: 101"), BreachTooLarge},
		{"bare LF", FramingHeaders, "Content-Length: 2\n\n{}" + strings.Repeat(" ", maxHeaderLen), BreachFraming},
		{"one bare LF", FramingHeaders, headers("Content-Length: 2\nX: y"), BreachFraming},
		{"bare CR", FramingHeaders, headers("Content-Length: 2\rX: y"), BreachFraming},
		{"space before colon", FramingHeaders, headers("Content-Length : 2"), BreachFraming},
		{"folded line", FramingHeaders, headers("Content-Type: a", " b", "Content-Length: 2"), BreachFraming},
		{"no colon", FramingHeaders, headers("Content-Length"), BreachFraming},
		{"control character", FramingHeaders, headers("Content-Length: 2\x00"), BreachFraming},
		{"charset", FramingHeaders, headers("Content-Type: a; charset=utf-16", "Content-Length: 2"), BreachFraming},
		{"too many", FramingHeaders, headers(append([]string{"Content-Length: 2"}, slices.Repeat([]string{"X: y"}, maxHeaders)...)...), BreachFraming},
		{"block too long", FramingHeaders, headers("Content-Length: 2", "X: "+strings.Repeat("y", maxHeaderLen)), BreachFraming},
		{"block without end", FramingHeaders, "C" + strings.Repeat("y", 2*maxHeaderLen), BreachFraming},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{
				"whole":        strings.NewReader(tt.in),
				"byte by byte": iotest.OneByteReader(strings.NewReader(tt.in)),
			} {
				if _, err := all(newFrames(r, tt.f, limit)); code(err) != tt.want {
					t.Errorf("%s: got %v, want %s", how, err, tt.want)
				}
			}
		})
	}
}

func TestFramingAccepts(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    Framing
		in   string
		want []string
	}{
		{"length", FramingLength, length(2, "{}") + length(1, "x"), []string{"0{}", "0x"}},
		{"lines", FramingLines, "{}\n{1}\r\n\n\r\n \t\nbanner\n\x1b[2J\n  {2}\n[]\n", []string{
			"0{}", "0{1}", "2", "2", "2 \t", "1banner", "1\x1b[2J", "0  {2}", "0[]",
		}},
		{"headers", FramingHeaders, "Content-Length: 2\r\n\r\n{}content-length:1\r\n", []string{"0{}"}},
		{"more headers", FramingHeaders, "Content-Type: application/vscode-jsonrpc; charset=utf8\r\nX-A: b\r\nCONTENT-LENGTH:\t3 \r\n\r\nabcContent-Length: 1\r\n\r\nx", []string{"0abc", "0x"}},
	} {
		for how, r := range map[string]io.Reader{
			"whole":        strings.NewReader(tt.in),
			"byte by byte": iotest.OneByteReader(strings.NewReader(tt.in)),
			"data and end": iotest.DataErrReader(strings.NewReader(tt.in)),
		} {
			got, _ := all(newFrames(r, tt.f, 100))
			if !slices.Equal(got, tt.want) {
				t.Errorf("%s, %s: got %q, want %q", tt.name, how, got, tt.want)
			}
		}
	}
}

// TestFramingTruncated cuts two messages at every byte: only between messages
// is the end clean.
func TestFramingTruncated(t *testing.T) {
	for name, f := range framings {
		one := appendFrame(nil, f, []byte(`{"a":1}`))
		two := append(slices.Clone(one), one...)
		for i := range len(two) + 1 {
			want := BreachTruncated
			if i%len(one) == 0 {
				want = "eof"
			}
			got, err := all(newFrames(bytes.NewReader(two[:i]), f, 100))
			if code(err) != want || len(got) != i/len(one) {
				t.Errorf("%s cut at %d: %d messages, %v; want %s", name, i, len(got), err, want)
			}
		}
	}
}

// TestAnnouncedLengthCostsNothing: the buffer follows what arrived.
func TestAnnouncedLengthCostsNothing(t *testing.T) {
	const announced = 4 << 20
	for name, in := range map[string]string{
		"length":  length(announced, ""),
		"headers": fmt.Sprintf("Content-Length: %d\r\n\r\n", announced),
		"lines":   "{",
	} {
		for _, arrived := range []int{0, 1, 5000, 100_000, 1 << 20} {
			f := newFrames(strings.NewReader(in+strings.Repeat(" ", arrived)), framings[name], announced)
			if _, err := f.next(); code(err) != BreachTruncated {
				t.Fatalf("%s: %v", name, err)
			}
			if most := max(firstBuffer, 2*(arrived+len(in)), steadyBuffer*min(1, arrived/2000)); cap(f.buf) > most {
				t.Errorf("%s: buffer of %d for %d bytes", name, cap(f.buf), arrived)
			}
		}
	}
}

// TestLargeMessages come whole, next to small ones, and leave no large buffer.
func TestLargeMessages(t *testing.T) {
	large := bytes.Repeat([]byte("x"), 1<<20)
	large[0] = '{'
	small := []byte("{}")
	for name, framing := range framings {
		var in []byte
		var want [][]byte
		for i := range 60 {
			msg := small
			if i%20 == 10 {
				msg = large
			}
			in, want = appendFrame(in, framing, msg), append(want, msg)
		}
		f := newFrames(bytes.NewReader(in), framing, 1<<20)
		for i := range want {
			fr, err := f.next()
			if err != nil || !bytes.Equal(fr.bytes, want[i]) {
				t.Fatalf("%s: message %d: %d bytes, %v", name, i, len(fr.bytes), err)
			}
			if fr.owned && cap(fr.bytes) != len(fr.bytes) {
				t.Errorf("%s: message %d can grow into the next", name, i)
			}
		}
		if _, err := f.next(); !errors.Is(err, io.EOF) {
			t.Fatalf("%s: %v", name, err)
		}
		if cap(f.buf) > steadyBuffer {
			t.Errorf("%s: keeps a buffer of %d", name, cap(f.buf))
		}
	}
}

// TestAppendFrameLines keeps pretty-printed JSON on one line.
func TestAppendFrameLines(t *testing.T) {
	got := appendFrame(nil, FramingLines, []byte("{\n\t\"a\": 1\r\n}"))
	if want := "{ \t\"a\": 1  }\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMessageReader(t *testing.T) {
	in := "\n" + call(`{}`) + "\n" + call(`{"a":1,"a":1}`) + "\n"
	r := NewMessageReader(strings.NewReader(in), FramingLines, Limits{})
	if msg, err := r.Next(); err != nil || string(msg) != call(`{}`) {
		t.Errorf("got %q, %v", msg, err)
	}
	if _, err := r.Next(); code(err) != BreachDuplicate {
		t.Errorf("got %v", err)
	}
	if _, err := AppendFrame(nil, FramingLines, Limits{MaxFrame: 1024}, bytes.Repeat([]byte(" "), 1025)); err == nil {
		t.Error("framed a message over the limit")
	}
}

// fuzzFraming reads the data whole and in pieces: both must agree, no message
// may be over the limit, the buffer must stay within its bound, and what was
// read must be what appendFrame would have written.
func fuzzFraming(f *testing.F, framing Framing, seeds ...string) {
	const limit = 300
	for _, s := range seeds {
		f.Add([]byte(s), byte(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, step byte) {
		whole := newFrames(bytes.NewReader(data), framing, limit)
		want, wantErr := all(whole)
		pieces := newFrames(&stepReader{data: data, step: 1 + int(step)}, framing, limit)
		got, gotErr := all(pieces)
		if !slices.Equal(got, want) || code(gotErr) != code(wantErr) {
			t.Fatalf("in pieces %q, %v; whole %q, %v", got, gotErr, want, wantErr)
		}
		if wantErr == nil || max(cap(whole.buf), cap(pieces.buf)) > steadyBuffer {
			t.Fatalf("error %v, buffers %d and %d", wantErr, cap(whole.buf), cap(pieces.buf))
		}
		var again []byte
		for _, p := range want {
			kind, msg := p[0]-'0', p[1:]
			if len(msg) > limit && frameKind(kind) == frameMessage {
				t.Fatalf("message of %d bytes", len(msg))
			}
			again = appendFrame(again, framing, []byte(msg))
		}
		if framing == FramingLength && !bytes.HasPrefix(data, again) {
			t.Fatalf("read %q, which is not how it was written", want)
		}
		if back, _ := all(newFrames(bytes.NewReader(again), framing, limit)); framing == FramingHeaders && !slices.Equal(back, want) {
			t.Fatalf("written again it reads %q, want %q", back, want)
		}
	})
}

// stepReader gives at most step bytes at a time.
type stepReader struct {
	data []byte
	step int
}

func (s *stepReader) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.data[:min(len(s.data), s.step)])
	s.data = s.data[n:]
	return n, nil
}

func FuzzFramingLength(f *testing.F) {
	fuzzFraming(f, FramingLength, length(2, "{}"), length(0, ""), length(0xffffffff, "x"), length(300, strings.Repeat("x", 300)), length(301, ""))
}

func FuzzFramingLines(f *testing.F) {
	fuzzFraming(f, FramingLines, "{}\n\n{1}\r\nbanner\n", "{", "\r\r\n", " \n  {}\n", strings.Repeat("x", maxStray+1), "[]\n")
}

func FuzzFramingHeaders(f *testing.F) {
	fuzzFraming(f, FramingHeaders, "Content-Length: 2\r\n\r\n{}", "Content-Type: a; charset=utf-8\r\nContent-Length: 1\r\n\r\nx",
		"Content-Length: 01\r\n\r\nx", "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", "C\r\n\r\n", "Content-Length: 1\n\nx")
}
