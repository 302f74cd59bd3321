package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/contract"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// The methods of MCP that a pin is about, and the bounds of asking for a list.
const (
	toolsList    = "tools/list"
	toolsCall    = "tools/call"
	maxToolPages = 64
	maxPinFile   = 1 << 20
	listTime     = 30 * time.Second
)

// pinPath is where the tools are kept that an operator pinned.
func (s *shared) pinPath(name string) string {
	return filepath.Join(s.stateDir, "pins", name+".json")
}

// pins reads what is pinned, nil for nothing. What cannot be read is an error: a
// plugin must not run without a contract that it has.
func (s *shared) pins(name string) (*contract.Tools, error) {
	raw, err := os.ReadFile(s.pinPath(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // nil is what allows everything
	}
	if err == nil && len(raw) > maxPinFile {
		err = fmt.Errorf("more than %d bytes", maxPinFile)
	}
	var tools *contract.Tools
	if err == nil {
		tools, err = contract.LoadTools(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the pinned tools of %s: %w", name, err)
	}
	return tools, nil
}

// savePins replaces what is pinned; nil removes it. It is on the disk on return.
func (s *shared) savePins(name string, tools *contract.Tools) (err error) {
	path := s.pinPath(name)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if tools == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return syncDir(dir)
	}
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // it may be renamed already
		}
	}()
	_, err = f.Write(tools.JSON())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Pin implements control.Service.
func (s *Supervisor) Pin(ctx context.Context, by control.Caller, params control.PinParams) (control.Pinned, error) {
	p, err := s.get(params.Name)
	if err != nil {
		return control.Pinned{}, err
	}
	if params.Interpreter {
		return s.pinInterpreters(by, p, params)
	}
	if params.Remove {
		return p.pin(by, p.shown.Load().run, nil)
	}
	run, err := s.ready(params.Name)
	if err != nil {
		return control.Pinned{}, err
	}
	if run.plan().Protocol != ipc.ProtocolMCP {
		return control.Pinned{}, control.Errorf(ipc.CodeUnsupported, "contracts of other plugins are [[method]] of their manifest", "cannot pin the tools of %s: it speaks %s, not mcp", params.Name, run.plan().Protocol)
	}
	pages, err := run.listTools(ctx)
	if err != nil {
		return control.Pinned{}, fmt.Errorf("cannot list the tools of %s: %w", params.Name, err)
	}
	tools, err := contract.PinTools(pages)
	if err != nil {
		return control.Pinned{}, control.Errorf(ipc.CodeContract, "", "cannot pin the tools of %s: %w", params.Name, err)
	}
	return p.pin(by, run, tools)
}

// pin makes tools what holds, now and after the next start.
func (p *plugin) pin(by control.Caller, run *running, tools *contract.Tools) (control.Pinned, error) {
	if err := p.savePins(p.name, tools); err != nil {
		return control.Pinned{}, control.Errorf(ipc.CodeInternal, "", "cannot save the pinned tools of %s: %w", p.name, err)
	}
	if run != nil {
		run.tools.Store(tools)
	}
	out, text := control.Pinned{Tools: []string{}}, "the tools of "+p.name+" are pinned no more"
	if tools != nil {
		out = control.Pinned{Digest: tools.Digest(), Tools: tools.Names()}
		text = fmt.Sprintf("%d tools of %s are pinned", len(out.Tools), p.name)
	}
	p.audit.Queue(control.Event{Plugin: p.name, Kind: "pinned", Actor: by.String(), Text: text, Data: map[string]any{"digest": out.Digest}})
	return out, nil
}

