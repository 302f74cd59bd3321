package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// maxMessage bounds what is read of one message, in bytes.
const maxMessage = 16 << 20

// message is a JSON-RPC reply.
type message struct {
	ID     json.RawMessage `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

// child is a program that is spoken to over its standard input and output.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(cmd *exec.Cmd) (*child, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return &child{cmd, in, bufio.NewReader(out)}, cmd.Start()
}

// leave closes the program's input, and ends it if that does not.
func (c *child) leave() error {
	c.in.Close()
	err := c.cmd.Wait()
	var status *exec.ExitError
	if errors.As(err, &status) {
		return nil // how a program ends that was left is its own affair
	}
	return err
}

// bareTool calls a tool of an MCP server that runs without walls, and returns
// the result.
func bareTool(ctx context.Context, cmd *exec.Cmd, tool string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := startChild(cmd)
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.cmd.Process.Kill() })
	defer stop()
	result, err := c.tool(tool)
	return result, errors.Join(err, c.leave())
}

// tool performs MCP's handshake and one tool call, in lines of JSON.
func (c *child) tool(name string) (string, error) {
	for _, line := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"demo","version":"1"}}}`,
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`,
		`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"` + name + `","arguments":{}}}`,
	} {
		if _, err := fmt.Fprintln(c.in, line); err != nil {
			return "", err
		}
	}
	for {
		line, err := c.out.ReadBytes('\n')
		if err != nil {
			return "", fmt.Errorf("cannot read the server's answer: %w", err)
		}
		var m message
		if json.Unmarshal(line, &m) == nil && string(m.ID) == "2" {
			return string(m.Result), nil
		}
	}
}

// initialize performs the Language Server Protocol's first call over cmd's
// standard input and output, and returns the result.
func initialize(ctx context.Context, cmd *exec.Cmd) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd.Stderr = os.Stderr
	c, err := startChild(cmd)
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.cmd.Process.Kill() })
	defer stop()
	body := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"processId":null,"rootUri":null,"capabilities":{}}}`
	if _, err := fmt.Fprintf(c.in, "Content-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		return "", errors.Join(err, c.leave())
	}
	result, err := c.reply("1")
	return result, errors.Join(err, c.leave())
}

// reply reads messages with a Content-Length header until the one that answers
// id.
func (c *child) reply(id string) (string, error) {
	for {
		length := -1
		for {
			line, err := c.out.ReadString('\n')
			if err != nil {
				return "", fmt.Errorf("cannot read the server's answer: %w", err)
			}
			name, value, found := strings.Cut(strings.TrimSpace(line), ":")
			if !found {
				break
			}
			if strings.EqualFold(name, "Content-Length") {
				if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
					return "", err
				}
			}
		}
		if length < 0 || length > maxMessage {
			return "", fmt.Errorf("cannot read a message of %d bytes", length)
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(c.out, body); err != nil {
			return "", err
		}
		var m message
		if json.Unmarshal(body, &m) == nil && string(m.ID) == id {
			return string(m.Result), nil
		}
	}
}
