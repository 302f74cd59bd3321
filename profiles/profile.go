// Package profiles is the language in which an operator says what a plugin may
// do: TOML files that extend each other, and Resolve, which brings profile,
// manifest and the host's ceiling together into one plan. docs/profiles.md is
// the reference.
//
// A profile is layers, one for each file, applied from the most basic (the
// defaults, then what it extends, in the order written) to the file itself.
// Scalars override, lists add, `remove` takes away.
package profiles

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/cordonhq/cordon/profiles/strict"
)

// The bounds of inheritance.
const (
	maxExtends = 8  // how deep profiles may extend each other
	maxLayers  = 32 // how many files one profile may be made of
)

//go:embed *.toml
var files embed.FS

// defaultsName is the layer below every profile; it is no profile by itself.
const defaultsName = "defaults"

// Profile is what an operator allows: one file and everything that it extends,
// parsed and checked. It cannot be invalid and does not change.
type Profile struct {
	name   string
	layers []*layer // the most basic first
	from   *origins // nil of one that was changed since it was read
}

// origins are what a profile was read from.
type origins struct {
	path  string  // where its own name led; "" is built in
	found []found // where the names led that its files extend
	files []fileRead
}

type found struct{ name, dir, path string }

type fileRead struct {
	path string
	data []byte
}

// layer is one file.
type layer struct {
	name string
	doc  document
	pos  *strict.Positions
}

// Name is "builtin:strict" for a built-in profile, else the file's name
// without directory and ".toml".
func (p *Profile) Name() string { return p.name }

// Bases are the names of everything that the profile extends, and its own
// last.
func (p *Profile) Bases() []string {
	out := make([]string, 0, len(p.layers))
	for _, l := range p.layers[1:] { // the defaults are below all
		out = append(out, l.name)
	}
	return out
}

// Description is the profile's own sentence about itself; may be empty.
func (p *Profile) Description() string {
	if d := p.layers[len(p.layers)-1].doc.Description; d != nil {
		return *d
	}
	return ""
}

// BuiltinNames are the built-in profiles, sorted.
func BuiltinNames() []string {
	entries, err := files.ReadDir(".")
	if err != nil { // embedded, so it is there
		panic(err)
	}
	var names []string
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".toml"); name != defaultsName {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// Keys lists every key of a profile.
func Keys() []string { return strict.Keys(document{}) }

// Builtin gives a built-in profile by its name, with or without "builtin:".
func Builtin(name string) (*Profile, error) {
	name = strings.TrimPrefix(name, "builtin:")
	l := &loader{}
	return l.profile(func() error { return l.builtin(name) }, "builtin:"+name)
}

// LoadProfile reads a profile from a file of the host, and what it extends
// from the same directory. The error is a strict.Errors, or says that a file
// cannot be read.
func LoadProfile(path string) (*Profile, error) {
	l := &loader{}
	p, err := l.profile(func() error { return l.file(path) }, nameOf(path))
	if err == nil {
		p.from.path = path
	}
	return p, err
}

// ParseProfile reads a profile from memory; file is for messages, and its
// directory is where profiles that it extends are looked for.
func ParseProfile(file string, data []byte) (*Profile, error) {
	l := &loader{}
	return l.profile(func() error { return l.parse(nameOf(file), file, data) }, nameOf(file))
}

// Find gives a profile as people name it: "builtin:NAME" is built-in, a name
// with a slash or ending in ".toml" is a path, and every other name is
// NAME.toml in dir or else a built-in one. As with systemd's units, what the
// operator wrote stands before what was shipped; Name tells the two apart.
func Find(nameOrPath, dir string) (*Profile, error) {
	path, err := locate(nameOrPath, dir)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return Builtin(nameOrPath)
	}
	return LoadProfile(path)
}

// Current says whether Find of the same name and directory would give the same
// profile again: the name still leads to the same place, and so does each that
// it extends, and every file of it reads as it did. It is a fraction of what
// reading the profile takes.
func (p *Profile) Current(nameOrPath, dir string) bool {
	if p.from == nil {
		return false
	}
	if path, err := locate(nameOrPath, dir); err != nil || path != p.from.path {
		return false
	}
	for _, f := range p.from.found {
		if path, err := locate(f.name, f.dir); err != nil || path != f.path {
			return false
		}
	}
	for _, f := range p.from.files {
		data, err := ReadBounded(f.path)
		if err != nil || !bytes.Equal(data, f.data) {
			return false
		}
	}
	return true
}

// FileOf gives the path of a profile as people name it. The error says that
// there is none, as for a built-in one.
func FileOf(nameOrPath, dir string) (string, error) {
	path, err := locate(nameOrPath, dir)
	if err == nil && path == "" {
		err = fmt.Errorf("cannot change %s: it is built in; write a profile that extends it", nameOrPath)
	}
	return path, err
}

// locate gives the path of a named profile, or "" if it is a built-in one.
func locate(name, dir string) (string, error) {
	if strings.HasPrefix(name, "builtin:") {
		return "", nil
	}
	if strings.Contains(name, "/") || strings.HasSuffix(name, ".toml") {
		return name, nil
	}
	path := filepath.Join(dir, name+".toml")
	_, err := os.Lstat(path)
	switch {
	case err == nil && dir != "" && name != "":
		return path, nil
	case isBuiltin(name):
		return "", nil
	}
	return "", unknownProfile(name, dir)
}

