package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The bounds of what is read as a version or a range of them.
const (
	maxVersion = 64  // bytes
	maxRange   = 256 // bytes
	maxTerms   = 8
	maxNumber  = 1<<31 - 1
)

// version is one of Semantic Versioning 2.0.0 (semver.org): three numbers, and
// what comes before a release. What stands behind a '+' has no rank.
type version struct {
	number [3]uint64
	pre    []string // dotted identifiers; none is a release
}

// parseVersion reads a version of one to three numbers, and says how many there
// were; only one of three may be a pre-release.
func parseVersion(text string) (v version, parts int, err error) {
	if text == "" || len(text) > maxVersion {
		return v, 0, fmt.Errorf("expected from 1 to %d characters", maxVersion)
	}
	core, build, hasBuild := strings.Cut(text, "+")
	core, pre, hasPre := strings.Cut(core, "-")
	numbers := strings.Split(core, ".")
	if len(numbers) > 3 {
		return v, 0, errors.New("expected three numbers such as 1.4.2")
	}
	for i, n := range numbers {
		if v.number[i], err = number(n); err != nil {
			return v, 0, err
		}
	}
	if (hasPre || hasBuild) && len(numbers) < 3 {
		return v, 0, errors.New("expected three numbers before '-' or '+'")
	}
	if hasPre {
		v.pre = strings.Split(pre, ".")
		err = identifiers(v.pre, true)
	}
	if hasBuild && err == nil {
		err = identifiers(strings.Split(build, "."), false)
	}
	return v, len(numbers), err
}

func number(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n > maxNumber || len(text) > 1 && text[0] == '0' || !made(text, 10, digits) {
		return 0, fmt.Errorf("expected a number from 0 to %d without leading zeros, got %q", maxNumber, clip(text))
	}
	return n, nil
}

func identifiers(list []string, ranked bool) error {
	for _, id := range list {
		if !made(id, maxVersion, letters+digits+"-") {
			return fmt.Errorf("expected letters, digits and '-' between dots, got %q", clip(id))
		}
		if ranked && len(id) > 1 && id[0] == '0' && strings.Trim(id, digits) == "" {
			return fmt.Errorf("expected no leading zeros, got %q", clip(id))
		}
	}
	return nil
}

// compare gives the rank by semver.org, 11.
func (v version) compare(w version) int {
	for i := range v.number {
		if c := cmp.Compare(v.number[i], w.number[i]); c != 0 {
			return c
		}
	}
	switch {
	case len(v.pre) == 0 || len(w.pre) == 0: // a release is above what comes before it
		return cmp.Compare(len(w.pre), len(v.pre))
	}
	for i := range min(len(v.pre), len(w.pre)) {
		if c := compareIdentifiers(v.pre[i], w.pre[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(v.pre), len(w.pre))
}

func compareIdentifiers(a, b string) int {
	an, bn := strings.Trim(a, digits) == "", strings.Trim(b, digits) == ""
	switch {
	case an && bn: // no leading zeros: the longer is the larger
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	case an:
		return -1
	case bn:
		return 1
	}
	return cmp.Compare(a, b)
}

// after is the first version above all that share the first n numbers of v.
func (v version) after(n int) version {
	out := version{}
	copy(out.number[:], v.number[:n])
	out.number[n-1]++
	return out
}

// Range is a set of versions, in the words that Cargo and npm share: comparisons
// joined by commas, all of which must hold. ">=1.2", ">1", "<2", "<=1.4", "=1.4"
// (all of 1.4), "^1.2" (compatible: below 2; of 0.x below the next minor), "~1.2"
// (below 1.3), and "*" for whatever there is. A pre-release is in it only where a
// comparison names one of the same three numbers.
type Range struct {
	text  string
	terms []term // none is "*"
}

type term struct {
	op    string
	v     version
	parts int
}

// ParseRange reads a range; "" is "*".
func ParseRange(text string) (Range, error) {
	r := Range{text: strings.TrimSpace(text)}
	if len(text) > maxRange {
		return r, fmt.Errorf("the range is too long: at most %d bytes", maxRange)
	}
	if r.text == "" || r.text == "*" {
		r.text = "*"
		return r, nil
	}
	list := strings.Split(r.text, ",")
	if len(list) > maxTerms {
		return r, fmt.Errorf("too many comparisons: at most %d", maxTerms)
	}
	for i, one := range list {
		t, err := parseTerm(strings.TrimSpace(one))
		if err != nil {
			return r, err
		}
		r.terms = append(r.terms, t)
		list[i] = strings.TrimSpace(one)
	}
	r.text = strings.Join(list, ", ")
	return r, nil
}

func parseTerm(text string) (t term, err error) {
	rest := strings.TrimLeft(text, "<>=^~")
	t.op = text[:len(text)-len(rest)]
	switch t.op {
	case "=", ">", ">=", "<", "<=", "^", "~":
	case "":
		return t, fmt.Errorf("%q has no comparison: write %q for that version alone, or %q for what is compatible with it", clip(text), "="+clip(rest), "^"+clip(rest))
	default:
		return t, fmt.Errorf("%q is no comparison: use ^, ~, >=, >, <=, < or =", clip(t.op))
	}
	if t.v, t.parts, err = parseVersion(strings.TrimSpace(rest)); err != nil {
		return t, fmt.Errorf("%q: %w", clip(text), err)
	}
	return t, nil
}

// String is the range as written, tidied.
func (r Range) String() string { return r.text }

// Includes says whether a version is in the range. A text that is no version of
// semver.org is in "*" alone.
func (r Range) Includes(text string) bool {
	if len(r.terms) == 0 {
		return true
	}
	v, parts, err := parseVersion(text)
	if err != nil || parts != 3 {
		return false
	}
	named := len(v.pre) == 0
	for _, t := range r.terms {
		if !t.holds(v) {
			return false
		}
		named = named || len(t.v.pre) > 0 && t.v.number == v.number
	}
	return named
}

func (t term) holds(v version) bool {
	c := v.compare(t.v)
	below := func(n int) bool { return v.compare(t.v.after(n)) < 0 }
	switch t.op {
	case ">=":
		return c >= 0
	case "<":
		return c < 0
	case ">":
		return t.parts == 3 && c > 0 || t.parts < 3 && c > 0 && !below(t.parts)
	case "<=":
		return t.parts == 3 && c <= 0 || t.parts < 3 && below(t.parts)
	case "~":
		return c >= 0 && below(min(t.parts, 2))
	case "^":
		return c >= 0 && below(t.compatible())
	default: // "="
		return t.parts == 3 && c == 0 || t.parts < 3 && c >= 0 && below(t.parts)
	}
}

// compatible is how many numbers what is compatible shares: to the first that is
// not zero.
func (t term) compatible() int {
	for i := range t.parts {
		if t.v.number[i] > 0 {
			return i + 1
		}
	}
	return t.parts
}
