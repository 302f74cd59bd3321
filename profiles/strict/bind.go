package strict

import (
	"fmt"
	"math"
	"reflect"
	"sort"
	"strings"
	"sync"
	"time"
)

// Parser is a type that reads its own TOML value: string, int64, float64,
// bool, []any or map[string]any. The error completes the sentence "expected".
type Parser interface {
	ParseTOML(v any) error
}

// decoder binds the library's generic tree to a struct. The tags it knows:
//
//	toml:"memory.max"    the key, dots make tables; "-" or none is no key
//	oneof:"no on-failure" the words that a string (or a list's strings) may be
//	short:"Action"       on a blank first field: a value that is no table goes to that field
//	refuse:"sentence"    the key is known and may not be used yet
//	aka:"source src"     what other programs call it, for the hint
type decoder struct {
	pos    *Positions
	errs   Errors
	schema *node
}

// node is one level of the declared keys: a field, or a table of more.
type node struct {
	name  string
	field []int
	tag   reflect.StructTag
	table reflect.Type // of the field, if it is a struct, which a Parser may be, too
	kids  []*node      // few: looking through them is quicker than making a map
	short *short       // of a struct: the field of a value that is no table
}

// short is a field, and what its tag says.
type short struct {
	field int
	tag   reflect.StructTag
}

// kid is the node of a key, nil if it is not declared.
func (n *node) kid(name string) *node {
	for _, k := range n.kids {
		if k.name == name {
			return k
		}
	}
	return nil
}

// schemas remembers schemaOf's answers: a file has many tables of one type, and
// a program few types.
var schemas sync.Map // reflect.Type -> *node

// schemaOf gives the declared keys of a struct type.
func schemaOf(t reflect.Type) *node {
	if known, ok := schemas.Load(t); ok {
		return known.(*node) //nolint:forcetypeassert // nothing else is stored
	}
	root := &node{kids: make([]*node, 0, t.NumField())}
	root.add(t, nil)
	if name := shortOf(t); name != "" {
		f, _ := t.FieldByName(name)
		root.short = &short{f.Index[0], f.Tag}
	}
	schemas.Store(t, root)
	return root
}

func (n *node) add(t reflect.Type, index []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("toml")
		if name == "-" || name == "" && !f.Anonymous {
			continue
		}
		at := append(index[:len(index):len(index)], i)
		if name == "" {
			n.add(f.Type, at)
			continue
		}
		here := n
		for part := range strings.SplitSeq(name, ".") {
			next := here.kid(part)
			if next == nil {
				next = &node{name: part}
				here.kids = append(here.kids, next)
			}
			here = next
		}
		here.field, here.tag = at, f.Tag
		if ft := structOf(f.Type); ft.Kind() == reflect.Struct {
			here.table = ft
		}
	}
}

// names lists the keys below a node, dotted, sorted.
func (n *node) names() []string {
	var out []string
	for _, kid := range n.kids {
		if kid.field != nil {
			out = append(out, kid.name)
			continue
		}
		for _, below := range kid.names() {
			out = append(out, kid.name+"."+below)
		}
	}
	sort.Strings(out)
	return out
}

// Keys lists every key that a struct declares, dotted and sorted: tables first
// level by level ("files[].path", "environment.set.NAME").
func Keys(into any) []string {
	var out []string
	collectKeys(structOf(reflect.TypeOf(into)), "", &out)
	sort.Strings(out)
	return out
}

func structOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

func collectKeys(t reflect.Type, prefix string, out *[]string) {
	root := schemaOf(t)
	var walk func(n *node, path string)
	walk = func(n *node, path string) {
		for _, kid := range n.kids {
			full := join(path, kid.name)
			if kid.field == nil {
				walk(kid, full)
				continue
			}
			keysOfField(t.FieldByIndex(kid.field).Type, full, out)
		}
	}
	walk(root, prefix)
}

