package cordon

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// fakeDaemon answers each request that comes over a socket; "" ends the
// connection instead.
func fakeDaemon(t *testing.T, answer func(method string, params json.RawMessage) string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go speak(c, answer)
		}
	}()
	return path
}

func speak(c net.Conn, answer func(method string, params json.RawMessage) string) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		msg := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(in, msg); err != nil {
			return
		}
		var r struct {
			ID     int64           `json:"id"`
			Method string          `json:"method"`
			Params json.RawMessage `json:"params"`
		}
		if json.Unmarshal(msg, &r) != nil {
			return
		}
		said := answer(r.Method, r.Params)
		if said == "" {
			return
		}
		for _, one := range strings.Split(said, "\n") {
			one = strings.ReplaceAll(one, "ID", fmt.Sprint(r.ID))
			_, _ = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(one))), one...))
		}
	}
}

const gone = `{"jsonrpc":"2.0","id":ID,"error":{"code":-32008,"message":"the plugin ended"}}`

// TestOnlyTheIdempotentIsDoneTwice: a call that the daemon lost is made again if
// that is as good as once, and only then; what a plugin claims is its answer.
func TestOnlyTheIdempotentIsDoneTwice(t *testing.T) {
	for name, answers := range map[string][]string{
		"the connection ended":          {""},
		"the plugin ended":              {gone},
		"and is not up again":           {gone, strings.ReplaceAll(gone, "-32008", "-32012"), strings.ReplaceAll(gone, "-32008", "-32002")},
		"the connection ended twice":    {"", ""},
		"a daemon that says it leaves":  {`{"jsonrpc":"2.0","method":"daemon.leaving"}` + "\n" + gone},
		"the plugin itself says so":     {`{"jsonrpc":"2.0","id":ID,"error":{"code":-32008,"message":"x","data":{"plugin":true}}}`},
		"a conflict, and nothing ended": {strings.ReplaceAll(gone, "-32008", "-32012")},
	} {
		for _, again := range []bool{false, true} {
			var asked atomic.Int64
			path := fakeDaemon(t, func(string, json.RawMessage) string {
				if n := int(asked.Add(1)); n <= len(answers) {
					return answers[n-1]
				}
				return `{"jsonrpc":"2.0","id":ID,"result":"done"}`
			})
			c, err := Dial(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			var options []CallOption
			if again {
				options = append(options, Idempotent())
			}
			var result string
			err = c.Call(t.Context(), "p", "m", nil, &result, options...)
			final := name == "the plugin itself says so" || name == "a conflict, and nothing ended"
			if again && !final {
				if err != nil || result != "done" || int(asked.Load()) != len(answers)+1 {
					t.Errorf("%s: %q, %v after %d", name, result, err, asked.Load())
				}
			} else if err == nil || asked.Load() != 1 {
				t.Errorf("%s: %q, %v after %d; it may be done once", name, result, err, asked.Load())
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestLeavingIsNeverBegun: what has no answer when a daemon leaves as it said is
// asked of the next, whatever it is.
func TestLeavingIsNeverBegun(t *testing.T) {
	var asked atomic.Int64
	path := fakeDaemon(t, func(string, json.RawMessage) string {
		if asked.Add(1) == 1 {
			return ""
		}
		return `{"jsonrpc":"2.0","id":ID,"result":"done"}`
	})
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	c.link.leaving.Store(true)
	var result string
	if err := c.Call(t.Context(), "p", "m", nil, &result); err != nil || result != "done" {
		t.Errorf("%q, %v", result, err)
	}
}

func TestClientSaysWhatIsWrong(t *testing.T) {
	if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "is cordond running?") {
		t.Errorf("no daemon: %v", err)
	}
	path := fakeDaemon(t, func(string, json.RawMessage) string {
		return `{"jsonrpc":"2.0","id":ID,"error":{"code":-32010,"message":"no plugin","data":{"hint":"cordon ps"}}}`
	})
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := WithTrace(t.Context(), Trace{RequestID: "r-9"})
	var e *Error
	if err := c.Call(ctx, "p", "m", nil, nil); !errors.As(err, &e) || e.Hint != "cordon ps" || e.FromPlugin || e.RequestID != "r-9" {
		t.Errorf("%+v", err)
	}
	_ = c.Close()
	if err := c.Call(context.Background(), "p", "m", nil, nil); codeOf(err) != CodePeerGone {
		t.Errorf("after Close: %v", err)
	}
}
