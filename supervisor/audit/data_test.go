package audit

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/cordonhq/cordon/supervisor/control"
)

// TestEncodedData: a record's data has the bytes that encoding/json gives.
func TestEncodedData(t *testing.T) {
	for _, data := range []map[string]any{
		{},
		{"a": "b"},
		{"z": 1, "a": int64(-2), "m": uint64(math.MaxUint64), "t": true, "f": false},
		{"k<ey": `quote " back \ <&> é ` + "\x00\n\x7f\u2028\xff"},
		{"float": 1.5, "nil": nil, "list": []string{"a", "b"}, "map": map[string]any{"b": 1, "a": 2}},
		{"took": time.Second, "when": time.Unix(1, 2).UTC(), "raw": json.RawMessage(`{"a":1}`)},
	} {
		want, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := appendData(nil, data); err != nil || string(got) != string(want) {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
	if got, err := appendData(nil, map[string]any{"f": math.NaN()}); err == nil {
		t.Errorf("what is no JSON is %s", got)
	}
}

// TestEncodedLine: a record has the bytes that encoding/json gives.
func TestEncodedLine(t *testing.T) {
	type written struct {
		control.Event
		Data json.RawMessage `json:"data,omitempty"`
		Prev string          `json:"prev"`
	}
	when := time.Date(2026, 2, 3, 4, 5, 6, 7000, time.UTC)
	for _, ev := range []control.Event{
		{},
		{Seq: 1, Time: when, Plugin: "p", Kind: "started", Actor: "daemon", Text: "p started"},
		{Seq: math.MaxUint64, Time: when.Add(time.Second), Kind: "k<", Text: `quote " back \ <&> é ` + "\x00\n\x7f\u2028\xff"},
		{Seq: 2, Time: when.In(time.FixedZone("x", 3600)), Plugin: "\x1b[2J", Data: map[string]any{"n": 1, "s": "é"}},
	} {
		var data []byte
		if ev.Data != nil {
			var err error
			if data, err = appendData(nil, ev.Data); err != nil {
				t.Fatal(err)
			}
		}
		want, err := json.Marshal(written{Event: ev, Data: data, Prev: "00ff"})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := appendLine(nil, ev, data, []byte("00ff")); err != nil || string(got) != string(want) {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
	if got, err := appendLine(nil, control.Event{Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, nil, nil); err == nil {
		t.Errorf("a year that JSON does not have is %s", got)
	}
}
