package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

type serve func(context.Context, *capability.Call) (any, error)

func ask(t *testing.T, fn serve, plugin, params string) (string, error) {
	t.Helper()
	got, err := fn(t.Context(), &capability.Call{Plugin: plugin, Params: json.RawMessage(params), Spend: func(int64) error { return nil }})
	text, _ := json.Marshal(got)
	return string(text), err
}

func TestStore(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		fn           serve
		params, want string
		code         int
	}{
		{s.get, `{"key":"a"}`, `null`, 0},
		{s.put, `{"set":{"a":"1","b":"2","c":""}}`, `{}`, 0},
		{s.get, `{"key":"a"}`, `"1"`, 0},
		{s.get, `{"key":"c"}`, `""`, 0},
		{s.put, `{"set":{"a":"9","d":"9"},"if":{"a":"0"}}`, `null`, ipc.CodeConflict},
		{s.put, `{"set":{"d":"9"},"if":{"d":null,"a":"1"}}`, `{}`, 0},
		{s.put, `{"set":{"a":null}}`, `{}`, 0},
		{s.list, `{}`, `{"keys":["b","c","d"],"more":false,"size_bytes":5,"max_bytes":67108864}`, 0},
		{s.list, `{"prefix":"c"}`, `{"keys":["c"],"more":false,"size_bytes":5,"max_bytes":67108864}`, 0},
		{s.list, `{"after":"c"}`, `{"keys":["d"],"more":false,"size_bytes":5,"max_bytes":67108864}`, 0},
	} {
		got, err := ask(t, step.fn, "p", step.params)
		var answer *ipc.RPCError
		if errors.As(err, &answer) != (step.code != 0) || answer != nil && answer.Code != step.code || step.code == 0 && (err != nil || got != step.want) {
			t.Fatalf("step %d, %s: %s, %v", i, step.params, got, err)
		}
	}
	if got, err := ask(t, s.get, "q", `{"key":"b"}`); err != nil || got != "null" {
		t.Fatalf("a neighbour's key: %s, %v", got, err)
	}
	if err := s.close("p"); err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, s.get, "p", `{"key":"b"}`); err != nil || got != `"2"` {
		t.Fatalf("after it was closed: %s, %v", got, err)
	}
	if err := s.forget("p"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.path("p")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("after the plugin was removed: %v", err)
	}
	if err := errors.Join(s.forget("p"), s.forget("q")); err != nil {
		t.Fatal(err)
	}
}

// TestStoreIsBounded, and what does not fit changes nothing.
func TestStoreIsBounded(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close("p") }()
	value := strings.Repeat("x", 1<<20)
	var over error
	n := 0
	for ; over == nil && n < 100; n++ {
		_, over = ask(t, s.put, "p", fmt.Sprintf(`{"set":{"k%d":%q,"n":"%d"}}`, n, value, n))
	}
	var answer *ipc.RPCError
	if !errors.As(over, &answer) || answer.Code != ipc.CodeOverloaded || n != 64 {
		t.Fatalf("after %d values of 1 MiB: %v", n, over)
	}
	if got, err := ask(t, s.get, "p", `{"key":"n"}`); err != nil || got != `"62"` {
		t.Fatalf("what did not fit has left %s, %v", got, err)
	}
}
