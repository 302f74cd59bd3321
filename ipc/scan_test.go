package ipc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"
	"unicode/utf8"
)

// call returns a request with these params.
func call(params string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"m","params":` + params + `}`
}

func TestScannerRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, msg string
		want      Breach
	}{
		{"empty", ``, BreachSyntax},
		{"scalar", `1`, BreachSyntax},
		{"string", `"x"`, BreachSyntax},
		{"batch", `[{"jsonrpc":"2.0","method":"m"}]`, BreachEnvelope},
		{"trailing value", call(`{}`) + `{}`, BreachSyntax},
		{"trailing byte", call(`{}`) + "\x00", BreachSyntax},
		{"byte order mark", "\ufeff" + call(`{}`), BreachSyntax},
		{"open object", `{`, BreachSyntax},
		{"open string", `{"jsonrpc`, BreachSyntax},
		{"no colon", `{"jsonrpc" "2.0"}`, BreachSyntax},
		{"no value", `{"jsonrpc":}`, BreachSyntax},
		{"no comma", `{"jsonrpc":"2.0" "id":1}`, BreachSyntax},
		{"trailing comma", `{"jsonrpc":"2.0",}`, BreachSyntax},
		{"trailing comma in array", call(`[1,]`), BreachSyntax},
		{"bare name", `{jsonrpc:"2.0"}`, BreachSyntax},
		{"single quotes", `{'jsonrpc':'2.0'}`, BreachSyntax},
		{"comment", `{/**/"jsonrpc":"2.0","method":"m"}`, BreachSyntax},
		{"leading zero", call(`[01]`), BreachSyntax},
		{"plus sign", call(`[+1]`), BreachSyntax},
		{"bare minus", call(`[-]`), BreachSyntax},
		{"no fraction", call(`[1.]`), BreachSyntax},
		{"no exponent", call(`[1e]`), BreachSyntax},
		{"not a number", call(`[NaN]`), BreachSyntax},
		{"half literal", call(`[tru]`), BreachSyntax},
		{"long literal", call(`[truex]`), BreachSyntax},
		{"unknown escape", call(`["\x41"]`), BreachSyntax},
		{"short escape", call(`["\u12"]`), BreachSyntax},
		{"control character", call("[\"a\nb\"]"), BreachSyntax},
		{"mismatched", call(`[}`), BreachSyntax},

		{"invalid UTF-8", call("[\"\xff\"]"), BreachEncoding},
		{"cut UTF-8", call("[\"\xe2\x82\"]"), BreachEncoding},
		{"overlong UTF-8", call("[\"\xc0\xaf\"]"), BreachEncoding},
		{"surrogate in UTF-8", call("[\"\xed\xa0\x80\"]"), BreachEncoding},
		{"beyond Unicode", call("[\"\xf4\x90\x80\x80\"]"), BreachEncoding},
		{"invalid UTF-8 in a name", call("{\"\xff\":1}"), BreachEncoding},
		{"lone high surrogate", call(`["\ud800"]`), BreachEncoding},
		{"lone low surrogate", call(`["\udc00"]`), BreachEncoding},
		{"two high surrogates", call(`["\ud800\ud800"]`), BreachEncoding},
		{"high surrogate and text", call(`["\ud800x12345"]`), BreachEncoding},
		{"lone surrogate in a name", call(`{"\udfff":1}`), BreachEncoding},

		{"too deep arrays", call(strings.Repeat("[", 8) + strings.Repeat("]", 8)), BreachDepth},
		{"too deep objects", call(strings.Repeat(`{"a":`, 8) + "1" + strings.Repeat("}", 8)), BreachDepth},
		{"bomb", call(strings.Repeat("[", 1<<20)), BreachDepth},

		{"duplicate in the envelope", `{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}`, BreachDuplicate},
		{"duplicate unknown", `{"jsonrpc":"2.0","x":1,"x":2,"method":"m"}`, BreachDuplicate},
		{"duplicate in params", call(`{"a":1,"a":1}`), BreachDuplicate},
		{"duplicate deeper", call(`{"a":[{"b":{"c":1,"d":2,"c":3}}]}`), BreachDuplicate},
		{"duplicate by escape", call(`{"a":1,"\u0061":2}`), BreachDuplicate},
		{"duplicate by two escapes", call(`{"\/":1,"\u002f":2}`), BreachDuplicate},
		{"duplicate by pair", call(`{"😀":1,"\ud83d\ude00":2}`), BreachDuplicate},
		{"duplicate empty", call(`{"":1,"":2}`), BreachDuplicate},
		{"duplicate among many", call(members(100, `"k7":0`)), BreachDuplicate},
		{"duplicate escaped among many", call(members(100, `"\u006b99":0`)), BreachDuplicate},

		{"no version", `{"id":1,"method":"m"}`, BreachEnvelope},
		{"version 1.0", `{"jsonrpc":"1.0","id":1,"method":"m"}`, BreachEnvelope},
		{"version a number", `{"jsonrpc":2.0,"id":1,"method":"m"}`, BreachEnvelope},
		{"names in another case", `{"JSONRPC":"2.0","ID":1,"METHOD":"m"}`, BreachEnvelope},
		{"method a number", `{"jsonrpc":"2.0","id":1,"method":1}`, BreachEnvelope},
		{"method null", `{"jsonrpc":"2.0","id":1,"method":null}`, BreachEnvelope},
		{"method empty", `{"jsonrpc":"2.0","id":1,"method":""}`, BreachEnvelope},
		{"method long", `{"jsonrpc":"2.0","method":"` + strings.Repeat("m", maxMethodLen+1) + `"}`, BreachEnvelope},
		{"method with a newline", `{"jsonrpc":"2.0","method":"a\nb"}`, BreachEnvelope},
		{"method with escape character", `{"jsonrpc":"2.0","method":"a\u001b[2J"}`, BreachEnvelope},
		{"params a number", call(`1`), BreachEnvelope},
		{"params a string", call(`"x"`), BreachEnvelope},
		{"params true", call(`true`), BreachEnvelope},
		{"method and result", `{"jsonrpc":"2.0","id":1,"method":"m","result":1}`, BreachEnvelope},
		{"method and error", `{"jsonrpc":"2.0","id":1,"method":"m","error":null}`, BreachEnvelope},
		{"result and error", `{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":""}}`, BreachEnvelope},
		{"nothing", `{"jsonrpc":"2.0"}`, BreachEnvelope},
		{"id only", `{"jsonrpc":"2.0","id":1}`, BreachEnvelope},
		{"result without id", `{"jsonrpc":"2.0","result":1}`, BreachEnvelope},
		{"result with params", `{"jsonrpc":"2.0","id":1,"result":1,"params":{}}`, BreachEnvelope},

		{"id null", `{"jsonrpc":"2.0","id":null,"method":"m"}`, BreachID},
		{"id null with result", `{"jsonrpc":"2.0","id":null,"result":1}`, BreachID},
		{"id true", `{"jsonrpc":"2.0","id":true,"method":"m"}`, BreachID},
		{"id an object", `{"jsonrpc":"2.0","id":{},"method":"m"}`, BreachID},
		{"id a fraction", `{"jsonrpc":"2.0","id":1.0,"method":"m"}`, BreachID},
		{"id with exponent", `{"jsonrpc":"2.0","id":1e3,"method":"m"}`, BreachID},
		{"id minus zero", `{"jsonrpc":"2.0","id":-0,"method":"m"}`, BreachID},
		{"id beyond 2^53", `{"jsonrpc":"2.0","id":9007199254740993,"method":"m"}`, BreachID},
		{"id far beyond", `{"jsonrpc":"2.0","id":` + strings.Repeat("9", 400) + `,"method":"m"}`, BreachID},
		{"id a long string", `{"jsonrpc":"2.0","id":"` + strings.Repeat("x", maxIDLen+1) + `","method":"m"}`, BreachID},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newScanner(8).message([]byte(tt.msg))
			if err == nil || err.Code != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// members returns an object of n members and one more.
func members(n int, more string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i := range n {
		fmt.Fprintf(&b, `"k%d":0,`, i)
	}
	return b.String() + more + "}"
}

func TestScannerAccepts(t *testing.T) {
	long := strings.Repeat("x", maxIDLen)
	for _, tt := range []struct {
		msg            string
		kind           kind
		id, method     string
		params, result string
	}{
		{msg: `{"jsonrpc":"2.0","id":1,"method":"m"}`, kind: kindRequest, id: `1`, method: "m"},
		{msg: " {\t\"method\" : \"m\" ,\r\n\"jsonrpc\":\"2.0\" } \n", kind: kindNotification, method: "m"},
		{msg: call(`{"a":[1,-0.5e+3,true,false,null,"\ud83d\ude00é"]}`), kind: kindRequest, id: `1`, method: "m", params: `{"a":[1,-0.5e+3,true,false,null,"\ud83d\ude00é"]}`},
		{msg: call(`null`), kind: kindRequest, id: `1`, method: "m"},
		{msg: call(`[]`), kind: kindRequest, id: `1`, method: "m", params: `[]`},
		{msg: call(`[9007199254740993,1e999]`), kind: kindRequest, id: `1`, method: "m", params: `[9007199254740993,1e999]`},
		{msg: call(`{"a":{"b":1},"c":{"b":1}}`), kind: kindRequest, id: `1`, method: "m", params: `{"a":{"b":1},"c":{"b":1}}`},
		{msg: call(members(100, `"k100":0`)), kind: kindRequest, id: `1`, method: "m", params: members(100, `"k100":0`)},
		{msg: `{"jsonrpc":"2.0","id":-9007199254740992,"method":"\u0024\/x"}`, kind: kindRequest, id: `-9007199254740992`, method: "$/x"},
		{msg: `{"jsonrpc":"2.0","id":"` + long + `","method":"m"}`, kind: kindRequest, id: `"` + long + `"`, method: "m"},
		{msg: `{"jsonrpc":"2.0","\u0069d":7,"method":"m"}`, kind: kindRequest, id: `7`, method: "m"},
		{msg: `{"jsonrpc":"2.0","id":1,"result":null}`, kind: kindResult, id: `1`, result: `null`},
		{msg: `{"jsonrpc":"2.0","id":1,"result":{},"error":null,"grease.x":[{}]}`, kind: kindResult, id: `1`, result: `{}`},
		{msg: `{"jsonrpc":"2.0","id":1,"result":null,"error":{"code":1,"message":"x"}}`, kind: kindError, id: `1`, result: `null`},
		{msg: `{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}`, kind: kindError, id: `null`},
	} {
		env, err := newScanner(8).message([]byte(tt.msg))
		if err != nil {
			t.Errorf("%s: %v", tt.msg, err)
			continue
		}
		m := incoming{envelope: env, msg: []byte(tt.msg)}
		method := ""
		if env.method.present() {
			method = text(m.peek(env.method))
		}
		got := []string{string(m.peek(env.id)), method, string(m.peek(env.params)), string(m.peek(env.result))}
		want := []string{tt.id, tt.method, tt.params, tt.result}
		if env.kind != tt.kind || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: kind %d %q, want %d %q", tt.msg, env.kind, got, tt.kind, want)
		}
	}
}

// TestScannerTruncated cuts a message that has everything at every byte.
func TestScannerTruncated(t *testing.T) {
	msg := []byte(call(`{"a":[1.5e-3,true,null,"\ud83d\ude00é\n"],"b":{}}`))
	s := newScanner(8)
	for i := range msg {
		if _, err := s.message(msg[:i]); err == nil {
			t.Errorf("accepted when cut at byte %d: %q", i, msg[:i])
		}
	}
	if _, err := s.message(msg); err != nil {
		t.Errorf("whole: %v", err)
	}
}

// TestScannerDepth finds the exact bound.
func TestScannerDepth(t *testing.T) {
	nested := func(n int) []byte { return []byte(call(strings.Repeat("[", n-1) + strings.Repeat("]", n-1))) }
	s := newScanner(8)
	if _, err := s.message(nested(8)); err != nil {
		t.Errorf("depth 8 of 8: %v", err)
	}
	if _, err := s.message(nested(9)); err == nil {
		t.Error("depth 9 of 8 accepted")
	}
}

// TestScannerAllocates holds the hot path to no allocation, and the scratch
// space to what it promises.
func TestScannerAllocates(t *testing.T) {
	msg := []byte(call(`{"name":"tool","arguments":{"a":1,"b":"two","c":[1,2,3]}}`))
	s := newScanner(64)
	if n := testing.AllocsPerRun(100, func() { _, _ = s.message(msg) }); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
	if _, err := s.message([]byte(call(members(20000, `"x":0`)))); err != nil {
		t.Fatal(err)
	}
	if cap(s.keys) > 4096 {
		t.Errorf("scratch for %d keys kept after a large message", cap(s.keys))
	}
}

// FuzzScanner holds the scanner against encoding/json: it accepts only what
// that accepts, and finds the same envelope.
func FuzzScanner(f *testing.F) {
	for _, seed := range []string{
		call(`{"a":[1,2]}`), `{"jsonrpc":"2.0","id":"x","result":null}`, `{"jsonrpc":"2.0","\u0069d":1,"error":{"code":-1,"message":"\ud83d\ude00"}}`,
		`{"jsonrpc":"2.0","method":"m","params":{"a":1,"\u0061":2}}`, `[{}]`, call("[\"\xff\"]"), call(members(20, `"k3":1`)),
	} {
		f.Add([]byte(seed))
	}
	s := newScanner(32)
	f.Fuzz(func(t *testing.T, data []byte) {
		env, broken := s.message(data)
		if broken != nil {
			return
		}
		if !utf8.Valid(data) || !json.Valid(data) {
			t.Fatalf("accepted what is not JSON: %q", data)
		}
		checkNoDuplicates(t, data)
		var ref map[string]json.RawMessage
		if err := json.Unmarshal(data, &ref); err != nil {
			t.Fatal(err)
		}
		m := incoming{envelope: env, msg: data}
		for name, at := range map[string]span{"jsonrpc": env.version, "id": env.id, "method": env.method, "result": env.result, "error": env.errorSpan} {
			if !bytes.Equal(m.peek(at), ref[name]) {
				t.Errorf("%s is %q, want %q", name, m.peek(at), ref[name])
			}
			if got, ok := lookup(bytes.TrimSpace(data), name); ok != at.present() || ok && !bytes.Equal(got.of(bytes.TrimSpace(data)), ref[name]) {
				t.Errorf("lookup of %s differs", name)
			}
		}
		if p := ref["params"]; !bytes.Equal(m.peek(env.params), p) && string(p) != "null" {
			t.Errorf("params are %q, want %q", m.peek(env.params), p)
		}
		checkEnvelope(t, env, ref)
	})
}

func checkEnvelope(t *testing.T, env envelope, ref map[string]json.RawMessage) {
	t.Helper()
	if env.method.present() {
		var method string
		if err := json.Unmarshal(ref["method"], &method); err != nil || method != text(ref["method"]) {
			t.Errorf("method is %q, want %q (%v)", text(ref["method"]), method, err)
		}
	}
	id := ref["id"]
	if id == nil || id[0] == '"' || string(id) == "null" && env.kind == kindError {
		return
	}
	n, ok := new(big.Int).SetString(string(id), 10)
	if got, _ := parseInt(id); !ok || !n.IsInt64() || n.Int64() != got || math.Abs(float64(got)) > maxSafeInt {
		t.Errorf("id %q accepted as %d", id, got)
	}
}

// checkNoDuplicates walks the document with encoding/json's tokens.
func checkNoDuplicates(t *testing.T, data []byte) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	type level struct {
		keys map[string]bool // nil for an array
		name bool            // a name comes next
	}
	var stack []*level
	for {
		tok, err := dec.Token()
		if err != nil {
			return
		}
		var top *level
		if len(stack) > 0 {
			top = stack[len(stack)-1]
		}
		if name, ok := tok.(string); ok && top != nil && top.keys != nil && top.name {
			if top.keys[name] {
				t.Fatalf("accepted key %q twice: %q", name, data)
			}
			top.keys[name], top.name = true, false
			continue
		}
		if top != nil {
			top.name = true
		}
		switch tok {
		case json.Delim('{'):
			stack = append(stack, &level{keys: map[string]bool{}, name: true})
		case json.Delim('['):
			stack = append(stack, &level{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
		}
	}
}

// TestPlainStopsAtWhatMatters puts each byte at each place of a long string: the
// scan of eight bytes at once must tell the same as that of one.
func TestPlainStopsAtWhatMatters(t *testing.T) {
	for at := range 24 {
		for c := range 256 {
			text := []byte(`{"jsonrpc":"2.0","method":"m","params":["` + strings.Repeat("x", 24) + `"]}`)
			text[41+at] = byte(c)
			_, err := newScanner(64).message(text)
			want := c >= ' ' && c != '"' && c < 0x80
			if c == '\\' { // what follows is no escape, or ends the string
				want = false
			}
			if (err == nil) != want {
				t.Errorf("byte %#02x at %d: %v", c, at, err)
			}
		}
	}
}
