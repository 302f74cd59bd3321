package violation

import (
	"slices"
	"strings"
)

// Changes are the changes of several violations as one piece of TOML, in which
// no table is written twice and nothing is said twice; empty if there are none.
// Where two set the same value, the later one stands.
func Changes(violations []Violation) string {
	var tables []*changeTable
	var arrays []string
	for _, v := range violations {
		change := strings.TrimSpace(v.Change)
		switch {
		case change == "":
		case strings.HasPrefix(change, "[["):
			if !slices.Contains(arrays, change) {
				arrays = append(arrays, change)
			}
		default:
			tables = mergeTable(tables, strings.Split(change, "\n"))
		}
	}
	var parts []string
	for _, t := range tables {
		parts = append(parts, t.String())
	}
	if parts = append(parts, arrays...); len(parts) == 0 {
		return ""
	}
	// A change may have been read from a file.
	return EscapeLines(strings.Join(parts, "\n\n"), 2*maxText+maxPath) + "\n"
}

// changeTable is one table with its keys, in the order of their first use.
type changeTable struct {
	header string
	keys   []string
	values map[string]string
}

// mergeTable adds a change, header first, to the table of the same header.
func mergeTable(tables []*changeTable, change []string) []*changeTable {
	i := slices.IndexFunc(tables, func(t *changeTable) bool { return t.header == change[0] })
	if i < 0 {
		i = len(tables)
		tables = append(tables, &changeTable{header: change[0], values: map[string]string{}})
	}
	for _, line := range change[1:] {
		key, value, _ := strings.Cut(line, " = ")
		tables[i].set(key, value)
	}
	return tables
}

// set sets a value, or adds to it if it is a list.
func (t *changeTable) set(key, value string) {
	had, ok := t.values[key]
	if !ok {
		t.keys = append(t.keys, key)
	}
	if ok && strings.HasPrefix(value, "[") && strings.HasPrefix(had, "[") {
		value = joinLists(had, value)
	}
	t.values[key] = value
}

// joinLists joins two lists of plain words: ["a"] and ["b"] is ["a", "b"].
func joinLists(a, b string) string {
	var words []string
	for _, list := range []string{a, b} {
		for word := range strings.SplitSeq(strings.Trim(list, "[]"), ", ") {
			if !slices.Contains(words, word) {
				words = append(words, word)
			}
		}
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// String writes the table as TOML.
func (t *changeTable) String() string {
	lines := []string{t.header}
	for _, key := range t.keys {
		lines = append(lines, key+" = "+t.values[key])
	}
	return strings.Join(lines, "\n")
}
