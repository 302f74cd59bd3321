package violation

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The caps of what is shown of text that a plugin chose, in bytes of output.
const (
	maxArg  = 128
	maxArgs = 8
	maxPath = 512
	maxText = 256
)

// Escape makes text that a plugin chose safe for a terminal and a log line:
// what is not printable (control characters, escape sequences, line ends,
// direction marks, bytes that are not UTF-8) is written as a Go escape, and no
// more than limit bytes are kept, with "..." where the rest was cut. Printable
// text comes back unchanged.
func Escape(s string, limit int) string {
	if len(s) <= limit && printable(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		part := escapeRune(r, s[i:i+size])
		if b.Len()+len(part) > limit {
			return b.String() + "..."
		}
		b.WriteString(part)
		i += size
	}
	return b.String()
}

// printable says whether s is of printable ASCII alone.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// EscapeLines is Escape for each line of s by itself; line ends at the very end
// are dropped.
func EscapeLines(s string, limit int) string {
	parts := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i, part := range parts {
		parts[i] = Escape(part, limit)
	}
	return strings.Join(parts, "\n")
}

// escapeRune gives r as it may be shown; raw are its bytes.
func escapeRune(r rune, raw string) string {
	if r == utf8.RuneError && len(raw) == 1 {
		return fmt.Sprintf(`\x%02x`, raw[0])
	}
	if strconv.IsPrint(r) {
		return raw
	}
	quoted := strconv.QuoteRuneToASCII(r)
	return quoted[1 : len(quoted)-1]
}

// plain says whether s can stand in a profile exactly as it is seen here:
// printable, not cut and free of escapes.
func plain(s string) bool {
	return !strings.ContainsRune(s, '\\') && !strings.HasSuffix(s, "...") && Escape(s, len(s)) == s
}

// quoteTOML writes s, which must be plain, as a basic string of TOML.
func quoteTOML(s string) string {
	return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
}
