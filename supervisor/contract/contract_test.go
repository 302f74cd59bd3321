package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/manifest"
)

const greet = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","required":["name"],
	"properties":{"name":{"type":"string","minLength":1},"tags":{"type":"array","items":{"$ref":"#/$defs/tag"}}},
	"additionalProperties":false,"$defs":{"tag":{"type":"string"}}}`

func TestPathOfWhatBreaksTheContract(t *testing.T) {
	s, err := compile([]byte(greet))
	if err != nil {
		t.Fatal(err)
	}
	for doc, path := range map[string]string{
		`{"name":"Ada","tags":["a"]}`:        "ok",
		`{"name":"Ada","tags":["a",2]}`:      "/tags/1",
		`{"name":""}`:                        "/name",
		`{}`:                                 "",
		``:                                   "",
		`[]`:                                 "",
		`{"name":"Ada","a/b~":1}`:            "",
		`{"name":"Ada","tags":[1e99999999]}`: "",
	} {
		err := s.check(json.RawMessage(doc))
		var broken *Error
		switch {
		case path == "ok" && err != nil:
			t.Errorf("%s: %v", doc, err)
		case path != "ok" && (!errors.As(err, &broken) || broken.Path != path || broken.Msg == ""):
			t.Errorf("%s: got %#v, want an error at %q", doc, err, path)
		}
	}
}

func TestMessagesAreBounded(t *testing.T) {
	s, err := compile([]byte(`{"enum":["a"],"type":"string","pattern":"^a$"}`))
	if err != nil {
		t.Fatal(err)
	}
	doc, _ := json.Marshal(strings.Repeat("ü", 1<<20))
	if err := s.check(doc); err == nil || len(err.Error()) > 2*maxMessage {
		t.Errorf("%d bytes of words", len(err.Error()))
	}
}

// bomb has a short schema whose checking doubles with each line.
func bomb(lines int) string {
	var b strings.Builder
	b.WriteString(`{"$ref":"#/$defs/d0","$defs":{`)
	for i := range lines {
		fmt.Fprintf(&b, `"d%d":{"allOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]},`, i, i+1, i+1)
	}
	fmt.Fprintf(&b, `"d%d":{"type":"string"}}}`, lines)
	return b.String()
}

func TestSchemasOfStrangers(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(`"top secret"`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ schema, want string }{
		"a bomb of references":   {bomb(15), "too complex"},
		"a file":                 {`{"$ref":"file://` + secret + `"}`, "within the schema"},
		"a file by $id":          {`{"$id":"file:///etc/","$ref":"#/a"}`, "not supported"},
		"the net":                {`{"properties":{"a":{"$ref":"https://example.com/s"}}}`, "within the schema"},
		"a metaschema elsewhere": {`{"$schema":"https://example.com/s"}`, "2020-12"},
		"itself":                 {`{"properties":{"next":{"$ref":"#/properties/next"}}}`, "leads back to itself"},
		"itself from afar":       {`{"$ref":"#/$defs/a","$defs":{"a":{"items":{"$ref":"#/$defs/b"}},"b":{"not":{"$ref":"#/$defs/a"}}}}`, "leads back to itself"},
		"all of itself":          {`{"items":{"$ref":"#"}}`, "within the schema"},
		"nowhere":                {`{"$ref":"#/$defs/a"}`, "not there"},
		"nesting":                {strings.Repeat(`{"not":`, 100) + `{}` + strings.Repeat(`}`, 100), "nested deeper"},
		"a large one":            {`{"title":"` + strings.Repeat("x", maxSchema) + `"}`, "bytes"},
		"no schema":              {`{"type":"strnig"}`, "value must be one of"},
		"no JSON":                {`{"type":`, "invalid JSON"},
		"two values":             {`{} {}`, "more than one"},
		"a wrong pattern":        {`{"pattern":"("}`, "regex"},
		"a number to fill us":    {`{"maximum":1e999999999}`, "400 digits"},
	} {
		_, err := compile([]byte(c.schema))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "top secret") {
			t.Errorf("%s: tells a file: %v", name, err)
		}
	}
	if _, err := compile([]byte(bomb(3))); err != nil {
		t.Errorf("a small one of the same kind: %v", err)
	}
}

