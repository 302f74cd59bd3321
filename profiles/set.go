package profiles

import (
	"errors"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles/strict"
)

// With gives the profile with single values said on top of it, each as
// KEY=VALUE: "resources.memory.max=256M". VALUE is TOML, or a bare word, or
// bare words with commas where the key has a list. The errors of all of them
// are reported at once. The profile itself does not change.
func (p *Profile) With(sets []string) (*Profile, error) {
	out := &Profile{name: p.name, layers: slices.Clone(p.layers)}
	var wrong strict.Errors
	for _, word := range sets {
		l, errs := setLayer(word)
		wrong = append(wrong, errs...)
		out.layers = append(out.layers, l)
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return out, nil
}

// setLayer is one KEY=VALUE as a file of its own. What VALUE may be is tried in
// turn; the first that the key takes is meant.
func setLayer(word string) (*layer, strict.Errors) {
	key, value, found := strings.Cut(word, "=")
	key = strings.TrimSpace(key)
	source := "--set " + clip(word)
	fail := func(text string) strict.Errors { return strict.Errors{{File: source, Msg: text}} }
	if !found || key == "" {
		return nil, fail("expected KEY=VALUE, such as resources.memory.max=256M")
	}
	if strings.ContainsAny(key, "\r\n[]{}#=") {
		return nil, fail("expected a key such as resources.memory.max before the '='")
	}
	if table, _, _ := strings.Cut(key, "."); table == "extends" || table == "description" {
		return nil, fail(table + " belongs to a file; name another profile instead")
	}
	var first strict.Errors
	for _, candidate := range readings(value) {
		l, errs := parseSet(source, key, candidate)
		if errs == nil {
			return l, nil
		}
		if first == nil || noTOML(first) || insideList(errs) {
			first = errs
		}
	}
	return nil, first
}

// readings are what a bare value may stand for, the likeliest first.
func readings(value string) []string {
	var out []string
	if !strings.ContainsAny(value, "\r\n") && (!strings.Contains(value, "#") || strings.ContainsAny(value[:1], `"'[{`)) {
		out = append(out, value)
	}
	out = append(out, quote(value))
	if !strings.ContainsAny(value, `"'[{`) {
		words := strings.Split(value, ",")
		for i := range words {
			words[i] = strings.TrimSpace(words[i])
		}
		out = append(out, quotes(words))
	}
	return out
}

// noTOML marks a value that is no TOML, so that another reading of it is what
// its writer has to be told about.
func noTOML(errs strict.Errors) bool { return errs[0].Key == "" }

// insideList says whether a reading as a list was right, and a word in it wrong.
func insideList(errs strict.Errors) bool { return strings.HasSuffix(errs[0].Key, "]") }

func parseSet(source, key, value string) (*layer, strict.Errors) {
	l := &layer{name: source}
	pos, err := strict.DecodePositions(source, []byte(key+" = "+value+"\n"), &l.doc)
	pos.Whole()
	l.pos = pos
	c := &checker{pos: pos}
	c.document(&l.doc)
	var all strict.Errors
	if !errors.As(strict.Join(source, err, c.errs), &all) {
		return l, nil
	}
	for _, one := range all { // a place in a word that was typed just now helps nobody
		one.Line, one.Column = 0, 0
	}
	return nil, all
}
