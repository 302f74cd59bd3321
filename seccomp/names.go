package seccomp

import (
	"errors"
	"fmt"
	bitops "math/bits"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// slotCount is how many slots the generated table has in which a call's number
// is found by its name: open addresses, each a number and one, 0 for none. It is
// a power of two, and more than twice what is in it, so that a name that is none
// soon meets a slot without a number. Made ahead, it costs a program nothing but
// the names that it asks for; so do the members of the groups.
const slotCount = 1024

var _ [slotCount - 2*len(table)]struct{} // fails to compile where it has not

// slot is where the search for a name begins: FNV-1a.
func slot(name string) uint32 {
	h := uint32(2166136261)
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	return (h ^ h>>16) % slotCount
}

// Number returns the native number of a call by the kernel's name for it; ok
// is false if the table has no such call.
func Number(name string) (nr int, ok bool) {
	for at := slot(name); slots[at] != 0; at = (at + 1) % slotCount {
		if nr := int(slots[at]) - 1; table[nr].name == name {
			return nr, true
		}
	}
	return 0, false
}

// Name returns the kernel's name of a native number, or "syscall_N" if the
// table does not know it.
func Name(nr int) string {
	if Known(nr) {
		return table[nr].name
	}
	return "syscall_" + strconv.Itoa(nr)
}

// Known tells whether the table has a call of that number. A number that it
// does not have is answered ENOSYS by every program.
func Known(nr int) bool {
	return nr >= 0 && nr < len(table) && table[nr].name != ""
}

// Since returns the kernel release that a call came in, such as "5.6"; "2.6"
// stands for every release up to that one, and "" for a call that the table
// does not know.
func Since(name string) string {
	nr, ok := Number(name)
	if !ok {
		return ""
	}
	return table[nr].since
}

// Range is a contiguous run of numbers, both ends in it.
type Range struct{ First, Last int }

// KnownRanges returns the runs of numbers that the table has, ascending.
func KnownRanges() []Range {
	var out []Range
	for nr := range table {
		switch {
		case !Known(nr):
		case len(out) > 0 && out[len(out)-1].Last == nr-1:
			out[len(out)-1].Last = nr
		default:
			out = append(out, Range{nr, nr})
		}
	}
	return out
}

// Group is a named set of calls, for reference lists.
type Group struct {
	Name  string `json:"name"`
	About string `json:"about"`
	// Calls are all members, groups expanded, sorted.
	Calls []string `json:"calls"`
}

// Groups returns every group that Expand knows, sorted by name.
func Groups() []Group {
	out := make([]Group, 0, len(groups)+1)
	for _, g := range groups {
		calls, err := Expand([]string{g.name})
		if err != nil { // a test expands every group
			panic(err)
		}
		out = append(out, Group{g.name, g.about, calls})
	}
	known, err := Expand([]string{knownGroup})
	if err != nil {
		panic(err)
	}
	out = append(out, Group{knownGroup, "every call that the table knows", known})
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// knownGroup is the group of all calls of the table.
const knownGroup = "@known"

// UnknownNameError is a name that is neither a call nor a group.
type UnknownNameError struct {
	Name string
	// Nearest is the known name that is closest to it, or "" if none is close.
	Nearest string
}

func (e *UnknownNameError) Error() string {
	what := "system call"
	if strings.HasPrefix(e.Name, "@") {
		what = "group of system calls"
	}
	if e.Nearest == "" {
		return fmt.Sprintf("unknown %s %.60q", what, e.Name)
	}
	return fmt.Sprintf("unknown %s %.60q; the nearest name is %q", what, e.Name, e.Nearest)
}

// Expand returns the calls that names stand for, groups expanded, sorted and
// each once. A name that is neither is an error, never ignored; every such
// name has its own *UnknownNameError in the joined error.
func Expand(names []string) ([]string, error) {
	set, err := expand(names)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, set.Len())
	for nr := range ByName {
		if set.in(nr) {
			out = append(out, table[nr].name)
		}
	}
	return out, nil
}

// TableSize is above the number of every call that the table has.
const TableSize = len(table)

// Set is a set of calls of the table.
type Set = callSet

// Members are the calls that a name stands for: one, or those of a group. The
// set is empty for a name that is neither.
func Members(name string) Set {
	var set callSet
	if set.add(name) != nil {
		return callSet{}
	}
	return set
}

// ByName yields the number of every call of the table in the order of the names.
func ByName(yield func(nr int) bool) {
	for _, nr := range byName {
		if !yield(int(nr)) {
			return
		}
	}
}

// callSet is a set of calls of the table, a bit for each number.
type callSet [(len(table) + 63) / 64]uint64

func (s *callSet) put(nr int) { s[nr/64] |= 1 << (nr % 64) }

func (s *callSet) in(nr int) bool { return s[nr/64]>>(nr%64)&1 != 0 }

// Len is how many calls there are.
func (s *callSet) Len() int {
	n := 0
	for _, word := range s {
		n += bitops.OnesCount64(word)
	}
	return n
}

// Each yields the numbers of the calls, ascending.
func (s *callSet) Each(yield func(nr int) bool) {
	for i, word := range s {
		for ; word != 0; word &= word - 1 {
			if !yield(64*i + bitops.TrailingZeros64(word)) {
				return
			}
		}
	}
}

// Has tells whether a call is in the set.
func (s *callSet) Has(name string) bool {
	nr, ok := Number(name)
	return ok && s.in(nr)
}

// expand is Expand as a set.
func expand(names []string) (set callSet, err error) {
	var errs []error
	for _, n := range names {
		if err := set.add(n); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return callSet{}, errors.Join(errs...)
	}
	return set, nil
}

// add adds one name. An unknown one is an error and adds nothing.
func (s *callSet) add(name string) error {
	if nr, ok := Number(name); ok {
		s.put(nr)
		return nil
	}
	if name == knownGroup {
		for nr := range table {
			if Known(nr) {
				s.put(nr)
			}
		}
		return nil
	}
	i := slices.IndexFunc(groups[:], func(g group) bool { return g.name == name })
	if i < 0 {
		return &UnknownNameError{Name: name, Nearest: nearest(name, allNames())}
	}
	for word, bits := range members[i] {
		s[word] |= bits
	}
	return nil
}

// allNames are all names that Expand knows, in a fixed order.
func allNames() []string {
	out := make([]string, 0, len(table)+len(groups)+1)
	for _, g := range groups {
		out = append(out, g.name)
	}
	out = append(out, knownGroup)
	for nr := range table {
		if Known(nr) {
			out = append(out, table[nr].name)
		}
	}
	return out
}

// nearest returns the candidate of the same kind (group or call) with the
// fewest edits to name, and of those the one with the longest common beginning;
// "" if every one is further than a third of the letters (at least 2).
func nearest(name string, candidates []string) string {
	if len(name) > 60 { // a name of no call; bounds the work
		return ""
	}
	name = strings.ToLower(name)
	best, found := max(2, len(name)/3)+1, ""
	for _, c := range candidates {
		if strings.HasPrefix(c, "@") != strings.HasPrefix(name, "@") {
			continue
		}
		d := edits(name, c)
		if d < best || d == best && found != "" && common(name, c) > common(name, found) {
			best, found = d, c
		}
	}
	return found
}

// common is how many bytes two names begin with in common.
func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// edits is the Levenshtein distance in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