func TestWorkIsBounded(t *testing.T) {
	s, err := compile([]byte(greet))
	if err != nil {
		t.Fatal(err)
	}
	doc := `{"name":"a","tags":[` + strings.Repeat(`"",`, maxWork/s.cost) + `""]}`
	if err := s.check(json.RawMessage(doc)); err == nil || !strings.Contains(err.Error(), "can be checked") {
		t.Errorf("%v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "greet.json"), []byte(greet), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(dir, []manifest.Method{{Name: "greet", Params: "greet.json"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Params("greet", nil) == nil || c.Result("greet", nil) != nil || c.Params("other", nil) != nil {
		t.Error("only the parameters of greet have a contract")
	}
	for _, path := range []string{"missing.json", "../greet.json", "/etc/passwd"} {
		if _, err := Load(dir, []manifest.Method{{Name: "greet", Result: path}}); err == nil || !strings.Contains(err.Error(), "method greet") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if c, err := Load(dir, nil); c != nil || err != nil || c.Params("greet", nil) != nil {
		t.Errorf("without a contract: %v, %v", c, err)
	}
}

// BenchmarkMostWork is the dearest check that is let through.
func BenchmarkMostWork(b *testing.B) {
	s, err := compile([]byte(bomb(8)))
	if err != nil {
		b.Fatal(err)
	}
	doc := json.RawMessage(`"` + strings.Repeat("x", 1000) + `"`)
	b.Run("schema", func(b *testing.B) {
		for b.Loop() {
			_ = s.check(doc)
		}
	})
	if s, err = compile([]byte(greet)); err != nil {
		b.Fatal(err)
	}
	doc = json.RawMessage(`{"name":"a","tags":[` + strings.Repeat(`"",`, maxWork/s.cost-10) + `""]}`)
	b.Run("document", func(b *testing.B) {
		for b.Loop() {
			_ = s.check(doc)
		}
	})
}

// FuzzCompile: a stranger's schema is refused or compiled, within its bounds.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{greet, bomb(4), `{"$ref":"#/a","a":{}}`, `true`, `{"items":{"$ref":"#/items"}}`} {
		f.Add([]byte(s), []byte(`{"name":"a","tags":[1]}`))
	}
	f.Fuzz(func(t *testing.T, data, doc []byte) {
		s, err := compile(data)
		if err != nil {
			return
		}
		if s.cost > maxCost {
			t.Errorf("a cost of %d", s.cost)
		}
		_ = s.check(doc)
	})
}

// plainSchemas are of the kind that is checked quickly.
var plainSchemas = []string{
	`{"type":"object","required":["data"],"properties":{"data":{"type":"string","maxLength":80}},"additionalProperties":false}`,
	`{"type":"object","properties":{"n":{"type":"integer","minimum":-2,"maximum":9},"x":{"type":["number","null"]},"e":{"enum":["a","ü"]}}}`,
	`{"type":"array","minItems":1,"maxItems":2,"items":{"type":"object","additionalProperties":{"type":"boolean"}}}`,
	`{"minLength":2,"minimum":3}`,
}

var plainDocs = []string{
	`{"data":"x"}`, `{"data":"` + strings.Repeat("é", 81) + `"}`, `{"data":"\u0041"}`, `{"data":1}`, `{}`, ` { "data" : "x" } `, `{"data":"x","more":1}`,
	`{"n":-2,"x":1.5,"e":"ü"}`, `{"n":10}`, `{"n":1.0}`, `{"n":1e0}`, `{"x":null,"e":"b"}`, `{"n":-0}`, `{"n":01}`, `{"n":1}x`,
	`[{"a":true}]`, `[]`, `[{},{}]`, `[{},{},{}]`, `[{"a":1}]`, `"a"`, `"ab"`, `2`, `3`, `true`, `nul`, ``, `{"a":1,"a":2}`, "\"\xff\xff\"",
}

// TestQuickNeverSaysMore: what the quick check accepts, the library accepts; and
// it does accept what is plain.
func TestQuickNeverSaysMore(t *testing.T) {
	accepted := 0
	for _, text := range plainSchemas {
		s, err := compile([]byte(text))
		if err != nil || s.quick == nil {
			t.Fatalf("%s: not quick, %v", text, err)
		}
		for _, doc := range plainDocs {
			if s.quick.accepts([]byte(doc)) {
				accepted++
				checkSlowly(t, s, text, doc)
			}
		}
	}
	if accepted < 25 {
		t.Errorf("only %d were accepted quickly", accepted)
	}
}

func checkSlowly(t *testing.T, s *schema, text, doc string) {
	t.Helper()
	slow := &schema{compiled: s.compiled, cost: s.cost}
	if err := slow.check(json.RawMessage(doc)); err != nil {
		t.Errorf("the schema %s quickly accepts %q: %v", text, doc, err)
	}
}

// FuzzQuick: the quick check never accepts what the library does not.
func FuzzQuick(f *testing.F) {
	for _, s := range append(plainSchemas, greet) {
		for _, doc := range plainDocs {
			f.Add([]byte(s), doc)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, doc string) {
		s, err := compile(data)
		if err != nil || s.quick == nil || len(doc) > 1<<16 || !s.quick.accepts([]byte(doc)) {
			return
		}
		checkSlowly(t, s, string(data), doc)
	})
}

// BenchmarkPlain is one check of a plain schema, with what the library takes.
func BenchmarkPlain(b *testing.B) {
	s, err := compile([]byte(plainSchemas[0]))
	if err != nil {
		b.Fatal(err)
	}
	doc := json.RawMessage(`{"data":"` + strings.Repeat("x", 64) + `"}`)
	for name, s := range map[string]*schema{"quick": s, "library": {compiled: s.compiled, cost: s.cost}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := s.check(doc); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
