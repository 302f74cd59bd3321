package cordon

import "bytes"

// lookup finds a member of a validated object by its exact name. It says false
// when raw is no object or has no such member.
func lookup(raw []byte, name string) (span, bool) {
	if len(raw) == 0 || raw[0] != '{' {
		return span{}, false
	}
	for i := skipSpace(raw, 1); raw[i] == '"'; {
		end := skipString(raw, i)
		found := nameIs(raw[i+1:end-1], name)
		i = skipSpace(raw, end)      // the colon
		start := skipSpace(raw, i+1) // the value
		end = skipValue(raw, start)
		if found {
			return span{start, end}, true
		}
		if i = skipSpace(raw, end); raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return span{}, false
}

func nameIs(raw []byte, name string) bool {
	if bytes.IndexByte(raw, '\\') >= 0 {
		raw = unescape(nil, raw)
	}
	return string(raw) == name
}

func skipSpace(raw []byte, i int) int {
	for raw[i] == ' ' || raw[i] == '\t' || raw[i] == '\r' || raw[i] == '\n' {
		i++
	}
	return i
}

// skipString returns the place after the string that begins at i.
func skipString(raw []byte, i int) int {
	for i++; raw[i] != '"'; i++ {
		if raw[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// skipValue returns the place after the value that begins at i, inside an
// object.
func skipValue(raw []byte, i int) int {
	for depth := 0; ; {
		switch raw[i] {
		case '"':
			i = skipString(raw, i)
		case '{', '[':
			depth++
			i++
			continue
		case '}', ']':
			depth--
			i++
		default:
			i = skipScalar(raw, i)
			if depth > 0 {
				continue
			}
		}
		if depth == 0 {
			return i
		}
	}
}

// skipScalar skips a number or literal, or one byte that separates values.
func skipScalar(raw []byte, i int) int {
	from := i
	for bytes.IndexByte([]byte(" \t\r\n,:]}{[\""), raw[i]) < 0 {
		i++
	}
	if i == from {
		i++
	}
	return i
}
