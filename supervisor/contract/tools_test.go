package contract

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

const toolPage = `{"tools": [
  {"name": "add", "description": "adds", "inputSchema": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
   "outputSchema": {"type": "object", "properties": {"sum": {"type": "number"}}, "required": ["sum"]}},
  {"name": "say", "inputSchema": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}}], "nextCursor": "x"}`

func pinnedTools(t testing.TB) *Tools {
	t.Helper()
	tools, err := PinTools([]json.RawMessage{json.RawMessage(toolPage)})
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadTools(tools.JSON())
	if err != nil || again.Digest() != tools.Digest() {
		t.Fatalf("read back: %v", err)
	}
	return again
}

func TestToolsAreAContract(t *testing.T) {
	tools := pinnedTools(t)
	for params, want := range map[string]string{
		`{"name": "add", "arguments": {"a": 1}}`:   "",
		`{"name": "say"}`:                          "",
		`{"name": "add", "arguments": {"a": "1"}}`: "at /arguments/a",
		`{"name": "add"}`:                          "at /arguments",
		`{"name": "sub"}`:                          "not among those that were pinned",
		`[]`:                                       "expected",
		``:                                         "expected",
	} {
		if err := tools.Params(json.RawMessage(params)); (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", params, err, want)
		}
	}
	add := json.RawMessage(`{"name": "add", "arguments": {"a": 1}}`)
	for result, want := range map[string]string{
		`{"content": [], "structuredContent": {"sum": 2}}`: "",
		`{"content": [], "isError": true}`:                 "",
		`{"content": []}`:                                  "/structuredContent",
		`{"structuredContent": {"sum": "2"}}`:              "at /structuredContent/sum",
		`7`:                                                "expected an object",
	} {
		if err := tools.Result(add, json.RawMessage(result)); (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", result, err, want)
		}
	}
}

func TestChangedToolsAreTold(t *testing.T) {
	tools := pinnedTools(t)
	for page, want := range map[string]string{
		toolPage:        "",
		`{"tools": []}`: "",
		`{"tools": [{"name": "say", "description": "other words", "inputSchema": {"type":"object","$schema":"http://json-schema.org/draft-07/schema#"}}]}`:          "",
		`{"tools": [{"name": "say", "inputSchema": {"type": "object"}}]}`:                                                                                           "other schemas",
		`{"tools": [{"name": "say", "inputSchema": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}, "outputSchema": {"type": "object"}}]}`: "other schemas",
		`{"tools": [{"name": "new", "inputSchema": {}}]}`:                                                                                                           "not among those",
	} {
		err := tools.Same(json.RawMessage(page))
		var changed *ChangedError
		if (want == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), want) || !errors.As(err, &changed)) {
			t.Errorf("%s: %v, want %q", page, err, want)
		}
	}
}

func TestToolsThatCannotBePinned(t *testing.T) {
	for page, want := range map[string]string{
		`[]`: "expected a result", `{"tools": [{"name": "", "inputSchema": {}}]}`: "a name", `{"tools": [{"name": "a"}]}`: "no inputSchema",
		`{"tools": [{"name": "a", "inputSchema": {"$schema": "http://json-schema.org/draft-07/schema", "dependencies": {}}}]}`: "is not checked",
		`{"tools": [{"name": "a", "inputSchema": {"$schema": "http://json-schema.org/draft-07/schema", "items": []}}]}`:        "inputSchema",
		`{"tools": [{"name": "a", "inputSchema": {}}, {"name": "a", "inputSchema": {}}]}`:                                      "twice",
		`{"tools": [{"name": "a", "inputSchema": {"$ref": "file:///etc/shadow"}}]}`:                                            "within the schema",
		`{"tools": [{"name": "a", "inputSchema": {"type": "nonsense"}}]}`:                                                      "inputSchema",
		`{"tools": [{"name": "a", "inputSchema": {"x": "` + strings.Repeat("x", maxSchema) + `"}}]}`:                           "more than",
	} {
		if _, err := PinTools([]json.RawMessage{json.RawMessage(page)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, want %q", page, err, want)
		}
	}
}

// FuzzTools: no list of a server's makes a panic, and what is pinned is the same
// as itself.
func FuzzTools(f *testing.F) {
	f.Add([]byte(toolPage), []byte(`{"name": "add"}`))
	f.Add([]byte(`{"tools": [{"name": "a", "inputSchema": {"a": 1e4}}]}`), []byte(`{"name": "a", "arguments": []}`))
	f.Add([]byte(`{"tools": [null]}`), []byte(`[`))
	f.Fuzz(func(t *testing.T, page, params []byte) {
		tools, err := PinTools([]json.RawMessage{page})
		if err != nil {
			return
		}
		if err := tools.Same(page); err != nil {
			t.Errorf("it is not itself: %v", err)
		}
		_ = tools.Params(params)
		_ = tools.Result(params, params)
	})
}
