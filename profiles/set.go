package profiles

import (
	"errors"
	"fmt"
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
	var errs []error
	for _, word := range sets {
		l, err := setLayer(word)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out.layers = append(out.layers, l)
	}
	return out, errors.Join(errs...)
}

// setLayer is one KEY=VALUE as a file of its own. What VALUE may be is tried in
// turn; the first that the key takes is meant.
func setLayer(word string) (*layer, error) {
	key, value, found := strings.Cut(word, "=")
	key = strings.TrimSpace(key)
	source := "--set " + clip(word)
	if !found || key == "" {
		return nil, fmt.Errorf("%s: expected KEY=VALUE, such as resources.memory.max=256M", source)
	}
	if strings.ContainsAny(key, "\r\n[]{}#=") {
		return nil, fmt.Errorf("%s: expected a key such as resources.memory.max before the '='", source)
	}
	if table, _, _ := strings.Cut(key, "."); table == "extends" || table == "description" {
		return nil, fmt.Errorf("%s: %s belongs to a file; name another profile instead", source, table)
	}
	var first error
	for _, candidate := range readings(value) {
		l, err := parseSet(source, key, candidate)
		if err == nil {
			return l, nil
		}
		if first == nil || !isTOML(first) || insideList(err) {
			first = err
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

// syntaxError marks a value that is no TOML, so that another reading of it is
// what its writer has to be told about.
type syntaxError struct{ error }

// insideList says whether a reading as a list was right, and a word in it wrong.
func insideList(err error) bool {
	var all strict.Errors
	return errors.As(err, &all) && strings.HasSuffix(all[0].Key, "]")
}

func isTOML(err error) bool {
	var syntax syntaxError
	return !errors.As(err, &syntax)
}

func parseSet(source, key, value string) (*layer, error) {
	l := &layer{name: source}
	pos, err := strict.DecodePositions(source, []byte(key+" = "+value+"\n"), &l.doc)
	pos.Whole()
	l.pos = pos
	var broken strict.Errors
	if errors.As(err, &broken) && len(broken) > 0 && broken[0].Key == "" {
		return nil, syntaxError{fmt.Errorf("%s: %s", source, broken[0].Msg)}
	}
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
