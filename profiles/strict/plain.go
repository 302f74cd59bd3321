package strict

import (
	"strconv"
	"strings"
)

// plain makes a file's tree while the scan walks it, where the file is plain:
// strings without escapes, whole numbers, booleans, lists and tables,
// each table said once. Nearly every file that people write is. Anything else
// (a fraction, a date, a table that is added to from two places) is left to the
// library, for the whole file: plain does not judge, and whatever it takes the
// library takes for the same tree, which the fuzzer holds.
type plain struct {
	not  bool
	root map[string]any
	// headers are the tables that headers made, dots those that dotted keys
	// made, each by its path; said are those of headers that had one of their
	// own, and not only one of a table in them.
	headers, dots map[string]map[string]any
	said          map[string]bool
}

func (p *plain) begin(root map[string]any, text string) {
	*p = plain{root: root, headers: map[string]map[string]any{}, dots: map[string]map[string]any{}, said: map[string]bool{}}
	for i := range len(text) { // the library judges control characters
		if c := text[i]; c < ' ' && c != '\n' && c != '\t' || c == 0x7f {
			p.not = true
			return
		}
	}
}

// unless leaves the file to the library where something does not hold.
func (p *plain) unless(holds bool) { p.not = p.not || !holds }

// header goes from a table to the one that a part of a header names, and makes
// it if the file has nothing at its path yet.
func (p *plain) header(in map[string]any, path, part string, known, last bool) map[string]any {
	if last {
		p.unless(!p.said[path])
		p.said[path] = true
	}
	if known {
		next := p.headers[path]
		p.unless(next != nil)
		return orEmpty(next)
	}
	return p.into(p.headers, in, path, part)
}

// element adds an element to the list of tables that a header names.
func (p *plain) element(in map[string]any, path, part string, known bool, count int) map[string]any {
	list, _ := in[part].([]map[string]any)
	p.unless(known == (count > 0) && len(list) == count)
	table := map[string]any{}
	in[part] = append(list, table)
	p.headers[path], p.said[path] = table, true
	return table
}

// dotted goes from a table to the one that a part of a dotted key names.
func (p *plain) dotted(in map[string]any, path, part string, known bool) map[string]any {
	if known {
		next := p.dots[path]
		p.unless(next != nil)
		return orEmpty(next)
	}
	return p.into(p.dots, in, path, part)
}

func (p *plain) into(made map[string]map[string]any, in map[string]any, path, part string) map[string]any {
	next := map[string]any{}
	in[part], made[path] = next, next
	return next
}

func orEmpty(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

// str is a string's value, as it stands between quotes.
func (p *plain) str(text string) string {
	p.unless(!strings.HasPrefix(text, `"""`) && !strings.HasPrefix(text, "'''") && (text[0] == '\'' || strings.IndexByte(text, '\\') < 0))
	return text[1 : len(text)-1]
}

// scalar is the value of a boolean, or of a whole number of at most 18 decimal
// or 15 hexadecimal digits, which every int64 holds.
func (p *plain) scalar(text string) any {
	switch text {
	case "true":
		return true
	case "false":
		return false
	}
	if digits, ok := strings.CutPrefix(text, "0x"); ok {
		n, err := strconv.ParseUint(digits, 16, 60)
		p.unless(err == nil && len(digits) <= 15)
		return int64(n)
	}
	digits := strings.TrimPrefix(text, "-")
	n, err := strconv.ParseInt(text, 10, 64)
	p.unless(err == nil && text[0] != '+' && len(digits) <= 18 && (digits == "0" || digits[0] != '0') && text != "-0")
	return n
}
