package strict

import (
	"reflect"
	"strings"
)

// Schema gives the JSON Schema (2020-12) of a file that Decode reads into a
// struct of this type, for editors: every key with its kind, the words that it
// may be, and nothing else. Describe is asked for the sentence of each key, dotted
// as in Keys; it may give "". What only the struct's owner can judge, such as a
// bound, is not in it: a file that the schema refuses Decode refuses too.
func Schema(into any, describe func(key string) string) map[string]any {
	s := &schemer{describe: describe}
	out := s.object(structOf(reflect.TypeOf(into)), "")
	out["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	return out
}

type schemer struct{ describe func(string) string }

// object is a table.
func (s *schemer) object(t reflect.Type, path string) map[string]any {
	return s.table(schemaOf(t), t, path)
}

func (s *schemer) table(n *node, t reflect.Type, path string) map[string]any {
	properties := map[string]any{}
	for _, kid := range n.kids {
		name := kid.name
		full := join(path, name)
		if kid.field == nil {
			properties[name] = s.table(kid, t, full)
			continue
		}
		one := s.value(t.FieldByIndex(kid.field).Type, kid.tag, full)
		if text := s.describe(full); text != "" {
			one["description"] = text
		}
		properties[name] = one
	}
	return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
}

// patterns are the written forms of types that read themselves, by type.
var patterns = map[reflect.Type]map[string]any{
	reflect.TypeFor[Size]():     oneOfSchema("integer", `^(max|[0-9]+(\.[0-9]+)?[KMGT]|[0-9]+)$`),
	reflect.TypeFor[Count]():    oneOfSchema("integer", `^max$`),
	reflect.TypeFor[Percent]():  {"type": "string", "pattern": `^(max|[0-9]+(\.[0-9]+)?%)$`},
	reflect.TypeFor[Duration](): {"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$`},
	reflect.TypeFor[Budget]():   {"type": "string", "pattern": `^[0-9]{1,6}/(s|min|h|d)$`},
}

func oneOfSchema(kind, pattern string) map[string]any {
	return map[string]any{"anyOf": []any{map[string]any{"type": kind, "minimum": 0}, map[string]any{"type": "string", "pattern": pattern}}}
}

func (s *schemer) value(t reflect.Type, tag reflect.StructTag, path string) map[string]any {
	if why := tag.Get("refuse"); why != "" {
		return map[string]any{"not": map[string]any{}, "description": why}
	}
	t = structOf(t)
	if known, ok := patterns[t]; ok {
		out := map[string]any{}
		for key, v := range known {
			out[key] = v
		}
		return out
	}
	if isParser(t) { // paths, accesses: a word or a list of them
		word := map[string]any{"type": "string"}
		return map[string]any{"anyOf": []any{word, map[string]any{"type": "array", "items": word, "minItems": 1}}}
	}
	switch t.Kind() {
	case reflect.String:
		out := map[string]any{"type": "string"}
		if words := strings.Fields(tag.Get("oneof")); len(words) > 0 {
			out["enum"] = words
		}
		return out
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": s.value(t.Elem(), tag, path+"[]")}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.value(t.Elem(), tag, path+".NAME")}
	case reflect.Struct:
		object := s.object(t, path)
		if short := shortOf(t); short != "" {
			f, _ := t.FieldByName(short)
			return map[string]any{"anyOf": []any{s.value(f.Type, f.Tag, path), object}}
		}
		return object
	case reflect.Interface:
		return map[string]any{}
	default:
		return map[string]any{"type": "integer"}
	}
}
