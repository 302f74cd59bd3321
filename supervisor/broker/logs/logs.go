// Package logs is the capability log: structured records in the plugin's own
// log, beside what it prints.
package logs

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

// params bounds a record in every direction.
const params = `{
  "type": "object",
  "properties": {
    "level": {"enum": ["debug", "info", "warn", "error"]},
    "message": {"type": "string", "minLength": 1, "maxLength": 4096},
    "fields": {"type": "object", "maxProperties": 32, "propertyNames": {"maxLength": 64}, "additionalProperties": {"type": ["string", "number", "boolean", "null"], "maxLength": 1024}},
    "_meta": {"type": "object"}
  },
  "required": ["message"],
  "additionalProperties": false
}`

// New makes the capability.
func New() capability.Capability {
	return capability.Capability{
		Name: "log",
		Text: "Writes structured records to the plugin's log, where cordon logs shows them beside what it prints. Bounded by the grant's rate and bytes.",
		Cost: capability.Disk, Phases: capability.Always(),
		Methods: []capability.Method{{
			Name: "log", Text: "writes one record", Params: params, Result: `{"type": "null"}`, Serve: write, Summed: true,
		}},
	}
}

type record struct {
	Level   string         `json:"level"`
	Message string         `json:"message"`
	Fields  map[string]any `json:"fields"`
}

func write(_ context.Context, c *capability.Call) (any, error) {
	r := record{Level: "info"}
	if err := json.Unmarshal(c.Params, &r); err != nil {
		return nil, err
	}
	line := text(r)
	if err := c.Spend(int64(len(line))); err != nil {
		return nil, err
	}
	c.Env.Log(line)
	return nil, nil //nolint:nilnil // the result is null
}

// text is a record as a line: its level, its message, and its fields by name.
// What is in it is the plugin's, and escaped where it is kept.
func text(r record) string {
	names := make([]string, 0, len(r.Fields))
	for name := range r.Fields {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString(r.Level + ": " + r.Message)
	for _, name := range names {
		value, ok := r.Fields[name].(string)
		if !ok {
			value = fmt.Sprint(r.Fields[name])
		}
		fmt.Fprintf(&b, " %s=%q", name, value)
	}
	return b.String()
}
