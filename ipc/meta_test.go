package ipc

import (
	"encoding/json"
	"testing"
	"time"
)

const someTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestWithMeta(t *testing.T) {
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
		got := WithMeta(json.RawMessage(params), Meta{Left: 1500 * time.Millisecond})
		if string(got) != want {
			t.Errorf("%q: got %s, want %s", params, got, want)
		}
	}
	if got := WithMeta(nil, Meta{Left: -time.Second}); string(got) != `{"_meta":{"deadline_ms":1}}` {
		t.Errorf("past it: %s", got)
	}
	all := WithMeta(json.RawMessage(`{"a":1}`), Meta{Left: time.Second, Traceparent: someTrace, RequestID: "r-1"})
	if want := `{"_meta":{"deadline_ms":1000,"traceparent":"` + someTrace + `","request_id":"r-1"},"a":1}`; string(all) != want {
		t.Errorf("got %s, want %s", all, want)
	}
	if got := MetaOf(all); got != (Meta{Traceparent: someTrace, RequestID: "r-1"}) {
		t.Errorf("read back: %+v", got)
	}
	if got := WithMeta(nil, Meta{RequestID: "r"}); string(got) != `{"_meta":{"request_id":"r"}}` {
		t.Errorf("an id alone: %s", got)
	}
}

// TestMetaOfTakesNothingElse: what a peer makes up is left out, never passed on.
func TestMetaOfTakesNothingElse(t *testing.T) {
	for _, params := range []string{
		``, `[1]`, `{}`, `{"_meta":1}`, `{"_meta":{"traceparent":1,"request_id":[]}}`, `{"_meta":{"request_id":""}}`,
		`{"_meta":{"request_id":"a b"}}`, `{"_meta":{"request_id":"\u0041"}}`, `{"_meta":{"request_id":"a\nb"}}`,
		`{"_meta":{"request_id":"` + string(make([]byte, 65)) + `"}}`,
		`{"_meta":{"traceparent":"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}`,
		`{"_meta":{"traceparent":"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"}}`,
		`{"_meta":{"traceparent":"00-00000000000000000000000000000000-00f067aa0ba902b7-01"}}`,
		`{"_meta":{"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"}}`,
		`{"_meta":{"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x"}}`,
	} {
		if got := MetaOf(json.RawMessage(params)); got != (Meta{}) {
			t.Errorf("%q: %+v", params, got)
		}
	}
}

func TestChildTrace(t *testing.T) {
	random := func() uint64 { return 0xab }
	if got, want := ChildTrace(someTrace, random), "00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000ab-01"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := ChildTrace("nonsense", random), "00-00000000000000ab00000000000000ab-00000000000000ab-00"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := ChildTrace("", func() uint64 { return 0 }); !ValidTraceparent(got) {
		t.Errorf("of zeros: %s", got)
	}
}
