package edit

import (
	"slices"
)

// Amend adds what another file says: values replace, lists gain what they lack,
// and tables of an array are appended, but for one that has the same value of
// the key named by identity, whose other keys are set.
func (f *File) Amend(change *File, identity string) {
	for _, t := range change.tables() {
		if t.list {
			f.appendTable(t, change.nodes[t.first:t.end], identity)
			continue
		}
		for _, n := range change.nodes[t.first:t.end] {
			if n.kind == pair {
				f.set(full(t.path, n.path), n)
			}
		}
	}
}

// set makes the value at a path what n says.
func (f *File) set(path []string, n *node) {
	have := f.find(path)
	switch {
	case have == nil:
		f.insert(path, n)
	case have.open == '[' && n.val.open == '[':
		have.join(n.val)
	default:
		*have = n.val
	}
}

// join adds to a list what it lacks, on a line of its own if it has lines.
func (v *value) join(more value) {
	var added []part
	for _, one := range more.parts {
		if one.kind == element && !slices.ContainsFunc(v.parts, func(p part) bool { return p.kind == element && same(p.val, one.val) }) {
			added = append(added, one)
		}
	}
	if len(added) == 0 {
		return
	}
	if slices.ContainsFunc(v.parts, func(p part) bool { return p.kind != element }) {
		if last := v.parts[len(v.parts)-1].kind; last != newline {
			v.parts = append(v.parts, part{kind: newline})
		}
		added = append(added, part{kind: newline})
	}
	v.parts = append(v.parts, added...)
}

// insert adds a key that the file does not have: to its table, to the inline
// table that is it, beside dotted keys of the same table, or in a new table.
func (f *File) insert(path []string, n *node) {
	parent := path[:len(path)-1]
	for len(parent) > 0 {
		if v := f.find(parent); v != nil && v.open == '{' {
			rest := path[len(parent):]
			v.parts = append(v.parts, part{text: written(rest), path: rest, val: n.val})
			return
		}
		for _, t := range f.tables() {
			if !t.list && slices.Equal(t.path, parent) {
				rest := path[len(parent):]
				f.addTo(t, &node{kind: pair, text: written(rest), path: rest, val: n.val, note: n.note})
				return
			}
		}
		if t, ok := f.dotted(parent); ok {
			rest := path[len(t.path):]
			f.addTo(t, &node{kind: pair, text: written(rest), path: rest, val: n.val, note: n.note})
			return
		}
		parent = parent[:len(parent)-1]
	}
	if len(path) == 1 {
		f.addTo(f.tables()[0], n)
		return
	}
	// What a person would write: the table that the key is in, and the rest as
	// a dotted key where the change has it so.
	cut := len(path) - len(n.path)
	if cut == 0 {
		cut = 1
	}
	rest := path[cut:]
	f.nodes = append(f.nodes, &node{}, &node{kind: header, text: written(path[:cut]), path: path[:cut]},
		&node{kind: pair, text: written(rest), path: rest, val: n.val, note: n.note})
}

// dotted finds a table in which keys of another one are written with dots.
func (f *File) dotted(parent []string) (table, bool) {
	for _, t := range f.tables() {
		for _, n := range f.nodes[t.first:t.end] {
			if p := full(t.path, n.path); !t.list && n.kind == pair && len(p) > len(parent) && slices.Equal(p[:len(parent)], parent) && len(t.path) < len(parent) {
				return t, true
			}
		}
	}
	return table{}, false
}

// addTo adds a statement behind the last key of a table.
func (f *File) addTo(t table, n *node) {
	at := t.first
	for i := t.first; i < t.end; i++ {
		if f.nodes[i].kind == pair {
			at = i + 1
		}
	}
	f.nodes = slices.Insert(f.nodes, at, n)
}

// appendTable adds one table of an array.
func (f *File) appendTable(t table, body []*node, identity string) {
	pairs := slices.DeleteFunc(slices.Clone(body), func(n *node) bool { return n.kind == blank })
	if f.merge(t, pairs, identity) {
		return
	}
	// An array that is written as a list takes an inline table.
	if v := f.find(t.path); v != nil && v.open == '[' {
		one := value{open: '{'}
		for _, n := range pairs {
			if n.kind == pair {
				one.parts = append(one.parts, part{text: n.text, path: n.path, val: n.val})
			}
		}
		v.join(value{open: '[', parts: []part{{val: one}}})
		return
	}
	f.nodes = append(f.nodes, &node{}, &node{kind: header, text: written(t.path), path: t.path, list: true})
	f.nodes = append(f.nodes, pairs...)
}

// merge finds the table of the array that is the same, if there is one. Without
// an identity that is one with the same keys and values.
func (f *File) merge(t table, pairs []*node, identity string) bool {
	of := func(nodes []*node, key string) *value {
		for _, n := range nodes {
			if n.kind == pair && len(n.path) == 1 && n.path[0] == key {
				return &n.val
			}
		}
		return nil
	}
	id := of(pairs, identity)
	for _, have := range f.tables() {
		if !have.list || !slices.Equal(have.path, t.path) {
			continue
		}
		nodes := f.nodes[have.first:have.end]
		if id == nil {
			if slices.EqualFunc(onlyPairs(nodes), onlyPairs(pairs), func(a, b *node) bool { return a.text == b.text && same(a.val, b.val) }) {
				return true
			}
			continue
		}
		if v := of(nodes, identity); v == nil || !same(*v, *id) {
			continue
		}
		for _, n := range onlyPairs(pairs) {
			if v := of(nodes, n.text); v != nil {
				*v = n.val
				continue
			}
			f.addTo(have, n)
			have.end++
			nodes = f.nodes[have.first:have.end]
		}
		return true
	}
	return false
}

func onlyPairs(nodes []*node) []*node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *node) bool { return n.kind != pair })
}