// listTools asks an MCP server for all pages of its list.
func (r *running) listTools(ctx context.Context) ([]json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	var pages []json.RawMessage
	params, size := json.RawMessage("{}"), 0
	for range maxToolPages {
		page, err := r.conn.Call(ctx, toolsList, params)
		if err != nil {
			return nil, err
		}
		pages = append(pages, page)
		if size += len(page); size > maxPinFile {
			return nil, fmt.Errorf("its list has more than %d bytes", maxPinFile)
		}
		var more struct {
			Next string `json:"nextCursor"`
		}
		if json.Unmarshal(page, &more) != nil || more.Next == "" {
			return pages, nil
		}
		if params, err = json.Marshal(map[string]string{"cursor": more.Next}); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("its list has more than %d pages", maxToolPages)
}

// pinned holds a plugin that has just answered the hello to what was pinned.
func (p *plugin) pinned(run *running) error {
	p.screen(run)
	if run.plan().Protocol != ipc.ProtocolMCP {
		return nil
	}
	tools, err := p.pins(p.name)
	if err != nil || tools == nil {
		return err
	}
	run.tools.Store(tools)
	pages, err := run.listTools(run.ctx)
	if err != nil {
		return fmt.Errorf("cannot list its tools, which are pinned: %w", err)
	}
	for _, page := range pages {
		if err := tools.Same(page); err != nil {
			p.changedTools(run, err)
			return err
		}
	}
	return nil
}

// pinnedBefore is pinned for a plugin that an earlier daemon held to it.
func (p *plugin) pinnedBefore(run *running) {
	p.screen(run)
	if run.plan().Protocol != ipc.ProtocolMCP {
		return
	}
	tools, err := p.pins(p.name)
	if err != nil { // nothing is called without the contract
		p.logger.Error("a plugin's contract is lost: its tools cannot be called", "plugin", p.name, "err", err)
		tools, _ = contract.LoadTools([]byte("[]")) // always valid
	}
	run.tools.Store(tools)
}

// screen holds what attached clients ask to the contract.
func (p *plugin) screen(run *running) {
	conn, ok := run.conn.(interface{ Screened(s ipc.Screen) })
	if !ok {
		return
	}
	conn.Screened(func(method string, params json.RawMessage) (func(json.RawMessage) error, error) {
		if err := errors.Join(run.contract.Params(method, params), run.asksTool(method, params)); err != nil {
			return nil, ipc.Errorf(ipc.CodeContract, "cannot call %s of %s: its parameters break the contract: %w", method, p.name, err)
		}
		if run.contract == nil && run.tools.Load() == nil {
			return nil, nil
		}
		params = bytes.Clone(params)
		return func(result json.RawMessage) error {
			err := errors.Join(run.contract.Result(method, result), p.answersTool(run, method, params, result))
			if err != nil {
				return ipc.Errorf(ipc.CodeContract, "%s answered %s with what breaks its own contract: %w", p.name, method, err)
			}
			return nil
		}, nil
	})
}

// asksTool holds a call to the pinned tools.
func (r *running) asksTool(method string, params json.RawMessage) error {
	if tools := r.tools.Load(); tools != nil && method == toolsCall {
		return tools.Params(params)
	}
	return nil
}

// answersTool holds an answer to the pinned tools. A list that differs is a
// violation.
func (p *plugin) answersTool(run *running, method string, params, result json.RawMessage) error {
	tools := run.tools.Load()
	if tools == nil {
		return nil
	}
	switch method {
	case toolsCall:
		return tools.Result(params, result)
	case toolsList:
		err := tools.Same(result)
		if err != nil {
			p.changedTools(run, err)
		}
		return err
	}
	return nil
}

// keptTools is answersTool for a call over the control socket.
func (s *Supervisor) keptTools(run *running, params control.CallParams, result json.RawMessage) error {
	if run.tools.Load() == nil {
		return nil
	}
	p, err := s.get(params.Name)
	if err != nil {
		return err
	}
	if err := p.answersTool(run, params.Method, params.Params, result); err != nil {
		return control.Errorf(ipc.CodeContract, "cordon why "+params.Name, "%s answered %s with what breaks its pinned contract: %w", params.Name, params.Method, err)
	}
	return nil
}

// changedTools reports that a plugin's tools are not those that were pinned.
func (p *plugin) changedTools(run *running, err error) {
	v := violation.Violation{
		Kind: "violation", Time: p.clock.Now().UTC(), Wall: violation.IPC, What: violation.Escape("contract: "+err.Error(), 512),
		Where: violation.Where{PID: run.proc.PID()}, PolicyDigest: run.plan().PolicyDigest(), PlanDigest: run.proc.PlanDigest(),
	}
	v.Action = run.judge.Decide(violation.IPC, v.Time)
	p.violated(run.number, v)
}
