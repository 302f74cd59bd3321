// Command digest is a plugin in Go, with the standard library alone: it
// answers the SHA-256 of a text. Built static, it needs no file of the host.
//
// The host speaks first, over the socket at descriptor 3. Every message is a
// 4-byte big-endian length and then that many bytes of JSON-RPC 2.0.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxMessage is the largest message that is read, in bytes.
const maxMessage = 4 << 20

// JSON-RPC 2.0, section 5.1.
const (
	methodNotFound = -32601
	invalidParams  = -32602
)

type request struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

type reply struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  any             `json:"result,omitempty"`
	Error   *rpcError       `json:"error,omitempty"`
}

type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func main() {
	if err := serve(os.NewFile(3, "host")); err != nil {
		fmt.Fprintln(os.Stderr, "digest:", err)
		os.Exit(1)
	}
}

// serve answers requests until the host closes the socket.
func serve(host io.ReadWriter) error {
	r := bufio.NewReader(host)
	for {
		q, err := receive(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if q.ID == nil || q.Method == "" { // a notification, or a reply
			continue
		}
		if err := send(host, answer(q)); err != nil {
			return err
		}
	}
}

func answer(q request) reply {
	a := reply{JSONRPC: "2.0", ID: q.ID}
	switch q.Method {
	case "cordon.hello":
		a.Result = map[string]any{"api": 1, "name": "digest", "version": "1.0.0"}
	case "cordon.shutdown": // the host closes the socket after our answer
		a.Result = struct{}{}
	case "digest.sha256":
		a.Result, a.Error = digest(q.Params)
	default:
		a.Error = &rpcError{methodNotFound, "cannot find method " + q.Method}
	}
	return a
}

func digest(params json.RawMessage) (any, *rpcError) {
	var p struct {
		Text *string `json:"text"`
	}
	if err := json.Unmarshal(params, &p); err != nil || p.Text == nil {
		return nil, &rpcError{invalidParams, `cannot use these params: want {"text": "..."}`}
	}
	sum := sha256.Sum256([]byte(*p.Text))
	return map[string]string{"sha256": hex.EncodeToString(sum[:])}, nil
}

func receive(r io.Reader) (request, error) {
	var q request
	var size uint32
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		return q, err
	}
	if size > maxMessage {
		return q, fmt.Errorf("cannot read a message of %d bytes: the limit is %d", size, maxMessage)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return q, fmt.Errorf("cannot read a message: %w", err)
	}
	if err := json.Unmarshal(body, &q); err != nil {
		return q, fmt.Errorf("cannot read a message: %w", err)
	}
	return q, nil
}

func send(w io.Writer, a reply) error {
	body, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("cannot write a reply: %w", err)
	}
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("cannot write a reply: %w", err)
	}
	return nil
}