func keysOfField(t reflect.Type, path string, out *[]string) {
	t = structOf(t)
	switch {
	case isParser(t):
	case t.Kind() == reflect.Struct:
		collectKeys(t, path, out)
		if t.NumField() == 0 || shortOf(t) == "" {
			return
		}
	case t.Kind() == reflect.Map:
		keysOfField(t.Elem(), path+".NAME", out)
		return
	case t.Kind() == reflect.Slice && structOf(t.Elem()).Kind() == reflect.Struct && !isParser(t.Elem()):
		collectKeys(structOf(t.Elem()), path+"[]", out)
		return
	}
	*out = append(*out, path)
}

func isParser(t reflect.Type) bool {
	return reflect.PointerTo(structOf(t)).Implements(reflect.TypeFor[Parser]())
}

// shortOf names the field that takes a value which is no table.
func shortOf(t reflect.Type) string {
	if t.NumField() == 0 || t.Field(0).Name != "_" {
		return ""
	}
	return t.Field(0).Tag.Get("short")
}

func (d *decoder) root(into any, tree map[string]any) {
	rv := reflect.ValueOf(into)
	if rv.Kind() != reflect.Pointer || rv.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("strict: Decode needs a pointer to a struct, not %T", into))
	}
	d.schema = schemaOf(rv.Elem().Type())
	d.table(d.schema, rv.Elem(), tree, "")
}

// fail reports an error at the value of a key; atKey at the key itself.
func (d *decoder) fail(path, hint, format string, args ...any) {
	d.errs = append(d.errs, d.pos.Errorf(path, hint, format, args...))
}

func (d *decoder) failKey(path, hint, format string, args ...any) {
	e := d.pos.Errorf(path, hint, format, args...)
	if m, ok := d.pos.find(path); ok {
		e.Line, e.Column = d.pos.place(int(m.key))
	}
	d.errs = append(d.errs, e)
}

// table binds m to the fields of the struct rv that n declares.
func (d *decoder) table(n *node, rv reflect.Value, m map[string]any, path string) {
	for _, key := range sortedKeys(m) {
		full := join(path, key)
		kid := n.kid(key)
		switch {
		case kid == nil:
			d.unknown(n, key, m[key], full)
		case kid.field != nil:
			d.value(rv.FieldByIndex(kid.field), m[key], full, kid.tag)
		default:
			below, ok := m[key].(map[string]any)
			if !ok {
				d.failKey(full, "", "expected one of %s, got %s", list(prefixed(key, kid.names())), kindOf(m[key]))
				continue
			}
			d.table(kid, rv, below, full)
		}
	}
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func prefixed(key string, names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = key + "." + name
	}
	return out
}

func list(names []string) string {
	const most = 8
	quoted := make([]string, 0, most+1)
	for i, name := range names {
		if i == most && len(names) > most+1 {
			quoted = append(quoted, fmt.Sprintf("%d more", len(names)-most))
			break
		}
		quoted = append(quoted, fmt.Sprintf("%q", name))
	}
	return strings.Join(quoted, ", ")
}

// unknown reports a key that is not declared, with the one that was meant. A
// table of unknown keys ("memory = {...}") is looked into for dotted ones.
func (d *decoder) unknown(n *node, key string, v any, path string) {
	names := n.names()
	if below, ok := v.(map[string]any); ok && len(below) > 0 {
		for _, sub := range sortedKeys(below) {
			if near := Nearest(key+"."+sub, names); near != "" && strings.Contains(near, ".") {
				d.failKey(join(path, sub), spelling(key+"."+sub, near), "unknown key")
				return
			}
			if at := d.elsewhere(key+"."+sub, path); at != "" {
				d.failKey(join(path, sub), at, "unknown key")
				return
			}
		}
	}
	d.failKey(path, d.meant(n, key, names, path), "unknown key")
}

