package edit

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cordonhq/cordon/profiles/strict"
)

// maxLine is how many characters a list may have on one line; a longer one is
// broken.
const maxLine = 110

// Format gives a file's text in the one form of String. The result says the
// same as the text, which is made sure of; the error is about a text that
// cannot be read.
func Format(name string, data []byte) ([]byte, error) {
	f, err := Parse(name, data)
	if err != nil {
		return nil, err
	}
	before, err := strict.Tree(name, data)
	if err != nil {
		return nil, err
	}
	out := []byte(f.String())
	after, err := strict.Tree(name, out)
	if err != nil || !reflect.DeepEqual(before, after) {
		return nil, errors.Join(fmt.Errorf("cannot format %s: it would say something else", name), err)
	}
	return out, nil
}

// row is a line in the making: comments in neighbouring rows stand below each
// other.
type row struct{ code, note string }

// String writes the file in one form, in which it stays when it is written
// again: one blank before and after '=', one blank line before a table and never
// two, lists on one line or indented by two, comments behind neighbouring lines
// below each other. The order of lines, and which lines a list has, is kept.
func (f *File) String() string {
	var rows []row
	for i, n := range f.nodes {
		switch n.kind {
		case blank:
			rows = append(rows, row{})
		case comment:
			rows = append(rows, row{code: n.text})
		case header:
			rows = separate(rows, i > 0)
			text := "[" + n.text + "]"
			if n.list {
				text = "[" + text + "]"
			}
			rows = append(rows, row{text, n.note})
		case pair:
			lines := n.val.rows()
			lines[0].code = n.text + " = " + lines[0].code
			lines[len(lines)-1].note = n.note
			rows = append(rows, lines...)
		}
	}
	return write(rows)
}

// separate puts a blank line before what comes, and above the comment that
// belongs to it.
func separate(rows []row, any bool) []row {
	at := len(rows)
	for at > 0 && strings.HasPrefix(rows[at-1].code, "#") {
		at--
	}
	if !any || at == 0 || rows[at-1].code == "" {
		return rows
	}
	rows = append(rows, row{})
	copy(rows[at+1:], rows[at:])
	rows[at] = row{}
	return rows
}

// write puts rows under each other, their comments aligned.
func write(rows []row) string {
	var b strings.Builder
	empty := true // so that the file begins with something
	for i := 0; i < len(rows); i++ {
		if rows[i].code == "" && rows[i].note == "" {
			if !empty && !restIsEmpty(rows[i:]) && !afterHeader(rows, i) {
				b.WriteByte('\n')
			}
			empty = true
			continue
		}
		empty = false
		end, width := i, 0
		for ; end < len(rows) && rows[end].note != ""; end++ {
			width = max(width, columns(rows[end].code))
		}
		if end == i {
			b.WriteString(rows[i].code + "\n")
			continue
		}
		for ; i < end; i++ {
			b.WriteString(rows[i].code + strings.Repeat(" ", width-columns(rows[i].code)+1) + rows[i].note + "\n")
		}
		i--
	}
	return b.String()
}

// columns is the width of the last line of a text: a string may have several.
func columns(code string) int {
	return utf8.RuneCountInString(code[strings.LastIndexByte(code, '\n')+1:])
}

func restIsEmpty(rows []row) bool {
	for _, r := range rows {
		if r != (row{}) {
			return false
		}
	}
	return true
}

// afterHeader says whether a blank line would part a header from its first key.
func afterHeader(rows []row, i int) bool {
	return i > 0 && strings.HasPrefix(rows[i-1].code, "[") && i+1 < len(rows) && !strings.HasPrefix(rows[i+1].code, "[") && !strings.HasPrefix(rows[i+1].code, "#")
}

// flat writes a value on one line, without its comments.
func (v *value) flat() string {
	if v.open == 0 {
		return v.raw
	}
	var words []string
	for i := range v.parts {
		if one := &v.parts[i]; one.kind == element {
			words = append(words, one.String())
		}
	}
	text := strings.Join(words, ", ")
	switch {
	case v.open == '[':
		return "[" + text + "]"
	case text == "":
		return "{}"
	}
	return "{ " + text + " }"
}

// String writes an element, with its key in an inline table, on one line.
func (p *part) String() string {
	if p.text != "" {
		return p.text + " = " + p.val.flat()
	}
	return p.val.flat()
}

// lines says whether a value must have several: it has comments, was broken by
// its writer, or is too long.
func (v *value) lines() bool {
	if v.open != '[' {
		return v.hasRemarks()
	}
	broken := v.hasRemarks()
	elements := 0
	for _, one := range v.parts {
		broken = broken || one.kind != element
		if one.kind == element {
			elements++
		}
	}
	return elements > 0 && (broken || utf8.RuneCountInString(v.flat()) > maxLine) || v.hasRemarks()
}

func (v *value) hasRemarks() bool {
	for i := range v.parts {
		if v.parts[i].kind == remark || v.parts[i].val.hasRemarks() {
			return true
		}
	}
	return false
}

// rows writes a value on as many lines as it needs, at least one.
func (v *value) rows() []row {
	if !v.lines() {
		return []row{{code: v.flat()}}
	}
	end := map[byte]string{'[': "]", '{': "}"}[v.open]
	out, line := []row{{code: string(v.open)}}, row{}
	wrap := true // of a list that is broken only because it is long
	for _, one := range v.parts {
		wrap = wrap && one.kind == element
	}
	gap := false // a blank line, to be kept between two others
	flush := func() {
		if line != (row{}) {
			if gap && len(out) > 1 {
				out = append(out, row{})
			}
			gap = false
			line.code = "  " + line.code
			if line.code == "  " {
				line = row{code: "  " + line.note}
			}
			out = append(out, line)
		}
		line = row{}
	}
	for i := range v.parts {
		one := &v.parts[i]
		switch one.kind {
		case newline:
			gap = gap || line == (row{}) && i > 0 && v.parts[i-1].kind == newline
			flush()
		case remark:
			line.note = one.text
			flush()
		case element:
			text := one.String() + ","
			if inner := one.val.rows(); len(inner) > 1 {
				flush()
				gap = false
				out = append(out, nested(one.text, inner)...)
				continue
			}
			if wrap && line.code != "" && utf8.RuneCountInString(line.code+text) > maxLine-4 {
				flush()
			}
			if line.code != "" {
				line.code += " "
			}
			line.code += text
		}
	}
	flush()
	return append(out, row{code: end})
}

// nested indents the lines of a value within another.
func nested(key string, inner []row) []row {
	if key != "" {
		inner[0].code = key + " = " + inner[0].code
	}
	for i := range inner {
		inner[i].code = "  " + inner[i].code
	}
	inner[len(inner)-1].code += ","
	return inner
}

// written writes a dotted key, with quotes where a part needs them.
func written(path []string) string {
	parts := make([]string, len(path))
	for i, p := range path {
		parts[i] = p
		if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			parts[i] = strconv.Quote(p)
		}
	}
	return strings.Join(parts, ".")
}
