package ipc

import (
	"encoding/json"
	"testing"
	"time"
)

func TestWithDeadline(t *testing.T) {
	for params, want := range map[string]string{
		``:                        `{"_meta":{"deadline_ms":1500}}`,
		`null`:                    `{"_meta":{"deadline_ms":1500}}`,
		`{}`:                      `{"_meta":{"deadline_ms":1500}}`,
		" { \n}":                  `{"_meta":{"deadline_ms":1500}}`,
		`{"a":{"_meta":1}}`:       `{"_meta":{"deadline_ms":1500},"a":{"_meta":1}}`,
		`{"_meta":{"x":1},"a":1}`: `{"_meta":{"x":1},"a":1}`,
		`{"\u005fmeta":1}`:        `{"\u005fmeta":1}`,
		`[1,2]`:                   `[1,2]`,
	} {
		got := WithDeadline(json.RawMessage(params), 1500*time.Millisecond)
		if string(got) != want {
			t.Errorf("%q: got %s, want %s", params, got, want)
		}
	}
	if got := WithDeadline(nil, -time.Second); string(got) != `{"_meta":{"deadline_ms":1}}` {
		t.Errorf("past it: %s", got)
	}
}