func (d *decoder) meant(n *node, key string, names []string, path string) string {
	for _, name := range names {
		if kid := n.kid(name); kid != nil && contains(strings.Fields(kid.tag.Get("aka")), strings.ToLower(key)) {
			return "here it is called " + name
		}
	}
	if near := Nearest(key, names); near != "" {
		return spelling(key, near)
	}
	if at := d.elsewhere(key, path); at != "" {
		return at
	}
	return "expected one of " + list(names)
}

// spelling is the hint for a near name.
func spelling(key, near string) string {
	if squash(key) == squash(near) {
		return fmt.Sprintf("the spelling here is %s", near)
	}
	return fmt.Sprintf("did you mean %q?", near)
}

// elsewhere finds a key of that name in another table of the file.
func (d *decoder) elsewhere(key, path string) string {
	for _, name := range d.schema.names() {
		kid := d.schema.kid(name)
		if kid == nil || kid.table == nil || isParser(kid.table) || strings.HasPrefix(path, name+".") {
			continue
		}
		for _, k := range schemaOf(kid.table).names() {
			if squash(k) == squash(key) {
				return fmt.Sprintf("it belongs in [%s], as %s", name, k)
			}
		}
	}
	return ""
}

// value binds one value to one field.
func (d *decoder) value(rv reflect.Value, v any, path string, tag reflect.StructTag) {
	if why := tag.Get("refuse"); why != "" {
		d.failKey(path, "", "%s", why)
		return
	}
	if rv.Kind() == reflect.Pointer {
		d.pointer(rv, v, path, tag)
		return
	}
	if p, ok := parserOf(rv); ok {
		if err := p.ParseTOML(v); err != nil {
			d.fail(path, "", "expected %v, got %s", err, show(v))
		}
		return
	}
	switch rv.Kind() {
	case reflect.String:
		d.str(rv, v, path, tag)
	case reflect.Bool:
		b, ok := v.(bool)
		if !ok {
			d.fail(path, "", "expected true or false, got %s", show(v))
		}
		rv.SetBool(b)
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint64:
		d.integer(rv, v, path)
	case reflect.Slice:
		d.slice(rv, v, path, tag)
	case reflect.Struct:
		d.strct(rv, v, path, tag)
	case reflect.Map:
		d.mapping(rv, v, path, tag)
	default:
		panic(fmt.Sprintf("strict: cannot decode into %s", rv.Type()))
	}
}

// parserOf gives a value as a Parser. A type without methods is none, and those
// of this package are named, as asking the runtime takes longer than the rest.
func parserOf(rv reflect.Value) (Parser, bool) {
	if rv.Type().PkgPath() == "" { // string, []string ...
		return nil, false
	}
	at := rv.Addr()
	if at.Type().NumMethod() == 0 {
		return nil, false
	}
	switch p := at.Interface().(type) {
	case *Size:
		return p, true
	case *Count:
		return p, true
	case *Duration:
		return p, true
	case *Percent:
		return p, true
	case *Budget:
		return p, true
	case Parser:
		return p, true
	}
	return nil, false
}

// pointer leaves a wrong value nil, so that the caller does not judge it too; a
// table keeps what is right in it.
func (d *decoder) pointer(rv reflect.Value, v any, path string, tag reflect.StructTag) {
	before := len(d.errs)
	elem := reflect.New(rv.Type().Elem())
	d.value(elem.Elem(), v, path, tag)
	if len(d.errs) == before || elem.Elem().Kind() == reflect.Struct {
		rv.Set(elem)
	}
}

func (d *decoder) str(rv reflect.Value, v any, path string, tag reflect.StructTag) {
	words := strings.Fields(tag.Get("oneof"))
	s, ok := v.(string)
	switch {
	case !ok && len(words) > 0:
		d.fail(path, "", "expected %s, got %s", oneOf(words), show(v))
	case !ok:
		d.fail(path, "", "expected a string, got %s", show(v))
	case len(words) > 0 && !contains(words, s):
		hint := ""
		if near := Nearest(s, words); near != "" {
			hint = spelling(s, near)
		}
		d.fail(path, hint, "expected %s, got %s", oneOf(words), show(v))
	default:
		rv.SetString(s)
	}
}

