package profiles

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cordonhq/cordon/profiles/edit"
	"github.com/cordonhq/cordon/profiles/strict"
)

// Amend gives the text of a profile with a change said in it, such as cordon
// why --toml prints. Values replace, lists gain what they lack, and a grant of a
// path that the file grants already is made what the change says. A call that
// the change allows is taken off the file's own lists of what is denied, removed
// or answered by an errno, because these would win. Comments, and the order of
// lines, stay.
//
// What results is a profile without mistakes, or the error says what is wrong:
// with the file as it was, with the change, or with both together. Names are
// for messages; the file's directory is where what it extends is looked for.
func Amend(file string, data []byte, changeName string, change []byte) ([]byte, error) {
	if _, err := ParseProfile(file, data); err != nil {
		return nil, err
	}
	allows, err := changedCalls(changeName, change)
	if err != nil {
		return nil, err
	}
	have, err := edit.Parse(file, data)
	if err != nil {
		return nil, err
	}
	said, err := edit.Parse(changeName, change)
	if err != nil {
		return nil, err
	}
	for _, call := range allows {
		lift(have, call)
	}
	have.Amend(said, "path")
	out := []byte(have.String())
	if _, err := ParseProfile(file, out); err != nil {
		return nil, fmt.Errorf("cannot add the change to %s: %w", file, err)
	}
	return out, nil
}

// changedCalls reads a change as a profile of its own and gives the calls that
// it allows.
func changedCalls(name string, change []byte) ([]string, error) {
	var doc document
	pos, err := strict.DecodePositions(name, change, &doc)
	c := &checker{pos: pos}
	c.document(&doc)
	if len(doc.Extends) > 0 || doc.Description != nil {
		c.fail("extends", "", "a change does not say what a profile is or stands on")
	}
	if err := strict.Join(name, err, c.errs); err != nil {
		return nil, err
	}
	if len(pos.Keys()) == 0 {
		return nil, errors.New("cannot change anything: " + name + " says nothing")
	}
	var out []string
	add := func(names []string) {
		for _, n := range names {
			out = append(out, expanded(n)...)
		}
	}
	add(doc.Seccomp.Allow)
	for _, r := range doc.Seccomp.Rule {
		if r.Action != nil && *r.Action == "SCMP_ACT_ALLOW" {
			add(r.Names)
		}
	}
	return out, nil
}

// lift takes one call off the lists of a file that would win over an allow. Of
// a group the other members stay.
func lift(f *edit.File, call string) {
	for _, list := range []string{"deny", "remove"} {
		for _, word := range f.List("seccomp", list) {
			members := expanded(word)
			if !contains(members, call) {
				continue
			}
			rest := slices.DeleteFunc(slices.Clone(members), func(m string) bool { return m == call })
			f.Drop(word, rest, "seccomp", list)
		}
	}
	f.Delete("seccomp", "errno", call)
}

// Format gives a profile's text in one form; see edit.Format. A profile with
// mistakes is formatted too, as long as it is TOML.
func Format(file string, data []byte) ([]byte, error) { return edit.Format(file, data) }
