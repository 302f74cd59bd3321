package audit

import (
	"encoding/json"
	"math"
	"testing"
	"time"
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
		if got, err := encodeData(data); err != nil || string(got) != string(want) {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
	if got, err := encodeData(map[string]any{"f": math.NaN()}); err == nil {
		t.Errorf("what is no JSON is %s", got)
	}
}