// oneOf names the words that there are, in a sentence.
func oneOf(words []string) string {
	if len(words) == 1 {
		return fmt.Sprintf("%q, which is all there is", words[0])
	}
	return "one of " + list(words)
}

func contains(words []string, s string) bool {
	for _, w := range words {
		if w == s {
			return true
		}
	}
	return false
}

func (d *decoder) integer(rv reflect.Value, v any, path string) {
	n, ok := v.(int64)
	if !ok {
		d.fail(path, "", "expected a whole number, got %s", show(v))
		return
	}
	switch rv.Kind() {
	case reflect.Uint32:
		if n < 0 || n > math.MaxUint32 {
			d.fail(path, "", "expected a number from 0 to %d, got %d", uint32(math.MaxUint32), n)
			return
		}
		rv.SetUint(uint64(n))
	case reflect.Uint64:
		if n < 0 {
			d.fail(path, "", "expected a number of at least 0, got %d", n)
			return
		}
		rv.SetUint(uint64(n))
	default:
		rv.SetInt(n)
	}
}

func (d *decoder) slice(rv reflect.Value, v any, path string, tag reflect.StructTag) {
	var items []any
	switch v := v.(type) {
	case []any:
		items = v
	case []map[string]any:
		for _, m := range v {
			items = append(items, m)
		}
	default:
		elem := "[...]"
		if rv.Type().Elem().Kind() == reflect.String {
			elem = `["..."]`
		}
		d.fail(path, "", "expected a list %s, got %s", elem, show(v))
		return
	}
	if words, ok := stringsOf(items); ok && rv.Type() == reflect.TypeFor[[]string]() && tag.Get("oneof") == "" {
		rv.Set(reflect.ValueOf(words)) // as most lists are; nothing of it can be wrong
		return
	}
	out := reflect.MakeSlice(rv.Type(), len(items), len(items))
	for i, item := range items {
		d.value(out.Index(i), item, element(path, i), tag)
	}
	rv.Set(out)
}

func stringsOf(items []any) ([]string, bool) {
	words := make([]string, len(items))
	for i, item := range items {
		word, ok := item.(string)
		if !ok {
			return nil, false
		}
		words[i] = word
	}
	return words, true
}

func (d *decoder) strct(rv reflect.Value, v any, path string, tag reflect.StructTag) {
	n := schemaOf(rv.Type())
	if m, ok := v.(map[string]any); ok {
		d.table(n, rv, m, path)
		return
	}
	if n.short != nil {
		d.value(rv.Field(n.short.field), v, path, n.short.tag+" "+tag)
		return
	}
	d.fail(path, "", "expected a table with %s, got %s", list(n.names()), show(v))
}

func (d *decoder) mapping(rv reflect.Value, v any, path string, tag reflect.StructTag) {
	m, ok := v.(map[string]any)
	if !ok {
		d.fail(path, "", "expected a table, got %s", show(v))
		return
	}
	rv.Set(reflect.MakeMap(rv.Type()))
	for _, key := range sortedKeys(m) {
		elem := reflect.New(rv.Type().Elem()).Elem()
		d.value(elem, m[key], join(path, key), tag)
		rv.SetMapIndex(reflect.ValueOf(key), elem)
	}
}

// kindOf names the kind of a value, show the value itself where it is short.
func kindOf(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		return "a fraction"
	case bool:
		return "a boolean"
	case time.Time:
		return "a date"
	case []any, []map[string]any:
		return "a list"
	default:
		return "a table"
	}
}

func show(v any) string {
	switch v := v.(type) {
	case string:
		if len(v) > 40 {
			v = string([]rune(v)[:min(40, len([]rune(v)))]) + "..."
		}
		return fmt.Sprintf("%q", v)
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1e15 {
			return fmt.Sprintf("%.1f", v)
		}
		return fmt.Sprint(v)
	case int64, bool:
		return fmt.Sprint(v)
	default:
		return kindOf(v)
	}
}
