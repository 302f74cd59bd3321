package contract

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/manifest"
)

const textSchema = `{"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}`

// withExamples loads a contract of one method whose examples are these.
func withExamples(t testing.TB, examples string) (*Contract, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"s.json": textSchema, "e.json": examples} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Load(dir, []manifest.Method{{Name: "m", Params: "s.json", Result: "s.json", Examples: "e.json"}})
}

func TestExamplesKeepTheirContract(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                              "expected a list",
		`[1]`:                             "expected a list",
		`[{"params": {"text": 1}}]`:       "at /0: its params break the contract: at /text",
		`[{"params": {"text": "a"}}, {}]`: "at /1: its params break the contract",
		`[{"params": {"text": "a"}, "result": {"text": []}}]`:                      "at /0: its result breaks the contract: at /text",
		`[{"params": {"text": "a"}, "want": 1}]`:                                   `has no "want"`,
		`[{"params": {"text": "a"}, "error": "x"}]`:                                `"error" is the code`,
		`[{"params": {"text": "a"}, "error": null}]`:                               `"error" is the code`,
		`[{"params": {"text": "a"}, "error": -1, "result": {"text": "a"}}]`:        "in place of",
		`[` + strings.Repeat(`{"params": {"text": "a"}},`, 32) + `{"params": {}}]`: "33 examples, over 32",
		`[] []`: "more than one value",
		`[{"params": {"text": "` + strings.Repeat("x", maxSchema) + `"}}]`: "more than",
	} {
		if _, err := withExamples(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, want %s", text, err, want)
		}
	}
}

func TestExamplesAreCompared(t *testing.T) {
	c, err := withExamples(t, `[{"params": {"text": "a"}, "result": {"text": "b", "n": [1, 2.0], "o": {"x/y": null}}}, {"params": {"text": ""}, "error": -7}, {"params": {"text": "c"}}]`)
	if err != nil {
		t.Fatal(err)
	}
	all := c.Examples()
	if len(all) != 3 || all[1].Number != 1 || all[0].Method != "m" {
		t.Fatalf("%+v", all)
	}
	for result, want := range map[string]string{
		`{"text": "b", "n": [1.0, 2], "o": {"x/y": null}}`:             "",
		`{"o": {"x/y": null}, "n": [10e-1, 2], "text": "b"}`:           "",
		`{"text": "c", "n": [1, 2], "o": {"x/y": null}}`:               `at /text: expected "b", got "c"`,
		`{"text": "b", "n": [1, 3], "o": {"x/y": null}}`:               `at /n/1: expected 2.0, got 3`,
		`{"text": "b", "n": [1], "o": {"x/y": null}}`:                  `at /n: expected [1,2.0], got [1]`,
		`{"text": "b", "n": [1, 2], "o": {"x/y": 0}}`:                  `at /o/x~1y: expected null, got 0`,
		`{"text": "b", "n": [1, 2]}`:                                   `at /o: it is missing`,
		`{"text": "b", "n": [1, 2], "o": {"x/y": null}, "more": true}`: `at /more: nothing was expected, got true`,
		`{"text": 1}`: "its result breaks the contract: at /text",
	} {
		err := c.Came(all[0], json.RawMessage(result))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", result, err, want)
		}
	}
	if err := c.Came(all[1], json.RawMessage(`{"text": "x"}`)); err == nil || !strings.Contains(err.Error(), "expected the error -7") {
		t.Errorf("a result in place of an error: %v", err)
	}
	if err := all[1].Failed(-7, "as it should"); err != nil {
		t.Error(err)
	}
	for _, e := range []Example{all[0], all[1]} {
		if err := e.Failed(-8, "no"); err == nil || !strings.Contains(err.Error(), "got the error -8: no") {
			t.Errorf("another error: %v", err)
		}
	}
	if err := c.Came(all[2], json.RawMessage(`{"text": "anything"}`)); err != nil {
		t.Errorf("any result: %v", err)
	}
}

// FuzzExamples: what a bundle says is read without a panic, and what is taken
// keeps its contract.
func FuzzExamples(f *testing.F) {
	for _, text := range []string{`[]`, `[{"params":{"text":"a"},"result":{"text":"b"}}]`, `[{"params":{"text":""},"error":-7}]`, `[{}]`, `[[`, `[{"params":{"text":"a"},"result":1e400}]`} {
		f.Add([]byte(text))
	}
	schema, err := compile([]byte(textSchema))
	if err != nil {
		f.Fatal(err)
	}
	with := method{params: schema, result: schema}
	f.Fuzz(func(t *testing.T, data []byte) {
		examples, err := parseExamples(data, "m", with)
		if err != nil {
			return
		}
		c := &Contract{methods: map[string]method{"m": with}}
		for _, e := range examples {
			if err := schema.check(e.Params); err != nil {
				t.Errorf("its params: %v", err)
			}
			if e.Result != nil {
				if err := c.Came(e, e.Result); err != nil {
					t.Errorf("a result is not itself: %v", err)
				}
			}
		}
	})
}