func unknownProfile(name, dir string) error {
	names := BuiltinNames()
	if found, err := filepath.Glob(filepath.Join(dir, "*.toml")); err == nil && dir != "" {
		for _, f := range found {
			names = append(names, nameOf(f))
		}
	}
	hint := "known are " + strings.Join(names[:min(len(names), 12)], ", ")
	if near := strict.Nearest(name, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return fmt.Errorf("cannot find profile %q: %s", name, hint)
}

func isBuiltin(name string) bool {
	for _, n := range BuiltinNames() {
		if n == name {
			return true
		}
	}
	return false
}

func nameOf(path string) string { return strings.TrimSuffix(filepath.Base(path), ".toml") }

// loader reads files depth first, what is extended before what extends it.
type loader struct {
	layers []*layer
	stack  []string        // what is being loaded now, to find cycles
	done   map[string]bool // what has been loaded: a second time adds nothing
	from   origins
	errs   strict.Errors
}

func (l *loader) profile(load func() error, name string) (*Profile, error) {
	l.done = map[string]bool{}
	if err := l.embedded(defaultsName); err != nil {
		return nil, err
	}
	if err := load(); err != nil {
		return nil, err
	}
	if len(l.errs) > 0 {
		return nil, l.errs
	}
	return &Profile{name: name, layers: l.layers, from: &l.from}, nil
}

func (l *loader) builtin(name string) error {
	if !isBuiltin(name) {
		return unknownProfile(name, "")
	}
	return l.embedded(name)
}

func (l *loader) embedded(name string) error {
	data, err := files.ReadFile(name + ".toml")
	if err != nil {
		return fmt.Errorf("cannot read built-in profile: %w", err)
	}
	return l.parse("builtin:"+name, "builtin:"+name, data)
}

func (l *loader) file(path string) error {
	data, err := ReadBounded(path)
	var at *os.PathError
	if errors.As(err, &at) {
		err = at.Err // the path is named once
	}
	if err != nil {
		return fmt.Errorf("cannot read profile %s: %w", path, err)
	}
	l.from.files = append(l.from.files, fileRead{path, data})
	return l.parse(nameOf(path), path, data)
}

// ReadBounded reads a regular file of at most strict.MaxFile bytes; one byte
// more is kept, so that the reader can say that it is too large.
func ReadBounded(path string) ([]byte, error) {
	info, err := os.Stat(path) // a fifo must not be opened: it would block
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, strict.MaxFile+1))
	return data, errors.Join(err, f.Close())
}

// parse adds one file, after what it extends. Mistakes are collected, so that
// every file's are reported at once.
func (l *loader) parse(name, file string, data []byte) error {
	if l.done[file] {
		return nil
	}
	one := &layer{name: name}
	pos, err := strict.DecodePositions(file, data, &one.doc)
	one.pos = pos
	c := &checker{pos: pos}
	c.document(&one.doc)
	l.stack = append(l.stack, file)
	for i, base := range one.doc.Extends {
		if err := l.extend(base, file); err != nil {
			c.fail(fmt.Sprintf("extends[%d]", i), "", "%v", err)
		}
	}
	l.stack = l.stack[:len(l.stack)-1]
	l.done[file] = true
	var all strict.Errors
	if errors.As(strict.Join(file, err, c.errs), &all) {
		l.errs = append(l.errs, all...)
	}
	l.layers = append(l.layers, one)
	return nil
}

// extend loads what file extends: "builtin:NAME", "NAME" (built-in, or
// NAME.toml beside the file) or a path, relative to the file.
func (l *loader) extend(base, file string) error {
	dir := filepath.Dir(file)
	builtin := strings.HasPrefix(file, "builtin:")
	if builtin {
		dir = ""
	}
	path, err := locate(base, dir)
	if err != nil {
		return err
	}
	l.from.found = append(l.from.found, found{base, dir, path})
	key, load := "builtin:"+strings.TrimPrefix(base, "builtin:"), func() error { return l.builtin(strings.TrimPrefix(base, "builtin:")) }
	if path != "" {
		if builtin {
			return errors.New("a built-in profile extends built-in ones only")
		}
		if !filepath.IsAbs(path) && strings.Contains(base, "/") || strings.HasSuffix(base, ".toml") && !filepath.IsAbs(path) {
			path = filepath.Join(dir, base)
		}
		path = filepath.Clean(path)
		key, load = path, func() error { return l.file(path) }
	}
	for i, open := range l.stack {
		if filepath.Clean(open) == key {
			return fmt.Errorf("profiles extend each other in a circle: %s", strings.Join(append(l.stack[i:], key), " -> "))
		}
	}
	if len(l.stack) >= maxExtends {
		return fmt.Errorf("profiles extend each other more than %d deep", maxExtends)
	}
	if len(l.layers) >= maxLayers {
		return fmt.Errorf("a profile is made of more than %d files", maxLayers)
	}
	return load()
}
